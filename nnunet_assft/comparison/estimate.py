"""How long a comparison will take, from one timed step of each network. An estimate: loading and resampling are not in it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.comparison.comparison import (
    LOWER_BOUND,
    NNUNET,
    UPPER_BOUND,
    Comparison,
    nnunet_folder,
    planned,
    predictions_before_round_0,
)
from nnunet_assft.planning.planner import CONFIGURATION, scratch_preprocessed_folder
from nnunet_assft.runtime.files import read_json, write_json

MIRRORINGS = 8
ONLINE_VALIDATION = 1.1  # a fifth as many iterations as the training, forward only


def estimate(comparison: Comparison, device: torch.device) -> str:
    """One sentence. Plans the first experiment if it is not planned yet, then times two steps of its network.

    Rounds that are finished are not counted; what is shared (preprocessing, round 0) is counted once or not at all.
    """
    experiment = comparison.experiment(comparison.strategies[0], comparison.seeds[0])
    fingerprint = read_json(experiment.paths.stages / "dataset_fingerprint.json")
    shape = np.median(fingerprint["shapes_after_crop"], axis=0)
    ours = read_json(experiment.paths.plans)["configurations"][CONFIGURATION]
    training, pool, test = experiment.settings.training, len(experiment.pool), len(experiment.test)
    step = training["epochs"] * training["iterations_per_epoch"] * ONLINE_VALIDATION
    iteration, window = _times(ours, device)
    case = window * _windows(shape, ours["patch_size"])
    seconds, left = 0.0, 0
    nnunet_iteration = nnunet_case = 0.0
    if any(arm.startswith(NNUNET) for arm in comparison.arms):
        stock = _stock_plan(experiment.dataset, fingerprint)
        nnunet_iteration, nnunet_window = _times(
            {**stock, "batch_size": 2}, device
        )  # of few cases nnU-Net makes batches of two
        nnunet_case = nnunet_window * _windows(shape, stock["patch_size"])
    for seed in comparison.seeds:
        for arm in comparison.arms:
            todo = _rounds_left(comparison, arm, seed)
            left += bool(todo)
            if arm.startswith(NNUNET):
                seconds += todo * (step * nnunet_iteration + MIRRORINGS * test * nnunet_case)
            elif arm == UPPER_BOUND:
                seconds += todo * (comparison.n_rounds * step * iteration + MIRRORINGS * test * case)
            else:
                trainings = passes = 0
                if arm != LOWER_BOUND:
                    strategy = STRATEGIES[arm]
                    trainings = 1 + strategy.extra_trainings + strategy.semi_supervised
                    passes = strategy.passes + strategy.semi_supervised
                seconds += todo * (trainings * step * iteration + passes * pool * case + MIRRORINGS * test * case)
    runs = len(comparison.seeds) * len(comparison.arms)
    times = f"a training step takes {iteration:.2g} s, a window {window:.2g} s"
    times += f"; of standard nnU-Net {nnunet_iteration:.2g} s" if nnunet_iteration else ""
    return f"{left} of {runs} runs are left, about {_duration(seconds)} on this {device.type} ({times})."


def _times(plan: dict[str, Any], device: torch.device) -> tuple[float, float]:
    """(seconds of a training step, of a forward pass of one window) on noise."""
    architecture = plan["architecture"]
    network = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        1,
        2,
        allow_init=True,
        deep_supervision=False,
    ).to(device)
    batch = torch.randn(plan["batch_size"], 1, *plan["patch_size"], device=device)
    training = _seconds(lambda: network(batch).mean().backward(), device)
    network.eval()
    with torch.inference_mode():
        forward = _seconds(lambda: network(batch), device) / len(batch)
    return training, forward


def _seconds(step: Callable[[], Any], device: torch.device) -> float:
    """Of the second call; the first one finds memory and algorithms."""
    for _ in range(2):
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
    return time.perf_counter() - start


def _windows(shape: np.ndarray, patch_size: Sequence[int]) -> int:
    """Windows of nnU-Net's sliding window at half a patch."""
    return math.prod(math.ceil(max(0, s - p) / (p / 2)) + 1 for s, p in zip(shape, patch_size, strict=True))


def _stock_plan(dataset: str, fingerprint: dict[str, Any]) -> dict[str, Any]:
    """Roughly what nnU-Net will plan: from the images of the whole pool, without labels. For the estimate only."""
    with scratch_preprocessed_folder() as scratch, redirect_stdout(StringIO()):
        write_json(scratch / dataset / "dataset_fingerprint.json", fingerprint)
        planner = ExperimentPlanner(dataset)
        plan: dict[str, Any] = planner.plan_experiment()["configurations"][CONFIGURATION]
    return plan


def _rounds_left(comparison: Comparison, arm: str, seed: int) -> int:
    rounds = range(1, comparison.n_rounds + 1)
    if arm.startswith(NNUNET):
        return sum(not (nnunet_folder(comparison, arm, seed, r) / "done.json").is_file() for r in rounds)
    experiment = planned(comparison, comparison.strategies[0] if arm == LOWER_BOUND else arm, seed)
    if arm == LOWER_BOUND:
        return 1 if experiment is None else int(not (predictions_before_round_0(experiment) / "model.json").is_file())
    rounds = range(1, 2) if arm == UPPER_BOUND else rounds
    return len(rounds) if experiment is None else sum(not experiment.paths.round_file(r).is_file() for r in rounds)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(1, minutes)} min"

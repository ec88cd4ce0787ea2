"""Estimate how long a comparison will take, from one timed step of each network. Loading and resampling of images are
left out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any, NamedTuple

import numpy as np
import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_assft.comparison.arms import Comparison
from nnunet_assft.network.interface import build_network
from nnunet_assft.nnunet_names import CONFIGURATION
from nnunet_assft.planning.planner import scratch_folders
from nnunet_assft.runtime.files import read_json
from nnunet_assft.runtime.precision import autocast, lay_out
from nnunet_assft.volumes.raw_dataset import RawDataset

MIRRORINGS = 8
ONLINE_VALIDATION = 1.1  # nnU-Net validates for a fifth as many iterations as it trains, with forward passes only


class Times(NamedTuple):
    """Seconds that a network needs for a training step, and for a forward pass over one window and over a whole
    case."""

    step: float
    window: float
    case: float


def estimate(comparison: Comparison, device: torch.device) -> str:
    """Return one sentence about the time that the remaining runs will take on `device`.

    Plans the first experiment if it is not planned yet, and times its network. Finished rounds are not counted, and
    neither is what the arms share (preprocessing and round 0). If the memory of the device is too small for a training
    step, the sentence says so.
    """
    experiment = comparison.first_strategy.experiment(comparison, comparison.seeds[0])
    fingerprint = read_json(experiment.paths.stages / "dataset_fingerprint.json")
    shape = np.median(fingerprint["shapes_after_crop"], axis=0)
    dataset = experiment.raw_dataset()
    stock = None
    try:
        ours = _times(read_json(experiment.paths.plans)["configurations"][CONFIGURATION], dataset, shape, device)
        if any(arm.is_nnunet for arm in comparison.arms):
            stock = _times(_stock_plan(dataset, fingerprint), dataset, shape, device)
    except torch.OutOfMemoryError as error:
        return (
            f"The time is not estimated, because a training step does not fit into the free memory of this "
            f"{device.type} ({str(error).splitlines()[0]}). Trainings may end for the same reason; free memory of the "
            "device, or plan with a smaller --patch_size."
        )
    finally:
        torch.cuda.empty_cache()  # of memory that the runs need, which may be other processes; without CUDA, nothing
    pool, test = len(experiment.pool), len(experiment.test)
    seconds, left = 0.0, 0
    runs = [(part, arm, seed) for part in comparison.folds for arm in comparison.arms for seed in comparison.seeds]
    for part, arm, seed in runs:
        times, work = stock if arm.is_nnunet and stock else ours, arm.work(part, seed)
        left += work.rounds > 0
        cases = work.passes * pool + work.rounds * MIRRORINGS * test
        steps = work.epochs * arm.iterations_per_epoch(comparison) * ONLINE_VALIDATION
        seconds += steps * times.step + cases * times.case
    told = f"a training step takes {ours.step:.2g} s, a window {ours.window:.2g} s"
    told += f"; of standard nnU-Net {stock.step:.2g} s" if stock else ""
    return f"{left} of {len(runs)} runs are left, about {_duration(seconds)} on this {device.type} ({told})."


def _times(plan: dict[str, Any], dataset: RawDataset, shape: np.ndarray, device: torch.device) -> Times:
    """Time the network of a plan on random input, in the precision of trainings. shape: that of a typical case, in
    voxels of the plan."""
    n_channels = len(dataset.dataset_json["channel_names"])
    n_classes = LabelManager(dataset.dataset_json["labels"], regions_class_order=None).num_segmentation_heads
    network = build_network(plan["architecture"], n_channels, n_classes, initialise=True).to(device)
    lay_out(network, device)
    batch = torch.randn(plan["batch_size"], n_channels, *plan["patch_size"], device=device)

    def forward() -> torch.Tensor:
        with autocast(device):  # as in trainings
            output: torch.Tensor = network(batch)
        return output

    training = _seconds(lambda: forward().float().mean().backward(), device)
    network.eval()
    with torch.inference_mode():
        window = _seconds(forward, device) / len(batch)
    return Times(training, window, window * _windows(shape, plan["patch_size"]))


def _seconds(step: Callable[[], Any], device: torch.device) -> float:
    """Return the duration of the second call of `step`; the first one also allocates memory and chooses algorithms."""
    for _ in range(2):
        start = time.perf_counter()
        step()
        if device.type != "cpu":
            torch.accelerator.synchronize()
    return time.perf_counter() - start


def _windows(shape: np.ndarray, patch_size: Sequence[int]) -> int:
    """Return the number of windows of nnU-Net's sliding-window inference, with steps of half a patch."""
    return math.prod(math.ceil(max(0, s - p) / (p / 2)) + 1 for s, p in zip(shape, patch_size, strict=True))


def _stock_plan(dataset: RawDataset, fingerprint: dict[str, Any]) -> dict[str, Any]:
    """Return roughly the plan that nnU-Net will make, from the images of the whole pool and without labels."""
    with scratch_folders(dataset, fingerprint), redirect_stdout(StringIO()):
        plan = ExperimentPlanner(dataset.name).plan_experiment()["configurations"][CONFIGURATION]
    return {**plan, "batch_size": 2}  # nnU-Net plans batches of two for few cases


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(1, minutes)} min"

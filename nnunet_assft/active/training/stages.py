"""Where a round meets nnU-Net: training sets on disk, trainings, checkpoints."""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import os
import pickle
import shutil
import signal
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tqdm import tqdm

from nnunet_assft.active.paths import TRAINERS, ExperimentPaths, fold_of
from nnunet_assft.active.state import Model, step
from nnunet_assft.errors import AssftError
from nnunet_assft.network.pretrained import load_pretrained_encoder
from nnunet_assft.nnunet_names import register
from nnunet_assft.planning.planner import CONFIGURATION
from nnunet_assft.planning.preprocessing import check_label, image_properties, write_training_label
from nnunet_assft.runtime.files import (
    PARTIAL,
    atomic_path,
    free_name,
    link_or_copy,
    read_json,
    sha256_file,
    sha256_of,
    write_json,
)
from nnunet_assft.volumes.raw_dataset import RawDataset


@dataclass(frozen=True)
class Context:
    """What every step of a round reads: the raw dataset, the plans, the device to compute on."""

    dataset: RawDataset
    plans: dict[str, Any]
    paths: ExperimentPaths
    device: torch.device

    @property
    def image_folder(self) -> Path:
        return self.paths.preprocessed / self.plans["configurations"][CONFIGURATION]["data_identifier"]

    def pseudo_label(self, r: int, case: str) -> Path:
        return self.paths.pseudo_label_folder(r) / "pseudo_labels" / f"{case}{self.dataset.file_ending}"

    def checked_label(self, case: str, label_file: Path) -> Any:
        """The label of a case that may be seen, see `check_label`."""
        properties = image_properties(self.image_folder, case, self.plans)
        return check_label(case, label_file, self.dataset.reader, properties, self.dataset.labels)


# The network before round 0 --------------------------------------------------------------------------------------------


def write_initial_network(
    file: Path, plans: dict[str, Any], dataset_json: dict[str, Any], seed: int, encoder: Path | None
) -> dict[str, Any] | None:
    """[E^(p); D^(0)]: Kaiming initialisation under `seed`, then the pretrained encoder, strictly. Returns its report."""
    plans_manager = PlansManager(plans)
    configuration = plans_manager.get_configuration(CONFIGURATION)
    torch.manual_seed(seed)
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        determine_num_input_channels(plans_manager, configuration, dataset_json),
        plans_manager.get_label_manager(dataset_json).num_segmentation_heads,
        allow_init=True,
        deep_supervision=False,
    )
    report = None
    if encoder is not None:
        try:
            report = load_pretrained_encoder(network, encoder)
        except ValueError as error:
            raise AssftError(str(error)) from error
    with atomic_path(file) as partial:
        torch.save({"network_weights": network.state_dict()}, partial)
    return None if report is None else {**dataclasses.asdict(report), "ignored": list(report.ignored)}


def load_weights(file: Path) -> dict[str, torch.Tensor]:
    try:
        weights: dict[str, torch.Tensor] = torch.load(file, map_location="cpu", weights_only=False)["network_weights"]
    except (RuntimeError, OSError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise AssftError(
            f"The checkpoint {file} cannot be read ({' '.join(str(error).split())[:120]}). Restore it, or "
            "move it away to train this stage again."
        ) from error
    return weights


def weights_sha256(weights: Mapping[str, torch.Tensor]) -> str:
    """Checksum of the weights alone: equal trainings have equal sums, whatever else their checkpoints hold."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# Training sets ---------------------------------------------------------------------------------------------------------


def write_training_set(
    context: Context,
    r: int,
    stage: str,
    human_labels: Mapping[str, Path],
    pseudo_labels: Mapping[str, Path],
    *,
    start: Model,
    epochs: int,
    copies: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """The folder that holds exactly the cases this stage may see, and its stage file. Returns the content of that file.

    Images are hard links to the preprocessed pool. A label that an earlier stage has preprocessed is linked as well.
    The folder appears in one step, when it is complete. copies: see `fine_tune`.
    """
    paths = context.paths
    labels = {**human_labels, **pseudo_labels}
    cases: dict[str, dict[str, Any]] = {
        case: {"kind": "pseudo" if case in pseudo_labels else "human", "label_sha256": sha256_file(labels[case])}
        for case in sorted(labels)
    }
    for case, n in (copies or {}).items():
        if n != 1:
            cases[case]["copies"] = n
    content = {
        "round": r,
        "stage": stage,
        "start_from": start.checkpoint,
        "start_sha256": start.weights_sha256,
        "epochs": epochs,
        "cases": cases,
    }
    folder, file = paths.training_set(r, stage), paths.stage_file(r, stage)
    if folder.is_dir() and file.is_file() and read_json(file) == content:
        return content
    file.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    partial = folder.with_name(
        f"{PARTIAL}_{folder.name}_{sha256_of(content)[:8]}"
    )  # a cut-off attempt at this very set
    partial.mkdir(parents=True, exist_ok=True)
    preprocessed_before = _preprocessed_labels(paths)
    for case, entry in tqdm(cases.items(), desc=f"round {r}: {stage} training set", unit="case", leave=False):
        if (partial / f"{case}.pkl").is_file():  # comes last
            continue
        link_or_copy(context.image_folder / f"{case}.b2nd", partial / f"{case}.b2nd")
        if case in human_labels:  # where stock nnU-Net looks for the reference of its validation
            link_or_copy(labels[case], paths.stages / "gt_segmentations" / f"{case}{context.dataset.file_ending}")
        earlier = preprocessed_before.get((case, entry["label_sha256"]))
        if earlier is None:
            label = context.checked_label(case, labels[case])
            write_training_label(
                label, case, context.image_folder, partial, context.plans, context.dataset.dataset_json
            )
        else:
            for ending in ("_seg.b2nd", ".pkl"):
                link_or_copy(earlier / f"{case}{ending}", partial / f"{case}{ending}")
    os.replace(partial, folder)
    write_json(file, content)
    for abandoned in paths.stages.glob(f"{PARTIAL}_{folder.name}_*"):
        shutil.rmtree(abandoned)
    return content


def _preprocessed_labels(paths: ExperimentPaths) -> dict[tuple[str, str], Path]:
    """(case, checksum of the raw label) -> training set of an earlier stage that has it preprocessed."""
    found = {}
    for file in sorted(paths.stages.glob("round_*.json")):
        folder = file.with_suffix("")
        if folder.is_dir():
            for case, entry in read_json(file)["cases"].items():
                found[case, entry["label_sha256"]] = folder
    return found


# Training --------------------------------------------------------------------------------------------------------------


def fine_tune(
    context: Context,
    r: int,
    stage: str,
    human_labels: Mapping[str, Path],
    pseudo_labels: Mapping[str, Path],
    *,
    start: Model,
    epochs: int,
    copies: Mapping[str, int] | None = None,
) -> Model:
    """One stage: its training set, then its training, as a step that is done once. Warm start, fresh optimiser and schedule.

    copies: how often a case counts when cases are drawn, 1 if not named; all alike by default.
    """
    content = write_training_set(
        context, r, stage, human_labels, pseudo_labels, start=start, epochs=epochs, copies=copies
    )
    result = step(
        context.paths.step_file(r, stage),
        content,
        lambda: dataclasses.asdict(train_stage(context, r, stage, content)),
        made=lambda model: [context.paths.results_of_dataset / model["checkpoint"]],
    )
    return Model(**result)


def train_stage(context: Context, r: int, stage: str, stage_content: dict[str, Any]) -> Model:
    """Trains one stage, or goes on with it from nnU-Net's latest checkpoint, or finds it done.

    What belongs to another training set (a label was replaced, the round was planned anew) is moved aside, never resumed.
    """
    paths = context.paths
    checkpoint = paths.checkpoint(r, stage)
    fold = checkpoint.parent
    owner = fold / "stage.json"
    if any(fold.glob("checkpoint_*.pth")) and not (owner.is_file() and read_json(owner) == stage_content):
        os.replace(fold, free_name(fold.with_name(f"outdated_{fold.name}")))
    if not checkpoint.is_file():
        write_json(owner, stage_content)
        with open(paths.log_file, "a") as log, redirect_stdout(log):
            _run_training(context, r, stage, fold)
    weights = load_weights(checkpoint)
    return Model(stage, paths.relative(checkpoint), weights_sha256(weights))


def _run_training(context: Context, r: int, stage: str, fold: Path) -> None:
    register()
    _let_workers_die_with_us()
    trainer_class = recursive_find_trainer_class_by_name(TRAINERS[stage])
    latest = fold / "checkpoint_latest.pth"
    plans = {**context.plans, "continue_training": latest.is_file()}
    trainer = trainer_class(plans, CONFIGURATION, fold_of(r, stage), context.dataset.dataset_json, context.device)
    if context.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    if latest.is_file():
        load_weights(latest)  # says which file is broken, instead of starting anew
        trainer.load_checkpoint(str(latest))
    with tqdm(
        total=trainer.num_epochs,
        initial=trainer.current_epoch,
        desc=f"round {r}: {stage.replace('_', ' ')} training",
        unit="epoch",
        leave=False,
    ) as bar:

        def show(done: Any) -> None:
            bar.set_postfix(loss=f"{done.logger.get_value('train_losses', step=-1):.3f}", refresh=False)
            bar.update()

        trainer.after_epoch = show
        trainer.run_training()


@cache
def _let_workers_die_with_us() -> None:
    """After a SIGKILL nnU-Net's augmentation workers would wait for ever for a process that is gone."""
    _libc()  # now: in a child, which another thread's lock may have been copied into, loading it could wait for ever
    os.register_at_fork(after_in_child=die_with_parent)


def die_with_parent() -> None:
    """Linux ends this process when the one that started it is gone, however that ended; other systems do not."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG
        _libc().prctl(set_parent_death_signal, signal.SIGKILL)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)

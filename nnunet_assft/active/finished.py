"""What a finished round has left: it is not run again, but its files are compared with their records."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.state import STEPS, Experiment, Round, write_splits
from nnunet_assft.errors import AssftError, DamagedFileError
from nnunet_assft.evaluation.predictions import altered
from nnunet_assft.runtime.cached import is_result, kept_result
from nnunet_assft.runtime.files import sha256_file, write_text
from nnunet_assft.runtime.sealed import read_sealed, understanding
from nnunet_assft.runtime.text import some
from nnunet_assft.trainers.stage_file import read_stage_file
from nnunet_assft.volumes.not_annotated import NAME
from nnunet_assft.volumes.raw_dataset import RawDataset

PROVENANCE, DATASET_JSON = "provenance.json", "dataset.json"  # in the folder of the pseudo-labels of a round
PROVENANCE_KEYS = (
    "experiment",
    "round",
    "model",
    "mirroring",
    "largest_component",
    "ignore_margin",
    "dataset_json_sha256",
    "cases",
)


def finished_round(experiment: Experiment, r: int) -> Round | None:
    """Return round r if it is finished and its files are sound, or None if it has to be run, or run again.

    A round that is run again loads every sound step, so only what is damaged is made again. Raises `AssftError` if that
    is impossible, because a label that the round was trained on has changed since.
    """
    if not experiment.paths.round_file(r).is_file():
        return None
    try:
        done = Round.load(experiment.paths, r)
        damaged = damaged_files(experiment, done)
    except DamagedFileError:
        damaged = [experiment.paths.round_file(r)]
    if damaged:
        _require_the_same_labels(experiment, r, damaged)
        return None
    restore_tables(experiment.paths, r, sound_steps_only=True)
    write_splits(experiment)
    return done


def damaged_files(experiment: Experiment, done: Round) -> list[Path]:
    """Return the files of a finished round that are missing or do not match their records.

    Checkpoints are only looked for: whoever loads their weights compares the checksum. Tables are left out, because
    `restore_tables` needs no more than the steps. A folder of predictions or pseudo-labels that was deleted as a whole
    is not missed, and nothing of a case that was withdrawn.
    """
    paths, r, dataset = experiment.paths, done.round, experiment.raw_dataset()
    test = [case for case in done.test if case not in experiment.withdrawn]
    damaged = [file for step in STEPS if (file := paths.step_file(r, step)).is_file() and not is_result(file)]
    if not paths.result(done.model.checkpoint).is_file():
        damaged.append(paths.result(done.model.checkpoint))
    folder, made_from = paths.test_predictions(r), {"model": done.model.weights_sha256}
    damaged += altered(folder, test, dataset.file_ending, made_from) if folder.is_dir() else []
    has_labels = done.pseudo_labelled and paths.pseudo_label_folder(r).is_dir()
    return damaged + (_damaged_pseudo_labels(experiment, done, dataset) if has_labels else [])


def read_provenance(folder: Path) -> dict[str, Any]:
    """Return the provenance of the pseudo-labels in a folder. Raises `DamagedFileError`."""
    return read_sealed(folder / PROVENANCE, PROVENANCE_KEYS)


def _damaged_pseudo_labels(experiment: Experiment, done: Round, dataset: RawDataset) -> list[Path]:
    folder = experiment.paths.pseudo_label_folder(done.round)
    cases = [case for case in done.pseudo_labelled if case not in experiment.withdrawn]
    labels = folder / "pseudo_labels"
    try:
        provenance = read_provenance(folder)
        with understanding(folder / PROVENANCE):
            sha256 = {labels / f"{case}{dataset.file_ending}": provenance["cases"][case]["sha256"] for case in cases}
    except DamagedFileError:
        return [folder / PROVENANCE]
    if "dataset_json_sha256" in provenance:  # version 0.1.0 did not record it
        sha256[folder / DATASET_JSON] = provenance["dataset_json_sha256"]
    return [file for file, expected in sha256.items() if not file.is_file() or sha256_file(file) != expected]


def _require_the_same_labels(experiment: Experiment, r: int, damaged: list[Path]) -> None:
    """Raise `AssftError` unless round r can be run again with the labels that it was trained on."""
    dataset = experiment.raw_dataset()
    for case, entry in _trained_on(experiment.paths, r).items():
        label = dataset.label_file(case)
        if not label.is_file() or sha256_file(label) != entry["label_sha256"]:
            raise AssftError(
                f"Round {r} is finished, but {some(damaged, 3)} does not match its record. It cannot be made again, "
                f"because the label of case {case} has changed since. Restore the file, or that label: {label}."
            )
        if lacked := other_structures(dataset, case, entry):
            raise AssftError(
                f"Round {r} is finished, but {some(damaged, 3)} does not match its record. It cannot be made again, "
                f"because {lacked}. Restore the file, or that entry."
            )


def _trained_on(paths: ExperimentPaths, r: int) -> dict[str, Any]:
    """Return the cases in the stage file of the supervised stage. If both of its copies are lost, there are none, and
    the result of the round that is made again shows whether the labels are the same."""
    for file in (paths.trained_on(r, "supervised"), paths.stage_file(r, "supervised")):
        with suppress(DamagedFileError):
            return dict(read_stage_file(file)["cases"])
    return {}


def other_structures(dataset: RawDataset, case: str, entry: Mapping[str, Any]) -> str:
    """Return a clause if other structures are annotated in the label of a case than when a stage was trained with it,
    otherwise "". entry: that of the case in the stage file."""
    then, now = entry.get("not_annotated", []), list(dataset.not_annotated.get(case, ()))
    if then == now:
        return ""
    was, is_ = some(then) or "nothing", some(now) or "nothing"
    return f"{NAME} of {dataset.name} names {is_} for case {case}; when its label was trained on, it named {was}"


# Tables for people ----------------------------------------------------------------------------------------------------


def restore_tables(paths: ExperimentPaths, r: int, *, sound_steps_only: bool = False) -> None:
    """Write the tables of round r again, unless they are as their steps recorded them.

    sound_steps_only: pass over a step whose file is damaged, for the commands that compute it again. Otherwise raises
    `DamagedFileError`.
    """
    for file, text in recorded_tables(paths, r, sound_steps_only=sound_steps_only).items():
        if not is_table(file, text):
            write_text(file, text)


def recorded_tables(paths: ExperimentPaths, r: int, *, sound_steps_only: bool = False) -> dict[Path, str]:
    """Return file -> content of the tables that the steps of round r recorded; version 0.1.0 recorded none. Parameters
    and errors are those of `restore_tables`."""
    again = f"Run {paths.command('round', '-r', str(r))} to make it again."
    files = {
        "query": paths.scores_file(r),
        "select": paths.selection_file(r),
        "pseudo_label_quality": paths.pseudo_label_quality(r),
    }
    steps = {step: paths.step_file(r, step) for step in files if paths.step_file(r, step).is_file()}
    if sound_steps_only:
        steps = {step: file for step, file in steps.items() if is_result(file)}
    results = {step: kept_result(file, again) for step, file in steps.items()}
    return {files[step]: result["table"] for step, result in results.items() if "table" in result}


def is_table(file: Path, text: str) -> bool:
    """Return whether a file holds this text."""
    try:
        return file.read_bytes() == text.encode()
    except OSError:
        return False

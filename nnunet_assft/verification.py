"""Read every file of an experiment and compare it with its checksum, as `nnUNetv2_assft_status --verify` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from nnunet_assft.active.experiment import image_files, image_folder, read_plans, sound_json
from nnunet_assft.active.finished import damaged_files, is_table, other_structures, recorded_tables
from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.scoring.case_record import RECORDS
from nnunet_assft.active.state import Experiment, Round, finished_rounds, require_its_history
from nnunet_assft.active.training.shared_start import taken_from
from nnunet_assft.annotation.records import load_readings
from nnunet_assft.errors import AssftError, DamagedFileError
from nnunet_assft.network.checkpoints import load_weights
from nnunet_assft.planning.preprocessing import made_from_others, whole_files
from nnunet_assft.runtime.cached import kept_result
from nnunet_assft.runtime.files import sha256_file, sha256_of
from nnunet_assft.trainers.folds import TRAINERS
from nnunet_assft.trainers.stage_file import REMEDY, read_stage_file
from nnunet_assft.volumes.accepted_geometry import AcceptedGeometry
from nnunet_assft.volumes.dataset_json import is_copy
from nnunet_assft.volumes.labels import read_label
from nnunet_assft.volumes.raw_dataset import RawDataset

COPIED = "It is copied again when the next stage is trained."
MADE_AGAIN = "It is made again when the experiment goes on."
PLANNED_AGAIN = "It is made again when an experiment of this dataset is planned or extended."


class Check(NamedTuple):
    """One thing to check. of: what it belongs to. check: raises `AssftError` if it is not as it was written."""

    of: str
    check: Callable[[], object]


class Verified(NamedTuple):
    """The number of things that were checked, and what was found: one line each."""

    n_checks: int
    findings: list[str]


def verify(experiment: Experiment) -> Verified:
    """Check all files of an experiment, with the raw images and the labels that it has used. Nothing is changed."""
    findings, checks = [], list(_checks(experiment, experiment.raw_dataset()))
    for check in tqdm(checks, desc="verifying", unit="item", leave=False):
        try:
            check.check()
        except AssftError as error:  # noqa: PERF203 - every finding is reported
            findings.append(f"{check.of}: {error}")
    return Verified(len(checks), findings)


def _checks(experiment: Experiment, dataset: RawDataset) -> Iterator[Check]:
    paths = experiment.paths
    for kind, files in (("plans", paths.plans_files), ("fingerprint", paths.fingerprint_files)):
        for file in files if experiment.checksums else ():
            yield Check(kind, partial(_require_json, file, experiment.checksums[kind]))
    sha256 = experiment.initial_network_sha256
    yield Check("initial network", partial(load_weights, paths.initial_network, sha256))
    yield Check("accepted geometry", partial(AcceptedGeometry.load, paths.accepted_geometry_file))
    yield from _checks_of_images(experiment, dataset)
    for r, stage in product(range(experiment.n_rounds + 1), TRAINERS):
        yield from _checks_of_stage(r, stage, experiment, dataset)
    for r in range(experiment.n_rounds + 1):
        if paths.round_file(r).is_file():
            yield Check(f"round {r}", partial(_check_round, experiment, r))
    yield from _checks_of_references(experiment, dataset)
    for step in sorted((paths.results / "steps").glob("*.json")):
        yield Check(f"step {step.stem}", partial(_check_step, paths, step))
    yield Check("origin of round 0", partial(taken_from, paths))
    yield from _checks_of_model_folders(experiment, dataset)
    for record in sorted((paths.results / "records").glob("*/*.npz")):
        yield Check(f"record {record.parent.name}/{record.stem}", partial(_read_record, record))
    for record in sorted((paths.results / "records").glob("*/*.json")):
        yield Check(f"record {record.parent.name}/{record.stem}", partial(kept_result, record, MADE_AGAIN))
    for annotation in sorted(paths.annotations.glob("*.json")):
        yield Check(f"annotation of {annotation.stem}", partial(load_readings, annotation))


def _checks_of_references(experiment: Experiment, dataset: RawDataset) -> Iterator[Check]:
    """Check the labels that nnU-Net's validation reads, and those of the test cases that a round was evaluated on."""
    try:
        rounds = finished_rounds(experiment)
    except DamagedFileError:  # reported already
        return
    folder, withdrawn = experiment.paths.stages / "gt_segmentations", set(experiment.withdrawn)
    for case in sorted({case for done in rounds for case in done.labelled} - withdrawn):
        label = dataset.label_file(case)
        yield Check(
            f"reference label of {case}", partial(_require_copy, folder / f"{case}{dataset.file_ending}", label)
        )
    for case in sorted({case for done in rounds for case in done.test} - withdrawn):
        yield Check(f"reference label of {case}", partial(read_label, dataset, case, dataset.label_file(case)))


def _checks_of_images(experiment: Experiment, dataset: RawDataset) -> Iterator[Check]:
    paths, images = experiment.paths, image_files(dataset, experiment)
    for case in images:
        yield Check(
            f"fingerprint of {case}", partial(kept_result, paths.fingerprint_cases / f"{case}.json", PLANNED_AGAIN)
        )
    try:
        folder = image_folder(paths, read_plans(experiment))
    except DamagedFileError:  # reported already
        return
    for case, files in images.items():
        yield Check(f"image of {case}", partial(_require_images, folder, case, files))
        yield Check(f"preprocessed image of {case}", partial(whole_files, folder, case))


def _checks_of_stage(r: int, stage: str, experiment: Experiment, dataset: RawDataset) -> Iterator[Check]:
    """Check both copies of a stage file, and the training set that it describes."""
    paths = experiment.paths
    folder, stage_file, copy = paths.training_set(r, stage), paths.stage_file(r, stage), paths.trained_on(r, stage)
    # a stage file stays when its training set is removed, but all of nnUNet_preprocessed may be deleted
    described = folder.exists() or (paths.stages.is_dir() and copy.is_file())
    trained = paths.checkpoint(r, stage).exists()
    for file, is_expected, other in ((stage_file, described, copy), (copy, trained, stage_file)):
        if file.is_file() or is_expected:
            remedy = f"Copy {other} there." if other.is_file() else REMEDY
            yield Check(f"stage {stage_file.stem}", partial(read_stage_file, file, remedy))
    cases: dict[str, Any] = {}
    for file in (copy, stage_file):
        with suppress(DamagedFileError):  # reported already
            cases = read_stage_file(file)["cases"]
    for case, entry in cases.items():
        file = dataset.label_file(case)
        if entry["kind"] == "pseudo":
            file = paths.pseudo_label_folder(r) / "pseudo_labels" / f"{case}{dataset.file_ending}"
        text = f"It was replaced after stage {stage_file.stem} was trained with it, or it is damaged."
        may_be_deleted = case in experiment.withdrawn
        if file.is_file() or not may_be_deleted:
            yield Check(f"label of {case}", partial(_require_same, file, entry["label_sha256"], text))
            if entry["kind"] == "human":
                yield Check(f"label of {case}", partial(_require_structures, dataset, case, entry, stage_file.stem))
        is_there = (folder / f"{case}.b2nd").is_file() or not may_be_deleted
        if is_there and folder.is_dir():  # it is removed when its round is over
            yield Check(f"training set {folder.name}, {case}", partial(whole_files, folder, case))


def _checks_of_model_folders(experiment: Experiment, dataset: RawDataset) -> Iterator[Check]:
    """Check the files that nnU-Net's commands read beside the checkpoints, and dataset.json beside the images."""
    if experiment.paths.stages.is_dir():  # nnUNet_preprocessed may be deleted
        yield Check("dataset.json", partial(_require_meaning, experiment.paths.preprocessed / "dataset.json", dataset))
    for folder in sorted({experiment.paths.model_folder(stage) for stage in TRAINERS}):
        if folder.is_dir() and experiment.checksums:
            of = f"model folder {folder.name}"
            yield Check(of, partial(_require_json, folder / "plans.json", experiment.checksums["plans"], COPIED))
            fingerprint = folder / "dataset_fingerprint.json"
            yield Check(of, partial(_require_json, fingerprint, experiment.checksums["fingerprint"], COPIED))
            yield Check(of, partial(_require_meaning, folder / "dataset.json", dataset))


def _check_step(paths: ExperimentPaths, step: Path) -> None:
    result = kept_result(step, MADE_AGAIN)
    if isinstance(result, dict) and "weights_sha256" in result:
        load_weights(paths.result(result["checkpoint"]), result["weights_sha256"])


def _check_round(experiment: Experiment, r: int) -> None:
    done, paths = Round.load(experiment.paths, r), experiment.paths
    require_its_history(experiment, done)
    load_weights(paths.result(done.model.checkpoint), done.model.weights_sha256)
    files = damaged_files(experiment, done)
    files += [file for file, text in recorded_tables(paths, r).items() if not is_table(file, text)]
    if files:
        again = experiment.command("round", "-r", str(r))
        raise DamagedFileError(f"{', '.join(map(str, files))} is not as it was written. Run {again} to make it again.")


def _read_record(file: Path) -> None:
    try:
        RECORDS.read(file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedFileError(f"{file} cannot be read ({error}). {MADE_AGAIN}") from error


def _require_images(folder: Path, case: str, files: tuple[Path, ...]) -> None:
    """Check the raw images of a case. folder: that of the preprocessed images."""
    lost = [file for file in files if not file.is_file()]
    if lost or made_from_others(folder, case, sha256_of([sha256_file(file) for file in files])):
        raise AssftError(f"{files[0]} is not the image that the experiment was planned with. Restore it.")


def _require_json(file: Path, sha256: str, remedy: str = MADE_AGAIN) -> None:
    if sound_json(file, sha256) is None:
        raise DamagedFileError(f"{file} does not match its checksum. {remedy}")


def _require_meaning(file: Path, dataset: RawDataset) -> None:
    """Raise `DamagedFileError` if a copy of dataset.json says something else about images and labels."""
    if not is_copy(file, dataset.dataset_json):
        raise DamagedFileError(f"{file} is damaged. {COPIED}")


def _require_same(file: Path, sha256: str, text: str) -> None:
    if not file.is_file() or sha256_file(file) != sha256:
        raise AssftError(f"{file} is missing or differs. {text}")


def _require_copy(file: Path, label: Path) -> None:
    if label.is_file() and (not file.is_file() or sha256_file(file) != sha256_file(label)):
        raise DamagedFileError(f"{file} is not the label of its case. {MADE_AGAIN}")


def _require_structures(dataset: RawDataset, case: str, entry: dict[str, Any], stage: str) -> None:
    if lacked := other_structures(dataset, case, entry):
        raise AssftError(f"{lacked} (stage {stage}). Restore the entry, or leave it: later stages use it.")

"""What experiments of a dataset share if it is the same for them: round 0, and the embeddings by E^(p).

The first experiment computes it. Others that need it at the same time wait, wherever they were started, and then take
it. Files are copied, not linked: an experiment would otherwise be damaged together with another one or, where links are
symbolic, end with it. That takes no more space than if each had computed its own.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunet_assft.active.context import Context
from nnunet_assft.active.experiment import read_plans
from nnunet_assft.active.paths import ExperimentPaths, experiments_in_results
from nnunet_assft.active.state import Experiment, Round
from nnunet_assft.active.training.stages import LATEST, reserve_fold
from nnunet_assft.active.training.training_set import Stage
from nnunet_assft.errors import AssftError, DamagedFileError
from nnunet_assft.network.checkpoints import load_weights, remove_if_damaged, weights_sha256
from nnunet_assft.runtime.cached import is_claimed, kept_result, seconds_of
from nnunet_assft.runtime.files import atomic_path, sha256_of, write_json
from nnunet_assft.runtime.locks import only_process
from nnunet_assft.runtime.sealed import read_sealed, write_sealed
from nnunet_assft.trainers.stage_file import read_stage_file

STAGE = "supervised"  # the only one of round 0
TAKEN_KEYS = ("experiment", "seconds")


@contextmanager
def shared_round_0(context: Context) -> Iterator[None]:
    """Let no other experiment compute the same round 0 meanwhile, and take it from one that has."""
    with _once(context.experiment, "round_00", _identity_of_round_0) as others:
        _take_round_0(context, others)
        yield


@contextmanager
def shared_embeddings(context: Context) -> Iterator[None]:
    """Let no other experiment compute the same embeddings by E^(p) meanwhile, and take those that others have."""
    target = context.experiment
    with _once(target, "embeddings", _identity_of_embeddings) as others:
        for other in others:
            for case in target.pool:  # not of cases that were added since, whose images may not have been the same
                file = other.paths.records("pretrained") / f"{case}.npz"
                copy = target.paths.records("pretrained") / file.name
                if file.is_file() and not copy.is_file():
                    with suppress(OSError):  # just being deleted; it is then computed
                        _copy(file, copy)
        yield


def taken_from(paths: ExperimentPaths) -> dict[str, Any] | None:
    """Return which `experiment` has trained the network of round 0, and its `seconds`, which are null if they are not
    known; None if it was this experiment. Raises `DamagedFileError` for a damaged file."""
    file = paths.taken_from
    remedy = "It only says which experiment has trained this network; delete it if nobody needs to know."
    return read_sealed(file, TAKEN_KEYS, remedy=remedy) if file.is_file() else None


# Who computes the same ------------------------------------------------------------------------------------------------


@contextmanager
def _once(
    experiment: Experiment, what: str, identity_of: Callable[[Experiment], dict[str, Any]]
) -> Iterator[list[Experiment]]:
    """Hold the lock of what experiments with this identity share, and yield the others that have it."""
    identity = sha256_of(identity_of(experiment))
    lock = experiment.paths.results.parent / f".{what}_{identity[:8]}.lock"
    noun = "round 0" if what == "round_00" else "the embeddings by the encoder before adaptation"
    work = f"{noun}, which experiment {experiment.name!r} of {experiment.dataset} can take over"
    with ExitStack() as stack:
        with suppress(PermissionError):  # of another user's lock: it is computed twice rather than not at all
            stack.enter_context(only_process(lock, work, patience=math.inf))
        yield list(_others(experiment, identity, identity_of))


def _others(
    experiment: Experiment, identity: str, identity_of: Callable[[Experiment], dict[str, Any]]
) -> Iterator[Experiment]:
    for paths in experiments_in_results():
        if paths.dataset == experiment.dataset and paths.experiment != experiment.name:
            other = None
            with suppress(AssftError, OSError, ValueError):  # damaged, of another version, or just being deleted
                found = Experiment.load(paths)
                other = found if found.checksums and sha256_of(identity_of(found)) == identity else None
            if other is not None:
                yield other


def _identity(experiment: Experiment) -> dict[str, Any]:
    """Return what everything depends on that the network before round 0 computes from the images."""
    plans = {key: value for key, value in read_plans(experiment).items() if key not in ("plans_name", "assft")}
    return {
        "plans": plans,
        "images": experiment.checksums.get("images"),  # of the pool and of the test cases
        "labels": experiment.checksums.get("labels"),  # what their values mean
        "network": experiment.initial_network_sha256,
        "versions": experiment.versions,
    }


def _identity_of_embeddings(experiment: Experiment) -> dict[str, Any]:
    options, contract = experiment.options, (experiment.encoder_report or {}).get("contract")
    return {**_identity(experiment), "options": [options.embedding, options.prior_input], "contract": contract}


def _identity_of_round_0(experiment: Experiment) -> dict[str, Any]:
    """Return what round 0 depends on, apart from the labels, which are compared when it is taken.

    The device and the number of GPUs are left out: a checkpoint is as good from any, and differs by rounding.
    """
    training = read_plans(experiment).get("assft", {})
    start, scope = experiment.start, experiment.scope(0)
    by_embeddings = None if start else [experiment.options.first_case, _identity_of_embeddings(experiment)]
    return {
        **_identity(experiment),
        "training": {key: value for key, value in training.items() if key not in ("experiment", "epochs")},
        "pool": sorted(scope.left),
        "start": start or by_embeddings,
    }


# Taking it ------------------------------------------------------------------------------------------------------------


def _take_round_0(context: Context, others: Sequence[Experiment]) -> None:
    """Take the training and the evaluation of round 0 from the first of the others that has them, whole and made from
    the same labels. The round then finds its steps done, and the rest of it is its own."""
    paths = context.paths
    for source in others:
        with suppress(AssftError, OSError):
            _wait_for_job(source)
    # if a job of this experiment is at work in the fold, the round waits for that
    with suppress(AssftError), only_process(paths.training_lock(0, STAGE), "the training of round 0"):
        remove_if_damaged(paths.checkpoint(0, STAGE))
        for source in sorted(others, key=lambda other: other.paths.taken_from.is_file()):  # who has trained it, first
            with suppress(AssftError, OSError):  # damaged, or just being deleted; the next one may be sound
                if _take_from(source, context):
                    return


def _wait_for_job(source: Experiment) -> None:
    """Wait for a training that goes on although the command that has submitted it was ended."""
    lock = source.paths.training_lock(0, STAGE)
    if lock.is_file() and not source.paths.checkpoint(0, STAGE).is_file():
        work = f"round 0 of experiment {source.name!r}, which this one can take over"
        with only_process(lock, work, patience=math.inf):
            pass


def _take_from(source: Experiment, context: Context) -> bool:
    """Take round 0 from an experiment, and return whether that was possible, or not needed.

    Raises `DamagedFileError` or OSError if something of it is damaged or missing.
    """
    target, paths, dataset = context.experiment, context.paths, context.dataset
    trained_on = read_stage_file(source.paths.trained_on(0, STAGE))
    cases = target.start or tuple(trained_on["cases"])  # chosen by the same embeddings
    labels = {case: dataset.label_file(case) for case in cases}
    epochs = target.settings.training["one_shot_epochs"]
    content = Stage(0, STAGE, labels, {}, target.initial_model, epochs, not_annotated=dataset.not_annotated).content()
    if {**trained_on, "start_from": ""} != {**content, "start_from": ""}:  # the same weights, of another experiment
        return False
    checkpoint, stamp = paths.checkpoint(0, STAGE), paths.trained_on(0, STAGE)
    if checkpoint.is_file() and is_claimed(stamp, content):
        return True
    reserve_fold(stamp, content)
    _copy_model_folder(source, context)
    _copy_evaluation(source, context)
    _record_origin(source, target)
    with atomic_path(checkpoint) as partial:  # last, because it marks the stage as trained
        shutil.copyfile(source.paths.checkpoint(0, STAGE), partial)
        _require_recorded_weights(partial, source, target)
    checkpoint.with_name(LATEST).unlink(missing_ok=True)  # of a training that was ended, as nnU-Net does
    said = (
        f"Round 0 is that of experiment {source.name!r}: the same training on the same labels. It is taken from there."
    )
    tqdm.write(said, file=sys.stderr)
    return True


def _copy_model_folder(source: Experiment, context: Context) -> None:
    """Write what nnU-Net's training writes beside its checkpoint, and read back is."""
    folder, fold = context.paths.model_folder(STAGE), context.paths.checkpoint(0, STAGE).parent
    write_json(folder / "plans.json", context.plans)
    _copy(source.paths.model_folder(STAGE) / "dataset.json", folder / "dataset.json")
    _copy(context.paths.fingerprint_files[0], folder / "dataset_fingerprint.json")
    debug = source.paths.checkpoint(0, STAGE).with_name("debug.json")  # which names the device
    if debug.is_file():
        _copy(debug, fold / debug.name)


def _copy_evaluation(source: Experiment, context: Context) -> None:
    """Copy what there is of the predictions of the test cases, and their Dice. Each file says what it was made from,
    so what does not belong here is made again."""
    there, here, ending = source.paths, context.paths, context.dataset.file_ending
    names = [f"{case}{end}" for case in context.experiment.scope(0).test for end in (ending, ".json")]
    files = {there.test_predictions(0) / name: here.test_predictions(0) / name for name in names}
    files[there.step_file(0, "evaluate")] = here.step_file(0, "evaluate")
    for file, copy in files.items():
        if file.is_file():
            _copy(file, copy)


def _record_origin(source: Experiment, target: Experiment) -> None:
    origin = taken_from(source.paths)
    if origin is None:
        step = source.paths.step_file(0, STAGE)
        origin = {"experiment": source.name, "seconds": seconds_of(step) if step.is_file() else None}
    if origin["experiment"] != target.name:  # which takes back what others have taken from it
        write_sealed(target.paths.taken_from, origin)


def _require_recorded_weights(copy: Path, source: Experiment, target: Experiment) -> None:
    """Raise `DamagedFileError` unless the copy of a checkpoint can be loaded, and has the weights that the source says
    it has, and those that the target has had if it is about to be repaired."""
    found, expected = weights_sha256(load_weights(copy)), []
    step = source.paths.step_file(0, STAGE)
    if step.is_file():  # it is not if the command was ended before its job
        expected.append(kept_result(step, "")["weights_sha256"])
    if target.paths.round_file(0).is_file():
        with suppress(DamagedFileError):
            expected.append(Round.load(target.paths, 0).model.weights_sha256)
    if any(found != sha256 for sha256 in expected):
        raise DamagedFileError(f"{source.paths.checkpoint(0, STAGE)} has other weights than were recorded.")


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as partial:
        shutil.copyfile(source, partial)

"""Planning an experiment: everything that is decided and computed before round 0, without opening a label."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from nnunet_assft import __version__
from nnunet_assft.active.options import CONTRACT
from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.query.budget import query_budget
from nnunet_assft.active.query.random_sampling import random_permutation
from nnunet_assft.active.settings import Settings
from nnunet_assft.active.state import Experiment, only_process
from nnunet_assft.active.training.initial_network import (
    other_start,
    restore_initial_network,
    with_preset_of_encoder,
    write_initial_network,
)
from nnunet_assft.cluster.engines import HERE, Engine
from nnunet_assft.errors import AssftError, DamagedFileError
from nnunet_assft.network.checkpoints import load_weights, weights_sha256
from nnunet_assft.network.encoder_file import seen_by
from nnunet_assft.network.presets import Preset
from nnunet_assft.nnunet_names import CONFIGURATION
from nnunet_assft.planning.choices import EXISTING
from nnunet_assft.planning.contract import normalization_of
from nnunet_assft.planning.domains import DOMAINS
from nnunet_assft.planning.fingerprint import check_images, combine_fingerprint, sizes_of
from nnunet_assft.planning.planner import plan_from_images
from nnunet_assft.planning.preprocessing import made_from_others, preprocess_images, require_room_for_all
from nnunet_assft.planning.test_split import labelled_cases, names_others, split
from nnunet_assft.runtime.cases import Executor
from nnunet_assft.runtime.environment import require_space
from nnunet_assft.runtime.files import base_name, link_or_copy, read_json, sha256_of, write_json
from nnunet_assft.runtime.text import count, named, some
from nnunet_assft.runtime.writable import is_writable
from nnunet_assft.trainers.stage_file import read_stage_file
from nnunet_assft.volumes.dataset_json import is_copy
from nnunet_assft.volumes.names import EXPERIMENT
from nnunet_assft.volumes.raw_dataset import RawDataset, find_dataset

MOST_NAMED = 50  # cases in a command that a message suggests; if more are missing, a disk is missing
CheckLabels = Callable[[RawDataset, Sequence[str], Executor], dict[str, list[str]]]


def no_check(dataset: RawDataset, cases: Sequence[str], executor: Executor) -> dict[str, list[str]]:
    """Leave the labels that are there at the start to round 0, which checks their positions and their values."""
    return {}


def create_experiment(
    dataset_name_or_id: str | int,
    name: str,
    settings: Settings,
    engine: Engine = HERE,
    check_labels: CheckLabels = no_check,
) -> Experiment:
    """Create an experiment, or load it if it already exists with the same settings.

    Decides the test split and the first case, then writes the fingerprint, the plans, the initial network and the
    preprocessed images. An interrupted call can be repeated and continues where it stopped. engine: where images are
    read and preprocessed. check_labels: checks the labels of the cases that are labelled at the start, and returns
    case -> the warnings about its label that a person has accepted. Raises `AssftError` for a dataset that cannot be
    used, and if the experiment exists with other settings.
    """
    dataset = find_dataset(dataset_name_or_id)
    existing = _existing(dataset, name, settings)
    require_space(dataset.name)
    if existing is None:
        settings = with_preset_of_encoder(settings)
        wanted = _decide(dataset, name, settings)
        with only_process(wanted):
            existing = _existing(dataset, name, settings)
            if existing is None:
                return _create(dataset, wanted, engine, check_labels)
    raw_dataset = existing.raw_dataset()
    prepare(existing, raw_dataset, engine)
    restore_initial_network(existing, raw_dataset, settings)
    return existing


def _existing(dataset: RawDataset, name: str, settings: Settings) -> Experiment | None:
    """Load the experiment if it exists. Raises `AssftError` if it has other settings."""
    paths = ExperimentPaths(dataset.name, name)
    if not paths.experiment_file.is_file():
        return None
    existing = Experiment.load(paths)
    _refuse_lost_images(existing, dataset)
    if settings.encoder and settings.preset is None and existing.settings.encoder:
        settings = dataclasses.replace(settings, preset=existing.settings.preset)
    # after a change, the images and labels that are there now no longer say which cases were there at the start
    wanted = None if existing.history else _decide(dataset, name, settings)
    settings = wanted.settings if wanted else settings.resolved(dataset.name)
    changed = existing.settings.differences(settings)
    changed |= other_start(existing, settings)
    changed |= _other_cases(existing, wanted) if wanted else _other_choices(existing, settings)
    if "test" in changed and (lost := [case for case in existing.test if not dataset.label_file(case).is_file()]):
        raise AssftError(
            f"{dataset.folder} lacks the labels of {count(len(lost), 'test case')} that the experiment was planned "
            f"with: {some(lost)}. Put them back and run the same command again."
        )
    _refuse_other_settings(existing, changed)
    return existing


def _create(dataset: RawDataset, wanted: Experiment, engine: Engine, check_labels: CheckLabels) -> Experiment:
    """Read all images, and write the experiment with everything that its rounds need."""
    _require_a_question(dataset, wanted)
    paths, images = wanted.paths, image_files(dataset, wanted)
    # first, because an encoder that does not fit is refused in seconds, and reading all images may take hours
    preset, report = write_initial_network(paths.initial_network, dataset.dataset_json, wanted.settings)
    if report and wanted.options.prior_input == CONTRACT:
        normalization_of(report["contract"], len(dataset.dataset_json["channel_names"]))
    executor = engine.images(paths.jobs, images)
    checksums = check_images(images, dataset.reader, paths.fingerprint_cases, executor=executor)
    refuse_seen_test_images(
        dataclasses.replace(wanted, encoder_report=report),
        {case: checksums[case] for case in wanted.test},
        "Use the test cases of the experiment that it was pre-trained with (--test_split), or pre-train another one "
        "with nnUNetv2_assft_pretrain.",
    )
    accepted = check_labels(dataset, wanted.labelled_at_start, executor)
    fingerprint = combine_fingerprint(wanted.pool, paths.fingerprint_cases)  # test images do not influence the plans
    plans = _plan(wanted, dataset, fingerprint, preset)
    initial_sha256 = weights_sha256(load_weights(paths.initial_network))
    _refuse_other_rounds(wanted, plans, initial_sha256)
    require_room_for_all(sizes_of(images, paths.fingerprint_cases), plans)
    _write_plans(paths, plans, fingerprint)
    _preprocess(dataset, wanted, plans, images, checksums, executor)  # last, as it takes longest
    experiment = dataclasses.replace(
        wanted,
        settings=wanted.settings.without_folders(),
        encoder_report={**report, "path": base_name(report["path"])} if report else None,
        accepted_at_start=accepted,
        reader=plans["image_reader_writer"],
        initial_network_sha256=initial_sha256,
        checksums={
            "plans": sha256_of(plans),
            "fingerprint": sha256_of(fingerprint),
            "images": sha256_of(checksums),
            "labels": sha256_of(_meaning(dataset)),
        },
        pseudo_labels_with_results=not is_writable(dataset.folder),
    )
    experiment.save()
    return experiment


def refuse_seen_test_images(experiment: Experiment, images_sha256: Mapping[str, str], remedy: str) -> None:
    """Raise `AssftError` if the encoder says that it was pre-trained on images of these test cases.

    images_sha256: of the test cases, see `check_images`. remedy: the last sentence of the message.
    """
    if seen := seen_by_encoder(experiment, images_sha256):
        raise AssftError(
            f"{experiment.settings.encoder} was pre-trained on the images of {count(len(seen), 'test case')} of "
            f"experiment {experiment.name!r} ({some(seen)}), and cannot be judged by them. {remedy}"
        )


def seen_by_encoder(experiment: Experiment, images_sha256: Mapping[str, str]) -> list[str]:
    """Return those of these cases on whose images the encoder says that it was pre-trained. images_sha256: see
    `check_images`."""
    header = (experiment.encoder_report or {}).get("header")
    return seen_by(header, images_sha256) if header else []


def _decide(dataset: RawDataset, name: str, settings: Settings) -> Experiment:
    """Return the experiment with everything that follows from the settings and the list of cases alone."""
    EXPERIMENT.check(name)
    settings = settings.resolved(dataset.name)
    if settings.options.ignore_margin > 0 and "ignore" not in dataset.labels:
        raise AssftError(
            f"The option ignore_margin needs an ignore label, but {dataset.name} has the labels {dataset.labels}. Add "
            f'"ignore": {max(dataset.labels.values()) + 1} to the labels in dataset.json.'
        )
    if settings.options.prior_input == CONTRACT and not settings.pretrained:
        raise AssftError(
            "The option prior_input=contract needs trained weights, and the network starts at random. Give them with "
            "--encoder or --start, or leave the option out."
        )
    pool, test, test_source = split(dataset, settings.annotator, settings.test_split)
    assert settings.budget is not None
    packages = ("nnunetv2", "torch", "numpy")
    return Experiment(
        dataset=dataset.name,
        name=name,
        settings=settings,
        n_query=query_budget(settings.budget, len(pool)),
        pool=pool,
        test=test,
        test_source=test_source,
        permutation=random_permutation(pool, settings.seed),
        labelled_at_start=labelled_cases(dataset, pool, settings.labels_known),
        versions={package: version(package) for package in packages} | {"nnunet_assft": __version__},
    )


def _require_a_question(dataset: RawDataset, wanted: Experiment) -> None:
    """Raise `AssftError` if no case is left to query, or if an option asks for another first case."""
    start = wanted.labelled_at_start
    if len(start) == len(wanted.pool):
        raise AssftError(
            f"All {len(start)} cases in the pool of {dataset.name} are labelled, so there is nothing to query. Add "
            "images without labels, name the cases to start with in a file (--labelled FILE), or start with a single "
            "case (--labelled none)."
        )
    if start and wanted.options.first_case != "random":
        raise AssftError(
            f"first_case={wanted.options.first_case} has no effect, because round 0 trains on the "
            f"{count(len(start), 'case')} labelled already. Leave it out, or add --labelled none."
        )


def _refuse_other_rounds(wanted: Experiment, plans: dict[str, Any], initial_sha256: str) -> None:
    """Raise `AssftError` if rounds are finished, whose experiment.json was lost, and were planned with other settings
    as far as their files tell. They would be taken for results of these settings."""
    paths = wanted.paths
    if not any(paths.results.glob("round_[0-9]*.json")):
        return
    known, start = dict(plans), initial_sha256
    with suppress(OSError, ValueError):
        known = read_json(paths.plans_files[0])
    with suppress(DamagedFileError):
        start = read_stage_file(paths.trained_on(0, "supervised"))["start_sha256"]
    if known != plans or start != initial_sha256:
        differing = "plan" if known != plans else "initial network"
        raise AssftError(
            f"{paths.results} holds finished rounds that were planned with other settings (their {differing} is "
            "another one). Give the options that they were planned with, choose a new name with -e, or move the folder "
            "away."
        )


def _plan(experiment: Experiment, dataset: RawDataset, fingerprint: dict[str, Any], preset: Preset) -> dict[str, Any]:
    """Return nnU-Net's plans with the additional entry `assft`, which our trainers read."""
    settings = experiment.settings
    plans = plan_from_images(
        dataset,
        fingerprint,
        plans_name=experiment.paths.plans_name,
        spacing=settings.spacing,
        patch_size=settings.patch_size or DOMAINS[settings.domain].patch_size,
        preset=preset,
        normalization=settings.normalization,
    )
    return {**plans, "assft": {"experiment": experiment.name, "seed": settings.seed, **settings.training}}


def image_files(dataset: RawDataset, experiment: Experiment) -> dict[str, tuple[Path, ...]]:
    """Return case -> image files of all cases that an experiment has now: the pool first, then the test cases."""
    now = experiment.now
    return {case: dataset.images[case] for case in now.pool} | {
        case: dataset.test_images.get(case) or dataset.images[case] for case in now.test
    }


def image_folder(paths: ExperimentPaths, plans: Mapping[str, Any]) -> Path:
    """Return the folder of the preprocessed images, which experiments with the same preprocessing share."""
    return paths.preprocessed / str(plans["configurations"][CONFIGURATION]["data_identifier"])


def _preprocess(  # six parameters: the experiment with its plans, and the images with their checksums
    dataset: RawDataset,
    experiment: Experiment,
    plans: dict[str, Any],
    images: Mapping[str, tuple[Path, ...]],
    checksums: Mapping[str, str],
    executor: Executor,
) -> None:
    folder = image_folder(experiment.paths, plans)
    preprocess_images(images, checksums, plans, dataset.dataset_json, folder, executor=executor)
    copy = experiment.paths.preprocessed / "dataset.json"  # where nnUNetv2_train looks for it
    if not is_copy(copy, dataset.dataset_json):
        link_or_copy(dataset.folder / "dataset.json", copy)


# What an existing experiment needs ------------------------------------------------------------------------------------


class Prepared(NamedTuple):
    """What the rounds of an experiment start from. images_sha256: case -> checksum of its image files."""

    plans: dict[str, Any]
    images_sha256: dict[str, str]


def prepare(experiment: Experiment, dataset: RawDataset, engine: Engine = HERE) -> Prepared:
    """Check what planning has left for the rounds, and make again what was deleted or belongs to other images.

    Nothing large is read: whoever uses an image or the initial network compares its checksum, see `active.context`. All
    files in nnUNet_preprocessed can be made again. Raises `AssftError` if images, labels or channels have been
    changed since the experiment was planned, and for damaged files that cannot be made again.
    """
    _refuse_lost_images(experiment, dataset)
    _refuse_other_labels(experiment, dataset)
    images = image_files(dataset, experiment)
    executor = engine.images(experiment.paths.jobs, images)
    plans = _restored_plans(experiment)
    folder = experiment.paths.fingerprint_cases
    checksums = check_images(images, dataset.reader, folder, executor=executor)
    _refuse_other_images(experiment, plans, checksums)
    _preprocess(dataset, experiment, plans, images, checksums, executor)
    return Prepared(plans, checksums)


def _refuse_lost_images(experiment: Experiment, dataset: RawDataset) -> None:
    now, images = experiment.now, dataset.images
    missing = [case for case in now.pool if case not in images]
    missing += [case for case in now.test if case not in images and case not in dataset.test_images]
    if missing:
        all_ = missing if len(missing) <= MOST_NAMED else [*missing[:5], "..."]  # one command has to name all of them
        raise AssftError(
            f"{dataset.folder} lacks the images of {count(len(missing), 'case')} that the experiment was planned with: "
            f"{some(missing)}. Put them back and run the same command again. If they were withdrawn for good, run "
            f"{experiment.command('extend', '--withdraw')} {' '.join(all_)}."
        )


def _write_plans(paths: ExperimentPaths, plans: dict[str, Any], fingerprint: dict[str, Any]) -> None:
    """Write plans and fingerprint where nnU-Net looks for them, and beside the results, which are kept longer."""
    for files, content in ((paths.plans_files, plans), (paths.fingerprint_files, fingerprint)):
        for file in files:
            if sound_json(file, sha256_of(content)) is None:
                write_json(file, content)


def read_plans(experiment: Experiment) -> dict[str, Any]:
    """Return the plans, from whichever of their copies is sound. Raises `DamagedFileError` if none is."""
    if not experiment.checksums:  # of an earlier version, which kept one copy
        plans: dict[str, Any] = read_json(experiment.paths.plans)
        return plans
    return _of_sound_copies(experiment, "plans", experiment.paths.plans_files)


def _restored_plans(experiment: Experiment) -> dict[str, Any]:
    """Return the plans, after replacing damaged or deleted copies of the plans and of the fingerprint by sound ones."""
    paths, plans = experiment.paths, read_plans(experiment)
    if experiment.checksums:
        _write_plans(paths, plans, _of_sound_copies(experiment, "fingerprint", paths.fingerprint_files))
    return plans


def _of_sound_copies(experiment: Experiment, kind: str, files: Sequence[Path]) -> dict[str, Any]:
    for file in files:
        content = sound_json(file, experiment.checksums[kind])
        if content is not None:
            return content
    raise DamagedFileError(
        f"The {kind} of experiment {experiment.name!r} are damaged in {' and in '.join(map(str, files))}. Restore "
        "one of these files from a backup."
    )


def sound_json(file: Path, sha256: str) -> dict[str, Any] | None:
    """Return the content of a JSON file, or None if it cannot be read or does not have this checksum."""
    try:
        content: dict[str, Any] = read_json(file)
    except (OSError, ValueError):
        return None
    return content if sha256_of(content) == sha256 else None


def _meaning(dataset: RawDataset) -> dict[str, Any]:
    """Return what the values in the files of a dataset mean."""
    return {"labels": dataset.labels, "channel_names": dataset.dataset_json["channel_names"]}


def _refuse_other_labels(experiment: Experiment, dataset: RawDataset) -> None:
    expected = experiment.checksums.get("labels")
    if expected is not None and expected != sha256_of(_meaning(dataset)):
        raise AssftError(
            f"{dataset.folder / 'dataset.json'} has other labels or channels ({_meaning(dataset)}) than when "
            f"experiment {experiment.name!r} was planned. Restore them, or plan a new experiment with -e."
        )


def _refuse_other_images(experiment: Experiment, plans: dict[str, Any], checksums: Mapping[str, str]) -> None:
    expected = experiment.images_sha256
    if expected is None or expected == sha256_of(checksums):
        return
    folder = image_folder(experiment.paths, plans)
    changed = [case for case, sha256 in checksums.items() if made_from_others(folder, case, sha256)]
    if not expected and not changed:  # a change is being made, and has no checksum yet
        return
    raise AssftError(
        f"The {named('image', changed) or 'images'} changed after experiment {experiment.name!r} of "
        f"{experiment.dataset} was planned. Put the old images back, or plan a new experiment with -e."
    )


def _other_cases(existing: Experiment, wanted: Experiment) -> dict[str, tuple[Any, Any]]:
    """Return name -> (value there, value wanted) of what follows from the images and labels that are there."""
    names = ["pool", "test"]
    if not existing.settings.labels_known == wanted.settings.labels_known == EXISTING:
        names.append("labelled_at_start")  # otherwise, labels may have been added since
    pairs = {name: (getattr(existing, name), getattr(wanted, name)) for name in names}
    return {name: (had, want) for name, (had, want) in pairs.items() if had != want}


def _other_choices(existing: Experiment, settings: Settings) -> dict[str, tuple[Any, Any]]:
    """Return name -> (value there, value wanted) of what chooses the cases, for an experiment that was changed."""
    had, all_cases = existing.settings, (*existing.pool, *existing.test)
    rows = {
        "test_split": (had.test_split, settings.test_split, existing.test),
        "labelled": (had.labels_known, settings.labels_known, existing.labelled_at_start),
    }
    return {
        name: (was, now)
        for name, (was, now, cases) in rows.items()
        if names_others(f"--{name}", now, was, all_cases, cases)
    }


def _refuse_other_settings(existing: Experiment, changed: Mapping[str, tuple[Any, Any]]) -> None:
    if changed:
        shown = some(
            (f"{name} was {_short(had)}, now {_short(want)}" for name, (had, want) in changed.items()), 3, "; "
        )
        grown = "pool" in changed and set(changed["pool"][0]) < set(changed["pool"][1])
        extend = f" {existing.command('extend')} adds new images." if grown else ""
        had, want = changed.get("test", ((), ()))
        if set(had) < set(want) and "pool" not in changed:
            extend += f" {existing.command('extend', '--test', *sorted(set(want) - set(had)))} adds test cases."
        if options := [
            word for name in ("rounds", "budget") if name in changed for word in (f"--{name}", str(changed[name][1]))
        ]:
            extend += f" To change the rounds that follow, run {existing.command('extend', *options)}."
        raise AssftError(
            f"Experiment {existing.name!r} of {existing.dataset} exists with other settings ({shown}). "
            f"Use the options it was planned with, or choose a new name with -e.{extend}"
        )


def _short(value: Any) -> str:
    return count(len(value), "case") if isinstance(value, tuple) else str(value)

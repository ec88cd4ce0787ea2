"""Planning an experiment: everything that is decided and computed before round 0, without opening a label."""

from __future__ import annotations

import dataclasses
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nnunet_assft import __version__
from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.query.budget import query_budget
from nnunet_assft.active.query.random_sampling import random_permutation
from nnunet_assft.active.settings import Settings
from nnunet_assft.active.state import Experiment
from nnunet_assft.active.training.checkpoints import load_weights, weights_sha256, write_initial_network
from nnunet_assft.errors import AssftError
from nnunet_assft.planning.domains import DOMAINS
from nnunet_assft.planning.fingerprint import check_images, combine_fingerprint, sizes_of
from nnunet_assft.planning.planner import CONFIGURATION, plan_from_images
from nnunet_assft.planning.preprocessing import preprocess_images, require_room_for_all
from nnunet_assft.planning.test_split import split
from nnunet_assft.runtime.files import link_or_copy, read_json, write_json
from nnunet_assft.runtime.processes import number_of_processes
from nnunet_assft.runtime.text import some
from nnunet_assft.volumes.raw_dataset import RawDataset, find_dataset


def create_experiment(
    dataset_name_or_id: str | int, name: str, settings: Settings, num_processes: int | None = None
) -> Experiment:
    """Create an experiment, or load it if it already exists with the same settings.

    Decides the test split and the first case, then writes the fingerprint, the plans, the initial network and the
    preprocessed images. An interrupted call can be repeated and continues where it stopped. num_processes: processes
    that read and preprocess images, by default chosen from the number of cores and the size of the images. Raises
    `AssftError` for a dataset that cannot be used, and if the experiment exists with other settings.
    """
    dataset = find_dataset(dataset_name_or_id)
    wanted = _decide(dataset, name, settings)
    images = {case: dataset.images[case] for case in wanted.pool}
    all_images = images | {case: dataset.test_images.get(case) or dataset.images[case] for case in wanted.test}
    total_bytes = sum(file.stat().st_size for files in all_images.values() for file in files)
    num_processes = number_of_processes(num_processes, total_bytes=total_bytes)
    paths = wanted.paths
    if paths.experiment_file.is_file():
        existing = Experiment.load(paths)
        _refuse_other_settings(existing, wanted)
        _preprocess(dataset, paths, read_json(paths.plans), all_images, num_processes)
        return existing

    check_images(all_images, dataset.reader, paths.fingerprint_cases, num_processes=num_processes)
    fingerprint = combine_fingerprint(images, paths.fingerprint_cases)  # test images do not influence the plans
    plans = _plan(wanted, fingerprint)
    require_room_for_all(sizes_of(all_images, paths.fingerprint_cases), plans)
    write_json(paths.plans, plans)
    write_json(paths.stages / "dataset_fingerprint.json", fingerprint)
    if not (paths.preprocessed / "dataset.json").is_file():  # where nnUNetv2_train looks for it
        link_or_copy(dataset.folder / "dataset.json", paths.preprocessed / "dataset.json")
    report = write_initial_network(paths.initial_network, plans, dataset.dataset_json, wanted.settings)
    _preprocess(dataset, paths, plans, all_images, num_processes)  # last, as it takes longest
    experiment = dataclasses.replace(
        wanted,
        encoder_report=report,
        initial_network_sha256=weights_sha256(load_weights(paths.initial_network)),
    )
    experiment.save()
    return experiment


def _decide(dataset: RawDataset, name: str, settings: Settings) -> Experiment:
    """Return the experiment with everything that follows from the settings and the list of cases alone."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise AssftError(f"-e {name!r}: expected an experiment name of letters, digits, _ and - only.")
    settings = settings.resolved(dataset.name)
    if settings.options.ignore_margin > 0 and "ignore" not in dataset.labels:
        raise AssftError(
            f"The option ignore_margin needs an ignore label, but {dataset.name} has the labels {dataset.labels}. Add "
            f'"ignore": {max(dataset.labels.values()) + 1} to the labels in dataset.json.'
        )
    pool, test, test_source = split(dataset, settings.annotator, settings.test_split)
    assert settings.budget is not None
    try:
        n_query = query_budget(settings.budget, len(pool))
    except ValueError as error:
        raise AssftError(str(error)) from error
    packages = ("nnunetv2", "torch", "numpy")
    return Experiment(
        dataset=dataset.name,
        name=name,
        settings=settings,
        n_query=n_query,
        pool=pool,
        test=test,
        test_source=test_source,
        permutation=random_permutation(pool, settings.seed),
        versions={package: version(package) for package in packages} | {"nnunet_assft": __version__},
    )


def _plan(experiment: Experiment, fingerprint: dict[str, Any]) -> dict[str, Any]:
    """Return nnU-Net's plans with the additional entry `assft`, which our trainers read."""
    settings = experiment.settings
    plans = plan_from_images(
        experiment.dataset,
        fingerprint,
        plans_name=experiment.paths.plans_name,
        domain_patch_size=DOMAINS[settings.domain].patch_size,
        preset=settings.preset,
        normalization=settings.normalization,
    )
    return {**plans, "assft": {"experiment": experiment.name, "seed": settings.seed, **settings.training}}


def _preprocess(
    dataset: RawDataset,
    paths: ExperimentPaths,
    plans: dict[str, Any],
    images: dict[str, tuple[Path, ...]],
    num_processes: int,
) -> None:
    folder = paths.preprocessed / str(plans["configurations"][CONFIGURATION]["data_identifier"])
    preprocess_images(images, plans, dataset.dataset_json, folder, num_processes=num_processes)


def _refuse_other_settings(existing: Experiment, wanted: Experiment) -> None:
    changed = existing.settings.differences(wanted.settings)
    for key in ("pool", "test", "n_query"):
        if getattr(existing, key) != getattr(wanted, key):
            changed[key] = (getattr(existing, key), getattr(wanted, key))
    if changed:
        shown = some((f"{name} was {_short(had)}, now {_short(want)}" for name, (had, want) in changed.items()), 3)
        raise AssftError(
            f"Experiment {existing.name!r} of {existing.dataset} exists with other settings ({shown}). "
            "Use the options it was planned with, or choose a new name with -e."
        )


def _short(value: Any) -> str:
    return f"{len(value)} cases" if isinstance(value, tuple) else str(value)

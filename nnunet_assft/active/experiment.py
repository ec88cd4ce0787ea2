"""Planning: everything that is decided and computed before round 0, without opening a label."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.configuration import default_num_processes

from nnunet_assft import __version__
from nnunet_assft.active.metrics import query_budget
from nnunet_assft.active.options import Options
from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.query.functions import random_permutation
from nnunet_assft.active.state import Experiment
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.active.training.stages import load_weights, weights_sha256, write_initial_network
from nnunet_assft.errors import AssftError
from nnunet_assft.network import PRESETS
from nnunet_assft.planning.domains import DOMAINS, ONE_SHOT_EPOCHS, resolve_domain
from nnunet_assft.planning.fingerprint import check_images, combine_fingerprint
from nnunet_assft.planning.planner import CONFIGURATION, plan_from_images
from nnunet_assft.planning.preprocessing import preprocess_images
from nnunet_assft.runtime.files import link_or_copy, read_json, write_json
from nnunet_assft.volumes.raw_dataset import RawDataset, find_dataset

DEFAULT_TEST_FRACTION = "0.2"
SPLIT_SEED = 12345  # nnU-Net's own: the test cases stay the same for every experiment seed


def create_experiment(
    dataset_name_or_id: str | int,
    name: str = "assft",
    *,
    strategy: str = "assft",
    rounds: int | None = None,
    budget: str | None = None,
    seed: int = 0,
    domain: str = "auto",
    preset: str = "ctfm",
    encoder: Path | None = None,
    annotator: str = "oracle",
    test_split: str | None = None,
    epochs: int | None = None,
    iterations_per_epoch: int = 250,
    initial_lr: float = 1e-4,
    deep_supervision: bool = False,
    normalization: str = "percentile",
    options: Options | None = None,
    num_processes: int | None = None,
) -> Experiment:
    """Test split, fingerprint, plans, preprocessed images, initial network, first case. Goes on where an earlier call stopped.

    rounds, budget, epochs: None takes what the domain says. epochs: per stage of a round r >= 1; round 0 keeps the
    paper's share of it. Raises `AssftError` for a dataset that cannot be used, and if the experiment exists with other
    settings.
    """
    _check_name("--strategy", strategy, STRATEGIES)
    _check_name("--preset", preset, PRESETS)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise AssftError(f"-e {name!r}: an experiment's name is made of letters, digits, _ and -.")
    dataset = find_dataset(dataset_name_or_id)
    options = options or Options()
    if options.ignore_margin > 0 and "ignore" not in dataset.labels:
        raise AssftError(
            f"Option ignore_margin needs an ignore label; the labels of {dataset.name} are {dataset.labels}. Add "
            f'"ignore": {max(dataset.labels.values()) + 1} to them in dataset.json.'
        )
    paths = ExperimentPaths(dataset.name, name)
    domain = resolve_domain(domain, dataset.name)
    row = DOMAINS[domain]
    if encoder is not None and not PRESETS[preset].accepts_pretrained_encoder:
        raise AssftError(
            f"Preset {preset!r} takes no pretrained encoder ({PRESETS[preset].description}). Use --preset ctfm."
        )
    pool, test, test_source = _split(dataset, annotator, test_split)
    budget = budget or row.budget
    try:
        n_query = query_budget(budget, len(pool))
    except ValueError as error:
        raise AssftError(str(error)) from error
    epochs = epochs or row.epochs
    experiment = Experiment(
        dataset=dataset.name,
        name=name,
        strategy=strategy,
        seed=seed,
        n_rounds=rounds or row.rounds,
        n_query=n_query,
        budget=budget,
        annotator=annotator,
        domain=domain,
        preset=preset,
        normalization=normalization,
        encoder=None if encoder is None else {"path": str(encoder.resolve())},
        pool=pool,
        test=test,
        test_source=test_source,
        permutation=random_permutation(pool, seed),
        training={
            "one_shot_epochs": max(1, round(epochs * ONE_SHOT_EPOCHS / row.epochs)),
            "epochs": epochs,
            "iterations_per_epoch": iterations_per_epoch,
            "initial_lr": initial_lr,
            "weight_decay": 3e-5,
            "deep_supervision": deep_supervision,
        },
        options=options,
        versions={package: version(package) for package in ("nnunetv2", "torch", "numpy")}
        | {"nnunet_assft": __version__},
    )
    images = {case: dataset.images[case] for case in pool}
    test_images = {case: dataset.test_images.get(case) or dataset.images[case] for case in test}
    all_images = {**images, **test_images}
    num_processes = num_processes or _default_processes(all_images)
    if paths.experiment_file.is_file():
        existing = Experiment.load(paths)
        _refuse_other_settings(existing, experiment)
        plans = read_json(paths.plans)
        preprocess_images(
            all_images, plans, dataset.dataset_json, _image_folder(paths, plans), num_processes=num_processes
        )
        return existing

    check_images(all_images, dataset.reader, paths.fingerprint_cases, num_processes=num_processes)
    fingerprint = combine_fingerprint(images, paths.fingerprint_cases)  # test images have no say in the plans
    plans = plan_from_images(
        dataset.name,
        fingerprint,
        plans_name=paths.plans_name,
        domain_patch_size=row.patch_size,
        preset=preset,
        normalization=normalization,
    )
    plans["assft"] = {"experiment": name, "seed": seed, **experiment.training}
    write_json(paths.plans, plans)
    write_json(paths.stages / "dataset_fingerprint.json", fingerprint)
    if not (paths.preprocessed / "dataset.json").is_file():  # where nnUNetv2_train looks for it
        link_or_copy(dataset.folder / "dataset.json", paths.preprocessed / "dataset.json")
    report = write_initial_network(
        paths.initial_network, plans, dataset.dataset_json, seed, encoder
    )  # before the long part
    preprocess_images(all_images, plans, dataset.dataset_json, _image_folder(paths, plans), num_processes=num_processes)
    experiment = dataclasses.replace(
        experiment,
        encoder=experiment.encoder and {**experiment.encoder, "report": report},
        initial_network_sha256=weights_sha256(load_weights(paths.initial_network)),
    )
    experiment.save()
    return experiment


def _image_folder(paths: ExperimentPaths, plans: dict[str, Any]) -> Path:
    return paths.preprocessed / str(plans["configurations"][CONFIGURATION]["data_identifier"])


def _default_processes(images: dict[str, tuple[Path, ...]]) -> int:
    """One per core, at most nnU-Net's own default, and one per 200 MB: a process pays seconds of imports before its first case."""
    total = sum(file.stat().st_size for files in images.values() for file in files)
    return max(1, min(os.cpu_count() or 1, default_num_processes, total // 200_000_000))


def _check_name(option: str, name: str, table: Collection[str]) -> None:
    if name not in table:
        raise AssftError(f"{option} {name!r} does not exist; there are: {', '.join(table)}.")


def _split(dataset: RawDataset, annotator: str, test_split: str | None) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """(pool, test, where the test cases come from). Looks at which label files exist, never into one."""
    labelled_test = tuple(case for case in dataset.test_images if dataset.label_file(case).is_file())
    if test_split is None and labelled_test:
        pool, test, source = tuple(dataset.images), labelled_test, "imagesTs"
    elif test_split is None and annotator == "human":
        pool, test, source = tuple(dataset.images), (), "none"
    else:
        pool, test, source = _held_out(dataset, test_split or DEFAULT_TEST_FRACTION)
    missing = [case for case in (*pool, *test) if not dataset.label_file(case).is_file()]
    if missing and annotator == "oracle":
        raise AssftError(
            f"{len(missing)} cases of {dataset.name} have no label file ({', '.join(missing[:5])}). The oracle needs "
            "them all; add them, or plan with --annotator human."
        )
    if unlabelled := [case for case in test if case in missing]:
        raise AssftError(
            f"{len(unlabelled)} test cases have no label ({', '.join(unlabelled[:5])}), and annotators are not asked for "
            "them. Add these labels, or leave out --test_split to go without test cases."
        )
    if len(pool) < 2:
        raise AssftError(f"The pool of {dataset.name} has {len(pool)} case; a query needs at least 2.")
    return pool, test, source


def _held_out(dataset: RawDataset, spec: str) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    cases = list(dataset.images)
    try:
        fraction = float(spec.removesuffix("%")) / (100 if spec.endswith("%") else 1)
    except ValueError:
        test = _cases_in_file(Path(spec), cases)
        source = f"file {Path(spec).resolve()}"
    else:
        if not 0 < fraction < 1:
            raise AssftError(f"--test_split {spec}: expected a fraction between 0 and 1, or a file of case ids.")
        n_test = max(1, int(fraction * len(cases) + 0.5))
        chosen = np.random.default_rng(SPLIT_SEED).permutation(len(cases))[:n_test]
        test = {cases[i] for i in chosen}
        source = f"{fraction:g} of imagesTr, seed {SPLIT_SEED}"
    return tuple(c for c in cases if c not in test), tuple(c for c in cases if c in test), source


def _cases_in_file(file: Path, cases: list[str]) -> set[str]:
    """A JSON list, a JSON object with the key `test`, or one case id per line."""
    if not file.is_file():
        raise AssftError(
            f"--test_split {file}: no such file, and not a fraction. Give a fraction (0.2) or a file of case ids."
        )
    text = file.read_text(encoding="utf-8")
    try:
        content = json.loads(text)
        listed = content["test"] if isinstance(content, dict) else content
    except (ValueError, KeyError):
        listed = None
    if not isinstance(listed, list):  # lines; a single numeric id is valid JSON, too
        listed = text.split()
    if not listed:
        raise AssftError(f"--test_split {file} names no case; expected ids such as {cases[0]}, one per line.")
    unknown = sorted({str(case) for case in listed} - set(cases))
    if unknown:
        raise AssftError(
            f"--test_split {file} names {len(unknown)} cases that are not in imagesTr ({', '.join(unknown[:5])}); "
            f"expected ids such as {cases[0]}."
        )
    return {str(case) for case in listed}


def _refuse_other_settings(existing: Experiment, wanted: Experiment) -> None:
    def comparable(experiment: Experiment) -> dict[str, Any]:
        content = {
            k: v
            for k, v in vars(experiment).items()
            if k not in ("versions", "initial_network_sha256", "permutation", "options")
        }
        return {**content, **vars(experiment.options), "encoder": (experiment.encoder or {}).get("path")}

    had, want = comparable(existing), comparable(wanted)
    changed = [key for key in had if had[key] != want[key]]
    if changed:
        shown = ", ".join(f"{key} was {_short(had[key])}, now {_short(want[key])}" for key in changed[:3])
        raise AssftError(
            f"Experiment {existing.name!r} of {existing.dataset} exists with other settings ({shown}). "
            "Type the options it was made with, or give a new name with -e."
        )


def _short(value: Any) -> str:
    return f"{len(value)} cases" if isinstance(value, tuple) else str(value)

"""The provenance of the numbers: settings, checksums and versions of the experiment."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import pandas as pd

from nnunet_assft.active.experiment import read_plans
from nnunet_assft.active.options import table as options_table
from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.state import STEPS
from nnunet_assft.active.training.shared_start import taken_from
from nnunet_assft.errors import DamagedFileError
from nnunet_assft.network.checkpoints import device_of, precision_of_training
from nnunet_assft.network.presets import ENCODERS, licence_of
from nnunet_assft.nnunet_names import CONFIGURATION
from nnunet_assft.report.material import Material
from nnunet_assft.report.sections.base import Section, SectionTable, encoder_name, network_name
from nnunet_assft.runtime.cached import seconds_of


def section(material: Material) -> Section:
    experiment = material.experiment
    models = [
        {
            "round": done.round,
            **asdict(done.model),
            "trained on": device_of(experiment.paths.result(done.model.checkpoint)),
            "precision": precision_of_training(experiment.paths.result(done.model.checkpoint)),
        }
        for done in material.rounds
    ]
    options = [
        {"option": name, "value": str(getattr(experiment.options, name)), "meaning": meaning}
        for name, _, meaning in options_table()
    ]
    facts = _facts(material)
    tables: tuple[SectionTable, ...] = (
        SectionTable("provenance", "Experiment", pd.DataFrame(facts.items(), columns=["what", "value"])),
        *_history(material),
        SectionTable("models", "Models", pd.DataFrame(models), _about_models(experiment.paths)),
        SectionTable("options", "All options", pd.DataFrame(options), folded=True),
    )
    steps = _seconds_per_step(material)
    if len(steps):
        said = (
            "Of the last run of each step, on whatever machine it was; a step that was interrupted counts from there."
        )
        tables += (SectionTable("seconds", "Seconds per step", steps, said, folded=True),)
    text = f"Written by {experiment.command('report')} from the files of the experiment."
    return Section("provenance", "Provenance", (text,), tables=tables)


def _about_models(paths: ExperimentPaths) -> str:
    """Return what the checksums are of, and which experiment has trained the network of round 0 if it was another."""
    said, origin = "The checksum is that of the weights alone.", None
    with suppress(DamagedFileError):
        origin = taken_from(paths)
    if origin is None:
        return said
    took = "" if origin["seconds"] is None else f" in {origin['seconds']:.0f} s"
    return (
        f"{said} The network of round 0 was trained by experiment {origin['experiment']!r}{took} and taken from there."
    )


def _history(material: Material) -> tuple[SectionTable, ...]:
    """Return a table of what was changed after the experiment was planned; none if nothing was."""
    rows = [
        {
            "from round": change.first_round,
            "date": change.date,
            "added to the pool": ", ".join(change.added),
            "added test cases": ", ".join(change.added_test),
            "withdrawn": ", ".join(change.withdrawn)
            + (f" (from round {change.round} on)" if change.withdrawn and change.after_query else ""),
            "labelled by a second look": ", ".join(change.labelled),
            "R": change.n_rounds,
            "N_B": change.n_query,
            "look at": "; ".join(change.remarks),
        }
        for change in material.experiment.history
    ]
    text = "What was changed after the experiment was planned. Rounds before that had the cases of their time."
    return (SectionTable("history", "History", pd.DataFrame(rows), text),) if rows else ()


def _seconds_per_step(material: Material) -> pd.DataFrame:
    """Return one row per round with the seconds that each of its steps took; NaN for a step that it does not have."""
    paths, rows = material.experiment.paths, []
    for done in material.rounds:
        files = {step: paths.step_file(done.round, step) for step in STEPS}
        known: dict[str, float] = {}
        for step, file in files.items():
            with suppress(DamagedFileError):
                known[step] = seconds_of(file)
        rows.append({"round": done.round, **known})
    table = pd.DataFrame(rows)
    return table if len(table.columns) > 1 else table.iloc[:0]


def _grid(material: Material) -> dict[str, str]:
    """Return the spacing and the patch of the plans, (x, y, z); empty if the plans cannot be read."""
    try:
        plans = read_plans(material.experiment)
    except (OSError, DamagedFileError):
        return {}
    configuration = plans["configurations"][CONFIGURATION]
    axes = [plans["transpose_forward"].index(axis) for axis in (2, 1, 0)]
    return {
        "spacing in mm (x, y, z)": " x ".join(f"{configuration['spacing'][axis]:.3g}" for axis in axes),
        "patch (x, y, z)": " x ".join(str(configuration["patch_size"][axis]) for axis in axes),
    }


def _weights(report: Mapping[str, Any] | None) -> dict[str, str]:
    """Return what is known about the weights at the start: what they are, their licence and how they were adapted.

    report: see `EncoderReport`; empty for a random start.
    """
    if not report:
        return {}
    encoder = report.get("encoder", "")
    row = ENCODERS.get(encoder)
    facts = {
        "format of the weights": f"{encoder} ({row.source})" if row else encoder,
        "layout of their file": report.get("layout", ""),
        "licence of the weights": licence_of(encoder),
        "weights adapted to the channels": report.get("adapted") or "no",
    }
    if (structures := report.get("structures")) is not None:
        kept = [name for name, is_kept in structures.items() if is_kept]
        facts["rows of the last layer taken"] = ", ".join(kept) or "none"
    return facts


def _facts(material: Material) -> dict[str, str]:
    """Return everything that determines the experiment: name -> value."""
    experiment, settings = material.experiment, material.experiment.settings
    checksum = (experiment.encoder_report or {}).get("sha256")
    facts = {
        "dataset, experiment": f"{experiment.dataset}, {experiment.name}",
        "strategy": settings.strategy,
        "options that differ from the method": experiment.options.as_typed() or "none",
        "pre-trained encoder": encoder_name(material) + (f", sha256 {checksum}" if checksum else ""),
        **_weights(experiment.encoder_report),
        "initial network, sha256": experiment.initial_network_sha256,
        "seed": settings.seed,
        "domain, network, normalization": f"{settings.domain}, {network_name(material)}, {settings.normalization}",
        "rounds, cases per round, budget, as planned": f"{settings.rounds}, {experiment.n_query}, {settings.budget}",
        "annotator": settings.annotator,
        "labelled at the start": f"{len(experiment.labelled_at_start)} cases",
        "pool, as planned": f"{len(experiment.pool)} cases",
        "test, as planned": f"{len(experiment.test)} cases ({experiment.test_source})",
        "channels": ", ".join(map(str, material.dataset.dataset_json["channel_names"].values())),
        **_grid(material),
        **{name.replace("_", " "): value for name, value in settings.training.items()},
        **{f"version of {name}": version for name, version in experiment.versions.items()},
    }
    return {name: str(value) for name, value in facts.items()}

"""What a comparison has so far: results and costs of its finished runs, and the files of tables and conclusions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.state import STEPS, Experiment, Round
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.annotation.minutes import annotation_minutes
from nnunet_assft.comparison.comparison import (
    LOWER_BOUND,
    METRIC_COLUMNS,
    NNUNET,
    UPPER_BOUND,
    Comparison,
    nnunet_folder,
    planned,
    run_metrics,
    source_of,
)
from nnunet_assft.comparison.conclusions import find
from nnunet_assft.comparison.pseudo_label_quality import read_pseudo_label_quality
from nnunet_assft.comparison.tables import markdown, write_table
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import read_json, write_text

RESULT_COLUMNS = ["arm", "seed", *METRIC_COLUMNS]
RUN_COLUMNS = [
    "arm",
    "seed",
    "round",
    "n_labelled",
    "n_pseudo",
    "annotated_cases",
    "annotation_minutes",
    "training_minutes",
    "query_minutes",
    "total_minutes",
    "device",
    "status",
]


def write_tables(comparison: Comparison) -> str:
    """Writes tables/ of everything that is finished. Returns the text of conclusions.md, which is written, too.

    Raises `AssftError` if no round is finished.
    """
    results, runs = collect(comparison)
    if results.empty:
        raise AssftError(
            f"Comparison {comparison.name!r} of {comparison.dataset} has no finished round. Leave --collect out to run it."
        )
    content = read_json(comparison.file) | {"arms": comparison.arms, "seeds": comparison.seeds}
    found = find(content, results, runs, _quality(comparison))
    folder = comparison.folder / "tables"
    for table in found.tables:
        write_table(folder, table)
    write_text(folder / "statistics.csv", found.statistics.to_csv(index=False))
    text = "\n\n".join(
        [
            f"# {comparison.dataset}, comparison {comparison.name!r}",
            *found.compared,
            *(["**Missing:** " + " ".join(found.missing)] if found.missing else []),
            f"**{found.conclusion}**",
            markdown(found.tables[0]),
            "Round by round, and over the whole curve (AUBC):",
            "\n".join(f"* {sentence}" for sentence in found.one_by_one),
        ]
    )
    write_text(folder / "conclusions.md", text + "\n")
    return text


def _quality(comparison: Comparison) -> pd.DataFrame | None:
    """pseudo_label_quality.csv: that of every finished round with pseudo-labels, with columns arm and seed; None if there is none."""
    frames = []
    for arm in comparison.strategies:
        for seed in comparison.seeds:
            paths = ExperimentPaths(comparison.dataset, comparison.experiment_name(arm, seed))
            files = [paths.pseudo_label_quality(r) for r in range(1, comparison.n_rounds + 1)]
            frames += [read_pseudo_label_quality(file).assign(arm=arm, seed=seed) for file in files if file.is_file()]
    if not frames:
        return None
    table = pd.concat(frames, ignore_index=True)
    table = table[["arm", "seed", *(name for name in table.columns if name not in ("arm", "seed"))]]
    write_text(comparison.folder / "pseudo_label_quality.csv", table.astype({"selected": int}).to_csv(index=False))
    return table


def collect(comparison: Comparison) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(results, runs) of everything that is finished, in the forms of results.csv and runs.csv, which are written.

    results: arm, seed, round, n_labelled, case, structure, dice, nsd, hd95_mm. runs: one row per arm, seed and round that should be
    there; those that are not have the status `missing`.
    """
    results, runs = [], []
    for seed in comparison.seeds:
        for arm in comparison.arms:
            found = run_metrics(comparison, arm, seed)
            results.append(found.assign(arm=arm, seed=seed))
            runs += _costs(comparison, arm, seed, found)
    table = pd.concat(results, ignore_index=True)[RESULT_COLUMNS]
    table = table.astype(
        {"round": int, "n_labelled": int, "dice": float, "nsd": float, "hd95_mm": float}
    )  # also if a run has no row
    costs = pd.DataFrame(runs, columns=RUN_COLUMNS)
    for name, frame in (("results", table), ("runs", costs)):
        write_text(comparison.folder / f"{name}.csv", frame.to_csv(index=False))
    return table, costs


def _costs(comparison: Comparison, arm: str, seed: int, results: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of runs.csv of one run: one for each round that should be there.

    Minutes are of the steps of the round, evaluation left out; of round 0, which all strategies share, none are counted.
    """
    last = comparison.n_rounds
    rounds = {LOWER_BOUND: [0], UPPER_BOUND: [last]}.get(arm, range(0 if arm in STRATEGIES else 1, last + 1))
    n_labelled = dict(zip(results["round"], results["n_labelled"], strict=True))
    rows = []
    for r in rounds:
        row: dict[str, Any] = {"arm": arm, "seed": seed, "round": r, "status": "done" if r in n_labelled else "missing"}
        rows.append(row)
        if r not in n_labelled:
            continue
        row |= {"n_labelled": n_labelled[r], "device": read_json(comparison.file)["device"]}
        experiment = planned(
            comparison, arm if arm in STRATEGIES or arm == UPPER_BOUND else source_of(comparison, arm), seed
        )
        assert experiment is not None
        done = Round.load(experiment.paths, 1 if arm == UPPER_BOUND else r)
        new = done.labelled if r == rounds[0] else done.queried  # since the row before
        row |= {"annotated_cases": len(new), "annotation_minutes": _annotation_minutes(experiment, new)}
        if arm.startswith(NNUNET):
            row["training_minutes"] = read_json(nnunet_folder(comparison, arm, seed, r) / "done.json")["seconds"] / 60
        elif arm == LOWER_BOUND:
            row |= {"annotated_cases": 0, "annotation_minutes": 0}
        elif done.round > 0:
            minutes = {name: _minutes(experiment.paths.step_file(done.round, name)) for name in STEPS}
            row["n_pseudo"] = len(done.pseudo_labelled)
            row["training_minutes"] = minutes["supervised"] + minutes["semi"]
            row["query_minutes"] = minutes["query"] + minutes["select"] + minutes["pseudo_labels"]
        row["total_minutes"] = row.get("training_minutes", 0) + row.get("query_minutes", 0)
    return rows


def _minutes(step_file: Path) -> float:
    return float(read_json(step_file).get("seconds", math.nan)) / 60 if step_file.is_file() else 0.0


def _annotation_minutes(experiment: Experiment, cases: Sequence[str]) -> float | None:
    """What people said it took them, in any experiment of the dataset; None if that of a case is not known."""
    known: dict[str, float] = {}
    for folder in sorted(experiment.paths.results.parent.glob("*/annotations")):
        known |= annotation_minutes(folder)
    minutes = [known.get(case) for case in cases]
    return None if None in minutes else float(sum(minutes))  # type: ignore[arg-type]

"""Collect the results and costs of the finished runs of a comparison, and write its tables and conclusions."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from nnunet_assft.comparison.arms import Arm, Comparison
from nnunet_assft.comparison.arms.base import METRIC_COLUMNS
from nnunet_assft.comparison.conclusions import Findings, draw_conclusions
from nnunet_assft.comparison.pseudo_label_quality import read_pseudo_label_quality
from nnunet_assft.comparison.spec import Shared, read_comparison
from nnunet_assft.comparison.tables import markdown, write_table
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import write_text

RESULT_COLUMNS = ["arm", "seed", "fold", *METRIC_COLUMNS]
RUN_COLUMNS = [
    "arm",
    "seed",
    "fold",
    "round",
    "n_labelled",
    "n_pseudo",
    "steps",
    "from_scratch",
    "annotated_cases",
    "annotation_minutes",
    "training_minutes",
    "query_minutes",
    "total_minutes",
    "device",
    "status",
]


def write_tables(comparison: Comparison) -> str:
    """Write tables/, statistics.csv and conclusions.md from all finished rounds. Returns the text of conclusions.md.

    Raises `AssftError` if no round is finished.
    """
    _, shared = read_comparison(comparison.file)
    results, runs = collect(comparison, shared)
    if results.empty:
        raise AssftError(
            f"Comparison {comparison.name!r} of {comparison.dataset} has no finished round. Run it without --collect."
        )
    findings = draw_conclusions(comparison, shared, results, runs, collect_quality(comparison))
    folder = comparison.folder / "tables"
    for table in findings.tables:
        write_table(folder, table)
    write_text(folder / "statistics.csv", findings.statistics.to_csv(index=False))
    text = _text(comparison, findings)
    write_text(folder / "conclusions.md", text + "\n")
    return text


def _text(comparison: Comparison, findings: Findings) -> str:
    return "\n\n".join(
        [
            f"# {comparison.dataset}, comparison {comparison.name!r}",
            *findings.compared,
            *(["**Missing:** " + " ".join(findings.missing)] if findings.missing else []),
            f"**{findings.conclusion}**",
            markdown(findings.tables[0]),
            "Round by round, and over the whole curve (AUBC):",
            "\n".join(f"* {sentence}" for sentence in findings.one_by_one),
        ]
    )


def collect(comparison: Comparison, shared: Shared) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write results.csv and runs.csv from all finished rounds, and return both tables.

    The first one has RESULT_COLUMNS and one row per arm, seed, round, test case and structure. The second one has
    RUN_COLUMNS and one row per arm, seed and expected round; rounds that are not finished have the status `missing`.
    """
    results, runs = [], []
    for part, seed, arm in _runs(comparison):
        metrics = arm.metrics(part, seed)
        results.append(metrics.assign(arm=arm.id, seed=seed, fold=part.fold))
        runs += [{**row, "fold": part.fold} for row in arm.costs(part, seed, metrics, shared.device)]
    numbers = {"round": int, "n_labelled": int, "dice": float, "nsd": float, "hd95_mm": float}
    table = pd.concat(results, ignore_index=True)[RESULT_COLUMNS].astype(numbers)  # empty tables have no number types
    costs = pd.DataFrame(runs, columns=RUN_COLUMNS)
    for name, frame in (("results", table), ("runs", costs)):
        write_text(comparison.folder / f"{name}.csv", frame.to_csv(index=False))
    return table, costs


def collect_quality(comparison: Comparison) -> pd.DataFrame | None:
    """Write pseudo_label_quality.csv from the files of all rounds, and return the table; None if there is no file."""
    frames = []
    for part, seed, arm in _runs(comparison):
        paths = part.paths(arm, seed)
        files = [paths.pseudo_label_quality(r) for r in range(1, comparison.n_rounds + 1)] if arm.is_strategy else []
        frames += [
            read_pseudo_label_quality(file).assign(arm=arm.id, seed=seed, fold=part.fold)
            for file in files
            if file.is_file()
        ]
    if not frames:
        return None
    table = pd.concat(frames, ignore_index=True)
    keys = ["arm", "seed", "fold"]
    table = table[[*keys, *table.columns.drop(keys)]]
    write_text(comparison.folder / "pseudo_label_quality.csv", table.astype({"selected": int}).to_csv(index=False))
    return table


def _runs(comparison: Comparison) -> Iterator[tuple[Comparison, int, Arm]]:
    """Yield (comparison of the fold, seed, arm) of every run."""
    for part in comparison.folds:
        for seed in comparison.seeds:
            for arm in comparison.arms:
                yield part, seed, arm

"""Collect the results and costs of the finished runs of a comparison, and write its tables and conclusions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from nnunet_assft.comparison.arms import Arm, Comparison
from nnunet_assft.comparison.arms.base import METRIC_COLUMNS
from nnunet_assft.comparison.conclusions import Findings, draw_conclusions
from nnunet_assft.comparison.pseudo_label_quality import COLUMNS, read_pseudo_label_quality
from nnunet_assft.comparison.spec import Shared, read_comparison
from nnunet_assft.comparison.tables import markdown, write_table
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import sha256_of, write_text

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
    "specification",
]
KEYS = ["arm", "seed", "fold"]  # of a run


def write_tables(comparison: Comparison) -> str:
    """Write tables/, statistics.csv and conclusions.md from all finished rounds. Returns the text of conclusions.md.

    Raises `AssftError` if no round is finished.
    """
    _, shared = read_comparison(comparison.file)
    quality = collect_quality(comparison, shared)
    results, runs = collect(comparison, shared)
    if results.empty:
        raise AssftError(
            f"Comparison {comparison.name!r} of {comparison.dataset} has no finished round. Run it without --collect."
        )
    findings = draw_conclusions(comparison, shared, results, runs, quality)
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

    The first one has RESULT_COLUMNS and one row per arm, seed, fold, round, test case and structure. The second one has
    RUN_COLUMNS and one row per arm, seed, fold and expected round; rounds that are not finished have the status
    `missing`. A run whose experiment is not on this disk keeps the rows that the files have of it, see `_kept`.
    """
    results, runs, specification = [], [], _specification(comparison, shared)
    for part, seed, arm in _runs(comparison):
        metrics = arm.metrics(part, seed)
        results.append(metrics.assign(arm=arm.id, seed=seed, fold=part.fold))
        costs = arm.costs(part, seed, metrics, shared.device)
        runs += [{**row, "fold": part.fold, "specification": specification} for row in costs]
    numbers = {"round": int, "n_labelled": int, "dice": float, "nsd": float, "hd95_mm": float}
    of_results = pd.concat(results, ignore_index=True)[RESULT_COLUMNS].astype(numbers)  # empty tables have no types
    kept = _kept(comparison, specification)
    return (
        _write(comparison.folder / "results.csv", of_results, kept),
        _write(comparison.folder / "runs.csv", pd.DataFrame(runs, columns=RUN_COLUMNS), kept),
    )


def collect_quality(comparison: Comparison, shared: Shared) -> pd.DataFrame | None:
    """Write pseudo_label_quality.csv from the files of all rounds, and return the table; None if there is no file.

    To be called before `collect`, which says anew which runs are there.
    """
    frames = []
    for part, seed, arm in _runs(comparison):
        paths = part.paths(arm, seed)
        files = [paths.pseudo_label_quality(r) for r in range(1, comparison.n_rounds + 1)] if arm.is_strategy else []
        frames += [
            read_pseudo_label_quality(file).assign(arm=arm.id, seed=seed, fold=part.fold)
            for file in files
            if file.is_file()
        ]
    file, kept = comparison.folder / "pseudo_label_quality.csv", _kept(comparison, _specification(comparison, shared))
    if not frames and not (kept and file.is_file()):
        return None
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*KEYS, *COLUMNS])
    table = table[[*KEYS, *table.columns.drop(KEYS)]].astype({"selected": int})
    return _write(file, table, kept).astype({"selected": bool})


def _specification(comparison: Comparison, shared: Shared) -> str:
    """Return a checksum of what determines the results of a run, apart from its arm, seed and fold."""
    return sha256_of({"settings": asdict(comparison.settings), "match": comparison.match, "pool": shared.pool})[:12]


def _kept(comparison: Comparison, specification: str) -> set[tuple[str, int, int]]:
    """Return (arm, seed, fold) of the runs whose rows are kept: they are in runs.csv, were made with the same settings,
    and their experiment is not on this disk. It was deleted, or run on another machine that wrote the file."""
    file = comparison.folder / "runs.csv"
    if not file.is_file():
        return set()
    known = pd.read_csv(file, dtype={"arm": str}).reindex(columns=RUN_COLUMNS)
    known = known[(known["specification"] == specification) & (known["status"] == "done")]
    there = set(_keys(known))
    return {
        (arm.id, seed, part.fold)
        for part, seed, arm in _runs(comparison)
        if (arm.id, seed, part.fold) in there and arm.load_experiment_or_none(part, seed) is None
    }


def _write(file: Path, table: pd.DataFrame, kept: set[tuple[str, int, int]]) -> pd.DataFrame:
    """Write a table, with the rows that the file has of the kept runs in place of its own, and return it."""
    if kept and file.is_file():
        before = pd.read_csv(file, dtype={"arm": str}).reindex(columns=table.columns)
        parts = [table[[key not in kept for key in _keys(table)]], before[[key in kept for key in _keys(before)]]]
        parts = [part for part in parts if len(part)]
        table = pd.concat(parts, ignore_index=True).sort_values([*KEYS, "round"], kind="stable", ignore_index=True)
    write_text(file, table.to_csv(index=False))
    return table


def _keys(table: pd.DataFrame) -> list[tuple[str, int, int]]:
    return list(table[KEYS].itertuples(index=False, name=None))


def _runs(comparison: Comparison) -> Iterator[tuple[Comparison, int, Arm]]:
    """Yield (comparison of the fold, seed, arm) of every run."""
    for part in comparison.folds:
        for seed in comparison.seeds:
            for arm in comparison.arms:
                yield part, seed, arm

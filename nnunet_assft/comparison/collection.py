"""Collect the results and costs of the finished runs of a comparison, and write its tables and conclusions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from nnunet_assft.active.finished import restore_tables
from nnunet_assft.active.settings import STARTS, Settings
from nnunet_assft.active.state import finished_rounds
from nnunet_assft.comparison.arms import Arm, Comparison, competing
from nnunet_assft.comparison.arms.base import METRIC_COLUMNS, PATIENCE
from nnunet_assft.comparison.conclusions import Findings, draw_conclusions
from nnunet_assft.comparison.printed_table import markdown, write_table
from nnunet_assft.comparison.pseudo_label_quality import COLUMNS, read_pseudo_label_quality
from nnunet_assft.comparison.spec import Shared, read_comparison
from nnunet_assft.errors import AssftError, DamagedFileError
from nnunet_assft.evaluation.case_metrics import DTYPES, read_table
from nnunet_assft.runtime.csv_files import table_text, write_csv_table
from nnunet_assft.runtime.files import sha256_file, sha256_of, write_text
from nnunet_assft.runtime.locks import only_process
from nnunet_assft.runtime.sealed import read_sealed, write_sealed

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
CHECKSUMS = "collected.json"  # of the tables of all runs


def write_tables(comparison: Comparison) -> str:
    """Write tables/, statistics.csv and conclusions.md from all finished rounds. Returns the text of conclusions.md.

    Raises `AssftError` if there is no finished round but those of bounds.
    """
    _, shared = read_comparison(comparison.file)
    collected = collect(comparison, shared)
    if not competing(collected.results["arm"]):
        raise AssftError(
            f"Comparison {comparison.name!r} of {comparison.dataset} has no finished round. Run it without --collect."
        )
    findings = draw_conclusions(comparison, shared, *collected)
    folder = comparison.folder / "tables"
    for table in findings.tables:
        write_table(folder, table)
    write_csv_table(folder / "statistics.csv", findings.statistics)
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


class Collected(NamedTuple):
    """What the finished rounds have given.

    results: RESULT_COLUMNS, a row per arm, seed, fold, round, test case and structure. runs: RUN_COLUMNS, a row per
    arm, seed, fold and expected round; rounds that are not finished have the status `missing`. quality: a row per
    pseudo-label, see `pseudo_label_quality`; None if there is none.
    """

    results: pd.DataFrame
    runs: pd.DataFrame
    quality: pd.DataFrame | None


def collect(comparison: Comparison, shared: Shared) -> Collected:
    """Write results.csv, runs.csv and pseudo_label_quality.csv from all finished rounds, and return the three tables.

    A run that is not on this disk keeps the rows that the files have of it, see `_kept`.
    """
    results, runs, quality, specification = [], [], [], _specification(comparison, shared)
    for part, seed, arm in _runs(comparison):
        run = {"arm": arm.id, "seed": seed, "fold": part.fold}
        metrics = arm.metrics(part, seed)
        results.append(metrics.assign(**run))
        costs = arm.costs(part, seed, metrics)
        runs += [{**row, "fold": part.fold, "specification": specification} for row in costs]
        quality += [table.assign(**run) for table in _quality(part, arm, seed)]
    numbers = {"round": int, "n_labelled": int, "dice": float, "nsd": float, "hd95_mm": float}
    of_results = pd.concat(results, ignore_index=True)[RESULT_COLUMNS].astype(numbers)  # empty tables have no types
    of_quality = pd.concat(quality, ignore_index=True) if quality else pd.DataFrame(columns=COLUMNS)
    of_quality = of_quality.reindex(columns=[*KEYS, *of_quality.columns.drop(KEYS, errors="ignore")])
    # runs.csv is last, because it says which rows of the others are kept
    tables = {
        "pseudo_label_quality.csv": of_quality.astype({"selected": int}),
        "results.csv": of_results,
        "runs.csv": pd.DataFrame(runs, columns=RUN_COLUMNS),
    }
    with only_process(comparison.lock_file, f"comparison {comparison.name!r}", patience=PATIENCE):
        if kept := _kept(comparison, _specifications(comparison, shared)):
            require_whole(comparison.folder)
            tables = {name: _with_kept(comparison.folder / name, table, kept) for name, table in tables.items()}
        _write(comparison.folder, {name: table_text(table) for name, table in tables.items()})
    of_quality, of_results, of_runs = (_of_these_runs(comparison, table) for table in tables.values())
    return Collected(of_results, of_runs, of_quality.astype({"selected": bool}) if len(of_quality) else None)


def _quality(comparison: Comparison, arm: Arm, seed: int) -> list[pd.DataFrame]:
    """Return the quality of the pseudo-labels of a run, a table per round that has any."""
    if not arm.is_strategy:
        return []
    paths, rounds = comparison.paths(arm, seed), range(1, comparison.n_rounds + 1)
    for r in rounds:
        restore_tables(paths, r)
    files = [paths.pseudo_label_quality(r) for r in rounds]
    return [read_pseudo_label_quality(file) for file in files if file.is_file()]


def _specification(comparison: Comparison, shared: Shared) -> str:
    """Return a checksum of what determines the results of a run, apart from its arm, seed and fold.

    A setting that has its default does not count, so that one that a later version adds changes nothing. An encoder or
    a model counts with its content, wherever it lies.
    """
    chosen, default = ({**asdict(row), **asdict(row.options)} for row in (comparison.settings, Settings()))
    changed = {name: value for name, value in chosen.items() if name != "options" and value != default[name]}
    changed |= {name: shared.pretrained.get(changed[name], changed[name]) for name in STARTS if name in changed}
    return sha256_of({"settings": changed, "match": comparison.match, "pool": shared.pool})[:12]


def _specifications(comparison: Comparison, shared: Shared) -> set[str]:
    """Return the specification, and those by the paths where the encoder or the model has been, which rows of earlier
    versions have."""
    by_path, settings, known = replace(shared, pretrained={}), comparison.settings, shared.pretrained
    places = {settings.pretrained, *(path for path in known if known[path] == known.get(settings.pretrained or ""))}
    at = [replace(settings, encoder=p) if settings.encoder else replace(settings, start=p) for p in places]
    moved = [replace(comparison, settings=each) for each in at]
    return {_specification(comparison, shared), *(_specification(each, by_path) for each in moved)}


def _kept(comparison: Comparison, specifications: set[str]) -> set[tuple[str, int, int]]:
    """Return (arm, seed, fold) of the runs whose rows in the files are kept. They were made with the same settings, and
    this comparison does not list them, because another command runs them, or this disk has no finished round of their
    experiment: it was deleted, extended since then, or run on another machine that wrote the file."""
    file = comparison.folder / "runs.csv"
    if not file.is_file():
        return set()
    known = read_runs(file)
    known = known[known["specification"].isin(specifications)]
    done = set(_keys(known[known["status"] == "done"]))
    ours = {(arm.id, seed, part.fold): (part, seed, arm) for part, seed, arm in _runs(comparison)}
    gone = {key for key, run in ours.items() if key in done and not _is_here(*run)}
    return gone | (set(_keys(known)) - set(ours))


def _is_here(comparison: Comparison, seed: int, arm: Arm) -> bool:
    """Return whether the experiment of a run has a finished round on this disk, and was not extended since then."""
    experiment = arm.load_experiment_or_none(comparison, seed)
    return experiment is not None and bool(finished_rounds(experiment))


def read_results(file: Path) -> pd.DataFrame:
    """Read results.csv, with case ids as texts, such as "007" and "NA"."""
    return read_table(file, {"arm": str, **DTYPES})


def read_runs(file: Path) -> pd.DataFrame:
    """Read runs.csv, with NaN in the columns that a file of an earlier version does not have."""
    texts = dict.fromkeys(("arm", "device", "status", "specification"), str)  # a checksum may consist of digits
    return pd.read_csv(file, dtype=texts, float_precision="round_trip").reindex(columns=RUN_COLUMNS)


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "pseudo_label_quality.csv": lambda file: read_pseudo_label_quality(file).astype({"selected": int}),
    "results.csv": read_results,
    "runs.csv": read_runs,
}


def _with_kept(file: Path, table: pd.DataFrame, kept: set[tuple[str, int, int]]) -> pd.DataFrame:
    """Return a table with the rows that the file has of the kept runs in place of its own."""
    if not file.is_file():
        return table
    before = READERS[file.name](file).reindex(columns=table.columns)
    parts = [table[[key not in kept for key in _keys(table)]], before[[key in kept for key in _keys(before)]]]
    parts = [part for part in parts if len(part)]
    table = pd.concat(parts, ignore_index=True) if parts else table
    return table.sort_values([*KEYS, "round"], kind="stable", ignore_index=True)


def _of_these_runs(comparison: Comparison, table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the runs of this comparison, without those of runs that another command has added."""
    ours = {(arm.id, seed, part.fold) for part, seed, arm in _runs(comparison)}
    mask = np.array([key in ours for key in _keys(table)], bool)  # an empty list would select no columns
    return table[mask].reset_index(drop=True)


def _write(folder: Path, tables: Mapping[str, str]) -> None:
    """Write the tables. Their checksums are written first, beside those of the files that they replace, so that neither
    looks damaged if the process is killed."""
    checksums = {name: {hashlib.sha256(text.encode()).hexdigest()} for name, text in tables.items()}
    for name in checksums:
        if (folder / name).is_file():
            checksums[name].add(sha256_file(folder / name))
    write_sealed(folder / CHECKSUMS, {name: sorted(values) for name, values in checksums.items()})
    for name, text in tables.items():
        write_text(folder / name, text)


def require_whole(folder: Path) -> None:
    """Raise `DamagedFileError` if results.csv or another table of runs does not match its checksum."""
    if not (folder / CHECKSUMS).is_file():  # of an earlier version, or put together by hand
        return
    remedy = "Remove it, and run nnUNetv2_assft_compare with --collect."
    for name, checksums in read_sealed(folder / CHECKSUMS, remedy=remedy).items():
        if (folder / name).is_file() and sha256_file(folder / name) not in checksums:
            raise DamagedFileError(
                f"{folder / name} does not match its checksum. Restore it, or remove it and run nnUNetv2_assft_compare "
                f"with --collect, which collects the runs on this disk again. If you changed it, remove {CHECKSUMS}."
            )


def _keys(table: pd.DataFrame) -> list[tuple[str, int, int]]:
    return list(table[KEYS].itertuples(index=False, name=None))


def _runs(comparison: Comparison) -> Iterator[tuple[Comparison, int, Arm]]:
    """Yield (comparison of the fold, seed, arm) of every run."""
    for part in comparison.folds:
        for seed in comparison.seeds:
            for arm in comparison.arms:
                yield part, seed, arm

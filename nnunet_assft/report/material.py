"""Read the files of an experiment and of a comparison as tables for the report. No network is run here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from nnunet_assft.active.finished import restore_tables
from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.state import Experiment, Round, finished_rounds
from nnunet_assft.annotation.records import annotation_minutes
from nnunet_assft.comparison.arms import Comparison, competing
from nnunet_assft.comparison.collection import read_results, read_runs, require_whole
from nnunet_assft.comparison.conclusions import Findings, draw_conclusions
from nnunet_assft.comparison.pseudo_label_quality import read_pseudo_label_quality
from nnunet_assft.comparison.spec import read_comparison
from nnunet_assft.errors import AssftError
from nnunet_assft.network.checkpoints import training_log
from nnunet_assft.runtime.csv_files import bare_table
from nnunet_assft.volumes.raw_dataset import RawDataset, find_dataset_name

DICE_COLUMNS = ("round", "n_labelled", "case", "structure", "dice")
EPOCH_COLUMNS = ("epoch", "train_loss", "val_loss", "pseudo_dice")
DEFAULT_EXPERIMENT = "assft"


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of cases. rows: (N, d), one embedding for each of N >= 2 cases."""

    cases: tuple[str, ...]
    rows: np.ndarray


@dataclass(frozen=True)
class TrainingCurves:
    """The training curves of all stages.

    epochs: columns round, stage and EPOCH_COLUMNS; pseudo_dice is the mean over structures, NaN if there is none.
    absent, damaged: stages whose checkpoint no longer exists or cannot be read, such as "round 1 (semi)".
    """

    epochs: pd.DataFrame
    absent: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True)
class FinishedComparison:
    """The finished part of a comparison, and its findings.

    spec: what is compared. experiment: name of the run that the rest of the report shows, which is the first seed of
    ASSFT if it is an arm. results: one row per arm, seed, round, case and structure.
    """

    folder: Path
    spec: Comparison
    experiment: str
    results: pd.DataFrame
    findings: Findings


@dataclass(frozen=True)
class Material:
    """Everything that the report shows. Mappings by round contain only the rounds whose files exist.

    dice: columns DICE_COLUMNS, with Dice in [0, 1] and NaN for an absent structure. scores: round -> rows of its file
    of scores. quality: rows of pseudo_label_quality_round_RR.csv. pretrained: embeddings by E^(0). minutes: case ->
    minutes of annotation.
    """

    experiment: Experiment
    dataset: RawDataset
    rounds: tuple[Round, ...]
    dice: pd.DataFrame
    scores: Mapping[int, pd.DataFrame]
    quality: pd.DataFrame | None
    embeddings: Mapping[int, Embeddings]
    pretrained: Embeddings | None
    training: TrainingCurves
    minutes: Mapping[str, float]
    comparison: FinishedComparison | None


def gather(dataset: str | int, experiment: str | None, comparison: str | None) -> Material:
    """Read everything that a report shows of an experiment and, if `comparison` is given, of a comparison.

    experiment: name of the experiment. If None, it is a run of the comparison (see `FinishedComparison`), or `assft`
    without a comparison. Raises `AssftError` if there is nothing to report.
    """
    dataset_name = find_dataset_name(dataset)
    compared = None
    if comparison is not None:
        folder = ExperimentPaths(dataset_name, comparison).results_of_dataset / "assft_compare" / comparison
        compared = read_finished_comparison(folder)
    name = _default_experiment(compared) if experiment is None else experiment
    planned = Experiment.load(ExperimentPaths(dataset_name, name))
    paths, rounds = planned.paths, tuple(finished_rounds(planned))
    if not rounds:
        raise AssftError(
            f"Experiment {planned.name!r} of {dataset_name} has no finished round, so there is nothing to report yet. "
            f"Run {planned.command('status')} to see the next step."
        )
    scores, quality, embeddings = {}, [], {}
    for done in tqdm(rounds, desc="reading", unit="round", leave=False):
        r = done.round
        restore_tables(paths, r)  # a spreadsheet may have saved them in another form
        if paths.scores_file(r).is_file():
            scores[r] = _read_scores(paths.scores_file(r))
        if paths.pseudo_label_quality(r).is_file():
            quality.append(read_pseudo_label_quality(paths.pseudo_label_quality(r)))
        if r > 0 and (found := _embeddings_of_round(paths, done)):
            embeddings[r] = found
    return Material(
        experiment=planned,
        dataset=planned.raw_dataset(),
        rounds=rounds,
        dice=_dice(rounds),
        scores=scores,
        quality=pd.concat(quality, ignore_index=True) if quality else None,
        embeddings=embeddings,
        pretrained=_embeddings(paths.records("pretrained"), planned.now.pool),
        training=training_curves(paths, rounds),
        minutes=annotation_minutes(paths.annotations),
        comparison=compared,
    )


def _default_experiment(compared: FinishedComparison | None) -> str:
    return DEFAULT_EXPERIMENT if compared is None else compared.experiment


# One experiment -----------------------------------------------------------------------------------------------------


def _dice(rounds: Sequence[Round]) -> pd.DataFrame:
    rows = [
        (done.round, len(done.labelled), case, structure, dice)
        for done in rounds
        for case, structures in done.dice["per_case"].items()
        for structure, dice in structures.items()
    ]
    return pd.DataFrame(rows, columns=list(DICE_COLUMNS)).astype({"dice": float})


def _read_scores(file: Path) -> pd.DataFrame:
    """Read the scores of a round, one row per case; query_rank is NaN for cases that were not queried."""
    numbers = [name for name in pd.read_csv(file, nrows=0) if name != "case"]
    no_number = {name: ["", "nan"] for name in numbers}
    # a case may be called NA
    return bare_table(pd.read_csv(file, dtype={"case": str}, keep_default_na=False, na_values=no_number))


def _embeddings_of_round(paths: ExperimentPaths, done: Round) -> Embeddings | None:
    """Return the embeddings of the selection, which has the whole pool, or else those of the query, which has the
    unlabelled cases and, if the strategy needs them, the labelled ones."""
    pool = (*done.labelled, *done.unlabelled)
    selected = _embeddings(paths.records(f"round_{done.round:02d}_select"), pool)
    if selected:
        return selected
    folders = [paths.records(f"round_{done.round:02d}_{name}") for name in ("query", "labelled")]
    parts = [part for folder in folders if (part := _embeddings(folder, pool))]
    if not parts:
        return None
    cases = tuple(case for part in parts for case in part.cases)
    return Embeddings(cases, np.concatenate([part.rows for part in parts]))


def _embeddings(folder: Path, cases: Iterable[str]) -> Embeddings | None:
    """Read the embeddings of the cases that have a record in the folder; None if there are fewer than two."""
    found = [case for case in cases if (folder / f"{case}.npz").is_file()]
    if len(found) < 2:
        return None
    rows = []
    for case in found:
        with np.load(folder / f"{case}.npz") as record:
            rows.append(record["embedding"])
    return Embeddings(tuple(found), np.stack(rows))


def training_curves(paths: ExperimentPaths, rounds: Sequence[Round]) -> TrainingCurves:
    """Read the epochs of every stage from nnU-Net's log in the checkpoint of the stage."""
    parts, absent, damaged = [], [], []
    for done in rounds:
        for stage in ("supervised", "semi") if done.model.stage == "semi" else ("supervised",):
            file, name = paths.checkpoint(done.round, stage), f"round {done.round} ({stage})"
            if not file.is_file():
                absent.append(name)
                continue
            try:
                epochs = epochs_of(training_log(file))
            except (AssftError, KeyError):
                damaged.append(name)
                continue
            parts.append(epochs.assign(round=done.round, stage=stage))
    columns = ["round", "stage", *EPOCH_COLUMNS]
    table = pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
    return TrainingCurves(table, tuple(absent), tuple(damaged))


def epochs_of(log: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """Return the complete epochs of a log of nnU-Net (see `training_log`), with EPOCH_COLUMNS."""
    values = [log[name] for name in ("train_losses", "val_losses", "mean_fg_dice")]
    n = min(map(len, values))
    columns = [range(n), *(np.asarray(column[:n], float) for column in values)]
    return pd.DataFrame(dict(zip(EPOCH_COLUMNS, columns, strict=True)))


# A comparison -------------------------------------------------------------------------------------------------------


def read_finished_comparison(folder: Path) -> FinishedComparison:
    """Read the finished part of a comparison. Raises `AssftError` if it has no results."""
    lost = [name for name in ("comparison.json", "results.csv", "runs.csv") if not (folder / name).is_file()]
    if lost:
        raise AssftError(
            f"{folder} has no {' and no '.join(lost)}. Run nnUNetv2_assft_compare first, or leave out --compare."
        )
    require_whole(folder)
    spec, shared = read_comparison(folder / "comparison.json")
    quality = folder / "pseudo_label_quality.csv"
    results = read_results(folder / "results.csv")
    if not competing(results["arm"]):
        raise AssftError(
            f"The comparison in {folder} has no finished round. Run nnUNetv2_assft_compare first, or leave out "
            "--compare."
        )
    runs = read_runs(folder / "runs.csv")
    of_pseudo_labels = read_pseudo_label_quality(quality) if quality.is_file() else None
    findings = draw_conclusions(spec, shared, results, runs, of_pseudo_labels)
    first = next((arm for arm in spec.strategies if arm.id == "assft"), spec.first_strategy)
    name = spec.paths(first, spec.seeds[0]).experiment
    return FinishedComparison(folder, spec, name, results, findings)

"""What the report reads: the files of an experiment and of a comparison, as tables. Nothing is computed by a network here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.state import Experiment, Round, finished_rounds
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.annotation.minutes import annotation_minutes
from nnunet_assft.comparison.arms import arm_of
from nnunet_assft.comparison.conclusions import Findings, draw_conclusions
from nnunet_assft.comparison.pseudo_label_quality import read_pseudo_label_quality
from nnunet_assft.comparison.spec import Comparison, read_comparison
from nnunet_assft.errors import AssftError
from nnunet_assft.volumes.raw_dataset import RawDataset, find_dataset

DICE_COLUMNS = ("round", "n_labelled", "case", "structure", "dice")
TRAINING_COLUMNS = ("round", "stage", "epoch", "train_loss", "val_loss", "pseudo_dice")


@dataclass(frozen=True)
class FinishedComparison:
    """The files of one comparison, and what they say. results: long form, one row per arm, seed, round, case, structure."""

    folder: Path
    spec: Comparison
    results: pd.DataFrame
    findings: Findings


@dataclass(frozen=True)
class Material:
    """All that is shown, as far as it exists. Tables by round have only the rounds whose file is there.

    dice: DICE_COLUMNS, Dice in [0, 1] and NaN for an absent structure. training: TRAINING_COLUMNS. embeddings: round -> (cases, (N, d));
    pretrained: the same under E^(0). minutes: annotation minutes of a case, summed over its readers.
    """

    experiment: Experiment
    dataset: RawDataset
    rounds: tuple[Round, ...]
    dice: pd.DataFrame
    scores: Mapping[int, pd.DataFrame]
    quality: pd.DataFrame | None
    embeddings: Mapping[int, tuple[tuple[str, ...], np.ndarray]]
    pretrained: tuple[tuple[str, ...], np.ndarray] | None
    training: pd.DataFrame
    minutes: Mapping[str, float]
    comparison: FinishedComparison | None


def gather(dataset: str | int, experiment: str | None, comparison: str | None) -> Material:
    """experiment: its name; None: that of the comparison's first run, else `assft`. Raises `AssftError` if there is nothing to report."""
    raw = find_dataset(dataset)
    compared = (
        read_finished_comparison(ExperimentPaths(raw.name, "assft").results_of_dataset / "assft_compare" / comparison)
        if comparison
        else None
    )
    name = experiment or (first_experiment(compared) if compared else "assft")
    planned = Experiment.load(ExperimentPaths(raw.name, name))
    paths, rounds = planned.paths, finished_rounds(planned)
    if not rounds:
        raise AssftError(
            f"Experiment {name!r} of {raw.name} has no finished round; there is nothing to report yet. "
            "nnUNetv2_assft_status says what to type next."
        )
    scores = {
        done.round: pd.read_csv(paths.scores_file(done.round), dtype={"case": str})
        for done in rounds
        if paths.scores_file(done.round).is_file()
    }
    quality = [
        read_pseudo_label_quality(file) for done in rounds if (file := paths.pseudo_label_quality(done.round)).is_file()
    ]
    in_rounds = {
        done.round: found
        for done in tqdm(rounds[1:], desc="embeddings", unit="round", leave=False)
        if (found := _embeddings_of_round(paths, done))
    }
    return Material(
        experiment=planned,
        dataset=raw,
        rounds=tuple(rounds),
        dice=dice_of(rounds),
        scores=scores,
        quality=pd.concat(quality, ignore_index=True) if quality else None,
        embeddings=in_rounds,
        pretrained=_embeddings(paths.records("pretrained"), planned.pool),
        training=training_curves(paths, rounds),
        minutes=annotation_minutes(paths.annotations),
        comparison=compared,
    )


def uses_dkd(strategy: str) -> bool:
    """Whether a strategy (or an arm trained on its cases, `nnunet@assft`) depends on E^(0)."""
    row = STRATEGIES.get(arm_of(strategy).cases_of or "")
    return row is not None and "pretrained_embeddings" in row.needs


# One experiment --------------------------------------------------------------------------------------------------------


def dice_of(rounds: Sequence[Round]) -> pd.DataFrame:
    rows = [
        (done.round, len(done.labelled), case, structure, dice)
        for done in rounds
        for case, structures in done.dice["per_case"].items()
        for structure, dice in structures.items()
    ]
    return pd.DataFrame(rows, columns=list(DICE_COLUMNS)).astype({"dice": float})


def _embeddings_of_round(paths: ExperimentPaths, done: Round) -> tuple[tuple[str, ...], np.ndarray] | None:
    """Of the selection, where the whole pool is; else of the query, where the unlabelled cases are, and the labelled ones if asked for."""
    pool = (*done.labelled, *done.unlabelled)
    selected = _embeddings(paths.records(f"round_{done.round:02d}_select"), pool)
    if selected:
        return selected
    folders = [paths.records(f"round_{done.round:02d}_{name}") for name in ("query", "labelled")]
    parts = [part for folder in folders if (part := _embeddings(folder, pool))]
    return (
        (tuple(case for cases, _ in parts for case in cases), np.concatenate([rows for _, rows in parts]))
        if parts
        else None
    )


def _embeddings(folder: Path, cases: Iterable[str]) -> tuple[tuple[str, ...], np.ndarray] | None:
    found = [case for case in cases if (folder / f"{case}.npz").is_file()]
    if len(found) < 2:
        return None
    rows = []
    for case in found:
        with np.load(folder / f"{case}.npz") as record:
            rows.append(record["embedding"])
    return tuple(found), np.stack(rows)


def training_curves(paths: ExperimentPaths, rounds: Sequence[Round]) -> pd.DataFrame:
    """From nnU-Net's training logs, one row per epoch; pseudo_dice: mean over structures."""
    rows = []
    for done in rounds:
        for stage in ("supervised", "semi")[: 2 if done.model.stage == "semi" else 1]:
            logs = sorted(paths.checkpoint(done.round, stage).parent.glob("training_log_*.txt"))
            epochs = epochs_of_logs([log.read_text(encoding="utf-8", errors="replace") for log in logs])
            rows += [(done.round, stage, epoch, *values) for epoch, values in sorted(epochs.items())]
    return pd.DataFrame(rows, columns=list(TRAINING_COLUMNS)).astype(dict.fromkeys(TRAINING_COLUMNS[3:], float))


def epochs_of_logs(logs: Sequence[str]) -> dict[int, tuple[float, float, float]]:
    """epoch -> train loss, validation loss, mean pseudo-Dice. Of an epoch that was trained again after a cut, the last counts."""
    epochs: dict[int, tuple[float, float, float]] = {}
    for text in logs:
        for block in re.split(r"(?m)^[^\n]*: Epoch (?=\d+ *$)", text)[1:]:
            train, validation = (_number(rf"{name} (\S+)", block) for name in ("train_loss", "val_loss"))
            dice = re.search(r"Pseudo dice \[(.*)\]", block)
            if train is None or validation is None or dice is None:
                continue  # cut off in this epoch
            known = [
                d for d in map(float, re.findall(r"(?<![\w.])(?:nan|\d[\d.]*(?:e-\d+)?)(?![\w.])", dice[1])) if d == d
            ]
            epochs[int(block.split(maxsplit=1)[0])] = (train, validation, float(np.mean(known)) if known else np.nan)
    return epochs


def _number(pattern: str, text: str) -> float | None:
    found = re.search(pattern, text)
    return float(found[1]) if found else None


# A comparison ----------------------------------------------------------------------------------------------------------


def read_finished_comparison(folder: Path) -> FinishedComparison:
    """Raises `AssftError` if the comparison has no results."""
    lost = [name for name in ("comparison.json", "results.csv", "runs.csv") if not (folder / name).is_file()]
    if lost:
        raise AssftError(
            f"{folder} holds no {' and no '.join(lost)}. Run nnUNetv2_assft_compare first, or leave out --compare."
        )
    spec, shared = read_comparison(folder / "comparison.json")
    quality = folder / "pseudo_label_quality.csv"
    results = pd.read_csv(
        folder / "results.csv",
        dtype={"arm": str, "case": str, "structure": str},
        keep_default_na=False,  # a case may be called NA
        na_values={"dice": [""], "nsd": [""], "hd95_mm": [""]},
        float_precision="round_trip",
    )
    if results.empty:
        raise AssftError(
            f"The comparison in {folder} has no finished round. Run nnUNetv2_assft_compare first, or leave out --compare."
        )
    runs = pd.read_csv(folder / "runs.csv", dtype={"arm": str})
    of_pseudo_labels = read_pseudo_label_quality(quality) if quality.is_file() else None
    return FinishedComparison(folder, spec, results, draw_conclusions(spec, shared, results, runs, of_pseudo_labels))


def first_experiment(comparison: FinishedComparison) -> str:
    """The run that stands for the comparison: ASSFT's first seed, else the first strategy's."""
    spec = comparison.spec
    arm = next((arm for arm in spec.strategies if arm.id == "assft"), spec.first_strategy)
    return spec.paths(arm, spec.seeds[0]).experiment

"""What every kind of arm knows of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import pandas as pd
import torch

from nnunet_assft.active.experiment import create_experiment
from nnunet_assft.active.settings import Settings
from nnunet_assft.active.state import Experiment
from nnunet_assft.annotation.minutes import annotation_minutes
from nnunet_assft.evaluation.case_metrics import DTYPES, cached_metrics
from nnunet_assft.volumes.raw_dataset import find_dataset

if TYPE_CHECKING:
    from nnunet_assft.comparison.spec import Comparison

METRIC_COLUMNS = ["round", "n_labelled", *DTYPES]


class Predictions(NamedTuple):
    """Segmentations of all test cases, after a round that is finished.

    folder: holds CASE.nii.gz. made_from: what decides them, see `cached_metrics`.
    """

    round: int
    n_labelled: int
    folder: Path
    made_from: dict[str, str]


class Work(NamedTuple):
    """What is left of a run: rounds, and in each of them stages to train and passes of the pool through the network."""

    rounds: int
    trainings: int
    passes: int


@dataclass(frozen=True)
class Arm(ABC):
    """One of the things that are compared; with a seed, it is a run.

    kind: the strategy, or the row of REFERENCES. source: the strategy that is named after the @ of its id.
    """

    kind: str
    source: str | None = None

    is_bound: ClassVar[bool] = False  # a fixed line, which nothing is tested against
    is_nnunet: ClassVar[bool] = False  # trains nnU-Net's own network, for which the bounds do not hold
    budget: ClassVar[str] = ""  # of a bound: the share of the pool that is labelled

    @property
    def id(self) -> str:
        return f"{self.kind}@{self.source}" if self.source else self.kind

    @property
    @abstractmethod
    def title(self) -> str:
        """The name to print."""

    @property
    @abstractmethod
    def cases_of(self) -> str | None:
        """The strategy whose labelled cases it trains on; None for a bound."""

    @abstractmethod
    def rounds(self, n_rounds: int) -> Sequence[int]:
        """The rounds for which it has results, if all R = n_rounds rounds are finished."""

    def difference(self, settings: Settings) -> str:
        """What it does not share with the other arms, as a part of a sentence; empty if there is nothing to say."""
        return ""

    # The experiment whose cases it uses -------------------------------------------------------------------------------

    @abstractmethod
    def experiment_arm(self, comparison: Comparison) -> Arm:
        """The arm whose experiment this is: itself, if it has an experiment of its own."""

    def settings(self, comparison: Comparison, seed: int) -> Settings:
        """Of its own experiment."""
        raise NotImplementedError(f"{self.id} has no experiment of its own.")

    def experiment(self, comparison: Comparison, seed: int) -> Experiment:
        """Planned now, or found as it was planned."""
        arm = self.experiment_arm(comparison)
        name = comparison.paths(arm, seed).experiment
        return create_experiment(comparison.dataset, name, arm.settings(comparison, seed))

    def load_experiment_or_none(self, comparison: Comparison, seed: int) -> Experiment | None:
        """The experiment if it is planned already."""
        paths = comparison.paths(self.experiment_arm(comparison), seed)
        return Experiment.load(paths) if paths.experiment_file.is_file() else None

    # A run ------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def run(self, comparison: Comparison, seed: int, device: torch.device) -> list[float]:
        """Do what is left of a run. Returns the mean Dice on the test cases, by round."""

    @abstractmethod
    def predictions(self, comparison: Comparison, experiment: Experiment, seed: int) -> Iterator[Predictions]:
        """Of the finished rounds of a run, in order."""

    @abstractmethod
    def cost(self, comparison: Comparison, experiment: Experiment, seed: int, r: int) -> dict[str, Any]:
        """Columns of runs.csv of a finished round. Minutes are of its steps, evaluation left out."""

    @abstractmethod
    def work(self, comparison: Comparison, seed: int) -> Work:
        """What is left of a run. What all strategies share (preprocessing, round 0) is left out."""

    def metrics(self, comparison: Comparison, seed: int) -> pd.DataFrame:
        """METRIC_COLUMNS of the finished rounds of a run. Nothing is computed but the metrics, and each only once."""
        experiment = self.load_experiment_or_none(comparison, seed)
        if experiment is None:
            return pd.DataFrame(columns=METRIC_COLUMNS)
        frames = []
        for found in self.predictions(comparison, experiment, seed):
            table = cached_metrics(find_dataset(experiment.dataset), experiment.test, found.folder, found.made_from)
            frames.append(table.assign(round=found.round, n_labelled=found.n_labelled))
        return pd.concat(frames) if frames else pd.DataFrame(columns=METRIC_COLUMNS)

    def mean_dice(self, comparison: Comparison, seed: int) -> list[float]:
        """By round: the mean over test cases of the mean over structures."""
        by_round = self.metrics(comparison, seed).groupby("round")
        return [float(rows.groupby("case").dice.mean().mean()) for _, rows in by_round]

    def costs(self, comparison: Comparison, seed: int, metrics: pd.DataFrame, device: str) -> list[dict[str, Any]]:
        """The rows of runs.csv of one run, one for each round that should be there. metrics: of the run."""
        experiment = self.load_experiment_or_none(comparison, seed)
        n_labelled = dict(zip(metrics["round"], metrics["n_labelled"], strict=True))
        rows = []
        for r in self.rounds(comparison.n_rounds):
            row: dict[str, Any] = {"arm": self.id, "seed": seed, "round": r, "status": "missing"}
            if experiment and r in n_labelled:
                row |= {"status": "done", "n_labelled": n_labelled[r], "device": device}
                row |= self.cost(comparison, experiment, seed, r)
                row["total_minutes"] = row.get("training_minutes", 0) + row.get("query_minutes", 0)
            rows.append(row)
        return rows

    def rounds_left(self, comparison: Comparison, seed: int) -> int:
        """How many rounds are not finished; round 0, which all strategies share, is not counted."""
        experiment = self.load_experiment_or_none(comparison, seed)
        done = {found.round for found in self.predictions(comparison, experiment, seed)} if experiment else set()
        return sum(r not in done for r in self.rounds(comparison.n_rounds) if r > 0 or self.is_bound)


def annotation_cost(experiment: Experiment, cases: Sequence[str]) -> dict[str, Any]:
    """Annotated cases and, as far as annotators have recorded them in any experiment of the dataset, their minutes."""
    known: dict[str, float] = {}
    for folder in sorted(experiment.paths.results.parent.glob("*/annotations")):
        known |= annotation_minutes(folder)
    minutes = [known[case] for case in cases if case in known]
    return {
        "annotated_cases": len(cases),
        "annotation_minutes": float(sum(minutes)) if len(minutes) == len(cases) else None,
    }

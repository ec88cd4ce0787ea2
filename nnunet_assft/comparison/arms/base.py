"""A comparison, and the base class of all kinds of arms that it has."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pandas as pd
import torch

from nnunet_assft.active.experiment import create_experiment
from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.settings import Settings
from nnunet_assft.active.state import Experiment
from nnunet_assft.annotation.records import annotation_minutes
from nnunet_assft.errors import AssftError
from nnunet_assft.evaluation.case_metrics import DTYPES, cached_metrics
from nnunet_assft.planning.test_split import DEFAULT_TEST_FRACTION

METRIC_COLUMNS = ["round", "n_labelled", *DTYPES]
PATIENCE = 60.0  # seconds to wait while another command writes the files of the comparison
STEPS, EPOCHS = "steps", "epochs"
MATCHES = {
    STEPS: "by every round, all networks have had the same number of optimisation steps",
    EPOCHS: "every stage of training has the same number of epochs, and ASSFT has two stages per round",
}


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    arms: in the order in which they run. settings: those of all runs, with defaults filled in; every run replaces the
    strategy, the seed and the second stage. match: what is the same for all arms, `steps` or `epochs`; see MATCHES.
    test_folds: number of disjoint test sets on which all arms are run. fold: the one whose runs are meant. encoders:
    name -> file of the encoders from which arms start that name one, None for a random start; the other arms start from
    that of the settings.
    """

    dataset: str
    name: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    settings: Settings
    match: str = STEPS
    test_folds: int = 1
    fold: int = 0
    encoders: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def folds(self) -> Iterator[Comparison]:
        """The comparison of each fold. Fold 0 has the test cases, and the files, of a comparison without folds."""
        for fold in range(self.test_folds):
            split = self.settings.test_split
            settings = replace(self.settings, test_split=f"{split or DEFAULT_TEST_FRACTION}@{fold}") if fold else None
            yield replace(self, fold=fold, settings=settings or self.settings)

    @property
    def stages(self) -> int:
        """The number of training stages that a round of a strategy without pseudo-labels has."""
        return 2 if self.match == STEPS else 1

    def epochs_by(self, r: int, stages: int | None = None) -> int:
        """Return for how many epochs a network was trained by the end of round r, if each round from 1 on has so many
        stages, by default `self.stages`."""
        training = self.settings.training
        return int(training["one_shot_epochs"] + r * (stages or self.stages) * training["epochs"])

    @property
    def folder(self) -> Path:
        return ExperimentPaths(self.dataset, self.name).results_of_dataset / "assft_compare" / self.name

    @property
    def file(self) -> Path:
        return self.folder / "comparison.json"

    @property
    def lock_file(self) -> Path:
        """Held while comparison.json or the three CSV files are read, changed and written."""
        return self.folder / ".lock"

    @property
    def strategies(self) -> tuple[Arm, ...]:
        return tuple(arm for arm in self.arms if arm.is_strategy)

    @property
    def first_strategy(self) -> Arm:
        """The arm whose experiment plans the dataset, and with whose network the bounds are measured."""
        return self.strategies[0]

    def first_with_encoder_of(self, arm: Arm) -> Arm:
        """Return the first strategy whose network starts like that of this arm, so that they share round 0."""
        return next(strategy for strategy in self.strategies if strategy.encoder == arm.encoder)

    def encoder_of(self, arm: Arm) -> str | None:
        """Return the file of the encoder from which the network of an arm starts, or None if it starts at random."""
        return self.settings.encoder if arm.encoder is None else self.encoders[arm.encoder]

    @property
    def n_rounds(self) -> int:
        """The number R of query rounds."""
        assert self.settings.rounds is not None
        return self.settings.rounds

    def paths(self, arm: Arm, seed: int) -> ExperimentPaths:
        """The paths of the experiment of an arm, if the arm has its own experiment."""
        return ExperimentPaths(
            self.dataset, f"{self.name}_{re.sub('[^A-Za-z0-9_]', '-', arm.id)}_s{seed}{self.of_fold}"
        )

    @property
    def of_fold(self) -> str:
        """What the names of the files of a fold end with; nothing for fold 0."""
        return f"_f{self.fold}" if self.fold else ""


class Predictions(NamedTuple):
    """The segmentations of all test cases after a finished round.

    folder: contains them as CASE.nii.gz. made_from: what they were made from, see `cached_metrics`.
    """

    round: int
    n_labelled: int
    folder: Path
    made_from: dict[str, str]


class Work(NamedTuple):
    """The remaining work of a run.

    rounds: whose test cases are predicted. epochs: of all trainings together. passes: over the whole pool.
    """

    rounds: int
    epochs: int
    passes: int


@dataclass(frozen=True)
class Arm(ABC):
    """One arm of a comparison. An arm with a seed is a run.

    kind: the name of the strategy or of the row of REFERENCES. source: the strategy that its id names after the @.
    encoder: the name in `Comparison.encoders` of the encoder from which its network starts; None for that of the
    settings.
    """

    kind: str
    source: str | None = None
    encoder: str | None = None

    is_strategy: ClassVar[bool] = False
    is_bound: ClassVar[bool] = False  # a bound is shown, but takes part in no test
    is_nnunet: ClassVar[bool] = False  # trains nnU-Net's own network, to which the bounds do not apply
    goes_on: ClassVar[bool] = False  # trains nnU-Net from the weights of the round before, if the network is the same
    budget: ClassVar[str] = ""  # for a bound: the share of the pool that is labelled

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
        """The strategy whose labelled cases the arm trains on; None for a bound."""

    @abstractmethod
    def rounds(self, n_rounds: int) -> Sequence[int]:
        """Return the rounds for which the arm has results once all R = n_rounds rounds are finished."""

    def difference(self, comparison: Comparison) -> str:
        """Return how the arm differs from the other arms, as a part of a sentence; empty if it does not."""
        return ""

    @abstractmethod
    def epochs_by(self, comparison: Comparison, r: int) -> int:
        """Return for how many epochs the network of the arm was trained by the end of round r, which is one of its
        rounds."""

    def iterations_per_epoch(self, comparison: Comparison) -> int:
        """Return the number of optimisation steps of an epoch."""
        return comparison.settings.iterations_per_epoch

    # The experiment whose cases it uses -------------------------------------------------------------------------------

    @abstractmethod
    def experiment_arm(self, comparison: Comparison) -> Arm:
        """Return the arm whose experiment this arm uses, which is the arm itself if it has its own experiment."""

    def settings(self, comparison: Comparison, seed: int) -> Settings:
        """Return the settings of the experiment that the arm uses."""
        return self.experiment_arm(comparison).settings(comparison, seed)

    def experiment(self, comparison: Comparison, seed: int) -> Experiment:
        """Load the experiment that the arm uses, and plan it first if it is not planned yet."""
        name = comparison.paths(self.experiment_arm(comparison), seed).experiment
        experiment = create_experiment(comparison.dataset, name, self.settings(comparison, seed))
        if experiment.history:
            raise AssftError(
                f"Experiment {name!r} was changed by nnUNetv2_assft_extend, so it can no longer be compared with the "
                "others. Start another comparison with -e."
            )
        return experiment

    def load_experiment_or_none(self, comparison: Comparison, seed: int) -> Experiment | None:
        """Load the experiment that the arm uses; None if it is not planned yet, or was extended, so that it can no
        longer be compared with the others."""
        paths = comparison.paths(self.experiment_arm(comparison), seed)
        experiment = Experiment.load(paths) if paths.experiment_file.is_file() else None
        return None if experiment is None or experiment.history else experiment

    # A run ------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def run(self, comparison: Comparison, seed: int, device: torch.device) -> Sequence[float | None]:
        """Execute or continue a run. Returns the mean Dice on the test cases by round."""

    @abstractmethod
    def predictions(self, comparison: Comparison, experiment: Experiment, seed: int) -> Iterator[Predictions]:
        """Yield the predictions of the finished rounds of a run, in order."""

    @abstractmethod
    def cost(self, comparison: Comparison, experiment: Experiment, seed: int, r: int) -> dict[str, Any]:
        """Return the columns of runs.csv for a finished round. Minutes are those of its steps without the
        evaluation, and the device is that of its last training."""

    @abstractmethod
    def work(self, comparison: Comparison, seed: int) -> Work:
        """Return the remaining work of a run, without what all strategies share (preprocessing and round 0)."""

    def metrics(self, comparison: Comparison, seed: int) -> pd.DataFrame:
        """Return the METRIC_COLUMNS of the finished rounds of a run. Metrics are computed once and then cached; nothing
        else is computed."""
        experiment = self.load_experiment_or_none(comparison, seed)
        if experiment is None:
            return pd.DataFrame(columns=METRIC_COLUMNS)
        frames = []
        for found in self.predictions(comparison, experiment, seed):
            table = cached_metrics(experiment.raw_dataset(), experiment.test, found.folder, found.made_from)
            frames.append(table.assign(round=found.round, n_labelled=found.n_labelled))
        return pd.concat(frames) if frames else pd.DataFrame(columns=METRIC_COLUMNS)

    def mean_dice(self, comparison: Comparison, seed: int) -> list[float]:
        """Return the mean Dice by round: the mean over test cases of the mean over structures."""
        by_round = self.metrics(comparison, seed).groupby("round")
        return [float(rows.groupby("case").dice.mean().mean()) for _, rows in by_round]

    def costs(self, comparison: Comparison, seed: int, metrics: pd.DataFrame) -> list[dict[str, Any]]:
        """Return the rows of runs.csv of one run, one for each expected round. metrics: those of the run."""
        experiment = self.load_experiment_or_none(comparison, seed)
        n_labelled = dict(zip(metrics["round"], metrics["n_labelled"], strict=True))
        rows = []
        for r in self.rounds(comparison.n_rounds):
            row: dict[str, Any] = {"arm": self.id, "seed": seed, "round": r, "status": "missing"}
            if experiment and r in n_labelled:
                row |= {"status": "done", "n_labelled": n_labelled[r]}
                row["steps"] = self.epochs_by(comparison, r) * self.iterations_per_epoch(comparison)
                row |= self.cost(comparison, experiment, seed, r)
                row["total_minutes"] = row.get("training_minutes", 0) + row.get("query_minutes", 0)
            rows.append(row)
        return rows

    def rounds_left(self, comparison: Comparison, seed: int) -> int:
        """Return the number of rounds that are not finished, without round 0, which all strategies share."""
        experiment = self.load_experiment_or_none(comparison, seed)
        done = {found.round for found in self.predictions(comparison, experiment, seed)} if experiment else set()
        return sum(r not in done for r in self.rounds(comparison.n_rounds) if r > 0 or self.is_bound)


def annotation_cost(experiment: Experiment, cases: Sequence[str]) -> dict[str, Any]:
    """Return the number of annotated cases and the minutes of their annotation.

    The minutes are those recorded in any experiment of the dataset; None if those of a case are not known.
    """
    known: dict[str, float] = {}
    for folder in sorted(experiment.paths.results.parent.glob("*/annotations")):
        known |= annotation_minutes(folder)
    minutes = [known[case] for case in cases if case in known]
    return {
        "annotated_cases": len(cases),
        "annotation_minutes": float(sum(minutes)) if len(minutes) == len(cases) else None,
    }

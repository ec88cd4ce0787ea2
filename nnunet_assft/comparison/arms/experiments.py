"""Arms with the network of this package: strategies, and the lower and the upper bound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from nnunet_assft.active.context import open_context
from nnunet_assft.active.options import NONE, PSEUDO, SECOND_STAGES, SUPERVISED, Options
from nnunet_assft.active.rounds import run_round
from nnunet_assft.active.scoring.prediction import predict_test_cases
from nnunet_assft.active.settings import Settings
from nnunet_assft.active.state import STEPS as STEPS_OF_A_ROUND
from nnunet_assft.active.state import Experiment, Round, finished_rounds
from nnunet_assft.active.strategies import STRATEGIES, Strategy
from nnunet_assft.active.training.training_set import Stage, write_training_set
from nnunet_assft.comparison.arms.base import STEPS, Arm, Comparison, Predictions, Work, annotation_cost
from nnunet_assft.comparison.paper_results import paper_names
from nnunet_assft.comparison.pseudo_label_quality import pseudo_label_quality
from nnunet_assft.network.checkpoints import device_of
from nnunet_assft.runtime.cached import claim, seconds_of, set_aside
from nnunet_assft.runtime.files import link_or_copy, write_json

ENCODER = "encoder="  # in the id of an arm, before the name of its encoder
SECOND_STAGE_TITLES = {
    PSEUDO: "second stage with pseudo-labels",
    SUPERVISED: "supervised second stage",
    NONE: "no second stage",
}


@dataclass(frozen=True)
class StrategyArm(Arm):
    """A query strategy, in an ordinary experiment named NAME_ARM_sSEED.

    variant: what differs from the options of the comparison, which the id names after a +: the second stage of its
    rounds, such as `random+pseudo`, or an option, such as `assft+confidence=foreground_mean`. After another +, the id
    names its encoder, such as `assft+encoder=mae` or `random+pseudo+encoder=mae`.
    """

    variant: str | None = None

    is_strategy = True

    @property
    def id(self) -> str:
        return "+".join([self.kind, *filter(None, [self.variant]), *([ENCODER + self.encoder] if self.encoder else [])])

    @property
    def title(self) -> str:
        """The paper's name of the strategy if it has one, otherwise its own name; the variant, and the encoder."""
        name = paper_names().get(self.kind, self.kind)
        variant = [SECOND_STAGE_TITLES.get(self.variant, self.variant)] if self.variant else []
        return ", ".join([name, *variant, *([f"encoder {self.encoder}"] if self.encoder else [])])

    @property
    def cases_of(self) -> str:
        return self.id

    @property
    def row(self) -> Strategy | None:
        """The row of the strategy; None if it is not installed here."""
        return STRATEGIES.get(self.kind)

    def options(self, comparison: Comparison) -> Options:
        """Return the options of its experiments, with the kind of the second stage.

        Unless the variant is a second stage, that is the one of the strategy if that has pseudo-labels, and otherwise
        the one that matches the steps. Raises `AssftError` if the variant is no option.
        """
        semi_supervised = self.row is not None and self.row.semi_supervised
        second_stage = PSEUDO if semi_supervised else SUPERVISED if comparison.match == STEPS else NONE
        options = replace(comparison.settings.options, second_stage=second_stage)
        if not self.variant:
            return options
        return options.with_setting(f"second_stage={self.variant}" if self.variant in SECOND_STAGES else self.variant)

    def second_stage(self, comparison: Comparison) -> str:
        """Return the kind of the second stage of its rounds."""
        return self.options(comparison).second_stage

    def stages(self, comparison: Comparison) -> int:
        """Return the number of training stages of a round."""
        return 1 if self.second_stage(comparison) == NONE else 2

    def rounds(self, n_rounds: int) -> Sequence[int]:
        return range(n_rounds + 1)

    def difference(self, comparison: Comparison) -> str:
        if self.encoder:
            start = comparison.encoder_of(self)
            return f"{self.title}, starts from {Path(start).name if start else 'a random network'}"
        last = comparison.n_rounds
        more = self.epochs_by(comparison, last) - comparison.epochs_by(last)
        if more:
            iterations = comparison.settings.iterations_per_epoch
            return (
                f"{self.title}{',' if self.variant else ''} is trained for {abs(more) * iterations} "
                f"{'more' if more > 0 else 'fewer'} optimisation steps than the "
                f"{comparison.epochs_by(last) * iterations} of the others by the last round"
            )
        if self.row is not None and self.row.extra_trainings:
            return f"{self.title} trains {self.row.extra_trainings} more networks per round for its query"
        return ""

    def epochs_by(self, comparison: Comparison, r: int) -> int:
        return comparison.epochs_by(r, self.stages(comparison))

    def experiment_arm(self, comparison: Comparison) -> Arm:
        return self

    def settings(self, comparison: Comparison, seed: int) -> Settings:
        encoder, options = comparison.encoder_of(self), self.options(comparison)
        return replace(comparison.settings, strategy=self.kind, seed=seed, options=options, encoder=encoder)

    def run(self, comparison: Comparison, seed: int, device: torch.device) -> Sequence[float | None]:
        experiment = self.experiment(comparison, seed)
        if self != (first := comparison.first_with_encoder_of(self)):
            reuse_round_0(first.experiment(comparison, seed), experiment, device)
        dice = [run_round(experiment, r, device).dice["mean"] for r in self.rounds(experiment.n_rounds)]
        if self.second_stage(comparison) == PSEUDO:
            for r in range(1, experiment.n_rounds + 1):
                pseudo_label_quality(experiment, r, device)
        self.metrics(comparison, seed)  # here, because runs may be executed beside each other; they are kept
        return dice

    def predictions(self, comparison: Comparison, experiment: Experiment, seed: int) -> Iterator[Predictions]:
        for done in finished_rounds(experiment):
            yield _predictions_of(experiment, done)

    def cost(self, comparison: Comparison, experiment: Experiment, seed: int, r: int) -> dict[str, Any]:
        done = Round.load(experiment.paths, r)
        if r == 0:  # all strategies share its training
            return annotation_cost(experiment, done.labelled)
        return {**annotation_cost(experiment, done.queried), **_cost_of_steps(experiment, done)}

    def work(self, comparison: Comparison, seed: int) -> Work:
        row, left = STRATEGIES[self.kind], self.rounds_left(comparison, seed)
        trainings = self.stages(comparison) + row.extra_trainings
        passes = row.passes + (self.second_stage(comparison) == PSEUDO)
        return Work(left, left * trainings * int(comparison.settings.training["epochs"]), left * passes)


def strategy_arm(arm_id: str) -> StrategyArm:
    """Return the arm with this id, such as `random`, `random+pseudo` or `random+pseudo+encoder=mae`."""
    rest, _, encoder = arm_id.partition(f"+{ENCODER}")
    name, _, variant = rest.partition("+")
    return StrategyArm(name, variant=variant or None, encoder=encoder or None)


@dataclass(frozen=True)
class UpperBound(Arm):
    """Training with 100 % of the labels: after round 0, one query of the whole pool, trained until its network has had
    as many steps as that of a strategy by the last round."""

    is_bound = True
    budget = "100 %"
    ROUND = 1  # the round of its experiment that is the bound

    @property
    def title(self) -> str:
        return "Upper bound"

    @property
    def cases_of(self) -> None:
        return None

    def rounds(self, n_rounds: int) -> Sequence[int]:
        return [n_rounds]

    def epochs_by(self, comparison: Comparison, r: int) -> int:
        return comparison.epochs_by(comparison.n_rounds)

    def experiment_arm(self, comparison: Comparison) -> Arm:
        return self

    def settings(self, comparison: Comparison, seed: int) -> Settings:
        first = comparison.first_strategy.experiment(comparison, seed)
        one_shot_epochs = comparison.epochs_by(0)
        return replace(
            comparison.settings,
            strategy="random",
            seed=seed,
            rounds=self.ROUND,
            budget=str(len(first.pool) - 1),
            epochs=comparison.epochs_by(comparison.n_rounds) - one_shot_epochs,
            one_shot_epochs=one_shot_epochs,
        )

    def run(self, comparison: Comparison, seed: int, device: torch.device) -> Sequence[float | None]:
        experiment = self.experiment(comparison, seed)
        reuse_round_0(comparison.first_strategy.experiment(comparison, seed), experiment, device)
        return [run_round(experiment, r, device).dice["mean"] for r in (0, self.ROUND)][1:]

    def predictions(self, comparison: Comparison, experiment: Experiment, seed: int) -> Iterator[Predictions]:
        for done in finished_rounds(experiment)[self.ROUND :]:
            yield _predictions_of(experiment, done)._replace(round=comparison.n_rounds)

    def cost(self, comparison: Comparison, experiment: Experiment, seed: int, r: int) -> dict[str, Any]:
        done = Round.load(experiment.paths, self.ROUND)
        return {**annotation_cost(experiment, done.labelled), **_cost_of_steps(experiment, done)}

    def work(self, comparison: Comparison, seed: int) -> Work:
        left, epochs = self.rounds_left(comparison, seed), self.epochs_by(comparison, comparison.n_rounds)
        return Work(left, left * (epochs - comparison.epochs_by(0)), passes=0)


@dataclass(frozen=True)
class LowerBound(Arm):
    """No labels: the network of the first strategy before round 0."""

    is_bound = True
    budget = "0 %"

    @property
    def title(self) -> str:
        return "Lower bound"

    @property
    def cases_of(self) -> None:
        return None

    def rounds(self, n_rounds: int) -> Sequence[int]:
        return [0]

    def epochs_by(self, comparison: Comparison, r: int) -> int:
        return 0

    def experiment_arm(self, comparison: Comparison) -> Arm:
        return comparison.first_strategy

    def run(self, comparison: Comparison, seed: int, device: torch.device) -> Sequence[float | None]:
        experiment = self.experiment(comparison, seed)
        context, desc = open_context(experiment, device), "predicting test cases before round 0"
        predict_test_cases(context, experiment.initial_model, experiment.test, _before_round_0(experiment), desc)
        return self.mean_dice(comparison, seed)

    def predictions(self, comparison: Comparison, experiment: Experiment, seed: int) -> Iterator[Predictions]:
        folder, ending = _before_round_0(experiment), experiment.raw_dataset().file_ending
        if all((folder / f"{case}{ending}").is_file() for case in experiment.test):
            yield Predictions(0, 0, folder, {"model": experiment.initial_network_sha256})

    def cost(self, comparison: Comparison, experiment: Experiment, seed: int, r: int) -> dict[str, Any]:
        return {"annotated_cases": 0, "annotation_minutes": 0}

    def work(self, comparison: Comparison, seed: int) -> Work:
        return Work(self.rounds_left(comparison, seed), epochs=0, passes=0)


def _predictions_of(experiment: Experiment, done: Round) -> Predictions:
    folder = experiment.paths.test_predictions(done.round)
    return Predictions(done.round, len(done.labelled), folder, {"model": done.model.weights_sha256})


def _before_round_0(experiment: Experiment) -> Path:
    return experiment.paths.results / "test_before_round_00"


def _cost_of_steps(experiment: Experiment, done: Round) -> dict[str, Any]:
    minutes = {name: _minutes(experiment.paths.step_file(done.round, name)) for name in STEPS_OF_A_ROUND}
    return {
        "n_pseudo": len(done.pseudo_labelled),
        "training_minutes": minutes["supervised"] + minutes["semi"],
        "query_minutes": minutes["query"] + minutes["select"] + minutes["pseudo_labels"],
        "device": device_of(experiment.paths.result(done.model.checkpoint)) or None,
    }


def _minutes(step_file: Path) -> float:
    return seconds_of(step_file) / 60 if step_file.is_file() else 0.0


# Round 0 is shared ----------------------------------------------------------------------------------------------------


def _start_sha256(experiment: Experiment) -> str | None:
    return (experiment.encoder_report or {}).get("sha256")


def reuse_round_0(source: Experiment, target: Experiment, device: torch.device) -> None:
    """Give `target` the round 0 of `source` and its embeddings by E^(0), which all strategies of a seed share.

    The training set of round 0 is written as usual. The checkpoint that was trained on it is linked, and so is
    everything that was computed with this checkpoint. Does nothing if the two experiments differ in what determines
    round 0, if `source` has not finished it, or if `target` has.
    """
    if target.paths.round_file(0).is_file() or not source.paths.round_file(0).is_file():
        return
    same = ("dataset", "pool", "test", "start", "permutation", "initial_network_sha256")
    same_training = source.settings.training["one_shot_epochs"] == target.settings.training["one_shot_epochs"]
    at_start = {"first_case"} if source.options.first_case == "random" else {"first_case", "prior_input", "embedding"}
    later = {"strategy", "rounds", "budget", *({row.name for row in fields(Options)} - at_start)}
    later |= {"epochs", "one_shot_epochs"} if same_training else set()
    differing = source.settings.differences(target.settings).keys() - later
    if _start_sha256(source) != _start_sha256(target):  # of the encoder or the model, wherever it lies
        return
    if differing or any(getattr(source, key) != getattr(target, key) for key in same):
        return
    done, context = Round.load(source.paths, 0), open_context(target, device)
    for file in source.paths.records("pretrained").glob("*.npz"):
        link_or_copy(file, target.paths.records("pretrained") / file.name)
    human_labels = {case: context.dataset.label_file(case) for case in done.labelled}
    epochs = target.settings.training["one_shot_epochs"]
    missing = context.dataset.not_annotated
    stage = Stage(0, "supervised", human_labels, {}, target.initial_model, epochs, not_annotated=missing)
    content = write_training_set(context, stage)
    checkpoint, model_folder = target.paths.checkpoint(0, "supervised"), target.paths.model_folder("supervised")
    claim(target.paths.trained_on(0, "supervised"), content, displace=set_aside)
    for name in ("dataset.json", "dataset_fingerprint.json"):
        link_or_copy(source.paths.model_folder("supervised") / name, model_folder / name)
    write_json(model_folder / "plans.json", context.plans)
    link_or_copy(source.paths.checkpoint(0, "supervised"), checkpoint)  # last, because it marks the stage as trained
    predictions = target.paths.test_predictions(0)
    for case in target.test:
        for name in (f"{case}{context.dataset.file_ending}", f"{case}.json"):
            link_or_copy(source.paths.test_predictions(0) / name, predictions / name)
    link_or_copy(source.paths.step_file(0, "evaluate"), target.paths.step_file(0, "evaluate"))

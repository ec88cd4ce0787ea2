"""The fair comparison: arms that differ in one thing, run with the same cases, budget, epochs and seeds.

An arm is a strategy, standard nnU-Net on the labelled cases of a strategy, or a bound. A run is an arm with one seed; that of a
strategy is an ordinary experiment, named NAME_ARM_sSEED. `run_comparison` is the main path; `collect` reads what is finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch

from nnunet_assft.active.context import open_context
from nnunet_assft.active.experiment import create_experiment
from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.rounds import run_round
from nnunet_assft.active.scoring.prediction import predict_test_cases
from nnunet_assft.active.settings import Settings
from nnunet_assft.active.state import Experiment, Round, finished_rounds
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.active.training.training_set import Stage, write_training_set
from nnunet_assft.comparison.pseudo_label_quality import pseudo_label_quality
from nnunet_assft.comparison.standard_nnunet import Job, run_job
from nnunet_assft.errors import AssftError
from nnunet_assft.evaluation.case_metrics import kept_metrics, test_metrics
from nnunet_assft.runtime.files import link_or_copy, read_json, write_json
from nnunet_assft.volumes.raw_dataset import find_dataset

PAPER_STRATEGIES = (
    "random",
    "entropy",
    "least_confidence",
    "margin",
    "coreset",
    "badge",
    "sann",
    "ugtst",
    "cup",
    "dkd_asd",
    "assft",
)
NNUNET, NNUNET_FINETUNED = "nnunet", "nnunet_finetuned"
LOWER_BOUND, UPPER_BOUND = "lower_bound", "upper_bound"
REFERENCES = (NNUNET, NNUNET_FINETUNED, LOWER_BOUND, UPPER_BOUND)
GROUPS = {"paper": PAPER_STRATEGIES, "all": tuple(STRATEGIES)}
METRIC_COLUMNS = ["round", "n_labelled", "case", "structure", "dice", "nsd", "hd95_mm"]
NNUNET_KEYS = ("channel_names", "labels", "file_ending", "overwrite_image_reader_writer")  # of dataset.json


@dataclass(frozen=True)
class Comparison:
    """arms: in the order they run, see `parse_arms`; settings: arguments of `create_experiment` that all runs share."""

    dataset: str
    name: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: Settings

    @property
    def folder(self) -> Path:
        return ExperimentPaths(self.dataset, self.name).results_of_dataset / "assft_compare" / self.name

    @property
    def file(self) -> Path:
        return self.folder / "comparison.json"

    def experiment_name(self, arm: str, seed: int) -> str:
        return f"{self.name}_{arm}_s{seed}"

    @classmethod
    def load(cls, file: Path) -> Comparison:
        content = read_json(file)
        settings = Settings.from_json(content["settings"])
        return cls(content["dataset"], content["name"], tuple(content["arms"]), tuple(content["seeds"]), settings)

    @property
    def strategies(self) -> tuple[str, ...]:
        return tuple(arm for arm in self.arms if arm in STRATEGIES)

    @cached_property
    def n_rounds(self) -> int:
        """As `remember` wrote it."""
        return int(read_json(self.file)["n_rounds"])

    def experiment(self, arm: str, seed: int) -> Experiment:
        """Planned now, or found as it was planned."""
        settings = replace(self.settings, strategy=arm, seed=seed)
        if (
            arm == UPPER_BOUND
        ):  # one query of everything, then as many epochs as the strategies have had by their last round
            first = self.experiment(self.strategies[0], seed)
            settings = replace(
                settings,
                strategy="random",
                rounds=1,
                budget=str(len(first.pool) - 1),
                epochs=first.n_rounds * int(first.settings.training["epochs"]),
            )
        return create_experiment(self.dataset, self.experiment_name(arm, seed), settings)


def parse_arms(strategies: Sequence[str], references: Sequence[str] = ()) -> tuple[str, ...]:
    """Arms in the order they run: strategies first, because references use their cases.

    strategies: names, `paper` for the eleven of the paper, `all` for every one. references: `nnunet`, standard nnU-Net from scratch in
    each round on the labelled cases of `random` (of the first strategy, if random is not among them), `nnunet@assft` on those of assft;
    `nnunet_finetuned`, each round from the weights of the round before; `lower_bound`; `upper_bound`; `none`.
    Raises `AssftError` for a name that does not exist, and for a reference whose cases no strategy queries.
    """
    arms = dict.fromkeys(arm for name in strategies for arm in GROUPS.get(name, (name,)))
    for arm in arms:
        if arm not in STRATEGIES:
            instead = (
                f" It is one of --references: {', '.join(REFERENCES)}." if arm.partition("@")[0] in REFERENCES else ""
            )
            raise AssftError(
                f"--strategies {arm!r} does not exist; there are: {', '.join((*GROUPS, *STRATEGIES))}.{instead}"
            )
    if not arms:
        raise AssftError("--strategies names none; bounds and nnU-Net need the cases of one. Add random.")
    for reference in references if list(references) != ["none"] else ():
        kind, _, source = reference.partition("@")
        if kind not in REFERENCES or (source and kind in (LOWER_BOUND, UPPER_BOUND)):
            raise AssftError(
                f"--references {reference!r} does not exist; there are: {', '.join(REFERENCES)}, nnunet@STRATEGY, none."
            )
        if source and source not in arms:
            raise AssftError(
                f"--references {reference} trains on the labelled cases of {source}, which is not among the strategies. Add it."
            )
        if kind in (NNUNET, NNUNET_FINETUNED) and not source and "random" not in arms:
            reference = f"{kind}@{next(iter(arms))}"
        arms[reference] = None
    return tuple(arms)


def cases_of(arm: str) -> str:
    """The strategy whose labelled cases a standard nnU-Net arm trains on."""
    return arm.partition("@")[2] or "random"


def run_comparison(comparison: Comparison, device: torch.device, say: Callable[[str], None] = print) -> list[str]:
    """Every run that is left, one line said of each. Returns the runs that failed, with the reason; the others go on.

    comparison.json has to be there, see `remember`.
    """
    failed = []
    runs = [(arm, seed) for seed in comparison.seeds for arm in comparison.arms]
    for i, (arm, seed) in enumerate(runs):
        start = time.monotonic()
        try:
            dice = run_arm(comparison, arm, seed, device)
        except AssftError as error:
            failed.append(f"{arm}, seed {seed}: {error}")
            say(f"[{i + 1:3d}/{len(runs)}] {arm}, seed {seed}: failed: {error}")
            continue
        shown = " ".join(f"{100 * d:.2f}" for d in dice)
        say(f"[{i + 1:3d}/{len(runs)}] {arm}, seed {seed}: Dice {shown} ({(time.monotonic() - start) / 60:.1f} min)")
    return failed


def remember(comparison: Comparison, device: torch.device) -> None:
    """comparison.json: what is compared, and what all runs share. Plans the first experiment if it is not planned yet."""
    first = comparison.experiment(comparison.strategies[0], comparison.seeds[0])
    write_json(
        comparison.file,
        {
            "dataset": comparison.dataset,
            "name": comparison.name,
            "arms": comparison.arms,
            "seeds": comparison.seeds,
            "settings": asdict(comparison.settings),
            "n_rounds": first.n_rounds,
            **{key: getattr(first, key) for key in ("n_query", "pool", "test", "test_source", "versions")},
            **{key: getattr(first.settings, key) for key in ("budget", "domain", "preset", "normalization", "encoder")},
            "training": first.settings.training,
            "options": asdict(first.options),
            "device": str(device),
            "experiments": {
                arm: {str(seed): comparison.experiment_name(arm, seed) for seed in comparison.seeds}
                for arm in comparison.arms
                if arm in STRATEGIES or arm == UPPER_BOUND
            },
        },
    )


# Runs ------------------------------------------------------------------------------------------------------------------


def run_arm(comparison: Comparison, arm: str, seed: int, device: torch.device) -> list[float]:
    """One run, or what is left of it. Returns the mean Dice on the test cases, by round."""
    if arm in STRATEGIES:
        experiment = comparison.experiment(arm, seed)
        if arm != comparison.strategies[0]:
            share_start(comparison.experiment(comparison.strategies[0], seed), experiment, device)
        dice = [run_round(experiment, r, device).dice["mean"] for r in range(experiment.n_rounds + 1)]
        for r in range(1, experiment.n_rounds + 1) if STRATEGIES[arm].semi_supervised else ():
            pseudo_label_quality(experiment, r, device)
        return dice
    if arm == UPPER_BOUND:
        experiment = comparison.experiment(arm, seed)
        return [run_round(experiment, r, device).dice["mean"] for r in (0, 1)][1:]
    if arm == LOWER_BOUND:
        experiment = comparison.experiment(comparison.strategies[0], seed)
        context = open_context(experiment, device)
        desc = "predicting test cases before round 0"
        predict_test_cases(context, experiment.initial_model, predictions_before_round_0(experiment), desc)
    else:
        source = comparison.experiment(cases_of(arm), seed)
        for r in range(1, source.n_rounds + 1):
            run_job(nnunet_job(comparison, arm, seed, r, source, device))
    return [
        float(group.groupby("case").dice.mean().mean())
        for _, group in run_metrics(comparison, arm, seed).groupby("round")
    ]


def predictions_before_round_0(experiment: Experiment) -> Path:
    return experiment.paths.results / "test_before_round_00"


def share_start(source: Experiment, target: Experiment, device: torch.device) -> None:
    """Round 0 and the embeddings by E^(0) are the same for every strategy of a seed: `target` takes those of `source`.

    The training set of round 0 is written as ever; the checkpoint that was trained on it is linked, and so is all that was computed
    with that checkpoint. Does nothing where the two differ, or if the target has a round 0 already.
    """
    same = ("dataset", "pool", "test", "permutation", "initial_network_sha256")
    if target.paths.round_file(0).is_file() or not source.paths.round_file(0).is_file():
        return
    differing = source.settings.differences(target.settings).keys() - {"strategy", "rounds", "budget"}
    if differing or any(getattr(source, key) != getattr(target, key) for key in same):
        return
    done, context = Round.load(source.paths, 0), open_context(target, device)
    for file in source.paths.records("pretrained").glob("*.npz"):
        link_or_copy(file, target.paths.records("pretrained") / file.name)
    human_labels = {case: context.dataset.label_file(case) for case in done.labelled}
    epochs = target.settings.training["one_shot_epochs"]
    stage = Stage(0, "supervised", human_labels, {}, target.initial_model, epochs)
    content = write_training_set(context, stage)
    checkpoint = target.paths.checkpoint(0, "supervised")
    write_json(checkpoint.parent / "stage.json", content)
    for name in ("dataset.json", "dataset_fingerprint.json"):
        link_or_copy(source.paths.model_folder("supervised") / name, target.paths.model_folder("supervised") / name)
    write_json(target.paths.model_folder("supervised") / "plans.json", read_json(target.paths.plans))
    link_or_copy(source.paths.checkpoint(0, "supervised"), checkpoint)  # last: with it the stage is trained
    predictions = target.paths.test_predictions(0)
    for case in target.test:
        name = f"{case}{context.dataset.file_ending}"
        link_or_copy(source.paths.test_predictions(0) / name, predictions / name)
    model = {**asdict(done.model), "checkpoint": target.paths.relative(checkpoint)}
    write_json(predictions / "model.json", model)
    link_or_copy(source.paths.step_file(0, "evaluate"), target.paths.step_file(0, "evaluate"))


def nnunet_job(comparison: Comparison, arm: str, seed: int, r: int, source: Experiment, device: torch.device) -> Job:
    """Standard nnU-Net on the labelled cases of round r of `source`."""
    context = open_context(source, device)
    dataset, labelled = context.dataset, Round.load(source.paths, r).labelled
    job = Job(
        folder=str(nnunet_folder(comparison, arm, seed, r)),
        dataset=dataset.name,
        dataset_json={k: v for k, v in dataset.dataset_json.items() if k in NNUNET_KEYS},
        images={case: [str(file) for file in dataset.images[case]] for case in labelled},
        labels={case: str(dataset.label_file(case)) for case in labelled},
        test_images={
            case: [str(f) for f in dataset.test_images.get(case) or dataset.images[case]] for case in source.test
        },
        epochs=source.settings.training["epochs"],
        iterations_per_epoch=source.settings.training["iterations_per_epoch"],
        seed=seed,
        device=device.type,
    )
    if not arm.startswith(NNUNET_FINETUNED) or r == 1:
        return job
    before = nnunet_job(comparison, arm, seed, r - 1, source, device)
    return replace(job, start=str(before.checkpoint))


def nnunet_folder(comparison: Comparison, arm: str, seed: int, r: int) -> Path:
    return comparison.folder / arm / f"seed_{seed}" / f"round_{r:02d}"


def run_metrics(comparison: Comparison, arm: str, seed: int) -> pd.DataFrame:
    """round, n_labelled, case, structure, dice, nsd, hd95_mm of the finished rounds of a run; nothing is computed anew but metrics."""
    frames = [pd.DataFrame(columns=METRIC_COLUMNS)]
    experiment = planned(
        comparison, arm if arm in STRATEGIES or arm == UPPER_BOUND else source_of(comparison, arm), seed
    )
    if experiment is None:
        return frames[0]
    dataset = find_dataset(experiment.dataset)
    if arm == LOWER_BOUND:
        folder, model = predictions_before_round_0(experiment), {"model": experiment.initial_network_sha256}
        if all((folder / f"{case}{dataset.file_ending}").is_file() for case in experiment.test):
            frames.append(kept_metrics(dataset, experiment.test, folder, model).assign(round=0, n_labelled=0))
    for done in finished_rounds(experiment):
        if arm in STRATEGIES or (arm == UPPER_BOUND and done.round == 1):
            last = done.round if arm in STRATEGIES else comparison.n_rounds
            frames.append(test_metrics(experiment, done.round).assign(round=last, n_labelled=len(done.labelled)))
        elif arm.startswith(NNUNET) and done.round >= 1:
            folder = nnunet_folder(comparison, arm, seed, done.round)
            if (folder / "done.json").is_file():
                job = {"job": read_json(folder / "done.json")["job_sha256"]}
                found = kept_metrics(dataset, experiment.test, folder / "test", job)
                frames.append(found.assign(round=done.round, n_labelled=len(done.labelled)))
    return pd.concat([frame for frame in frames if len(frame)] or frames)


def source_of(comparison: Comparison, arm: str) -> str:
    return comparison.strategies[0] if arm == LOWER_BOUND else cases_of(arm)


def planned(comparison: Comparison, arm: str, seed: int) -> Experiment | None:
    paths = ExperimentPaths(comparison.dataset, comparison.experiment_name(arm, seed))
    return Experiment.load(paths) if paths.experiment_file.is_file() else None

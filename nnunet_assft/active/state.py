"""What an experiment is and where it stands: small frozen dataclasses, each saved in one step and never edited."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nnunet_assft.active.options import Options
from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import read_json, sha256_of, write_json

SCHEMA_VERSION = 2
STEPS = ("query", "annotate", "supervised", "select", "pseudo_labels", "semi", "evaluate")  # of a round, in order


@dataclass(frozen=True)
class Model:
    """A trained stage. checkpoint: relative to nnUNet_results/DATASET; weights_sha256: of the weights, not of the file."""

    stage: str
    checkpoint: str
    weights_sha256: str


@dataclass(frozen=True)
class Experiment:
    """One active-learning run on a dataset: everything that is decided before its first round."""

    dataset: str
    name: str
    strategy: str
    seed: int
    n_rounds: int  # R
    n_query: int  # N_B, cases per round
    budget: str  # as typed
    annotator: str
    domain: str
    preset: str
    normalization: str
    encoder: dict[str, Any] | None  # report of the pretrained weights; None: E^(0) is random
    pool: tuple[str, ...]  # T, ascending
    test: tuple[str, ...]
    test_source: str
    permutation: tuple[str, ...]  # random order of the pool; its first case is x_1, unless options say otherwise
    training: dict[str, Any]  # epochs, iterations_per_epoch, initial_lr, ... (also in the plans)
    options: Options = field(default_factory=Options)  # named variants of the method
    initial_network_sha256: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def paths(self) -> ExperimentPaths:
        return ExperimentPaths(self.dataset, self.name)

    @property
    def initial_model(self) -> Model:
        """[E^(p); D^(0)], where round 0 starts."""
        return Model("initial", self.paths.relative(self.paths.initial_network), self.initial_network_sha256)

    def save(self) -> None:
        write_json(self.paths.experiment_file, dataclasses.asdict(self))

    @classmethod
    def load(cls, paths: ExperimentPaths) -> Experiment:
        if not paths.experiment_file.is_file():
            raise AssftError(
                f"{paths.dataset} has no experiment {paths.experiment!r} ({paths.experiment_file} is not there). "
                f"Type: {command('plan', paths.dataset, paths.experiment)}"
            )
        content = read_json(paths.experiment_file)
        if content.get("schema_version") != SCHEMA_VERSION:
            raise AssftError(
                f"{paths.experiment_file} has schema version {content.get('schema_version')}, expected {SCHEMA_VERSION}. "
                "It was written by another version of nnunet_assft; use that one or plan a new experiment."
            )
        for key in ("pool", "test", "permutation"):
            content[key] = tuple(content[key])
        content["options"] = Options(**content["options"])
        return cls(**content)


@dataclass(frozen=True)
class Round:
    """A finished round. T_l, T_u as they are at its end; `excluded` are the cases rule 3.4 kept out of its query."""

    round: int
    labelled: tuple[str, ...]
    unlabelled: tuple[str, ...]
    queried: tuple[str, ...]
    excluded: tuple[str, ...]
    pseudo_labelled: tuple[str, ...]
    reliability: dict[str, float]  # of the pseudo-labelled cases (Eq. 26)
    test: tuple[str, ...]
    model: Model
    dice: dict[str, Any]  # on the test cases, see evaluation.dice

    def save(self, paths: ExperimentPaths) -> None:
        write_json(paths.round_file(self.round), dataclasses.asdict(self))

    @classmethod
    def load(cls, paths: ExperimentPaths, r: int) -> Round:
        content = read_json(paths.round_file(r))
        for key in ("labelled", "unlabelled", "queried", "excluded", "pseudo_labelled", "test"):
            content[key] = tuple(content[key])
        return cls(**{**content, "model": Model(**content["model"])})


def finished_rounds(experiment: Experiment) -> list[Round]:
    """The rounds that are done, from 0 on without a gap."""
    rounds = []
    for r in range(experiment.n_rounds + 1):
        if not experiment.paths.round_file(r).is_file():
            break
        rounds.append(Round.load(experiment.paths, r))
    return rounds


def write_splits(experiment: Experiment) -> None:
    """splits.json: one entry per finished round, in the form of nnU-Net's splits_final.json (fold = round) and more."""
    entries = [
        {
            "train": sorted({*done.labelled, *done.pseudo_labelled}),
            "val": list(done.labelled),  # training cases: there is no other label
            "labelled": list(done.labelled),
            "unlabelled": list(done.unlabelled),
            "queried": list(done.queried),
            "excluded": list(done.excluded),
            "pseudo_labelled": list(done.pseudo_labelled),
            "test": list(done.test),
        }
        for done in finished_rounds(experiment)
    ]
    write_json(experiment.paths.splits_file, entries)


def step(
    file: Path,
    inputs: dict[str, Any],
    compute: Callable[[], dict[str, Any]],
    *,
    made: Callable[[dict[str, Any]], Iterable[Path]] = lambda result: (),
) -> dict[str, Any]:
    """The result kept in `file` if it was made from these inputs, and what it `made` is still there; else computed now and kept.

    This is how a command that was cut off goes on: every step before the cut finds its file. The file also keeps the
    `seconds` that the step took, in the call that finished it.
    """
    digest = sha256_of(inputs)
    if file.is_file():
        kept = read_json(file)
        if kept["inputs_sha256"] == digest and all(path.is_file() for path in made(kept["result"])):
            return dict(kept["result"])
    start = time.monotonic()
    result = compute()
    write_json(file, {"inputs_sha256": digest, "result": result, "seconds": round(time.monotonic() - start, 3)})
    return result


@contextmanager
def only_process(experiment: Experiment) -> Iterator[None]:
    """A convenience: two commands on one experiment would do the same work twice. Correctness does not rest on it."""
    lock = FileLock(experiment.paths.lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise AssftError(
            f"Another process is working on experiment {experiment.name!r} of {experiment.dataset}. Wait for it, or end it."
        ) from error
    try:
        yield
    finally:
        lock.release()


def command(name: str, dataset: str, experiment: str = "assft", *more: str) -> str:
    """What to type, for messages: `nnUNetv2_assft_round -d 218 -r 3`."""
    named = [] if experiment == "assft" else ["-e", experiment]
    return " ".join([f"nnUNetv2_assft_{name}", "-d", str(int(dataset[7:10])), *named, *more])

"""What an experiment is and where it stands: small frozen dataclasses, each saved in one step and never edited."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from filelock import FileLock, Timeout

from nnunet_assft.active.options import Options
from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.settings import Settings
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import read_json, write_json

SCHEMA_VERSION = 3
STEPS = ("query", "annotate", "supervised", "select", "pseudo_labels", "semi", "evaluate")  # of a round, in order
# options of schema version 2 that are gone, with the value that they have today
REMOVED_OPTIONS = {
    "tau": "round",
    "pd_first": "one",
    "ranks": "exact",
    "second": "order",
    "ugtst_entropy": "mean",
    "ugtst_multiple": 2,
    "badge_loss": "ce",
}


@dataclass(frozen=True)
class Model:
    """A trained stage.

    checkpoint: relative to nnUNet_results/DATASET. weights_sha256: of the weights, not of the file.
    """

    stage: str
    checkpoint: str
    weights_sha256: str


@dataclass(frozen=True)
class Experiment:
    """One active-learning run on a dataset: everything that is decided before its first round."""

    dataset: str
    name: str
    settings: Settings  # resolved: nothing in it depends on a default of the domain any more
    n_query: int  # N_B, cases per round
    pool: tuple[str, ...]  # T, ascending
    test: tuple[str, ...]
    test_source: str
    permutation: tuple[str, ...]  # random order of the pool; its first case is x_1, unless options say otherwise
    encoder_report: dict[str, Any] | None = None  # of the pre-trained weights; None: E^(0) is random
    initial_network_sha256: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def n_rounds(self) -> int:
        """R."""
        assert self.settings.rounds is not None
        return self.settings.rounds

    @property
    def options(self) -> Options:
        return self.settings.options

    @property
    def paths(self) -> ExperimentPaths:
        return ExperimentPaths(self.dataset, self.name)

    @property
    def initial_model(self) -> Model:
        """[E^(p); D^(0)], where round 0 starts."""
        return Model("initial", self.paths.relative(self.paths.initial_network), self.initial_network_sha256)

    def command(self, name: str, *arguments: str) -> str:
        """The command for this experiment, for messages: `nnUNetv2_assft_round -d 218 -r 3`."""
        return self.paths.command(name, *arguments)

    def save(self) -> None:
        write_json(self.paths.experiment_file, asdict(self))

    @classmethod
    def load(cls, paths: ExperimentPaths) -> Experiment:
        """Raises `AssftError` if there is no such experiment, or if another version wrote it in an unknown form."""
        file = paths.experiment_file
        if not file.is_file():
            raise AssftError(
                f"{paths.dataset} has no experiment {paths.experiment!r}: {file} does not exist. "
                f"Create it with: {paths.command('plan')}"
            )
        content = read_json(file)
        version = content.get("schema_version")
        if version == 2:
            content = _from_version_2(content)
        elif version != SCHEMA_VERSION:
            raise AssftError(f"{file} has schema version {version}; expected {SCHEMA_VERSION}. {_written_by(content)}")
        for key in ("pool", "test", "permutation"):
            content[key] = tuple(content[key])
        strategy = content["settings"]["strategy"]
        if strategy not in STRATEGIES:
            raise AssftError(
                f"{file} was planned with strategy {strategy!r}, which this version no longer has. "
                f"{_written_by(content)}"
            )
        return cls(**{**content, "settings": Settings.from_json(content["settings"])})


def _from_version_2(content: Mapping[str, Any]) -> dict[str, Any]:
    """experiment.json of nnunet_assft 0.1.0 in today's form. Raises `AssftError` if it uses an option that is gone."""
    options = dict(content["options"])
    for name, value in REMOVED_OPTIONS.items():
        if options.pop(name, value) != value:
            raise AssftError(f"The experiment was planned with --option {name}, which is gone. {_written_by(content)}")
    encoder = content["encoder"]
    settings = {row.name: content[row.name] for row in fields(Settings) if row.name in content}
    settings |= {
        name: value for name, value in content["training"].items() if name in {row.name for row in fields(Settings)}
    }
    settings |= {"rounds": content["n_rounds"], "encoder": encoder and encoder["path"], "options": options}
    same = (
        "dataset",
        "name",
        "n_query",
        "pool",
        "test",
        "test_source",
        "permutation",
        "initial_network_sha256",
        "versions",
    )
    return {
        **{key: content[key] for key in same},
        "settings": settings,
        "encoder_report": encoder and encoder.get("report"),
    }


def _written_by(content: Mapping[str, Any]) -> str:
    version = content.get("versions", {}).get("nnunet_assft", "of unknown number")
    return f"It was written by nnunet_assft {version}; use that version, or plan a new experiment."


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
        write_json(paths.round_file(self.round), asdict(self))

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


@contextmanager
def only_process(experiment: Experiment) -> Iterator[None]:
    """A convenience: two commands on one experiment would do the same work twice. Correctness does not rest on it."""
    lock = FileLock(experiment.paths.lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise AssftError(
            f"Another process is working on experiment {experiment.name!r} of {experiment.dataset}. "
            "Wait for it to finish, or end it."
        ) from error
    try:
        yield
    finally:
        lock.release()

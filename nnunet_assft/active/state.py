"""The state of an experiment on disk: small frozen dataclasses, each written atomically and never edited."""

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
from nnunet_assft.volumes.raw_dataset import RawDataset, find_dataset

SCHEMA_VERSION = 3
STEPS = ("query", "annotate", "supervised", "select", "pseudo_labels", "semi", "evaluate")  # of a round, in order
# options of schema version 2 that were removed, with the value that is now fixed
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
    """The model that a stage has trained.

    checkpoint: path relative to nnUNet_results/DATASET. weights_sha256: checksum of the weights, not of the file.
    """

    stage: str
    checkpoint: str
    weights_sha256: str


@dataclass(frozen=True)
class Experiment:
    """One active-learning run on a dataset, with everything that is decided before its first round."""

    dataset: str
    name: str
    settings: Settings  # resolved: without None or `auto` for a value of the domain
    n_query: int  # N_B, cases per round
    pool: tuple[str, ...]  # T, ascending
    test: tuple[str, ...]
    test_source: str
    permutation: tuple[str, ...]  # random order of the pool; the first case is x_1, unless first_case is `medoid`
    encoder_report: dict[str, Any] | None = None  # on the pre-trained weights; None if the encoder starts at random
    initial_network_sha256: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def n_rounds(self) -> int:
        """R, the number of query rounds; round 0 is not counted."""
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
        """The model [E^(p); D^(0)], from which round 0 starts."""
        return Model("initial", self.paths.relative(self.paths.initial_network), self.initial_network_sha256)

    def command(self, name: str, *arguments: str) -> str:
        """Return a command line for this experiment, for messages: `nnUNetv2_assft_round -d 218 -r 3`."""
        return self.paths.command(name, *arguments)

    def raw_dataset(self) -> RawDataset:
        """Find the raw dataset, with the reader that was chosen when the experiment was planned."""
        dataset = find_dataset(self.dataset)
        plans = self.paths.plans
        return dataset.read_with(read_json(plans)["image_reader_writer"]) if plans.is_file() else dataset

    def save(self) -> None:
        write_json(self.paths.experiment_file, asdict(self))

    @classmethod
    def load(cls, paths: ExperimentPaths) -> Experiment:
        """Load an experiment. Raises `AssftError` if it does not exist or if this version cannot read its file."""
        file = paths.experiment_file
        if not file.is_file():
            raise AssftError(
                f"{paths.dataset} has no experiment {paths.experiment!r}: {file} does not exist. "
                f"Run {paths.command('plan')} to create it."
            )
        content = read_json(file)
        version = content.get("schema_version")
        if version == 2:
            content = _from_version_2(content)
        elif version != SCHEMA_VERSION:
            raise AssftError(f"{file} has schema version {version}; expected {SCHEMA_VERSION}. {written_by(content)}")
        for key in ("pool", "test", "permutation"):
            content[key] = tuple(content[key])
        strategy = content["settings"]["strategy"]
        if strategy not in STRATEGIES:
            raise AssftError(
                f"{file} was planned with strategy {strategy!r}, which this version no longer has. "
                f"{written_by(content)}"
            )
        return cls(**{**content, "settings": Settings.from_json(content["settings"])})


def _from_version_2(content: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the content of an experiment.json of nnunet_assft 0.1.0 to the current schema.

    Raises `AssftError` if it sets an option that was removed.
    """
    encoder = content["encoder"]
    settings = {row.name: content[row.name] for row in fields(Settings) if row.name in content}
    settings |= {
        name: value for name, value in content["training"].items() if name in {row.name for row in fields(Settings)}
    }
    settings |= {"rounds": content["n_rounds"], "encoder": encoder and encoder["path"], "one_shot_epochs": None}
    settings["options"] = options_of_version_2(content)
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


def options_of_version_2(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a file of nnunet_assft 0.1.0 that still exist. Raises `AssftError` if another was set."""
    options = dict(content["options"])
    for name, value in REMOVED_OPTIONS.items():
        if options.pop(name, value) != value:
            raise AssftError(
                f"The experiment was planned with --option {name}, which was removed. {written_by(content)}"
            )
    return options


def written_by(content: Mapping[str, Any]) -> str:
    """Return the last sentence of a message about a file that this version cannot read."""
    version = content.get("versions", {}).get("nnunet_assft", "of an unknown version")
    return f"It was written by nnunet_assft {version}; use that version, or plan a new experiment."


@dataclass(frozen=True)
class Round:
    """A finished round.

    labelled, unlabelled: T_l and T_u at its end. excluded: unlabelled cases that section 3.4 excluded from its query.
    """

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
        """Load finished round r."""
        content = read_json(paths.round_file(r))
        for key in ("labelled", "unlabelled", "queried", "excluded", "pseudo_labelled", "test"):
            content[key] = tuple(content[key])
        return cls(**{**content, "model": Model(**content["model"])})


def finished_rounds(experiment: Experiment) -> list[Round]:
    """Return the finished rounds in order, from round 0 to the last one before a gap."""
    rounds = []
    for r in range(experiment.n_rounds + 1):
        if not experiment.paths.round_file(r).is_file():
            break
        rounds.append(Round.load(experiment.paths, r))
    return rounds


def write_splits(experiment: Experiment) -> None:
    """Write splits.json, with one entry per finished round.

    It has the form of nnU-Net's splits_final.json, with the round as the fold, and additional keys.
    """
    entries = [
        {
            "train": sorted({*done.labelled, *done.pseudo_labelled}),
            "val": list(done.labelled),  # these are training cases, because no other case has a label
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
    """Hold the lock of an experiment, so that two commands do not do the same work twice.

    Results are correct without the lock. Raises `AssftError` if another process holds it.
    """
    lock = FileLock(experiment.paths.lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise AssftError(
            f"Another process is working on experiment {experiment.name!r} of {experiment.dataset}. "
            "Wait for it to finish, or stop it, and run the same command again."
        ) from error
    try:
        yield
    finally:
        lock.release()

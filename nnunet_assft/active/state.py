"""The state of an experiment on disk: small frozen dataclasses, each written atomically and never edited."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

from nnunet_assft.active.history import Change, Scope, read_history, scope_of, write_history
from nnunet_assft.active.options import Options
from nnunet_assft.active.paths import ExperimentPaths, experiments_in_results
from nnunet_assft.active.settings import Settings
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.errors import AssftError, DamagedFileError
from nnunet_assft.evaluation.dice import Dice
from nnunet_assft.runtime import locks
from nnunet_assft.runtime.files import read_json, write_json
from nnunet_assft.runtime.sealed import read_sealed, rebuilt, understanding, write_sealed
from nnunet_assft.runtime.text import count, named
from nnunet_assft.trainers.folds import TRAINERS
from nnunet_assft.volumes.names import CASE_ID, shown
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
KEYS_OF_VERSION_2 = {"n_rounds", "training", "encoder", "options", *(row.name for row in fields(Settings))}


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
    n_query: int  # N_B, cases per round, as planned; `scope` has that of a round, and so it is with the next two
    pool: tuple[str, ...]  # T, ascending
    test: tuple[str, ...]
    test_source: str
    permutation: tuple[str, ...]  # random order of the pool, from which x_1 is taken; see `start`
    encoder_report: dict[str, Any] | None = None  # on the pre-trained weights; None if the encoder starts at random
    initial_network_sha256: str = ""
    reader: str = ""  # nnU-Net's reader of the images and labels
    checksums: dict[str, str] = field(default_factory=dict)  # of plans, fingerprint, images, and the labels' meaning
    versions: dict[str, str] = field(default_factory=dict)
    labelled_at_start: tuple[str, ...] = ()  # cases of the pool on which round 0 trains in place of x_1, ascending
    accepted_at_start: dict[str, list[str]] = field(default_factory=dict)  # of these: case -> warnings of the gate
    pseudo_labels_with_results: bool = False  # because the raw dataset could only be read when this was planned
    schema_version: int = SCHEMA_VERSION
    history: tuple[Change, ...] = ()  # in a file of its own

    def scope(self, r: int) -> Scope:
        """Return what round r works with: pool, test cases, N_B and R."""
        return scope_of(self._planned, self.history, r)

    @property
    def now(self) -> Scope:
        """What there is after all changes."""
        return scope_of(self._planned, self.history, None)

    @property
    def _planned(self) -> Scope:
        assert self.settings.rounds is not None
        return Scope(self.pool, self.test, self.permutation, self.n_query, self.settings.rounds)

    @property
    def n_rounds(self) -> int:
        """R, the number of query rounds, after all changes; round 0 is not counted."""
        return self.now.n_rounds

    def n_select(self, r: int) -> int:
        """N_SU of round r: the number of cases that rounds 1 to r query, which is N_B r if N_B never changed."""
        return sum(self.scope(k).n_query for k in range(1, r + 1))

    def per_round(self, last: int, kind: str = "case", each: str = "") -> str:
        """Return N_B of the rounds 1 to `last` in words, such as "3 cases each (2 from round 3 on)". each: the word
        after the noun."""
        numbers = [self.scope(r).n_query for r in range(1, max(1, last) + 1)]
        later = [f"{n} from round {r} on" for r, n in enumerate(numbers, 1) if r > 1 and n != numbers[r - 2]]
        return f"{count(numbers[0], kind)}{each}" + (f" ({', '.join(later)})" if later else "")

    @property
    def withdrawn(self) -> frozenset[str]:
        """All cases that were ever withdrawn."""
        return frozenset(case for change in self.history for case in change.withdrawn)

    @property
    def withdrawn_but_seen(self) -> frozenset[str]:
        """Those of the withdrawn cases on whose images the encoder was pre-trained."""
        return frozenset(case for change in self.history for case in change.seen_by_encoder)

    @property
    def images_sha256(self) -> str | None:
        """Checksum of the images of all cases of `now`; None if it is not known."""
        return self.history[-1].images_sha256 if self.history else self.checksums.get("images")

    @property
    def options(self) -> Options:
        return self.settings.options

    @property
    def paths(self) -> ExperimentPaths:
        return ExperimentPaths(self.dataset, self.name, self.pseudo_labels_with_results)

    @property
    def start(self) -> tuple[str, ...]:
        """The cases that round 0 trains on: those labelled at the start, or else x_1; empty before x_1 is computed."""
        scope = self.scope(0)
        labelled = tuple(case for case in self.labelled_at_start if case in scope.left)
        if labelled or self.options.first_case != "random":
            return labelled
        return tuple(case for case in scope.permutation if case in scope.left)[:1]

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
        return dataset.read_with(self.reader) if self.reader else dataset

    def save(self) -> None:
        content = asdict(self)
        content["n_changes"] = len(content.pop("history"))  # so that the loss of that file is noticed
        write_sealed(self.paths.experiment_file, content)

    def record(self, change: Change) -> Experiment:
        """Record a change, and return the experiment as it is then."""
        changed = replace(self, history=(*self.history, change))
        write_history(self.paths.history_file, changed.history)  # from here on, the change counts
        changed.save()
        return changed

    @classmethod
    def load(cls, paths: ExperimentPaths) -> Experiment:
        """Load an experiment. Raises `AssftError` if it does not exist, is damaged, or is of another version."""
        file = paths.experiment_file
        if not file.is_file():
            raise AssftError(
                f"{paths.dataset} has no experiment {paths.experiment!r}: {file} does not exist. {_others(paths)}"
                f"Run {paths.command('plan')} to create it."
            )
        remedy = (
            f"Restore it, or move it away and run {paths.command('plan')} with the options of the experiment; finished "
            "rounds are kept."
        )
        content = read_sealed(file, KEYS, remedy=remedy)
        n_changes, history = content.pop("n_changes", 0), read_history(paths.history_file)
        with understanding(file, remedy):
            planned = cls._from_content(content, file)
            lost = len(history) < n_changes
        if (planned.dataset, planned.name) != (paths.dataset, paths.experiment):
            raise AssftError(
                f"{file} is that of experiment {planned.name!r} of {planned.dataset}. An experiment cannot be renamed "
                "or copied. Move the copy out of nnUNet_results, or give the folder its old name."
            )
        if lost:
            raise DamagedFileError(
                f"{paths.history_file} lacks {count(n_changes - len(history), 'recorded change')}. Restore it from a "
                "backup."
            )
        return replace(planned, history=history)

    @classmethod
    def _from_content(cls, content: dict[str, Any], file: Path) -> Experiment:
        version = content.get("schema_version")
        if version == 2:
            content = _from_version_2(content)
        elif version != SCHEMA_VERSION:
            raise AssftError(f"{file} has schema version {version}; expected {SCHEMA_VERSION}. {written_by(content)}")
        strategy = content["settings"]["strategy"]
        if strategy not in STRATEGIES:
            raise AssftError(
                f"{file} was planned with strategy {strategy!r}, which this version no longer has. "
                f"{written_by(content)}"
            )
        settings = Settings.from_json(content["settings"])
        planned: Experiment = rebuilt(cls, {**content, "settings": asdict(settings)})
        require_names(planned.pool, planned.test)
        if {*planned.permutation} != {*planned.pool} or not {*planned.labelled_at_start} <= {*planned.pool}:
            raise ValueError("its permutation or labelled_at_start has other cases than its pool")
        return planned


def _others(paths: ExperimentPaths) -> str:
    """Return a sentence about the experiments that the dataset has, in case the name was mistyped."""
    others = [other.experiment for other in experiments_in_results() if other.dataset == paths.dataset]
    return f"The dataset has the {named('experiment', others)}; -e chooses one. " if others else ""


KEYS = {row.name for row in fields(Experiment) if row.name != "history"} | {"n_changes"} | KEYS_OF_VERSION_2


def require_names(*cases: Iterable[str]) -> None:
    """Raise ValueError unless all these are case ids, of which paths are made."""
    for case in chain(*cases):
        if (fault := CASE_ID.fault(case)) is not None:
            raise ValueError(f"the case id {shown(case)} {fault}")


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
    dice: Dice  # on the test cases

    def save(self, paths: ExperimentPaths) -> None:
        write_sealed(paths.round_file(self.round), asdict(self))

    @classmethod
    def load(cls, paths: ExperimentPaths, r: int) -> Round:
        """Load finished round r. Raises `DamagedFileError` if its file is damaged."""
        file, again = paths.round_file(r), f"Run {paths.command('round', '-r', str(r))} to make it again."
        content = read_sealed(file, {row.name for row in fields(cls)}, remedy=again)
        with understanding(file, again):
            done: Round = rebuilt(cls, content)
            require_names(done.labelled, done.unlabelled, done.test)
            if done.round != r:
                raise ValueError(f"it is that of round {done.round}")
            if done.model.stage not in TRAINERS:
                raise ValueError(f"the model is that of a stage {done.model.stage!r}")
            return done


def finished_rounds(experiment: Experiment, *, before: int | None = None) -> list[Round]:
    """Return the finished rounds in order, from round 0 to the last one before a gap, or before round `before`.

    Raises `DamagedFileError` if the file of one of them is damaged.
    """
    rounds = []
    for r in range(experiment.n_rounds + 1 if before is None else before):
        if not experiment.paths.round_file(r).is_file():
            break
        rounds.append(Round.load(experiment.paths, r))
    return rounds


def seen_by_next(experiment: Experiment, done: Round) -> Round:
    """Return a finished round as the next one starts from it: without the cases that were withdrawn, with those that
    were added among its unlabelled ones, and with those of a second look among its labelled ones.

    Raises `DamagedFileError` if the history is not the one with which the round was run.
    """
    require_its_history(experiment, done)
    scope = experiment.scope(done.round + 1)
    labelled = {*done.labelled, *scope.looked_at}.intersection(scope.pool)
    unlabelled = set(scope.pool) - labelled
    return replace(
        done,
        labelled=tuple(sorted(labelled)),
        unlabelled=tuple(sorted(unlabelled)),
        pseudo_labelled=tuple(case for case in done.pseudo_labelled if case in unlabelled),
    )


def require_its_history(experiment: Experiment, done: Round) -> None:
    """Raise `DamagedFileError` unless a finished round has the pool, the test cases and the labelled cases that follow
    from the history."""
    scope = experiment.scope(done.round)
    is_labelled = scope.left.intersection(scope.looked_at) <= set(done.labelled)
    if scope.left != {*done.labelled, *done.unlabelled} or scope.test != done.test or not is_labelled:
        raise DamagedFileError(
            f"{experiment.paths.round_file(done.round)} has other cases than follow from "
            f"{experiment.paths.history_file}, which is damaged or lost. Restore it from a backup."
        )


def is_over(experiment: Experiment, done: Sequence[Round]) -> bool:
    """Return whether nothing is left to do after these finished rounds: no round, or no unlabelled case."""
    return len(done) > experiment.n_rounds or bool(done and not seen_by_next(experiment, done[-1]).unlabelled)


def write_splits(experiment: Experiment) -> None:
    """Write splits.json, with one entry per finished round, unless it has this content already.

    It has the form of nnU-Net's splits_final.json, with the round as the fold, and additional keys.
    """
    rounds: list[Round] = []
    with suppress(DamagedFileError):  # of a later round, which its own command makes again
        while len(rounds) <= experiment.n_rounds and experiment.paths.round_file(len(rounds)).is_file():
            rounds.append(Round.load(experiment.paths, len(rounds)))
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
        for done in rounds
    ]
    try:
        unchanged = read_json(experiment.paths.splits_file) == entries
    except (OSError, ValueError):
        unchanged = False
    if not unchanged:
        write_json(experiment.paths.splits_file, entries)


@contextmanager
def only_process(experiment: Experiment) -> Iterator[None]:
    """Hold the lock of an experiment, so that two commands do not do the same work twice.

    Results are correct without the lock. Raises `AssftError` if another process holds it, or if one has changed the
    experiment since it was loaded.
    """
    paths = experiment.paths
    with locks.only_process(paths.lock_file, f"experiment {experiment.name!r} of {experiment.dataset}"):
        if paths.experiment_file.is_file() and read_history(paths.history_file) != experiment.history:
            raise AssftError("The experiment was changed by another command meanwhile. Run the same command again.")
        yield

"""The settings of an experiment, which the user chooses on the command line and `experiment.json` records."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from nnunet_assft import __version__
from nnunet_assft.active.options import NONE, OF_STRATEGY, PSEUDO, Options
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.errors import AssftError
from nnunet_assft.network.presets import ENCODERS, PRESETS
from nnunet_assft.nnunet_names import CONFIGURATION
from nnunet_assft.planning.choices import ANNOTATORS, EXISTING, NO_LABELS, NORMALIZATIONS
from nnunet_assft.planning.domains import DOMAINS, ONE_SHOT_EPOCHS, resolve_domain
from nnunet_assft.runtime.files import base_name
from nnunet_assft.runtime.ranges import RANGES, check, parse_budget
from nnunet_assft.runtime.sealed import rebuilt
from nnunet_assft.runtime.text import count

WEIGHT_DECAY = 3e-5
LARGEST_PATCH = 2**27  # voxels, 512 x 512 x 512: one channel of it already takes half a gigabyte
OF_START = "start"  # in place of a preset: the network of the model that --start names
STARTS = ("encoder", "start")  # the settings that name weights to start from
FILES = (*STARTS, "test_split", "labelled")  # those that name a file, or may name one


@dataclass(frozen=True)
class Settings:
    """The options of `nnUNetv2_assft_plan`, under the same names.

    rounds, budget, epochs: None means the value of the domain. epochs: per stage of a round r >= 1; round 0 has the
    same share of it as in the paper, unless one_shot_epochs, which has no option, sets its number. preset: None means
    the network of `start`, or the first that takes `encoder`, or `ctfm`. encoder: path of pre-trained weights.
    encoder_format: row of ENCODERS, None for what the file looks like. start: path of a whole nnU-Net model. With
    neither, the network starts at random. Of an experiment, these two, and the files of test_split and labelled, are
    names without the folders around them.
    spacing: mm along the axes of the images as nnU-Net reads them, (z, y, x); None for nnU-Net's choice. patch_size:
    voxels (z, y, x) of the planned grid; None for that of the domain, the model or nnU-Net.
    test_split, labelled: see `planning.test_split`; `labels_known` is what labelled means where it is None. Numbers:
    see `runtime.ranges`.
    """

    strategy: str = "assft"
    rounds: int | None = None
    budget: str | None = None
    seed: int = 0
    domain: str = "auto"
    preset: str | None = None
    encoder: str | None = None
    encoder_format: str | None = None
    start: str | None = None
    annotator: str = "oracle"
    test_split: str | None = None
    labelled: str | None = None
    epochs: int | None = None
    one_shot_epochs: int | None = None
    iterations_per_epoch: int = 250
    initial_lr: float = 1e-4
    deep_supervision: bool = False
    normalization: str = "percentile"
    spacing: tuple[float, ...] | None = None
    patch_size: tuple[int, ...] | None = None
    options: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        """Raise `AssftError` for a number that is out of the range of its option, whoever chose it."""
        for name in ("spacing", "patch_size"):
            if (edges := getattr(self, name)) is not None:
                edges = edges if isinstance(edges, list | tuple) else (edges,)
                if len(edges) != 3:
                    raise AssftError(f"--{name} has {count(len(edges), 'value')}; expected 3, for z, y and x.")
                object.__setattr__(self, name, tuple(edges))  # a list, in JSON
        for row in fields(self):
            value = getattr(self, row.name)
            if row.name in RANGES and not (value is None and row.default is None):
                check(row.name, value)
        if self.patch_size is not None and (voxels := math.prod(self.patch_size)) > LARGEST_PATCH:
            raise AssftError(f"--patch_size has {voxels:,} voxels; expected at most {LARGEST_PATCH:,}.")
        if self.budget is not None:
            try:
                parse_budget(self.budget)
            except ValueError as error:
                raise AssftError(f"--budget {error}.") from None
        if self.encoder is not None and self.start is not None:
            raise AssftError(
                "--encoder and --start both say where the encoder comes from; a model given with --start has one. Give "
                "one of them."
            )
        if self.encoder_format is not None and self.encoder is None:
            raise AssftError(
                "--encoder_format says what the file of --encoder is; there is none. Give --encoder as well."
            )
        for name in FILES:
            if getattr(self, name) == "":
                raise AssftError(f"--{name} is empty; leave it out, or name a file.")
        if self.labelled == EXISTING and self.annotator == "oracle":
            raise AssftError(
                "--labelled existing: with the annotator oracle, every label is in labelsTr, and none would be left to "
                "query. Name the cases to start with in a file, or plan with --annotator human."
            )

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Settings:
        """Return the settings whose `dataclasses.asdict` is `content`.

        Raises `AssftError` for an unknown name, and ValueError for a value that no settings have.
        """
        known = {row.name for row in fields(cls)} | {row.name for row in fields(Options)}
        unknown = [name for name in (*content, *content["options"]) if name not in known]
        if unknown:
            raise AssftError(f"The stored setting {unknown[0]!r} does not exist in nnunet_assft {__version__}.")
        try:
            settings: Settings = rebuilt(cls, content)
            settings.require_names()
        except AssftError as error:
            raise ValueError(str(error)) from error
        return settings

    def require_names(self) -> None:
        """Raise `AssftError` for a name that is in no table."""
        _check_name("--strategy", self.strategy, STRATEGIES)
        if self.preset is not None and not (self.start and self.preset == OF_START):
            _check_name("--preset", self.preset, PRESETS)
        if self.encoder_format is not None:
            _check_name("--encoder_format", self.encoder_format, ENCODERS)
        _check_name("--domain", self.domain, ("auto", *DOMAINS))
        _check_name("--normalization", self.normalization, NORMALIZATIONS)
        _check_name("--annotator", self.annotator, ANNOTATORS)

    def resolved(self, dataset: str) -> Settings:
        """Return the settings with the values of the domain in place of None and `auto`.

        Raises `AssftError` for a name that is in no table.
        """
        self.require_names()
        preset = self.preset or (OF_START if self.start else "ctfm")
        domain = resolve_domain(self.domain, dataset)
        row = DOMAINS[domain]
        return replace(
            self,
            domain=domain,
            preset=preset,
            rounds=row.rounds if self.rounds is None else self.rounds,
            budget=row.budget if self.budget is None else self.budget,
            epochs=row.epochs if self.epochs is None else self.epochs,
        )

    @property
    def training(self) -> dict[str, Any]:
        """The settings that the trainers read from the plans. Epochs are per stage. Requires resolved settings."""
        assert self.epochs is not None
        share = ONE_SHOT_EPOCHS / DOMAINS[self.domain].epochs
        return {
            "one_shot_epochs": self.one_shot_epochs or max(1, round(self.epochs * share)),
            "epochs": self.epochs,
            "iterations_per_epoch": self.iterations_per_epoch,
            "initial_lr": self.initial_lr,
            "weight_decay": WEIGHT_DECAY,
            "deep_supervision": self.deep_supervision,
        }

    def network_name(self, plans: Mapping[str, Any] | None = None) -> str:
        """Return what the network is called for a reader: its preset, or whose network it is, and of which class if the
        plans are given. Requires resolved settings."""
        if self.preset != OF_START:
            return f"preset {self.preset}"
        architecture = plans["configurations"][CONFIGURATION]["architecture"] if plans else {"arch_kwargs": {}}
        # in the plans of an exported model, the class is an argument
        name = architecture["arch_kwargs"].get("network_class") or architecture.get("network_class_name", "network")
        return f"the {name.rsplit('.', 1)[-1]} of the model that training started from"

    @property
    def labels_known(self) -> str:
        """Which cases are labelled at the start: `existing`, `none`, or the name of a file that lists them."""
        return self.labelled or (EXISTING if self.annotator == "human" else NO_LABELS)

    def without_folders(self) -> Settings:
        """Return the settings with the names of files in place of their paths, which mean nothing on another machine
        and may name people."""
        paths = {name: path for name in FILES if (path := getattr(self, name)) is not None}
        names: dict[str, Any] = {name: base_name(path) for name, path in paths.items()}
        return replace(self, **names)

    @property
    def pretrained(self) -> str | None:
        """The file or folder from which E(0) comes; None if it is random."""
        return self.encoder or self.start

    @property
    def second_stage(self) -> str:
        """The kind of the second stage of a round: `pseudo`, `supervised` or `none`."""
        if self.options.second_stage != OF_STRATEGY:
            return self.options.second_stage
        return PSEUDO if STRATEGIES[self.strategy].semi_supervised else NONE

    def differences(self, other: Settings) -> dict[str, tuple[Any, Any]]:
        """Return name -> (value here, value there) of every setting and option that differs.

        Files are left out, because callers compare what is in them, or the resulting cases, rather than the text.
        """
        mine, theirs = (
            {**asdict(settings), **asdict(settings.options), "second_stage": settings.second_stage}
            for settings in (self, other)
        )
        ignored = ("options", *FILES)
        return {
            name: (value, theirs[name]) for name, value in mine.items() if name not in ignored and value != theirs[name]
        }


def _check_name(option: str, name: str, table: Collection[str]) -> None:
    if name not in table:
        raise AssftError(f"{option} {name!r} does not exist; the choices are {', '.join(table)}.")

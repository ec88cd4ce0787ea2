"""Variants of the method, one field of `Options` each. The default values are the method of the paper.

`nnUNetv2_assft_plan --option NAME=VALUE` sets an option, `--list_options` prints all of them, and `experiment.json`
records them. A parameter of a single strategy is not an option; it is set in its row of the table of strategies.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from nnunet_assft.active.metrics import ASD_REDUCTIONS, CONFIDENCE_REDUCTIONS, PD_WEIGHTS
from nnunet_assft.active.selection import SELECTIONS
from nnunet_assft.errors import AssftError

FIRST_CASES = ("random", "medoid", "typical")
SAME, CONTRACT = "same", "contract"  # input of the encoder before adaptation
PRIOR_INPUTS = (SAME, CONTRACT)
MEAN, STD, MEAN_STD = "mean", "std", "mean_std"
EMBEDDINGS = (MEAN, STD, MEAN_STD)
SWITCH = (False, True)
PSEUDO, SUPERVISED, NONE = "pseudo", "supervised", "none"  # kinds of the second stage of a round
SECOND_STAGES = (PSEUDO, SUPERVISED, NONE)
OF_STRATEGY = "strategy"  # the kind that the row of the strategy says


QUERY, TRAINING, PSEUDO_LABELS = "query", "training", "pseudo-labels"  # the part of the method that an option changes


def _option(  # six parameters: those of a row of the table of options
    part: str,
    default: Any,
    meaning: str,
    choices: Collection[Any] = (),
    *,
    at_least: float = -math.inf,
    at_most: float = math.inf,
) -> Any:
    metadata = {"part": part, "meaning": meaning, "choices": choices, "at_least": at_least, "at_most": at_most}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Options:
    """The value of every option. Raises `AssftError` for a value that is not among its choices or out of its range."""

    first_case: str = _option(
        QUERY,
        "random",
        "first case: drawn at random, or by the initial embeddings the medoid, or the one with the nearest neighbours",
        FIRST_CASES,
    )
    prior_input: str = _option(
        QUERY,
        SAME,
        "input of the encoder before adaptation: that of the network, or normalised as in the training of its weights",
        PRIOR_INPUTS,
    )
    embedding: str = _option(
        QUERY, MEAN, "embedding: the mean of each feature map over space, its SD, or both", EMBEDDINGS
    )
    asd_reduction: str = _option(
        QUERY, "foreground_mean", "Eq. 11: reduction of ASD over the voxels of a case", ASD_REDUCTIONS
    )
    pd_weights: str = _option(
        QUERY, "literal", "Eq. 3: the case k ranks before has weight k, or reversed weights", PD_WEIGHTS
    )
    pd_labelled: bool = _option(QUERY, False, "PD also compares with labelled cases, ranked before all others", SWITCH)
    second_stage: str = _option(
        TRAINING,
        OF_STRATEGY,
        "second stage of a round: with pseudo-labels, on the labelled cases alone, or none; or as the strategy has it",
        (OF_STRATEGY, *SECOND_STAGES),
    )
    exclude_pseudo: bool = _option(
        PSEUDO_LABELS, True, "section 3.4: exclude pseudo-labelled cases from the next query", SWITCH
    )
    selection: str = _option(
        PSEUDO_LABELS, "reliable", "which cases are pseudo-labelled; the selections are listed below", SELECTIONS
    )
    confidence: str = _option(
        PSEUDO_LABELS, "sum", "Eq. 22: sum or mean of the margin over predicted foreground", CONFIDENCE_REDUCTIONS
    )
    tau_c: float = _option(PSEUDO_LABELS, 2.0, "Eq. 24: a larger value gives more candidates", at_least=1e-6)
    pseudo_mirroring: bool = _option(
        PSEUDO_LABELS, False, "predict pseudo-labels with mirroring, as test cases are", SWITCH
    )
    largest_component: bool = _option(
        PSEUDO_LABELS, False, "keep the largest component of each structure of a pseudo-label", SWITCH
    )
    ignore_margin: float = _option(
        PSEUDO_LABELS, 0.0, "pseudo-label voxels with a smaller margin get the ignore label", at_least=0.0, at_most=1.0
    )
    pseudo_weight: float = _option(
        PSEUDO_LABELS,
        1.0,
        "how often a pseudo-labelled case is drawn, relative to a labelled one",
        at_least=0.05,
        at_most=20.0,
    )

    def __post_init__(self) -> None:
        for row in fields(self):
            value, choices = getattr(self, row.name), row.metadata["choices"]
            low, high = row.metadata["at_least"], row.metadata["at_most"]
            if choices and value not in choices:
                raise AssftError(
                    f"--option {row.name}={_text(value)}: expected one of {', '.join(map(_text, choices))}."
                )
            is_number = isinstance(value, float | int) and low <= value <= high and value < math.inf  # excludes NaN
            if not choices and not is_number:
                upper = "" if math.isinf(high) else f" and at most {high:g}"
                raise AssftError(f"--option {row.name}={_text(value)}: expected a number, at least {low:g}{upper}.")

    @classmethod
    def parse(cls, settings: Sequence[str]) -> Options:
        """Parse `NAME=VALUE` texts. Raises `AssftError`, which lists the choices, for an unknown name or value."""
        values: dict[str, Any] = {}
        rows = {row.name: row for row in fields(cls)}
        for setting in settings:
            name, equals, text = setting.partition("=")
            if name not in rows or not equals:
                raise AssftError(
                    f"--option {setting!r}: expected NAME=VALUE with one of the names {', '.join(rows)}. "
                    "Run with --list_options for their meaning."
                )
            if name in values:
                raise AssftError(f"--option {name} is given twice; give it once.")
            values[name] = _value(text, rows[name].default, rows[name].metadata["choices"])
        return cls(**values)

    def with_setting(self, setting: str) -> Options:
        """Return these options with one that is given as `NAME=VALUE` text. Raises `AssftError` like `parse`."""
        name = setting.partition("=")[0]
        return replace(self, **{name: getattr(self.parse([setting]), name)})

    def of(self, part: str) -> tuple[Any, ...]:
        """Return the values of the options that change this part of the method."""
        return tuple(getattr(self, row.name) for row in fields(self) if row.metadata["part"] == part)

    def changed(self) -> dict[str, Any]:
        """Return the options that differ from their defaults: name -> value."""
        return {row.name: value for row in fields(self) if (value := getattr(self, row.name)) != row.default}

    def as_typed(self) -> str:
        """Return the options that differ from their defaults as `NAME=VALUE` texts that `parse` understands."""
        changed = self.changed().items()
        return ", ".join(f"{name}={_text(value) if isinstance(value, bool) else value}" for name, value in changed)


def _value(text: str, default: Any, choices: Collection[Any]) -> Any:
    """Return the parsed value, or the text itself if it cannot be parsed, for which the constructor raises."""
    if choices:
        return {_text(choice): choice for choice in choices}.get(text, text)
    try:
        return type(default)(text) if text.isascii() and "_" not in text else text
    except ValueError:
        return text


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def table() -> list[tuple[str, str, str]]:
    """Return (name, values with the default first, meaning) of every option."""
    rows = []
    for row in fields(Options):
        others = [_text(choice) for choice in row.metadata["choices"] if choice != row.default]
        rows.append((row.name, "|".join([_text(row.default), *others]), row.metadata["meaning"]))
    return rows

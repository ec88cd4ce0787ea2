"""The values that options take: one table for the commands, the settings of an experiment and the Python interface."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from nnunet_assft.errors import AssftError

WHOLE = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`. whole: integers only. without_low: `low` itself is not one of them."""

    low: float
    high: float
    whole: bool = True
    without_low: bool = False

    def __str__(self) -> str:
        kind, low, high = "a whole number" if self.whole else "a number", f"{self.low:.12g}", f"{self.high:.12g}"
        if self.without_low:
            return f"{kind} above {low} and at most {high}"
        return f"{kind} of at least {low}" if math.isinf(self.high) else f"{kind} from {low} to {high}"

    def __contains__(self, value: object) -> bool:
        is_number = isinstance(value, int) or (isinstance(value, float) and not self.whole)
        if not is_number or isinstance(value, bool):
            return False
        assert isinstance(value, int | float)
        above = value > self.low if self.without_low else value >= self.low
        return above and value <= self.high and value < math.inf  # excludes NaN

    def parse(self, text: str) -> int | float:
        """Return the number in a text of ASCII digits. Raises ValueError, which says what was expected, for others."""
        value: int | float | None = None
        if self.whole:
            value = int(text) if WHOLE.fullmatch(text) and len(text) < 100 else None
        elif text.isascii() and "_" not in text:
            try:
                value = float(text)
            except ValueError:
                value = None
        if value not in self:
            raise ValueError(f"{text!r}; expected {self}")
        assert value is not None
        return value


SEED = Range(0, 2**32 - 1)
FRACTION = Range(0, 1, whole=False, without_low=True)
SMALLEST_SPACING = 0.002  # mm; what is finer is metres or micrometres, or damage
# option, without its dashes -> its values
RANGES = {
    # settings of an experiment
    "rounds": Range(1, 1000),
    "epochs": Range(1, 10**6),
    "one_shot_epochs": Range(1, 10**6),
    "iterations_per_epoch": Range(1, 10**6),
    "initial_lr": FRACTION,
    "seed": SEED,
    "spacing": Range(SMALLEST_SPACING, 1000, whole=False),
    "patch_size": Range(1, 4096),
    # of a pre-training
    "batch_size": Range(1, 10**4),
    # of a comparison
    "seeds": SEED,
    "test_folds": Range(1, 1000),
    # of a command
    "n": Range(1, 10**6),
    "r": Range(0, 1000),
    "R": Range(1, 1000),
    "np": Range(1, 1024),
    "npp": Range(0, 1024),
    "nps": Range(0, 1024),
    "num_parts": Range(1, 10**6),
    "parts": Range(1, 10**6),
    "gpus": Range(1, 1024),
    "part_id": Range(0, 10**6 - 1),
    "step_size": FRACTION,
    "double_read": Range(0, 1, whole=False),
    "minutes": Range(0, math.inf, whole=False),
    "tolerance_mm": Range(0, math.inf, whole=False),
}
BUDGET = "a number of cases (2) or a fraction of the pool (0.05 or 5%), at most 100%"
CASES = Range(1, 10**9)  # of a budget


def check(option: str, value: object) -> None:
    """Raise `AssftError` unless the value of this option is one that RANGES allows, or each of them if there are
    several."""
    for each in value if isinstance(value, tuple) else (value,):
        if each not in RANGES[option]:
            raise AssftError(f"--{option} {each}: expected {RANGES[option]}.")


def parse_budget(spec: object) -> int | Fraction:
    """Return a number of cases (5, "5") as an int, and a share of the pool (0.05, "0.05", "5%") as a Fraction in
    (0, 1], without rounding. Raises ValueError, which says what was expected, for anything else."""
    text = str(spec).strip()
    if not isinstance(spec, bool) and text.isascii() and "_" not in text:
        if WHOLE.fullmatch(text):
            if len(text) < 100 and int(text) in CASES:
                return int(text)
        else:
            try:
                share = Decimal(text.removesuffix("%"))
            except InvalidOperation:
                share = Decimal("NaN")
            if share.is_finite() and share.adjusted() > -30:  # not 1e-999999999, whose fraction fills the memory
                fraction = Fraction(share) / (100 if text.endswith("%") else 1)
                if 0 < fraction <= 1:
                    return fraction
    raise ValueError(f"{text!r}; expected {BUDGET}")

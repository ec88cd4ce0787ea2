"""Stopping advice: did the last rounds improve the Dice by more than the variation between test cases?

The rule looks at the mean difference in Dice between two rounds over the test cases, with Student's 95 % interval of
the paired differences, for the last round and for the last two rounds together. The gain is within the variation
between test cases if no interval lies above 0. Stopping where the learning curve is flat is the gradient criterion of
Laws and Schütze, "Stopping criteria for active learning of named entity recognition", COLING 2008. This package
replaces their threshold by the interval. Student's interval is used because a bootstrap interval is too narrow with few
test cases.

The interval does not include the luck of a training, which shifts all test cases together. A round that gained nothing
can therefore look like a gain far more often than once in 20 trainings, and one experiment cannot tell how often. A
wide interval means that there are too few test cases to tell, not that nothing was gained. The advice changes no round.
Stopping because of it makes the Dice of the test cases optimistic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_assft.active.state import Round
from nnunet_assft.evaluation.dice import mean_of
from nnunet_assft.evaluation.intervals import student_interval

SOURCE = (
    "Laws and Schütze 2008 (stop where the learning curve is flat), with Student's 95 % interval of the paired "
    "difference per test case"
)
CAVEAT = (
    "Advice on annotation effort only: if it ends the annotation, the Dice of these test cases becomes optimistic; "
    "keep other cases for the final evidence."
)


@dataclass(frozen=True)
class Gain:
    """The mean over n_cases test cases of Dice in round `end` minus Dice in round `start`, with its 95 % interval."""

    start: int
    end: int
    n_cases: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Advice:
    """What the gains of the last rounds suggest.

    gains: the gain of the last round and, from the third round on, that of the last two together. within_variation:
    whether they are within the variation between test cases; None if no advice is possible. sentence: the advice in
    words. caveat: its limits, empty if no advice is possible.
    """

    gains: tuple[Gain, ...]
    within_variation: bool | None
    sentence: str
    caveat: str


def advice(rounds: Sequence[Round]) -> Advice:
    """Return the advice after these finished rounds, which must be in order.

    The Dice of a case is the mean over its structures. A case that lacks a Dice in one of two rounds is left out of
    their difference, and so is one that is a test case in one of them only. Raises ValueError for fewer than two
    rounds.
    """
    if len(rounds) < 2:
        raise ValueError(f"{len(rounds)} finished rounds; expected at least 2 to compute a gain.")
    gains = [_gain(rounds[-1 - back], rounds[-1]) for back in (1, 2) if back < len(rounds)]
    known = tuple(gain for gain in gains if gain is not None)
    if len(known) < len(gains):
        some_label = bool(_case_means(rounds[-1]))
        why = "it needs two test cases with a Dice in every round" if some_label else "no test case has a label"
        return Advice((), None, f"No advice is possible: {why}.", "")
    within_variation = all(gain.low <= 0 for gain in known)
    return Advice(known, within_variation, _sentence(known, within_variation), CAVEAT)


def _sentence(gains: Sequence[Gain], within_variation: bool) -> str:
    last, *before = gains
    text = f"From round {last.start} to {last.end} the mean Dice of {last.n_cases} test cases changed by {_shown(last)}"
    for gain in before:
        text += f", from round {gain.start} to {gain.end} that of {gain.n_cases} by {_shown(gain)}"
    if within_variation:
        return f"{text}: not more than the variation between test cases."
    return f"{text}: more than the variation between test cases. Another training could have given another change."


def _gain(start: Round, end: Round) -> Gain | None:
    """Return the gain, or None if fewer than two test cases have a Dice in both rounds, so there is no interval."""
    earlier, later = _case_means(start), _case_means(end)
    differences = [later[case] - earlier[case] for case in sorted(earlier.keys() & later.keys())]
    if len(differences) < 2:
        return None
    return Gain(start.round, end.round, len(differences), *student_interval(differences))


def _case_means(done: Round) -> dict[str, float]:
    means = {case: mean_of(dice.values()) for case, dice in done.dice["per_case"].items()}
    return {case: mean for case, mean in means.items() if mean is not None}


def _shown(gain: Gain) -> str:
    return f"{gain.mean:+.4f} (95 % interval {gain.low:+.4f} to {gain.high:+.4f})"

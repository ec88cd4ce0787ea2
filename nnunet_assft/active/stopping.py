"""Stopping advice: is what the last rounds gained more than noise?

The rule: the mean over test cases of the difference in Dice between two rounds, with Student's 95 % interval of paired
differences, for the last round and for the last two. The gain is within noise if no interval lies above 0. Stopping
where the learning curve is flat is the gradient criterion of Laws and Schütze, "Stopping criteria for active learning
of named entity recognition", COLING 2008; the interval in place of their threshold is a choice of this package. It is
Student's interval and not a bootstrap, because with few test cases the bootstrap's is too narrow.

The interval leaves out the noise of training: another seed gives another gain. A wide interval means that there are too
few test cases to tell, not that nothing was gained. The advice changes no round, and whoever stops because of it has
used the test cases.
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
    """Mean over n_cases test cases of Dice in round `end` minus Dice in round `start`, with its 95 % interval."""

    start: int
    end: int
    n_cases: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Advice:
    """What the last rounds say about stopping.

    gains: of the last round and, from the third round on, of the last two. within_noise: None if nothing can be said.
    sentence: all of it in words. caveat: what to keep in mind, empty if nothing can be said. source: of the rule.
    """

    gains: tuple[Gain, ...]
    within_noise: bool | None
    sentence: str
    caveat: str
    source: str = SOURCE


def advice(rounds: Sequence[Round]) -> Advice:
    """The advice after these finished rounds, which are in order.

    Dice per case is the mean over structures. A case without Dice in one of two rounds is left out of their difference.
    Raises ValueError for fewer than two rounds, and if their test cases differ.
    """
    if len(rounds) < 2:
        raise ValueError(f"{len(rounds)} finished rounds; a gain needs at least 2.")
    if len({frozenset(done.test) for done in rounds[-3:]}) > 1:
        raise ValueError("the test cases differ between rounds; expected the same in all of them.")
    gains = [_gain(rounds[-1 - back], rounds[-1]) for back in (1, 2) if back < len(rounds)]
    known = tuple(gain for gain in gains if gain is not None)
    if len(known) < len(gains):
        some_label = bool(_case_means(rounds[-1]))
        why = "it takes two test cases with a Dice in every round" if some_label else "no test case has a label"
        return Advice((), None, f"No advice is possible: {why}.", "")
    within_noise = all(gain.low <= 0 for gain in known)
    return Advice(known, within_noise, _sentence(known, within_noise), CAVEAT)


def _sentence(gains: Sequence[Gain], within_noise: bool) -> str:
    last, *before = gains
    text = f"From round {last.start} to {last.end} the mean Dice of {last.n_cases} test cases changed by {_shown(last)}"
    for gain in before:
        text += f", from round {gain.start} to {gain.end} that of {gain.n_cases} by {_shown(gain)}"
    if within_noise:
        return f"{text}: within noise; no gain from the last annotations can be told."
    return f"{text}: beyond noise; Dice still rises."


def _gain(start: Round, end: Round) -> Gain | None:
    """None if fewer than two test cases have a Dice in both rounds: one difference has no interval."""
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

"""Stopping advice, worked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nnunet_assft.active.state import Model, Round
from nnunet_assft.report.stopping import CAVEAT, Gain, advice


def rounds_with(*dice: list[float | None], test: tuple[str, ...] = ()) -> list[Round]:
    """One round per list of case Dice, with one structure."""
    rounds = []
    for r, values in enumerate(dice):
        cases = {f"t{i}": {"liver": value} for i, value in enumerate(values)}
        model = Model("semi", "", "")
        rounds.append(Round(r, (), (), (), (), (), {}, test or tuple(cases), model, {"per_case": cases}))
    return rounds


def test_a_gain_within_variation_worked_by_hand():
    found = advice(rounds_with([0.5, 0.5, 0.5], [0.6, 0.7, 0.8]))
    # differences 0.1, 0.2, 0.3: mean 0.2, SD 0.1, SE 0.1 / sqrt(3) = 0.0577350; t(0.975, 2) = 4.302653: 0.2484138
    (gain,) = found.gains
    assert (gain.start, gain.end, gain.n_cases) == (0, 1, 3)
    assert (gain.mean, gain.low, gain.high) == pytest.approx((0.2, -0.0484138, 0.4484138), abs=1e-6)
    assert found.within_variation is True
    assert found.sentence == (
        "From round 0 to 1 the mean Dice of 3 test cases changed by +0.2000 (95 % interval -0.0484 to +0.4484): "
        "not more than the variation between test cases."
    )
    assert found.caveat == CAVEAT


def test_a_gain_beyond_noise_worked_by_hand():
    found = advice(rounds_with([0.5, 0.4, 0.3, 0.2], [0.6, 0.6, 0.5, 0.5]))
    # differences 0.1, 0.2, 0.2, 0.3: mean 0.2, SD sqrt(0.02 / 3) = 0.0816497, SE 0.0408248
    # t(0.975, 3) = 3.182446: 0.1299230
    (gain,) = found.gains
    assert (gain.mean, gain.low, gain.high) == pytest.approx((0.2, 0.0700770, 0.3299230), abs=1e-6)
    assert found.within_variation is False
    assert found.sentence.endswith(
        "(95 % interval +0.0701 to +0.3299): more than the variation between test cases. "
        "Another training could have given another change."
    )


def test_two_small_steps_can_be_a_gain_that_one_is_not():
    """Step 1 to 2 is (-0.01, 0.03, 0.04): mean 0.02, SE 0.0153, times 4.30 includes 0. Both together: 0.1 +- 0.005."""
    found = advice(rounds_with([0.1] * 3, [0.21, 0.168, 0.162], [0.2, 0.198, 0.202]))
    last, two = found.gains
    assert (last.start, last.end, two.start, two.end) == (1, 2, 0, 2)
    assert last.low < 0 < last.mean
    assert (two.mean, two.low, two.high) == pytest.approx((0.1, 0.1 - 0.0049683, 0.1 + 0.0049683), abs=1e-6)  # SD 0.002
    assert found.within_variation is False
    assert ", from round 0 to 2 that of 3 by +0.1000 (95 % interval +0.0950 to +0.1050): more than" in found.sentence


def test_only_the_last_two_rounds_count():
    found = advice(rounds_with([0.1, 0.2, 0.3], [0.8, 0.9, 0.7], [0.8, 0.9, 0.7], [0.8, 0.9, 0.7]))
    assert found.gains == (Gain(2, 3, 3, 0.0, 0.0, 0.0), Gain(1, 3, 3, 0.0, 0.0, 0.0))
    assert found.within_variation is True


def test_a_certain_loss_is_no_gain():
    found = advice(rounds_with([0.8, 0.9, 0.7], [0.6, 0.69, 0.51]))
    assert found.gains[0].high < 0
    assert found.within_variation is True
    assert "changed by -0.2000" in found.sentence


def test_a_case_without_dice_is_left_out_and_means_are_over_structures():
    one, two = rounds_with([0.5, 0.5, None], [0.7, 0.9, 0.4])
    one.dice["per_case"]["t0"] = {"liver": 0.2, "spleen": 0.8, "kidney": None}
    found = advice([one, two])
    assert found.gains[0].n_cases == 2
    assert found.gains[0].mean == pytest.approx((0.7 - 0.5 + 0.9 - 0.5) / 2)


@pytest.mark.parametrize(
    ("dice", "why"),
    [
        ([[], []], "no test case has a label"),
        ([[None, None], [None, None]], "no test case has a label"),
        ([[0.5], [0.6]], "it needs two test cases with a Dice in every round"),
        ([[None, 0.5], [0.4, 0.6], [0.5, 0.7]], "it needs two test cases with a Dice in every round"),
    ],
)
def test_where_nothing_can_be_said(dice, why):
    found = advice(rounds_with(*dice))
    assert (found.gains, found.within_variation, found.caveat) == ((), None, "")
    assert found.sentence == f"No advice is possible: {why}."


def test_what_has_no_gain_is_refused():
    with pytest.raises(ValueError, match="1 finished rounds; expected at least 2"):
        advice(rounds_with([0.5, 0.6]))


def test_only_test_cases_of_both_rounds_count():
    """In the second round, b was withdrawn and d is new: the differences of a and c are 0.1 and 0.3."""
    one, two = rounds_with([0.5, 0.9, 0.5], [0.6, 0.7, 0.8])
    del two.dice["per_case"][two.test[1]]
    two.dice["per_case"]["d"] = {"ball": 0.9}
    (gain,) = advice([one, replace(two, test=(two.test[0], two.test[2], "d"))]).gains
    assert (gain.n_cases, gain.mean) == (2, pytest.approx(0.2))

"""Intervals of means, worked by hand and against scipy's t test."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nnunet_assft.evaluation.intervals import bootstrap_interval, crossed_mean, student_interval


def test_an_interval_worked_by_hand():
    # SD 0.1, SE 0.1 / sqrt(3) = 0.0577350; t(0.975, 2) = 4.302653: 0.2484138
    assert student_interval([0.1, 0.2, 0.3]) == pytest.approx((0.2, -0.0484138, 0.4484138), abs=1e-6)


def test_the_ends_of_what_it_can_say():
    assert student_interval([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5)
    assert student_interval([0.5]) == (0.5, pytest.approx(math.nan, nan_ok=True), pytest.approx(math.nan, nan_ok=True))
    assert all(math.isnan(value) for value in student_interval([]))


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 40))
def test_the_interval_is_scipys(seed: int, n: int):
    values = np.random.default_rng(seed).normal(0.02, 0.05, n)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert student_interval(values) == pytest.approx((values.mean(), low, high), abs=1e-9)


def test_the_bootstrap_worked_by_hand():
    # samples of (0, 1) have the means 0, 0.5 and 1 with probabilities 1/4, 1/2 and 1/4, so both ends are reached;
    # of nine zeros and a one, k / 10 ones have the cumulative probabilities 0.349, 0.736, 0.930, 0.987, ...
    assert bootstrap_interval([0, 1]) == (0.5, 0.0, 1.0)
    assert bootstrap_interval([0] * 9 + [1]) == pytest.approx((0.1, 0.0, 0.3))
    assert bootstrap_interval([0.25, 0.25, 0.25]) == (0.25, 0.25, 0.25)
    assert bootstrap_interval([0.5]) == (
        0.5,
        pytest.approx(math.nan, nan_ok=True),
        pytest.approx(math.nan, nan_ok=True),
    )
    assert all(math.isnan(value) for value in bootstrap_interval([]))


def test_the_bootstrap_is_scipys():
    values = np.random.default_rng(3).beta(5, 2, 30)
    found = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(4)).confidence_interval
    assert bootstrap_interval(values) == pytest.approx((values.mean(), *found), abs=0.006)
    assert bootstrap_interval(values) == bootstrap_interval(values)


# Seeds and cases ------------------------------------------------------------------------------------------------------

# seeds 2 and 6 on average, cases 2, 4 and 6; what is left: -1, 0, 1 and 1, 0, -1
TWO_BY_THREE = np.array([[-1.0, 2.0, 5.0], [5.0, 6.0, 7.0]])


def test_the_crossed_model_worked_by_hand():
    """MS_seeds = 3 (4 + 4) / 1 = 24, MS_cases = 2 (4 + 0 + 4) / 2 = 8, MS_rest = 4 / 2 = 2, over S C = 6."""
    found = crossed_mean(TWO_BY_THREE)
    assert found.mean == 4
    both = 24 + 8 - 2
    df = both**2 / (24**2 / 1 + 8**2 / 2 + 2**2 / 2)
    expected = [(math.sqrt(24 / 6), 1), (math.sqrt(8 / 6), 2), (math.sqrt(both / 6), df)]
    assert found.errors == tuple(pytest.approx(pair) for pair in expected)
    half = [error * stats.t.ppf(0.975, df) for error, df in expected]
    assert found.interval() == pytest.approx((4 - max(half), 4 + max(half)))
    assert found.p == pytest.approx(max(2 * stats.t.sf(4 / error, df) for error, df in expected))


def test_of_cases_that_are_alike_the_seeds_alone_count():
    """Then the interval and p are those of a t test on the means of the seeds."""
    seeds = np.array([0.1, 0.3, 0.2, 0.6])
    found = crossed_mean(np.tile(seeds[:, None], (1, 5)))
    assert found.interval() == pytest.approx(student_interval(seeds)[1:])
    assert found.p == pytest.approx(stats.ttest_1samp(seeds, 0).pvalue)


def test_an_interval_excludes_0_exactly_if_p_is_small():
    rng = np.random.default_rng(0)
    for shift in np.linspace(0, 3, 40):
        found = crossed_mean(rng.normal(shift, 1, (4, 1)) + rng.normal(0, 1, (4, 6)))
        low, high = found.interval()
        assert (low > 0 or high < 0) == (found.p < 0.05)


def test_folds_have_trainings_of_their_own():
    """Two folds that are copies of each other: the mean is the same, and its variance is half as large."""
    one, two = crossed_mean(TWO_BY_THREE), crossed_mean(np.hstack([TWO_BY_THREE, TWO_BY_THREE]), [0, 0, 0, 1, 1, 1])
    assert two.mean == one.mean
    for (error, df), (error_of_two, df_of_two) in zip(one.errors, two.errors, strict=True):
        assert error_of_two == pytest.approx(error / math.sqrt(2))
        assert df_of_two == pytest.approx(2 * df)
    assert crossed_mean(TWO_BY_THREE, [7, 7, 7]) == one


def test_a_mean_of_folds_is_that_of_all_cases():
    values = np.random.default_rng(1).normal(size=(3, 7))
    assert crossed_mean(values, [0, 1, 0, 1, 1, 1, 1]).mean == pytest.approx(values.mean())


@pytest.mark.parametrize(
    ("values", "folds", "mean"),
    [
        (np.ones((1, 5)), None, 1),
        (np.ones((5, 1)), None, 1),
        (np.ones((2, 3)), [0, 0, 1], 1),
        (np.ones((0, 0)), [], math.nan),
    ],
    ids=["one seed", "one case", "a fold of one case", "nothing"],
)
def test_an_error_that_is_not_known_is_no_error_of_0(values, folds, mean):
    found = crossed_mean(values, folds)
    assert found.mean == pytest.approx(mean, nan_ok=True)
    assert all(math.isnan(number) for number in (found.p, *found.interval(), found.power(1), found.smallest_shown(0.8)))


def test_power_is_the_share_of_intervals_that_show_a_difference():
    """Of 2000 means of 4 seeds with SD 1 and a true mean of 1.5; the cases are alike."""
    rng = np.random.default_rng(2)
    seeds = rng.normal(1.5, 1, (2000, 4))
    shown = np.mean([student_interval(of_run)[1] > 0 for of_run in seeds])
    model = crossed_mean(np.tile((1.5 + np.array([-1, -1, 1, 1]) * math.sqrt(3 / 4))[:, None], (1, 3)))  # an SD of 1
    assert model.power(1.5) == pytest.approx(shown, abs=0.03)
    assert model.power(model.smallest_shown(0.8)) == pytest.approx(0.8, abs=1e-4)
    assert model.power(0) == pytest.approx(0.025)  # by chance, and in this direction
    assert model.smallest_shown(0.8, 0.99) > model.smallest_shown(0.8) > model.smallest_shown(0.5)


def test_values_that_are_equal_have_no_error():
    assert crossed_mean(np.zeros((3, 4))).p == 1
    found = crossed_mean(np.full((3, 4), 0.5))
    assert (found.p, found.interval(), found.power(0.1), found.smallest_shown(0.8)) == (0, (0.5, 0.5), 1, 0)

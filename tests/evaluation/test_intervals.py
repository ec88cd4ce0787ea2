"""Student's interval of a mean, worked by hand and against scipy's t test."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from nnunet_assft.evaluation.intervals import student_interval


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
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    assert student_interval(values) == pytest.approx((values.mean(), low, high), abs=1e-9)

"""The confidence interval of a mean over cases."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


def student_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Return (mean, low, high): the mean of n values and its 95 % interval, mean +- t s / sqrt(n), where t has n - 1
    degrees of freedom and s is the SD (n - 1).

    low and high are NaN for fewer than two values, and the mean is NaN if there are no values.
    """
    values = np.asarray(values, float)
    if values.size < 2:
        return (float(values[0]) if values.size else math.nan), math.nan, math.nan
    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(values.size)
    half = float(stats.t.interval(CONFIDENCE, values.size - 1)[1]) * error  # 0 if all values are equal
    return mean, mean - half, mean + half

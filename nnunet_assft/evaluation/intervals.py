"""Confidence intervals of means: over test cases alone, and over seeds and test cases together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import special

CONFIDENCE = 0.95
SAMPLES = 10_000  # of a bootstrap


def student_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Return (mean, low, high): the mean of n values and its 95 % interval, mean +- t s / sqrt(n), where t has n - 1
    degrees of freedom and s is the SD (n - 1).

    low and high are NaN for fewer than two values, and the mean is NaN if there are no values.
    """
    values = np.asarray(values, float)
    if values.size < 2:
        return (float(values[0]) if values.size else math.nan), math.nan, math.nan
    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(values.size)
    half = _t(CONFIDENCE, values.size - 1) * error  # 0 if all values are equal
    return mean, mean - half, mean + half


def bootstrap_interval(values: Sequence[float] | np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Return (mean, low, high): the mean of n values, and the percentiles 2.5 and 97.5 of the means of 10,000 samples
    of n values drawn with replacement (Efron 1979).

    seed: of the samples. low and high are NaN for fewer than two values, and the mean is NaN if there are no values.
    """
    values = np.asarray(values, float)
    if values.size < 2:
        return (float(values[0]) if values.size else math.nan), math.nan, math.nan
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(values.size, size=values.size)].mean() for _ in range(SAMPLES)]
    low, high = np.percentile(means, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(values.mean()), float(low), float(high)


@dataclass(frozen=True)
class CrossedMean:
    """The mean of values that vary between seeds and between cases, and what is known about its error.

    errors: (standard error, degrees of freedom) of the mean over other seeds, over other cases, and over both. Empty if
    the error is not known. The p-value is the largest, and an interval the widest, that these three give.
    """

    mean: float
    errors: tuple[tuple[float, float], ...] = ()

    @property
    def p(self) -> float:
        """The two-sided p of the hypothesis that the true mean is 0; NaN if the error is not known."""
        return max((_two_sided_p(self.mean, error, df) for error, df in self.errors), default=math.nan)

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Return the limits of the confidence interval of the mean; (NaN, NaN) if the error is not known."""
        error, df = self._widest(confidence)
        half = error * _t(confidence, df)
        return self.mean - half, self.mean + half

    def power(self, true_mean: float, confidence: float = CONFIDENCE) -> float:
        """Return the probability that another experiment with this error finds an interval that lies on the same side
        of 0 as its true mean, `true_mean`. NaN if the error is not known."""
        error, df = self._widest(confidence)
        if error == 0:
            return 1.0
        return _exceeds(_t(confidence, df), df, abs(true_mean) / error)

    def smallest_shown(self, power: float, confidence: float = CONFIDENCE) -> float:
        """Return the smallest true mean that is shown with this power; NaN if the error is not known."""
        error, df = self._widest(confidence)
        return math.nan if math.isnan(error) else error * _noncentrality(max(1, math.floor(df)), power, confidence)

    def _widest(self, confidence: float) -> tuple[float, float]:
        """Return the standard error and the degrees of freedom of the widest interval, NaN if there is none."""
        return max(
            self.errors, key=lambda known: (known[0] * _t(confidence, known[1]), known[0]), default=(math.nan, math.nan)
        )


def crossed_mean(values: np.ndarray, folds: Sequence[int] | np.ndarray | None = None) -> CrossedMean:
    """Return the mean of `values`, (seeds, cases) without NaN, in the model of crossed random effects.

    The value of seed s and case c is mean + a_s + b_c + e_sc with independent random effects of the seed, of the case
    and of both. With the mean squares MS of a two-way analysis of variance without replication (Searle, Casella and
    McCulloch, "Variance Components", 1992), the variance of the mean over S seeds and C cases is (MS_seeds + MS_cases -
    MS_rest) / (S C), with the degrees of freedom of Satterthwaite 1946. This is an uncertain estimate with few seeds,
    so the one-way variances MS_seeds / (S C) and MS_cases / (S C) with S - 1 and C - 1 degrees of freedom are kept
    beside it: what is shown has to be shown over seeds, over cases and over both.

    folds: fold of each case, if the cases are test cases of several folds. Every fold has its own trainings, so the
    effects of its seeds are its own. The mean is that of all cases, and the variances of the folds are added.

    The error is not known with a single seed, or with a single case in a fold: the luck of a training shifts all cases
    together, and one training does not tell how much.
    """
    values = np.asarray(values, float)
    if values.size == 0:
        return CrossedMean(math.nan)
    mean, (n_seeds, n_cases) = float(values.mean()), values.shape
    of_fold = np.zeros(n_cases, int) if folds is None else np.asarray(folds)
    parts = [values[:, of_fold == fold] for fold in np.unique(of_fold)]
    if n_seeds < 2 or min(part.shape[1] for part in parts) < 2:
        return CrossedMean(mean)
    kinds: list[list[tuple[float, float]]] = [[], [], []]
    for part in parts:
        share = (part.shape[1] / n_cases) ** 2 / part.size
        for kind, (square, df) in zip(kinds, _mean_squares(part), strict=True):
            kind.append((share * square, df))
    return CrossedMean(mean, tuple(_sum_of_variances(kind) for kind in kinds))


def _mean_squares(values: np.ndarray) -> tuple[tuple[float, float], ...]:
    """Return (mean square, degrees of freedom) over seeds, over cases, and over both."""
    n_seeds, n_cases = values.shape
    by_seed, by_case, mean = values.mean(axis=1), values.mean(axis=0), values.mean()
    rest = values - by_seed[:, None] - by_case[None, :] + mean
    df_seeds, df_cases = n_seeds - 1, n_cases - 1
    seeds = n_cases * float(((by_seed - mean) ** 2).sum()) / df_seeds
    cases = n_seeds * float(((by_case - mean) ** 2).sum()) / df_cases
    error = float((rest**2).sum()) / (df_seeds * df_cases)
    both = seeds + cases - error
    if both <= max(seeds, cases):  # one of the two components is estimated as 0, and the other one is kept already
        return (seeds, df_seeds), (cases, df_cases), max((seeds, df_seeds), (cases, df_cases))
    squares = seeds**2 / df_seeds + cases**2 / df_cases + error**2 / (df_seeds * df_cases)
    return (seeds, df_seeds), (cases, df_cases), (both, both**2 / squares)


def _sum_of_variances(variances: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return (square root of the sum, degrees of freedom by Satterthwaite) of (variance, degrees of freedom)."""
    total = sum(variance for variance, _ in variances)
    squares = sum(variance**2 / df for variance, df in variances)
    return math.sqrt(total), total**2 / squares if squares else min(df for _, df in variances)


def _t(confidence: float, df: float) -> float:
    return float(special.stdtrit(df, (1 + confidence) / 2))


@cache
def _noncentrality(df: int, power: float, confidence: float) -> float:
    """Return the noncentrality of Student's t that exceeds the limit of this confidence with this probability."""
    from scipy import optimize  # slow to import, and most commands compare nothing

    limit = _t(confidence, df)

    def missing_power(noncentrality: float) -> float:
        return _exceeds(limit, df, noncentrality) - power

    high = limit
    while missing_power(high) < 0:
        high *= 2
    return float(optimize.brentq(missing_power, 0, high, xtol=1e-6))


def _exceeds(limit: float, df: float, noncentrality: float) -> float:
    """Return the probability that noncentral t exceeds a limit."""
    from scipy import stats  # slow to import, and most commands compare nothing

    return float(stats.nct.sf(limit, df, noncentrality))


def _two_sided_p(mean: float, error: float, df: float) -> float:
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * special.stdtr(df, -abs(mean) / error))

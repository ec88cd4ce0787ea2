"""The statistics of a comparison: pure functions on the rows of results.csv and pseudo_label_quality.csv.

The score of a test case is the mean over the structures that nnU-Net's evaluator counts. Two arms are compared on the
seeds and cases that both have, by `paired_difference`: one model for the interval, the p-value and the verdict, with
seeds and cases crossed, because the luck of a training shifts all cases of a run together. The area under the budget
curve (AUBC) is the one primary outcome; its p-values are Holm-corrected over all arms, and it alone gets a verdict. The
differences of single rounds are secondary: they have intervals, but no verdict. The paper's Mann-Whitney U test is
reported as what the paper does. It treats the scores of all cases and seeds as independent, which they are not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import integrate, stats

from nnunet_assft.evaluation.intervals import crossed_mean
from nnunet_assft.runtime.text import named

ALPHA = 0.05
POWER = 0.8  # with which `smallest` is shown
RELEVANT = 0.02  # a difference in Dice that would matter, for which the power is stated
AUBC = "AUBC"  # in the column `round`
BETTER, WORSE, NOT_SHOWN = "better", "worse", "no difference shown"
SELECTION_KEYS = (
    "arm",
    "seed",
    "fold",
    "round",
    "selection",
)  # there is one test per combination of those that are columns
COMPARISON_COLUMNS = [
    "reference",
    "arm",
    "round",
    "n_seeds",
    "n_cases",
    "left_out",
    "difference",
    "ci_low",
    "ci_high",
    "p",
    "p_holm",
    "verdict",
    "power",
    "smallest",
    "p_mann_whitney",
    "wins",
    "ties",
    "losses",
]
DIGITS = 12  # differences are rounded to 1e-12, so that rounding errors of means become ties


def case_scores(results: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """Return the score of each case, which is the mean of `metric` over its structures.

    results: columns arm, seed, round, n_labelled, case, structure and `metric`. The returned columns are arm, seed,
    round, n_labelled, case, score and missed. NaN (absent in reference and prediction) is excluded from the mean, and
    so is an infinite HD95 (absent in one of them), which `missed` counts. score is NaN if no structure remains.
    """
    finite = results.assign(score=results[metric].where(np.isfinite(results[metric])), missed=np.isinf(results[metric]))
    keys = ["arm", "seed", "round", "n_labelled", "case"]
    return finite.groupby(keys, as_index=False, dropna=False).agg(score=("score", "mean"), missed=("missed", "sum"))


# Tests ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairedDifference:
    """The mean difference of two arms on the same seeds and cases.

    low, high: its 95 % interval. p: two-sided, of the hypothesis that there is no difference. power: the probability
    that such a comparison shows a true difference of the size in question. smallest: the smallest true difference that
    it shows with a probability of 80 %. verdict: `better`, `worse` or `no difference shown`. With a single seed, or a
    single case, the numbers but the mean are NaN, and no difference is shown.
    """

    mean: float
    low: float
    high: float
    p: float
    power: float
    smallest: float
    verdict: str


def paired_difference(
    differences: np.ndarray,
    folds: Sequence[int] | np.ndarray | None = None,
    *,
    relevant: float | None = None,
    n_comparisons: int = 1,
) -> PairedDifference:
    """Return the mean of `differences`, (seeds, cases) without NaN, with seeds and cases as crossed random effects.

    The model is that of `crossed_mean`. The interval excludes 0 exactly if p < 0.05 and the verdict is not `no
    difference shown`; none of them is corrected. folds: fold of each case. relevant: the true difference that `power`
    refers to, by default the observed mean; that power says no more than p. n_comparisons: power and `smallest` are
    those after a Bonferroni correction for so many comparisons, which Holm's correction never falls below.
    """
    found = crossed_mean(np.round(np.asarray(differences, float), DIGITS), folds)
    confidence = 1 - ALPHA / n_comparisons
    true_difference = found.mean if relevant is None else relevant
    return PairedDifference(
        found.mean,
        *found.interval(1 - ALPHA),
        found.p,
        found.power(true_difference, confidence),
        found.smallest_shown(POWER, confidence),
        verdict_of(found.mean, found.p),
    )


def verdict_of(difference: float, p: float) -> str:
    """Return the verdict on a difference with this p, which is NaN if the error of the difference is not known."""
    if p < ALPHA:
        return BETTER if difference > 0 else WORSE
    return NOT_SHOWN


def mann_whitney(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return (U of a, two-sided p) of the Mann-Whitney U test, which the paper's tables use.

    U is the number of pairs in which the value of a is larger; ties count one half. p is exact if a group has at most 8
    values and there are no ties; otherwise it is the normal approximation, corrected for ties and continuity. Returns
    (NaN, NaN) if a group is empty.
    """
    if not len(a) or not len(b):
        return math.nan, math.nan
    u, p = stats.mannwhitneyu(a, b, alternative="two-sided")
    return float(u), float(p)


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Apply Holm's step-down correction: the k-th smallest of m p values times m - k + 1, made monotone, at most 1.

    NaN remains NaN and does not count towards m.
    """
    p = np.asarray(p, float)
    adjusted = np.full(p.shape, math.nan)
    order = [i for i in np.argsort(p, kind="stable") if not math.isnan(p[i])]
    if order:
        steps = np.arange(len(order), 0, -1) * p[order]
        adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


# Area under the budget curve ------------------------------------------------------------------------------------------


def aubc(budgets: Sequence[float] | np.ndarray, scores: Sequence[float] | np.ndarray) -> float:
    """Return the area under the curve of scores over budgets (trapezoidal rule), divided by the range of budgets.

    For a single budget, this is its score. Raises ValueError unless budgets and scores have the same length and the
    budgets are in ascending order.
    """
    x, y = np.asarray(budgets, float), np.asarray(scores, float)
    if x.shape != y.shape or x.ndim != 1 or x.size == 0 or not (np.diff(x) > 0).all():
        raise ValueError(
            f"The budgets are {x.tolist()} and the scores {y.tolist()}; expected ascending budgets and one score for "
            "each of them."
        )
    return float(y[0]) if x.size == 1 else float(integrate.trapezoid(y, x) / (x[-1] - x[0]))


def aubc_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the AUBC of every arm, seed and case. scores: `case_scores` without the bounds.

    The columns are arm, seed, round (None), n_labelled (None), case and score. The curve is that of the scores against
    the number of labelled cases over rounds 1 to R, which are the budgets of the paper's tables (round 0 is the same
    for all strategies). The AUBC is NaN if a round is missing or has no score.
    """
    scores = scores[scores["round"] > 0]
    rounds = sorted(scores["round"].unique())
    rows = []
    for (arm, seed, case), curve in scores.sort_values("round").groupby(["arm", "seed", "case"]):
        whole = list(curve["round"]) == rounds and curve["score"].notna().all()
        rows.append((arm, seed, None, None, case, aubc(curve["n_labelled"], curve["score"]) if whole else math.nan))
    return pd.DataFrame(rows, columns=["arm", "seed", "round", "n_labelled", "case", "score"])


def aubc_intervals(results: pd.DataFrame, arms: Sequence[str], metric: str = "dice") -> pd.DataFrame:
    """Return the mean AUBC of these arms with its 95 % interval over seeds and cases, see `crossed_mean`.

    The columns are arm, aubc, ci_low, ci_high, n_seeds, n_cases and left_out (seeds and cases without an AUBC, in
    words).
    """
    scores = aubc_scores(case_scores(results[results["arm"].isin(arms)], metric))
    folds = folds_of(results)
    seeds, cases = sorted(scores["seed"].unique()), sorted(scores["case"].unique())
    rows = []
    for arm in arms:
        matrix, left_out = complete(arm_matrix(scores, arm).reindex(index=seeds, columns=cases))
        found = crossed_mean(matrix.to_numpy(), folds[matrix.columns])
        low, high = found.interval()
        rows.append(
            {
                "arm": arm,
                "aubc": found.mean,
                "ci_low": low,
                "ci_high": high,
                "n_seeds": len(matrix.index),
                "n_cases": len(matrix.columns),
                "left_out": left_out,
            }
        )
    return pd.DataFrame(rows)


def folds_of(results: pd.DataFrame) -> pd.Series:
    """Return the test fold of each case: all 0 unless the results have a column `fold`."""
    folds = results["fold"] if "fold" in results else pd.Series(0, results.index)
    return folds.groupby(results["case"]).first()


def arm_matrix(scores: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Return the scores of an arm with a row per seed and a column per case."""
    return scores[scores["arm"] == arm].pivot(index="seed", columns="case", values="score")


def complete(matrix: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Leave out seeds without any score, and then cases that lack a score. Returns the rest and, in words, what was
    left out."""
    seeds = matrix.dropna(axis=0, how="all")
    both = seeds.dropna(axis=1, how="any")
    lost_cases = matrix.columns.difference(both.columns) if len(seeds.index) else []
    lost = [
        names for names in (named("seed", matrix.index.difference(seeds.index)), named("case", lost_cases)) if names
    ]
    return both if both.size else matrix.iloc[:0, :0], "; ".join(lost)


# Selection ------------------------------------------------------------------------------------------------------------


def selection_test(quality: pd.DataFrame) -> pd.DataFrame:
    """Test the Dice of selected against unselected cases with the two-sided Mann-Whitney U test, as in Table 8.

    quality: the rows of one or more rounds as `pseudo_label_quality` returns them, with or without the columns `arm`
    and `seed`. Returns one row per round and selection (and arm and seed) with the columns `n_selected`,
    `n_unselected` (cases with a Dice), `median_...`, `mean_...`, `u` (of the selected cases), `p`, and `reason`, which
    says why there is no p. With few cases, p cannot be small: for 2 against 2 cases it is at least 1/3.
    """
    keys = [name for name in SELECTION_KEYS if name in quality]
    rows = []
    for key, group in quality.groupby(keys, sort=False):
        known = group.dropna(subset="dice")
        chosen = known["selected"].astype(bool)
        groups = {"selected": known["dice"][chosen], "unselected": known["dice"][~chosen]}
        empty = [which for which, dice in groups.items() if dice.empty]
        u, p = mann_whitney(*groups.values())
        row = dict(zip(keys, key, strict=True)) | {"u": u, "p": p}
        row["reason"] = f"no {' and no '.join(empty)} case" if empty else ""
        for which, dice in groups.items():
            row |= {f"n_{which}": len(dice), f"median_{which}": dice.median(), f"mean_{which}": dice.mean()}
        rows.append(row)
    numbers = [f"{name}_{which}" for name in ("n", "median", "mean") for which in ("selected", "unselected")]
    return pd.DataFrame(rows, columns=[*keys, *numbers, "u", "p", "reason"])


# Comparisons ----------------------------------------------------------------------------------------------------------


def compare_arms(
    results: pd.DataFrame, arms: Sequence[str], reference: str = "assft", metric: str = "dice"
) -> pd.DataFrame:
    """Compare the reference with these arms over the whole curve (round "AUBC"), and in every round from 1 on.

    arms: in the order of the rows, without the bounds; the reference may be among them. Returns COMPARISON_COLUMNS with
    one row per arm and round. left_out: seeds and cases that are not compared, in words. difference, ci_low, ci_high,
    p: `paired_difference` of the reference minus the arm. p_holm, verdict, power (for a true difference of RELEVANT)
    and smallest are those of the AUBC alone, with Holm's correction over its arms. wins, ties, losses: number of cases
    in which the reference, averaged over seeds, is better, equal or worse.
    """
    compared = results[results["arm"].isin([*arms, reference])]
    scores, folds = case_scores(compared, metric), folds_of(compared)
    arms = [arm for arm in arms if arm != reference]
    in_rounds: dict[Any, pd.DataFrame] = {
        int(r): scores[scores["round"] == r] for r in sorted(scores["round"].unique()) if r > 0
    }
    if in_rounds:
        in_rounds[AUBC] = aubc_scores(scores)
    rows = [
        {"reference": reference, "arm": arm, "round": r} | _compare(of_round, folds, (reference, arm), len(arms))
        for r, of_round in in_rounds.items()
        for arm in arms
    ]
    table = pd.DataFrame(rows, columns=COMPARISON_COLUMNS)
    primary = table["round"] == AUBC
    table.loc[primary, "p_holm"] = holm(table.loc[primary, "p"])
    table["p_holm"] = table["p_holm"].astype(float)
    table["verdict"] = [
        verdict_of(row.difference, row.p_holm) if row.round == AUBC else "" for row in table.itertuples()
    ]
    table.loc[~primary, ["power", "smallest"]] = math.nan
    return table


def _compare(scores: pd.DataFrame, folds: pd.Series, pair: tuple[str, str], n_comparisons: int) -> dict[str, Any]:
    """Return the columns of one row of `compare_arms` that do not depend on other rows. pair: reference and arm."""
    a, b = (arm_matrix(scores, arm) for arm in pair)
    a, b = a.align(b)  # union of seeds and cases; NaN where one of the two has none
    differences, left_out = complete(a - b)
    found = paired_difference(
        differences.to_numpy(), folds[differences.columns], relevant=RELEVANT, n_comparisons=n_comparisons
    )
    per_case = np.round(differences.mean(axis=0).to_numpy(), DIGITS)
    pooled = [m.loc[differences.index, differences.columns].to_numpy().ravel() for m in (a, b)]
    return {
        "n_seeds": len(differences.index),
        "n_cases": len(differences.columns),
        "left_out": left_out,
        "difference": found.mean,
        "ci_low": found.low,
        "ci_high": found.high,
        "p": found.p,
        "power": found.power,
        "smallest": found.smallest,
        "p_mann_whitney": mann_whitney(*pooled)[1],
        "wins": int((per_case > 0).sum()),
        "ties": int((per_case == 0).sum()),
        "losses": int((per_case < 0).sum()),
    }


def p_text(p: float) -> str:
    """Return p with two significant digits: 0.21, 0.0034, 4.0e-06; "-" for NaN."""
    if math.isnan(p):
        return "-"
    return f"{p:.1e}" if p < 1e-4 else f"{p:.2g}"

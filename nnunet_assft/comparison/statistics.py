"""The statistics of a comparison: pure functions on the rows of results.csv and pseudo_label_quality.csv.

The unit of every test is a test case: its score is the mean over the structures that nnU-Net's evaluator counts. Two
arms are compared on the seeds and cases that both have. The primary test is paired: Wilcoxon's signed-rank test on the
differences per case, averaged over seeds, Holm-corrected over the arms compared in one round. The paper's Mann-Whitney
U test is reported as well. It treats the scores of all cases and seeds as independent, which they are not (with three
seeds, every case counts three times), and it ignores the pairing of the cases. Neither test generalises to other seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import integrate, stats

from nnunet_assft.runtime.text import named

ALPHA = 0.05
N_BOOTSTRAP = 2000
SELECTION_KEYS = ("arm", "seed", "round", "selection")  # there is one test per combination of those that are columns
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
    "p_wilcoxon",
    "p_holm",
    "p_mann_whitney",
    "p_mann_whitney_holm",
    "smallest_p",
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


def paired_wilcoxon(differences: Sequence[float] | np.ndarray) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test of the hypothesis that the differences are symmetric about
    0.

    Zeros are dropped (Wilcoxon's own rule), and equal sizes get their mean rank. p is exact for up to 50 differences
    without ties and for up to 13 with ties; otherwise it is the normal approximation with tie correction. It is 1 if
    every difference is zero, and NaN if there are no differences.
    """
    d = np.round(np.asarray(differences, float), DIGITS)
    if d.size == 0:
        return math.nan
    nonzero = d[d != 0]
    return float(stats.wilcoxon(nonzero).pvalue) if nonzero.size else 1.0


def smallest_wilcoxon_p(n: int) -> float:
    """Return the smallest possible two-sided p of n paired cases, 2 / 2^n: all differences have the same sign."""
    return min(1.0, 2.0 ** (1 - n)) if n else math.nan


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


def bootstrap_interval(scores: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the mean of `scores`, (seeds, cases) without NaN, by bootstrap over seeds and cases.

    Cases are crossed with seeds (every seed is tested on the same cases), so a draw takes the same cases for all of its
    seeds. The limits are the percentiles 2.5 and 97.5 of 2000 draws from a fixed random state. The interval is too
    narrow with few seeds, and does not include the variation between seeds if there is only one. (NaN, NaN) if there
    are no scores.
    """
    if scores.size == 0:
        return math.nan, math.nan
    rng = np.random.default_rng(0)
    n_seeds, n_cases = scores.shape
    seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), N_BOOTSTRAP) / n_seeds
    cases = rng.multinomial(n_cases, np.full(n_cases, 1 / n_cases), N_BOOTSTRAP) / n_cases
    low, high = np.percentile(((seeds @ scores) * cases).sum(axis=1), [2.5, 97.5])
    return float(low), float(high)


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
    """Return the mean AUBC of these arms with its bootstrap interval.

    The columns are arm, aubc, ci_low, ci_high, n_seeds, n_cases and left_out (seeds and cases without an AUBC, in
    words).
    """
    scores = aubc_scores(case_scores(results[results["arm"].isin(arms)], metric))
    seeds, cases = sorted(scores["seed"].unique()), sorted(scores["case"].unique())
    rows = []
    for arm in arms:
        matrix, left_out = _complete(_matrix(scores, arm).reindex(index=seeds, columns=cases))
        low, high = bootstrap_interval(matrix.to_numpy())
        rows.append(
            {
                "arm": arm,
                "aubc": float(matrix.to_numpy().mean()) if matrix.size else math.nan,
                "ci_low": low,
                "ci_high": high,
                "n_seeds": len(matrix.index),
                "n_cases": len(matrix.columns),
                "left_out": left_out,
            }
        )
    return pd.DataFrame(rows)


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
    """Compare the reference with these arms in every round from 1 on, and over the whole curve (round "AUBC").

    arms: in the order of the rows, without the bounds; the reference may be among them. Returns COMPARISON_COLUMNS with
    one row per arm and round. left_out: seeds and cases that are not compared, in words. difference: mean of reference
    minus arm. ci_low, ci_high: its `bootstrap_interval`. smallest_p: the smallest p_holm that is possible with so few
    cases. wins, ties, losses: number of cases in which the reference, averaged over seeds, is better, equal or worse.
    Holm's correction is over the arms of one round.
    """
    scores = case_scores(results[results["arm"].isin([*arms, reference])], metric)
    arms = [arm for arm in arms if arm != reference]
    in_rounds: dict[Any, pd.DataFrame] = {
        int(r): scores[scores["round"] == r] for r in sorted(scores["round"].unique()) if r > 0
    }
    if in_rounds:
        in_rounds["AUBC"] = aubc_scores(scores)
    rows = []
    for r, of_round in in_rounds.items():
        family = pd.DataFrame(
            [{"reference": reference, "arm": arm, "round": r} | _compare(of_round, reference, arm) for arm in arms]
        )
        if arms:
            family["p_holm"], family["p_mann_whitney_holm"] = holm(family["p_wilcoxon"]), holm(family["p_mann_whitney"])
            m = int(family["p_wilcoxon"].notna().sum())
            family["smallest_p"] = [min(1.0, m * smallest_wilcoxon_p(n)) for n in family["n_cases"]]
        rows.append(family)
    table = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()
    return table.reindex(columns=COMPARISON_COLUMNS)


def _compare(scores: pd.DataFrame, reference: str, arm: str) -> dict[str, Any]:
    a, b = _matrix(scores, reference), _matrix(scores, arm)
    a, b = a.align(b)  # union of seeds and cases; NaN where one of the two has none
    differences, left_out = _complete(a - b)
    per_case = np.round(differences.mean(axis=0).to_numpy(), DIGITS)
    low, high = bootstrap_interval(differences.to_numpy())
    pooled = [m.loc[differences.index, differences.columns].to_numpy().ravel() for m in (a, b)]
    return {
        "n_seeds": len(differences.index),
        "n_cases": len(differences.columns),
        "left_out": left_out,
        "difference": float(per_case.mean()) if per_case.size else math.nan,
        "ci_low": low,
        "ci_high": high,
        "p_wilcoxon": paired_wilcoxon(per_case),
        "p_mann_whitney": mann_whitney(*pooled)[1],
        "wins": int((per_case > 0).sum()),
        "ties": int((per_case == 0).sum()),
        "losses": int((per_case < 0).sum()),
    }


def _matrix(scores: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Return the scores of an arm with a row per seed and a column per case."""
    return scores[scores["arm"] == arm].pivot(index="seed", columns="case", values="score")


def _complete(matrix: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Leave out seeds without any score, and then cases that lack a score. Returns the rest and, in words, what was
    left out."""
    seeds = matrix.dropna(axis=0, how="all")
    both = seeds.dropna(axis=1, how="any")
    lost_cases = matrix.columns.difference(both.columns) if len(seeds.index) else []
    lost = [
        names for names in (named("seed", matrix.index.difference(seeds.index)), named("case", lost_cases)) if names
    ]
    return both if both.size else matrix.iloc[:0, :0], "; ".join(lost)


def p_text(p: float) -> str:
    """Return p with two significant digits: 0.21, 0.0034, 4.0e-06; "-" for NaN."""
    if math.isnan(p):
        return "-"
    return f"{p:.1e}" if p < 1e-4 else f"{p:.2g}"

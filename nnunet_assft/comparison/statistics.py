"""The statistics of a comparison: pure functions on the rows of results.csv and pseudo_label_quality.csv.

The unit of every test is a test case: its score is the mean over the structures that nnU-Net's evaluator counts. Two
arms are compared on the seeds and cases they share. The primary test is paired: Wilcoxon's signed-rank test on the
differences per case, averaged over seeds, Holm-corrected over the arms compared in one round. The paper's Mann-Whitney
U test is given beside it: it treats the scores of all cases and seeds as independent, which they are not (the same case
under three seeds counts three times), and does not use that the cases are the same. Neither test speaks of other seeds:
few seeds remain few.
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
SELECTION_KEYS = ("arm", "seed", "round", "selection")  # as far as they are there, they tell the tests apart
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
DIGITS = 12  # differences below 1e-12 are rounding errors of means, hence ties


def case_scores(results: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """Score of each case: the mean of `metric` over its structures. One row per arm, seed, round and case.

    results: arm, seed, round, n_labelled, case, structure, and the column `metric`. Columns: arm, seed, round,
    n_labelled, case, score, missed. NaN (absent in reference and prediction) is excluded from the mean, and so is an
    infinite HD95 (absent in one of them), but `missed` counts these. score is NaN where nothing is left.
    """
    finite = results.assign(score=results[metric].where(np.isfinite(results[metric])), missed=np.isinf(results[metric]))
    keys = ["arm", "seed", "round", "n_labelled", "case"]
    return finite.groupby(keys, as_index=False, dropna=False).agg(score=("score", "mean"), missed=("missed", "sum"))


# Tests ----------------------------------------------------------------------------------------------------------------


def paired_wilcoxon(differences: Sequence[float] | np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test that the differences are symmetric about 0.

    Zeros are dropped (Wilcoxon's own rule), equal sizes get their mean rank. Exact up to 50 differences without equal
    sizes and up to 13 with; the normal approximation with tie correction elsewhere. 1 if every difference is zero, NaN
    if there is none.
    """
    d = np.round(np.asarray(differences, float), DIGITS)
    if d.size == 0:
        return math.nan
    nonzero = d[d != 0]
    return float(stats.wilcoxon(nonzero).pvalue) if nonzero.size else 1.0


def smallest_wilcoxon_p(n: int) -> float:
    """The smallest two-sided p that n paired cases can give: all n differences of one sign, 2 / 2^n."""
    return min(1.0, 2.0 ** (1 - n)) if n else math.nan


def mann_whitney(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """(U of a, two-sided p) of the Mann-Whitney U test, as the paper's tables have it. (NaN, NaN) if a group is empty.

    U is the number of pairs in which the value of a is larger; equal ones count one half. Exact if a group has at most
    8 values and none are equal; otherwise the normal approximation, corrected for ties and continuity.
    """
    if not len(a) or not len(b):
        return math.nan, math.nan
    u, p = stats.mannwhitneyu(a, b, alternative="two-sided")
    return float(u), float(p)


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's step-down correction: the k-th smallest of m values times m - k + 1, made monotone, at most 1.

    NaN stays NaN and is not counted.
    """
    p = np.asarray(p, float)
    adjusted = np.full(p.shape, math.nan)
    order = [i for i in np.argsort(p, kind="stable") if not math.isnan(p[i])]
    if order:
        steps = np.arange(len(order), 0, -1) * p[order]
        adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def bootstrap_interval(scores: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of `scores` (seeds, cases) without NaN, by bootstrap over seeds and cases at once.

    Cases are crossed with seeds (every seed is tested on the same cases), so a draw takes the same cases for all its
    seeds. Percentiles 2.5 and 97.5 of 2000 draws from a fixed random state. With few seeds the interval is too narrow;
    with one it says nothing about seeds. (NaN, NaN) without a score.
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
    """Area under the curve of scores over budgets (trapezoid), divided by the span of budgets: a mean score.

    With one budget it is the score of that budget. Raises ValueError if budgets do not ascend.
    """
    x, y = np.asarray(budgets, float), np.asarray(scores, float)
    if x.shape != y.shape or x.ndim != 1 or x.size == 0 or not (np.diff(x) > 0).all():
        raise ValueError(f"budgets {x.tolist()} and scores {y.tolist()}; expected as many of each, budgets ascending.")
    return float(y[0]) if x.size == 1 else float(integrate.trapezoid(y, x) / (x[-1] - x[0]))


def aubc_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """AUBC of every case, from `case_scores` without bounds: arm, seed, round (None), n_labelled (None), case, score.

    Over rounds 1 to R, the budgets of the paper's tables (round 0 is the same for all strategies), against the number
    of labelled cases. NaN where a round is missing or has no score.
    """
    scores = scores[scores["round"] > 0]
    rounds = sorted(scores["round"].unique())
    rows = []
    for (arm, seed, case), curve in scores.sort_values("round").groupby(["arm", "seed", "case"]):
        whole = list(curve["round"]) == rounds and curve["score"].notna().all()
        rows.append((arm, seed, None, None, case, aubc(curve["n_labelled"], curve["score"]) if whole else math.nan))
    return pd.DataFrame(rows, columns=["arm", "seed", "round", "n_labelled", "case", "score"])


def aubc_intervals(results: pd.DataFrame, arms: Sequence[str], metric: str = "dice") -> pd.DataFrame:
    """AUBC of these arms, with its bootstrap interval: arm, aubc, ci_low, ci_high, n_seeds, n_cases, left_out."""
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
    """Dice of selected against unselected cases, and the two-sided Mann-Whitney U test, as in the paper's Table 8.

    quality: of one or more rounds, as `pseudo_label_quality` gives it, with or without columns `arm` and `seed`. One
    row per round and selection (and arm and seed): `n_selected`, `n_unselected` (cases with a Dice), their `median_`
    and `mean_`, `u` (of the selected cases), `p`, and `reason`: why there is no p, otherwise empty. Few cases cannot
    give a small p: 2 against 2 give at least 1/3.
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
    """The reference against these arms: a row per arm and round from 1 on, and one per arm for round "AUBC".

    arms: in the order of the rows, without the bounds; the reference may be among them.
    COMPARISON_COLUMNS; left_out: seeds and cases that are not compared, in words; difference: mean of reference - arm;
    ci_low, ci_high: `bootstrap_interval` of it; smallest_p: the smallest p_holm that so few cases can reach; wins,
    ties, losses: cases in which the reference, averaged over seeds, is better, equal, worse. Holm's families are the
    arms of one round.
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
    """Scores of an arm: rows are seeds, columns are cases."""
    return scores[scores["arm"] == arm].pivot(index="seed", columns="case", values="score")


def _complete(matrix: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Without seeds that have no score at all, then without cases that lack one; and, in words, what was left out."""
    seeds = matrix.dropna(axis=0, how="all")
    both = seeds.dropna(axis=1, how="any")
    lost_cases = matrix.columns.difference(both.columns) if len(seeds.index) else []
    lost = [
        names for names in (named("seed", matrix.index.difference(seeds.index)), named("case", lost_cases)) if names
    ]
    return both if both.size else matrix.iloc[:0, :0], "; ".join(lost)


def p_text(p: float) -> str:
    """Two significant digits: 0.21, 0.0034, 4.0e-06."""
    if math.isnan(p):
        return "-"
    return f"{p:.1e}" if p < 1e-4 else f"{p:.2g}"

"""How good the pseudo-labels were that a strategy trained on, and whether wrong ones went with a smaller gain.

This is for benchmarks only, where the labels of all cases are known. The gain of pseudo-labels in a round is the test
Dice of an arm minus that of its counterpart: the arm with the same query and a second stage without pseudo-labels.
"""

from __future__ import annotations

import math

import pandas as pd
from scipy import stats

from nnunet_assft.active.options import PSEUDO, QUERY, SUPERVISED
from nnunet_assft.comparison.arms import Comparison, StrategyArm
from nnunet_assft.comparison.statistics import arm_matrix, case_scores, complete, folds_of
from nnunet_assft.evaluation.intervals import crossed_mean

ALL_ROUNDS = "all"
COLUMNS = ["arm", "counterpart", "round", "n", "dice", "wrong", "gain", "ci_low", "ci_high", "rho", "n_rho"]


def pseudo_label_effect(comparison: Comparison, results: pd.DataFrame, quality: pd.DataFrame) -> pd.DataFrame:
    """Return COLUMNS, with one row per arm with pseudo-labels and round, and one for all rounds of the arm.

    results, quality: rows of results.csv and pseudo_label_quality.csv. n, dice, wrong: number of the pseudo-labels that
    were trained on, their mean Dice, and the mean share of their voxels that are wrong. counterpart: "" if it is no
    arm. gain, ci_low, ci_high: see the module, with the interval over seeds and cases. rho: Spearman's rank correlation
    between `wrong` and the gain, over the seeds, folds and rounds, of which there are n_rho; each is taken relative to
    the mean of its round, because both change from round to round. It describes these runs and tests nothing.
    """
    rows: list[dict[str, object]] = []
    for arm in comparison.strategies:
        if not isinstance(arm, StrategyArm) or arm.id not in set(quality["arm"]):
            continue
        used = quality[(quality["arm"] == arm.id) & quality["selected"]]
        used = used[used["selection"] == arm.options(comparison).selection]
        other = _counterpart(comparison, arm, set(results["arm"]))
        per_run = []
        for r, of_round in used.groupby("round"):
            gains = _gains(results, arm.id, other, int(str(r)))
            of_arm = {"arm": arm.id, "counterpart": other, "round": int(str(r))}
            rows.append({**of_arm, **_means(of_round), **_interval(gains, results)})
            per_run.append(_per_run(of_round, gains, results))
        correlation = _correlation(pd.concat(per_run)) if per_run else {}
        rows.append({"arm": arm.id, "counterpart": other, "round": ALL_ROUNDS, **_means(used), **correlation})
    return pd.DataFrame(rows, columns=COLUMNS)


def _counterpart(comparison: Comparison, arm: StrategyArm, there: set[str]) -> str:
    """Return the id of the arm with the same query and a supervised second stage; "" if there is none."""
    if arm.row is None or arm.second_stage(comparison) != PSEUDO:
        return ""
    for other in comparison.strategies:
        if isinstance(other, StrategyArm) and other.row is not None and other.id in there:
            same_query = other.row.function is arm.row.function and other.encoder == arm.encoder
            same_query &= arm.options(comparison).of(QUERY) == other.options(comparison).of(QUERY)
            if same_query and other.second_stage(comparison) == SUPERVISED:
                return other.id
    return ""


def _means(used: pd.DataFrame) -> dict[str, float]:
    return {"n": len(used), "dice": used["dice"].mean(), "wrong": used["wrong"].mean()}


def _gains(results: pd.DataFrame, arm: str, counterpart: str, r: int) -> pd.DataFrame:
    """Return the differences of a round, with a row per seed and a column per case."""
    scores = case_scores(results[results["arm"].isin([arm, counterpart]) & (results["round"] == r)])
    return arm_matrix(scores, arm) - arm_matrix(scores, counterpart)


def _interval(gains: pd.DataFrame, results: pd.DataFrame) -> dict[str, float]:
    matrix, _ = complete(gains)
    found = crossed_mean(matrix.to_numpy(), folds_of(results)[matrix.columns])
    low, high = found.interval()
    return {"gain": found.mean, "ci_low": low, "ci_high": high}


def _per_run(used: pd.DataFrame, gains: pd.DataFrame, results: pd.DataFrame) -> pd.DataFrame:
    """Return `wrong` and `gain` of every seed and fold of a round, relative to their means over the round."""
    fold_of_case = folds_of(results)
    gain = gains.stack().rename("gain").reset_index()
    gain["fold"] = gain["case"].map(fold_of_case)
    keys = ["seed", "fold"]
    wrong = used.assign(fold=used.get("fold", 0)).groupby(keys)["wrong"].mean()
    table = pd.concat([wrong, gain.groupby(keys)["gain"].mean()], axis=1, join="inner").dropna()
    return table - table.mean()


def _correlation(per_run: pd.DataFrame) -> dict[str, float]:
    varies = len(per_run) > 2 and (per_run.nunique() > 1).all()
    rho = float(stats.spearmanr(per_run["wrong"], per_run["gain"]).statistic) if varies else math.nan
    return {"rho": rho, "n_rho": len(per_run)}

"""What a comparison concludes, in plain words."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from nnunet_assft.active.options import Options
from nnunet_assft.comparison import conclusions as c
from nnunet_assft.comparison.arms import arm_of
from nnunet_assft.comparison.spec import Shared
from tests.comparison.conftest import compare_all, comparison_of
from tests.comparison.test_statistics import row_of

# Missing runs ---------------------------------------------------------------------------------------------------------


def test_missing_runs_are_named(results):
    comparison = comparison_of("lower_bound", "assft", "random", "upper_bound", seeds=(0, 1), rounds=2)
    assert c.missing_runs(results, comparison, ["a", "b", "c"]) == []
    gone = (
        ((results["arm"] == "random") & (results["seed"] == 1) & (results["round"] > 0))
        | ((results["arm"] == "assft") & (results["seed"] == 0) & (results["round"] == 2) & (results["case"] == "b"))
        | ((results["arm"] == "upper_bound") & (results["seed"] == 0))
    )
    comparison = replace(comparison, arms=(*comparison.arms, arm_of("cup"), arm_of("nnunet@cup")))
    assert c.missing_runs(results[~gone], comparison, ["a", "b", "c"]) == [
        "ASSFT, seed 0, round 2: 1 of 3 test cases missing (case b).",
        "RAND, seed 1: rounds 1, 2 missing.",
        "Upper bound, seed 0: round 2 missing.",
        "CUP, seed 0: rounds 0, 1, 2 missing.",
        "CUP, seed 1: rounds 0, 1, 2 missing.",
        "nnU-Net (cases of CUP), seed 0: rounds 1, 2 missing.",
        "nnU-Net (cases of CUP), seed 1: rounds 1, 2 missing.",
    ]


# Plain words ----------------------------------------------------------------------------------------------------------


def compared(results_of, gains: list[float], seeds=(0, 1, 2)) -> dict:
    """The row of ASSFT against random in round 1: ASSFT gains this much per case."""
    runs = {}
    for seed in seeds:
        runs["random", seed, 1] = {f"case_{i:02d}": 0.5 + i / 100 for i in range(len(gains))}
        runs["assft", seed, 1] = {f"case_{i:02d}": 0.5 + i / 100 + gain for i, gain in enumerate(gains)}
    return row_of(compare_all(results_of(runs)), "random", 1)


def test_a_difference_that_was_not_shown(results_of):
    gains = [0.04, -0.03, 0.02, -0.05, 0.01, 0.06, -0.025, 0.015]
    row = compared(results_of, gains)
    p = stats.wilcoxon(gains).pvalue
    assert row["p_holm"] == pytest.approx(p)
    assert c.conclusion(row) == (
        f"With 3 seeds and 8 test cases, ASSFT and RAND do not differ significantly in round 1, p = {p:.2g} "
        "(Wilcoxon, Holm); "
        f"difference +0.50 points of Dice, 95 % interval {100 * row['ci_low']:+.2f} to {100 * row['ci_high']:+.2f}. "
        "This does not show that they are equal."
    )


def test_a_difference_that_was_shown(results_of):
    gains = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08]
    better, worse = compared(results_of, gains), compared(results_of, [-gain for gain in gains])
    assert c.conclusion(better).startswith(
        "With 3 seeds and 8 test cases, ASSFT is better than RAND in round 1, p = 0.0078 (Wilcoxon, Holm); difference "
        "+4.50 points"
    )
    assert "ASSFT is worse than RAND in round 1, p = 0.0078" in c.conclusion(worse)
    assert "difference -4.50 points" in c.conclusion(worse)
    assert "seed" not in c.conclusion(better).removeprefix("With 3 seeds")
    assert "With a single seed, the difference may be due to chance in training." in c.conclusion(
        compared(results_of, gains, seeds=(4,))
    )


def test_an_interval_over_seeds_that_holds_0_is_said(results_of):
    """All cases gain a little on average, but one of three seeds is far below."""
    runs = {}
    for seed, gain in ((0, 0.09), (1, 0.08), (2, -0.14)):
        runs["random", seed, 1] = {f"{i}": 0.5 for i in range(8)}
        runs["assft", seed, 1] = {f"{i}": 0.5 + gain + i / 1000 for i in range(8)}
    row = row_of(compare_all(results_of(runs)), "random", 1)
    assert row["p_holm"] < 0.05
    assert row["ci_low"] < 0 < row["ci_high"]
    assert "ASSFT is better than RAND" in c.conclusion(row)
    assert "includes 0, so the result may differ with other seeds" in c.conclusion(row)


def test_too_few_cases_to_show_anything(results_of):
    row = compared(results_of, [0.1, 0.2, 0.3])
    assert (
        "no difference between ASSFT and RAND in round 1 can be shown: the smallest possible p is 0.25;"
        in c.conclusion(row)
    )


def test_what_was_left_out_is_in_the_sentence(results):
    gone = (results["arm"] == "random") & (results["seed"] == 1)
    sentence = c.conclusion(row_of(compare_all(results[~gone]), "random", "AUBC"))
    assert sentence.startswith("With 1 seed and 3 test cases")
    assert "over all budgets (AUBC)" in sentence
    assert sentence.endswith("Left out: seed 1.")


def test_what_cannot_be_compared_is_said(results):
    gone = ((results["arm"] == "random") & (results["seed"] == 0)) | (
        (results["arm"] == "assft") & (results["seed"] == 1)
    )
    assert "cannot be compared in round 1" in c.conclusion(row_of(compare_all(results[~gone]), "random", 1))
    without_reference = compare_all(results[results["arm"] != "assft"])
    assert "ASSFT is not comparable with RAND, nnU-Net" in c.overall_conclusion(without_reference)
    only_round_0 = compare_all(results[results["round"] == 0])
    assert c.overall_conclusion(only_round_0).startswith("Nothing can be concluded")


def test_overall_conclusion(results_of):
    gains = {"random": 0.05, "entropy": -0.05, "cup": 0.0}  # of ASSFT over each
    runs = {}
    for seed in (0, 1, 2):
        cases = {f"{i:02d}": 0.5 + i / 100 for i in range(10)}
        runs["assft", seed, 1] = cases
        for arm, gain in gains.items():
            runs[arm, seed, 1] = {
                case: dice - gain - i / 1000 * (arm != "cup") * np.sign(gain)
                for i, (case, dice) in enumerate(cases.items())
            }
    runs["nnunet", 7, 1] = cases
    found = c.overall_conclusion(compare_all(results_of(runs)))
    assert (
        "ASSFT is better than RAND; worse than ENPY; not significantly different from CUP; not comparable with nnU-Net."
        in found
    )
    assert "3 seeds and 10 test cases at most" in found
    assert "not to other seeds" in found
    few = c.overall_conclusion(compare_all(results_of({key: dict(list(c.items())[:3]) for key, c in runs.items()})))
    assert "p cannot fall below 0.75" in few  # 3 arms times 2 / 2^3


# The whole ------------------------------------------------------------------------------------------------------------


def test_findings_of_a_comparison(results):
    comparison = comparison_of(
        "assft",
        "random",
        "nnunet",
        "lower_bound",
        "upper_bound",
        seeds=(0, 1),
        rounds=2,
        domain="amos_ct",
        options=Options(tau_c=1.0),
    )
    shared = Shared(2, tuple(f"case_{i}" for i in range(40)), ("a", "b", "c"), "imagesTs", {}, "cpu")
    runs = results[["arm", "seed", "round"]].drop_duplicates().assign(status="done", device="cpu")
    costs = ("annotated_cases", "annotation_minutes", "training_minutes", "query_minutes", "total_minutes")
    runs = runs.assign(**dict.fromkeys(costs, 1.0))
    found = c.draw_conclusions(comparison, shared, results, runs, None)
    assert [table.name for table in found.tables][-2:] == ["aubc", "cost"]
    assert "ASSFT, paper" in set(found.tables[0].frame["Method"])  # of the domain
    assert found.missing == ()
    assert len(found.one_by_one) == len(found.statistics) == 2 * 3
    same, encoder, differs, changed = found.compared
    assert (
        "a pool of 40 cases, 3 test cases (imagesTs), the same first case for each seed, 2 rounds of 2 queried" in same
    )
    assert "none. E(0) is a random network" in encoder
    assert differs.startswith("What differs: ASSFT trains a second stage")
    assert differs.endswith("; the query.")
    assert changed == "Options that differ from the method: tau_c=1.0."
    # 2 rounds, 2 epochs of 2 iterations
    assert (
        "The network of ASSFT was trained for 8 more optimisation steps than those of the other strategies"
        in found.conclusion
    )
    alone = replace(comparison, arms=(arm_of("assft"), arm_of("nnunet")))
    assert "ASSFT's network" not in c.draw_conclusions(alone, shared, results, runs, None).conclusion

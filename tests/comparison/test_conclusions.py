"""What a comparison concludes, in plain words."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

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


def compared(results_of, gains: np.ndarray) -> dict:
    """The row of ASSFT against random over all budgets: ASSFT gains this much, (seeds, cases)."""
    runs = {}
    for seed, of_seed in enumerate(gains):
        runs["random", seed, 1] = {f"case_{i:02d}": 0.5 + i / 100 for i in range(len(of_seed))}
        runs["assft", seed, 1] = {f"case_{i:02d}": 0.5 + i / 100 + gain for i, gain in enumerate(of_seed)}
    return row_of(compare_all(results_of(runs)), "random", "AUBC")


GAIN = np.array([[0.03, 0.05, 0.04, 0.06], [0.04, 0.05, 0.05, 0.05], [0.04, 0.06, 0.05, 0.06]])


def test_a_difference_that_was_not_shown(results_of):
    row = compared(results_of, GAIN - 0.05)
    low, high, smallest = (100 * row[name] for name in ("ci_low", "ci_high", "smallest"))
    assert c.conclusion(row) == (
        "With 3 seeds and 4 test cases, no difference between ASSFT and RAND is shown over all budgets (AUBC): -0.17 "
        f"points of Dice (95 % interval {low:+.2f} to {high:+.2f}), p = {row['p']:.2g}, "
        f"{row['p']:.2g} after Holm's correction. A true difference of {smallest:.1f} points would have been shown "
        f"with a probability of 80%, and one of 2.0 points with {row['power']:.0%}."
    )


def test_a_difference_that_was_shown(results_of):
    better, worse = compared(results_of, GAIN), compared(results_of, -GAIN)
    assert c.conclusion(better).startswith(
        "With 3 seeds and 4 test cases, ASSFT is better than RAND over all budgets (AUBC): +4.83 points of Dice (95 "
    )
    assert "ASSFT is worse than RAND over all budgets (AUBC): -4.83 points" in c.conclusion(worse)


def test_one_seed_has_no_verdict(results_of):
    assert c.conclusion(compared(results_of, GAIN[:1])) == (
        "With 1 seed and 4 test cases, the difference between ASSFT and RAND over all budgets (AUBC) is +4.50 points "
        "of Dice. One seed or one test case does not tell how much of it is the luck of the training or of the case, "
        "so there is no verdict."
    )


def test_a_single_round_has_no_verdict(results):
    sentence = c.conclusion(row_of(compare_all(results), "nnunet", 1))
    assert "the difference between ASSFT and nnU-Net in round 1 is +18.00 points" in sentence
    assert sentence.endswith("(secondary, without a verdict).")


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
    apart = results[(results["arm"] == "assft") == (results["seed"] == 0)]  # they share no seed
    for there in (results[results["arm"] != "assft"], apart):
        assert c.overall_conclusion(compare_all(there)) == (
            "Nothing can be concluded: ASSFT cannot be compared with RAND, nnU-Net, as they share no finished seed and "
            "test case."
        )
    only_round_0 = compare_all(results[results["round"] == 0])
    assert c.overall_conclusion(only_round_0).startswith("Nothing can be concluded")


def test_overall_conclusion(results_of):
    gains = {"random": GAIN, "entropy": -GAIN, "cup": GAIN - 0.05}  # of ASSFT over each
    runs = {}
    for seed in (0, 1, 2):
        cases = {f"{i}": 0.5 + i / 100 for i in range(4)}
        runs["assft", seed, 1] = cases
        for arm, gain in gains.items():
            runs[arm, seed, 1] = {case: dice - gain[seed, int(case)] for case, dice in cases.items()}
    runs["nnunet", 7, 1] = cases
    statistics = compare_all(results_of(runs))
    smallest = 100 * statistics["smallest"].max()
    found = c.overall_conclusion(statistics)
    assert found.startswith(
        "Over all budgets (AUBC), ASSFT is better than RAND; is worse than ENPY; shows no difference from CUP; cannot "
        "be compared with nnU-Net."
    )
    assert "3 seeds and 4 test cases at most" in found
    assert "Holm's correction over 3 arms" in found  # nnU-Net has no p
    assert f"one of {smallest:.1f} points with a probability of 80%. What is not shown may still be there." in found
    assert found.endswith("At least 5 seeds are recommended.")
    one = c.overall_conclusion(compare_all(results_of({key: v for key, v in runs.items() if key[1] in (0, 7)})))
    assert one == (
        "Over all budgets (AUBC), ASSFT cannot be tested against RAND, ENPY, CUP; cannot be compared with nnU-Net. "
        "This is based on 1 seed and 4 test cases at most (the sentences below name what each comparison leaves out). "
        f"{c.UNKNOWN_ERROR}"
    )
    runs["nnunet", 0, 1] = cases
    some = c.overall_conclusion(compare_all(results_of(runs)))  # nnU-Net shares one seed, the others three
    assert "; shows no difference from CUP; cannot be tested against nnU-Net. This is based on 3 seeds" in some
    assert "Holm's correction over 3 arms" in some


# The whole ------------------------------------------------------------------------------------------------------------


def test_a_curve_that_is_not_finished_is_not_called_whole(results):
    statistics = compare_all(results)
    assert c._budgets(statistics, 2) == "all budgets"
    so_far = c._budgets(statistics, 5)
    assert c.overall_conclusion(statistics, so_far).startswith("Over rounds 1 to 2 of 5 (AUBC), ASSFT ")
    (row,) = statistics[(statistics["round"] == "AUBC") & (statistics["arm"] == "nnunet")].to_dict("records")
    assert " is better than nnU-Net over rounds 1 to 2 of 5 (AUBC): " in c.conclusion(row, so_far)
    assert c._budgets(compare_all(results[results["round"] < 2]), 5) == "round 1 of 5"


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
        match="epochs",
    )
    shared = Shared(2, tuple(f"case_{i}" for i in range(40)), ("a", "b", "c"), "imagesTs", {})
    runs = results[["arm", "seed", "round"]].drop_duplicates().assign(status="done", device="cpu")
    costs = ("annotated_cases", "annotation_minutes", "training_minutes", "query_minutes", "total_minutes")
    runs = runs.assign(**dict.fromkeys(costs, 1.0), from_scratch=None)
    found = c.draw_conclusions(comparison, shared, results, runs, None)
    assert [table.name for table in found.tables][-2:] == ["aubc", "cost"]
    assert "ASSFT, paper" in set(found.tables[0].frame["Method"])  # of the domain
    assert found.missing == ()
    assert len(found.one_by_one) == len(found.statistics) == 2 * 3
    matched, same, encoder, differs, changed = found.compared
    assert matched == (
        "Matched (--match epochs): every stage of training has the same number of epochs, and ASSFT has two stages per "
        "round."
    )
    assert all(table.caption.endswith(matched.removeprefix("Matched (--match epochs): ")) for table in found.tables)
    assert (
        "a pool of 40 cases, 3 test cases (imagesTs), the same first case for each seed, 2 rounds of 2 queried" in same
    )
    assert "none. E(0) is a random network" in encoder
    trained = replace(comparison, settings=replace(comparison.settings, encoder="/a/mae.pt"))
    assert c.draw_conclusions(trained, shared, results, runs, None).compared[2] == "Pre-trained encoder: mae.pt"
    assert differs.startswith("What differs: ASSFT is trained for 8 more optimisation steps")
    assert differs.endswith("; the query.")
    assert changed == "Options that differ from the method: tau_c=1.0."
    # 2 rounds, 2 epochs of 2 iterations
    more = "The network of ASSFT was trained for 8 more optimisation steps than"
    assert f"{more} that of RAND, so a difference may come from the length of training." in found.conclusion
    alone = replace(comparison, arms=(arm_of("assft"), arm_of("nnunet")))
    for without in (alone, replace(comparison, match="steps")):
        assert "may come from" not in c.draw_conclusions(without, shared, results, runs, None).conclusion
    shorter = replace(comparison, match="steps", arms=tuple(map(arm_of, ("assft", "random", "random+none"))))
    found = c.draw_conclusions(shorter, shared, results, runs, None)
    fewer = "had the same number of optimisation steps, but for that of 'RAND, no second stage'."
    assert all(text.endswith(fewer) for text in (found.compared[0], *(table.caption for table in found.tables)))
    assert f"{more} that of 'RAND, no second stage', so a" in found.conclusion
    for_both = replace(comparison, arms=tuple(map(arm_of, ("assft", "random", "entropy"))))
    found = c.draw_conclusions(for_both, shared, results, runs, None)
    assert f"{more} those of the other strategies, so a" in found.conclusion


@pytest.mark.parametrize(
    ("arms", "differs"),
    [
        (["assft", "assft+confidence=foreground_mean"], "how pseudo-labels are selected, made and used"),
        (["assft", "assft+pd_weights=reversed"], "the query"),
        (["assft", "random+pseudo"], "the query"),
        (["assft", "dkd_asd"], "whether the second stage uses pseudo-labels"),
        (["random", "random+tau_c=1"], "nothing"),  # which has no pseudo-labels
        (["assft", "random"], "the query; whether the second stage uses pseudo-labels"),
    ],
)
def test_what_differs_between_arms(arms: list[str], differs: str) -> None:
    comparison = comparison_of(*arms, seeds=(0,), match="steps")
    rows = pd.DataFrame({"arm": arms, "seed": 0, "round": 1, "device": "cpu"})
    shared = Shared(2, ("a", "b"), ("c",), "imagesTs", {})
    assert c._what_is_compared(comparison, shared, rows)[-1] == f"What differs: {differs}."


def test_a_title_with_a_comma_is_in_quotes(results: pd.DataFrame) -> None:
    curves = compare_all(results.replace("random", "random+none"))
    assert "'RAND, no second stage'" in c.overall_conclusion(curves)
    texts = [c.conclusion(row) for row in curves.to_dict("records")]
    assert sum("'RAND, no second stage'" in text for text in texts) == 3  # of both rounds and of the AUBC


def test_no_true_difference_is_larger_than_100_points(results: pd.DataFrame) -> None:
    """Two seeds and their large luck would show a difference of 145 points, which Dice cannot have."""
    curves = compare_all(results).assign(smallest=lambda table: table["smallest"].where(table["arm"] != "nnunet", 1.45))
    assert " to more than 100 points with a probability of 80%." in c.overall_conclusion(curves)
    row = {**row_of(curves, "nnunet", "AUBC"), "verdict": "no difference shown"}
    assert ". No true difference would have been shown with a probability of 80%, and one of 2.0" in c.conclusion(row)


def test_the_same_size_is_not_said_twice(results: pd.DataFrame) -> None:
    curves = compare_all(results).assign(smallest=0.0203, power=0.79)
    text = c.overall_conclusion(curves)
    assert " shows a true difference of 2.0 points with a probability of 79%. What is not shown may still" in text
    row = {**row_of(curves, "nnunet", "AUBC"), "verdict": "no difference shown"}
    assert c.conclusion(row).endswith(
        " A true difference of 2.0 points would have been shown with a probability of 79%."
    )

"""Statistics of a comparison: worked by hand, and against scipy."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nnunet_assft.comparison import statistics as s
from nnunet_assft.comparison.arms import competing
from nnunet_assft.evaluation.intervals import crossed_mean, student_interval
from tests.comparison.conftest import compare_all

# Tests ----------------------------------------------------------------------------------------------------------------


# gains of a reference: 3 seeds (rows) and 4 cases
GAINS = np.array([[2.0, 4.0, 3.0, 3.0], [4.0, 5.0, 4.0, 3.0], [3.0, 6.0, 2.0, 3.0]])


def test_a_paired_difference_is_that_of_the_crossed_model():
    model, found = crossed_mean(GAINS), s.paired_difference(GAINS)
    assert (found.mean, found.low, found.high, found.p) == (model.mean, *model.interval(), model.p)
    assert (found.power, found.smallest) == (model.power(3.5), model.smallest_shown(0.8))
    assert found.verdict == "better"
    assert s.paired_difference(GAINS, relevant=1).power == model.power(1)
    corrected = s.paired_difference(GAINS, relevant=1, n_comparisons=10)
    assert corrected.power == model.power(1, 1 - 0.05 / 10)
    assert (corrected.low, corrected.p, corrected.verdict) == (found.low, found.p, "better")


def test_the_sign_of_a_paired_difference_turns():
    there, back = s.paired_difference(GAINS), s.paired_difference(-GAINS)
    assert (back.mean, back.low, back.high) == (-there.mean, -there.high, -there.low)
    assert (back.p, back.power, back.verdict) == (there.p, there.power, "worse")


def test_one_seed_never_has_a_verdict():
    found = s.paired_difference(np.full((1, 50), 30.0) + np.arange(50))
    assert found.verdict == "no difference shown"
    assert math.isnan(found.p)


@pytest.mark.parametrize("n_seeds", [3, 5, 10])
@pytest.mark.parametrize("luck", [0, 1, 2])
def test_under_the_null_a_verdict_is_rare(n_seeds, luck):
    """In points: luck of a run 0, 1 or 2 (SD), 12 cases of SD 8, and a rest of SD 4; one rival, and eleven."""
    rng = np.random.default_rng([n_seeds, luck])
    verdicts = np.zeros((300, 11), bool)
    first = np.zeros(300, bool)
    for i in range(300):
        cases = rng.normal(0, 8, 12)
        arms = cases + rng.normal(0, luck, (12, n_seeds, 1)) + rng.normal(0, 4, (12, n_seeds, 12))
        p = [crossed_mean(arms[0] - rival).p for rival in arms[1:]]
        verdicts[i] = s.holm(p) < 0.05
        first[i] = p[0] < 0.05
    assert first.mean() <= 0.07
    assert verdicts.any(axis=1).mean() <= 0.07


@pytest.mark.parametrize(("n_seeds", "power"), [(3, 0.32), (5, 0.77), (10, 0.99)])
def test_a_true_difference_is_shown(n_seeds, power):
    """4 points, in differences with a luck of SD 2 and a rest of SD 4 in each of the two arms."""
    rng = np.random.default_rng(n_seeds)
    found = [
        s.paired_difference(4 + rng.normal(0, 2, (n_seeds, 1)) + rng.normal(0, 4 * math.sqrt(2), (n_seeds, 12)))
        for _ in range(300)
    ]
    assert np.mean([difference.verdict == "better" for difference in found]) == pytest.approx(power, abs=0.06)


def test_mann_whitney_worked_by_hand():
    assert s.mann_whitney([1, 2, 3], [4, 5, 6]) == (0, pytest.approx(2 / 20))  # 6 over 3 ways, two of them as extreme
    assert s.mann_whitney([4, 5, 6], [1, 2, 3]) == (9, pytest.approx(2 / 20))
    assert all(math.isnan(number) for number in s.mann_whitney([], [1.0]))
    # 0.5 against 0.5 (1/2) and 0.3 (1), 0.7 against both (2): U = 3.5 of 4. Mean 2, variance (4/12)(5 - 6/12) = 1.5
    z = (3.5 - 2 - 0.5) / math.sqrt(1.5)
    assert s.mann_whitney([0.5, 0.7], [0.5, 0.3]) == (3.5, pytest.approx(math.erfc(z / math.sqrt(2))))
    a, b = np.random.default_rng(2).normal(size=(2, 30))
    assert s.mann_whitney(a, b) == tuple(stats.mannwhitneyu(a, b, alternative="two-sided"))


def test_holm_worked_by_hand():
    # ascending 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04
    # the last one may not be below the one before
    assert s.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert s.holm([0.9, 0.6]) == pytest.approx([1.0, 1.0])
    assert s.holm([0.02]) == pytest.approx([0.02])
    assert s.holm([]).size == 0


def test_holm_does_not_count_what_was_not_tested():
    found = s.holm([math.nan, 0.01, math.nan, 0.03])
    assert np.isnan(found[[0, 2]]).all()
    assert found[[1, 3]] == pytest.approx([0.02, 0.03])


# Scores and AUBC ------------------------------------------------------------------------------------------------------


def test_case_scores_are_means_over_structures():
    rows = [
        ("assft", 0, 1, 3, "a", "liver", 0.8, 2.0),
        ("assft", 0, 1, 3, "a", "spleen", 0.6, 4.0),
        ("assft", 0, 1, 3, "a", "kidney", math.nan, math.nan),  # nowhere: no say
        ("assft", 0, 1, 3, "b", "liver", 0.0, math.inf),  # missed: Dice 0, no distance
        ("assft", 0, 1, 3, "b", "spleen", 0.4, 6.0),
        ("assft", 0, 1, 3, "c", "liver", math.nan, math.nan),
    ]
    results = pd.DataFrame(rows, columns=["arm", "seed", "round", "n_labelled", "case", "structure", "dice", "hd95_mm"])
    dice, distance = (s.case_scores(results, metric).set_index("case") for metric in ("dice", "hd95_mm"))
    assert dice["score"].to_dict() == pytest.approx({"a": 0.7, "b": 0.2, "c": math.nan}, nan_ok=True)
    assert distance["score"].to_dict() == pytest.approx({"a": 3.0, "b": 6.0, "c": math.nan}, nan_ok=True)
    assert distance["missed"].to_dict() == {"a": 0, "b": 1, "c": 0}
    assert dice["missed"].sum() == 0
    assert (dice["n_labelled"] == 3).all()


def test_aubc_worked_by_hand():
    assert s.aubc([1, 2, 4], [0.2, 0.4, 0.6]) == pytest.approx((0.3 * 1 + 0.5 * 2) / 3)
    assert s.aubc([5, 10, 20], [0.7, 0.7, 0.7]) == pytest.approx(0.7)  # a mean Dice, whatever the span
    assert s.aubc([5], [0.7]) == 0.7
    for budgets, scores in (([2, 1], [0.1, 0.2]), ([1, 1], [0.1, 0.2]), ([1, 2], [0.1]), ([], [])):
        with pytest.raises(ValueError, match="ascending"):
            s.aubc(budgets, scores)


def test_aubc_of_cases_is_over_the_rounds_of_the_tables(results):
    found = s.aubc_scores(s.case_scores(results[results["arm"].isin(competing(results["arm"]))])).set_index(
        ["arm", "seed", "case"]
    )["score"]
    assert found["assft", 0, "a"] == pytest.approx((0.62 + 0.72) / 2)  # not round 0
    assert set(found.index.get_level_values("arm")) == {"assft", "random", "nnunet"}  # no bounds
    gap = results[~((results["arm"] == "random") & (results["seed"] == 1) & (results["round"] == 2))]
    found = s.aubc_scores(s.case_scores(gap)).set_index(["arm", "seed", "case"])["score"]
    assert found["random", 1].isna().all()
    assert found["random", 0].notna().all()


def test_aubc_intervals(results):
    found = s.aubc_intervals(results, competing(results["arm"])).set_index("arm")
    nnunet = found.loc["nnunet"]
    per_case = np.array([0.55, 0.60, 0.65])  # of both seeds
    assert nnunet["aubc"] == pytest.approx(0.60)
    assert (nnunet["n_seeds"], nnunet["n_cases"], nnunet["left_out"]) == (2, 3, "")
    of_cases = student_interval(per_case)[1:]  # the seeds are equal
    assert (nnunet["ci_low"], nnunet["ci_high"]) == pytest.approx(of_cases)
    gap = results[~((results["arm"] == "random") & (results["seed"] == 1) & (results["round"] == 2))]
    random = s.aubc_intervals(gap, competing(gap["arm"])).set_index("arm").loc["random"]
    assert (random["n_seeds"], random["n_cases"], random["left_out"]) == (1, 3, "seed 1")
    assert math.isnan(random["ci_low"])


# Selected against unselected ------------------------------------------------------------------------------------------


def quality(selected: list[float], unselected: list[float], **columns: object) -> pd.DataFrame:
    """Rows of `pseudo_label_quality` of one round and selection: cases that were selected, and those that were not."""
    cases = [("s", True, d) for d in selected] + [("u", False, d) for d in unselected]
    columns = {"round": 1, "selection": "reliable", **columns}
    return pd.DataFrame(
        [{**columns, "case": f"{name}{i}", "selected": chosen, "dice": d} for i, (name, chosen, d) in enumerate(cases)]
    )


def test_the_test_of_selected_cases_worked_by_hand():
    """0.9 beats 3 of {0.4, 0.6, 0.7}, 0.65 beats 2: U = 5 of 6. Of 10 orders, U is 6, 5, 0 and 1 once each."""
    (row,) = s.selection_test(quality([0.9, 0.65], [0.4, 0.6, 0.7])).to_dict("records")
    assert (row["round"], row["selection"], row["n_selected"], row["n_unselected"]) == (1, "reliable", 2, 3)
    assert (row["u"], row["p"], row["reason"]) == (5.0, pytest.approx(0.4), "")
    assert (row["median_selected"], row["median_unselected"]) == (pytest.approx(0.775), 0.6)
    assert (row["mean_selected"], row["mean_unselected"]) == (pytest.approx(0.775), pytest.approx(1.7 / 3))


def test_small_groups_cannot_be_significant():
    assert s.selection_test(quality([0.9, 0.8], [0.1, 0.2]))["p"].item() == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("selected", "unselected", "reason"),
    [
        ([0.5, 0.6], [], "no unselected case"),
        ([], [0.5], "no selected case"),
        ([0.5], [math.nan], "no unselected case"),
        ([math.nan], [math.nan], "no selected and no unselected case"),
    ],
)
def test_an_empty_group_has_no_p_and_says_so(selected, unselected, reason):
    (row,) = s.selection_test(quality(selected, unselected)).to_dict("records")
    assert row["reason"] == reason
    assert math.isnan(row["u"])
    assert math.isnan(row["p"])
    assert (row["n_selected"], row["n_unselected"]) == (sum(d == d for d in selected), sum(d == d for d in unselected))


def test_cases_without_dice_do_not_count():
    with_nan, without = (s.selection_test(quality(selected, [0.1, 0.2])) for selected in ([0.9, math.nan], [0.9]))
    pd.testing.assert_frame_equal(with_nan, without)


def test_rounds_selections_arms_and_seeds_are_tested_apart():
    keys = [(seed, r, name) for seed in (1, 0) for r in (1, 2) for name in ("reliable", "all")]
    parts = [quality([0.9], [0.1, 0.2], arm="assft", seed=seed, round=r, selection=name) for seed, r, name in keys]
    table = s.selection_test(pd.concat(parts))
    assert list(table.columns[:4]) == ["arm", "seed", "round", "selection"]
    assert list(zip(table["seed"], table["round"], table["selection"], strict=True)) == keys
    assert set(table["n_selected"]) == {1}
    assert s.selection_test(parts[0][:0]).empty


# Comparison -----------------------------------------------------------------------------------------------------------


def row_of(comparison, arm, r):
    rows = comparison[(comparison["arm"] == arm) & (comparison["round"] == r)]
    assert len(rows) == 1
    return rows.iloc[0].to_dict()


def test_comparison_worked_by_hand(results):
    found = compare_all(results)
    assert list(zip(found["arm"], found["round"], strict=True)) == [
        ("random", 1),
        ("nnunet", 1),
        ("random", 2),
        ("nnunet", 2),
        ("random", "AUBC"),
        ("nnunet", "AUBC"),
    ]
    row = row_of(found, "random", 1)
    # ASSFT - random per case, mean of the seeds: a (0.02 + 0.04) / 2, b (0.04 + 0.06) / 2, c (0 + 0) / 2
    assert row["difference"] == pytest.approx((0.03 + 0.05 + 0.0) / 3)
    assert (row["wins"], row["ties"], row["losses"]) == (2, 1, 0)
    assert (row["n_seeds"], row["n_cases"], row["left_out"]) == (2, 3, "")
    differences = np.array([[0.02, 0.04, 0.0], [0.04, 0.06, 0.0]])
    model = crossed_mean(differences)
    assert row["p"] == pytest.approx(model.p)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(model.interval())
    pooled = [0.62, 0.74, 0.80, 0.64, 0.76, 0.82], [0.60, 0.70, 0.80, 0.60, 0.70, 0.82]
    assert row["p_mann_whitney"] == pytest.approx(stats.mannwhitneyu(*pooled).pvalue)
    assert math.isnan(row["p_holm"])  # a single round is secondary
    assert (row["verdict"], row_of(found, "nnunet", 2)["verdict"]) == ("", "")
    curve, nnunet = row_of(found, "random", "AUBC"), row_of(found, "nnunet", "AUBC")
    assert [nnunet["p_holm"], curve["p_holm"]] == pytest.approx(s.holm([nnunet["p"], curve["p"]]))
    assert (curve["verdict"], nnunet["verdict"]) == ("no difference shown", "better")
    of_curve = crossed_mean((differences + [[0.02, 0.04, 0.0]] * 2) / 2)
    assert curve["power"] == pytest.approx(of_curve.power(0.02, 1 - 0.05 / 2))
    assert curve["smallest"] == pytest.approx(of_curve.smallest_shown(0.8, 1 - 0.05 / 2))
    assert curve["difference"] == pytest.approx(((0.03 + 0.02) / 2 + (0.05 + 0.04) / 2 + 0) / 3)


def test_the_reference_can_be_any_arm_and_the_sign_turns(results):
    there, back = compare_all(results), compare_all(results, reference="random")
    a, b = row_of(there, "random", 2), row_of(back, "assft", 2)
    assert a["difference"] == pytest.approx(-b["difference"])
    assert (a["wins"], a["losses"]) == (b["losses"], b["wins"])
    assert a["p"] == pytest.approx(b["p"])


def test_folds_are_taken_into_account(results):
    """Case a belongs to a fold of its own, and one case of a fold does not tell how much is luck."""
    of_folds = results.assign(fold=(results["case"] == "a").astype(int))
    assert math.isnan(row_of(compare_all(of_folds), "random", "AUBC")["p"])
    assert compare_all(results.assign(fold=3)).equals(compare_all(results))


def test_rows_may_come_in_any_order(results):
    shuffled = results.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(compare_all(shuffled), compare_all(results))


def test_only_shared_seeds_and_cases_are_compared_and_the_rest_is_named(results):
    gone = ((results["arm"] == "random") & (results["seed"] == 1) & (results["round"] == 1)) | (
        (results["arm"] == "random") & (results["case"] == "b") & (results["round"] == 1)
    )
    row = row_of(compare_all(results[~gone]), "random", 1)
    assert (row["n_seeds"], row["n_cases"], row["left_out"]) == (1, 2, "seed 1; case b")
    assert row["difference"] == pytest.approx((0.02 + 0.0) / 2)  # seed 0, cases a and c
    assert row["p_mann_whitney"] == pytest.approx(stats.mannwhitneyu([0.62, 0.80], [0.60, 0.80]).pvalue)


def test_arms_without_anything_in_common_have_no_p(results):
    gone = ((results["arm"] == "random") & (results["seed"] == 0)) | (
        (results["arm"] == "assft") & (results["seed"] == 1)
    )
    found = compare_all(results[~gone])
    row = row_of(found, "random", "AUBC")
    assert (row["n_seeds"], row["n_cases"], row["left_out"]) == (0, 0, "seeds 0, 1")
    assert math.isnan(row["p_holm"])
    assert math.isnan(row_of(found, "nnunet", "AUBC")["p"])  # a single seed is left


def test_a_case_without_any_structure_is_left_out_by_name(results):
    results.loc[results["case"] == "c", "dice"] = math.nan
    row = row_of(compare_all(results), "random", 1)
    assert (row["n_seeds"], row["n_cases"], row["left_out"]) == (2, 2, "case c")


def test_a_reference_that_is_missing_is_compared_with_nothing(results):
    found = compare_all(results[results["arm"] != "assft"])
    assert (found["n_cases"] == 0).all()
    assert found["p_holm"].isna().all()


def test_one_arm_or_only_round_0_gives_no_rows(results):
    assert compare_all(results[results["arm"] == "assft"]).empty
    nothing = compare_all(results[results["round"] == 0])
    assert nothing.empty
    assert "p_holm" in nothing


@pytest.mark.parametrize(
    ("p", "text"), [(0.2134, "0.21"), (0.00341, "0.0034"), (3.97e-6, "4.0e-06"), (1.0, "1"), (math.nan, "-")]
)
def test_p_as_printed(p, text):
    assert s.p_text(p) == text

"""The parts of the gain of ASSFT over random sampling, worked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from nnunet_assft.comparison.attribution import PSEUDO_LABELS, QUERY, STEPS, WHOLE, attribution
from nnunet_assft.comparison.conclusions import gain_in_parts
from nnunet_assft.comparison.tables import attribution_table
from nnunet_assft.evaluation.intervals import crossed_mean
from tests.comparison.conftest import comparison_of

# Dice of the six arms: query of random (first) or ASSFT, and none, a supervised or a second stage with pseudo-labels
DICE = {
    "random+none": 0.50,
    "random": 0.54,
    "random+pseudo": 0.53,
    "dkd_asd+none": 0.52,
    "dkd_asd": 0.55,
    "assft": 0.60,
}
Results = Callable[..., pd.DataFrame]


def results_with(results_of: Results, *arms: str, noise: float = 0.0) -> pd.DataFrame:
    """Two seeds, three cases and two rounds; every score of an arm is its Dice, plus noise."""
    rng = np.random.default_rng(0)
    runs = {}
    for arm in arms:
        for seed in (0, 1):
            shift = noise * rng.normal(size=3)
            for r in (1, 2):
                runs[arm, seed, r] = {case: DICE[arm] + shift[i] for i, case in enumerate("abc")}
    return results_of(runs)


def parts_of(results_of: Results, *arms: str, **options: str) -> dict[str, float]:
    parts = attribution(comparison_of(*arms, seeds=(0, 1), **options), results_with(results_of, *arms))
    return dict(zip(parts["part"], parts["gain"], strict=True))


def test_the_whole_design_worked_by_hand(results_of: Results) -> None:
    """Three orders: query, steps, pseudo-labels; steps, query, pseudo-labels; steps, pseudo-labels, query."""
    found = parts_of(results_of, *DICE)
    assert found == pytest.approx(
        {
            QUERY: ((0.52 - 0.50) + (0.55 - 0.54) + (0.60 - 0.53)) / 3,
            STEPS: ((0.55 - 0.52) + (0.54 - 0.50) + (0.54 - 0.50)) / 3,
            PSEUDO_LABELS: ((0.60 - 0.55) + (0.60 - 0.55) + (0.53 - 0.54)) / 3,
            WHOLE: 0.60 - 0.50,
        }
    )
    assert found[QUERY] + found[STEPS] + found[PSEUDO_LABELS] == pytest.approx(found[WHOLE])


def test_with_fewer_arms_the_orders_are_those_that_were_run(results_of: Results) -> None:
    one_order = parts_of(results_of, "random+none", "random", "dkd_asd", "assft")
    assert one_order == pytest.approx({QUERY: 0.01, STEPS: 0.04, PSEUDO_LABELS: 0.05, WHOLE: 0.10})
    without_none = parts_of(results_of, "random", "random+pseudo", "dkd_asd", "assft")
    assert without_none == pytest.approx(
        {QUERY: (0.01 + 0.07) / 2, PSEUDO_LABELS: (0.05 - 0.01) / 2, WHOLE: 0.60 - 0.54}
    )


def test_a_gain_that_cannot_be_split_is_left_alone(results_of: Results) -> None:
    assert parts_of(results_of, "random", "assft") == {}  # the query and the pseudo-labels differ
    assert parts_of(results_of, "random", "dkd_asd", "assft", match="epochs") == {}  # there, random has no second stage
    comparison = comparison_of("random", "dkd_asd", "assft", seeds=(0, 1))
    assert attribution(comparison, results_with(results_of, "random", "dkd_asd")).empty
    assert gain_in_parts(attribution(comparison, results_with(results_of, "random"))) == ""


def test_intervals_are_those_of_the_contrast(results_of: Results) -> None:
    arms = ("random", "dkd_asd", "assft")
    results = results_with(results_of, *arms, noise=0.01)
    parts = attribution(comparison_of(*arms, seeds=(0, 1)), results).set_index("part")
    score = {
        arm: of_arm.pivot(index="seed", columns="case", values="dice").to_numpy()
        for arm, of_arm in results[results["round"] == 1].groupby("arm")
    }
    for part, contrast in {
        QUERY: score["dkd_asd"] - score["random"],
        PSEUDO_LABELS: score["assft"] - score["dkd_asd"],
        WHOLE: score["assft"] - score["random"],
    }.items():
        model = crossed_mean(contrast)
        row = parts.loc[part]
        assert (row["gain"], row["ci_low"], row["ci_high"]) == pytest.approx((model.mean, *model.interval()))


def test_all_parts_have_the_same_seeds_and_cases(results_of: Results) -> None:
    arms = ("random", "dkd_asd", "assft")
    results = results_with(results_of, *arms)
    gone = (results["arm"] == "dkd_asd") & ((results["seed"] == 1) | (results["case"] == "b"))
    parts = attribution(comparison_of(*arms, seeds=(0, 1)), results[~gone])
    assert set(parts["left_out"]) == {"seed 1; case b"}
    assert set(zip(parts["n_seeds"], parts["n_cases"], strict=True)) == {(1, 2)}
    assert parts["ci_low"].isna().all()
    assert gain_in_parts(parts) == (
        " Of the +6.0 points of AUBC by which ASSFT differs from random sampling with as many steps: query +1.0, "
        "pseudo-labels +5.0."
    )


def test_the_sentence_and_the_table(results_of: Results) -> None:
    parts = attribution(comparison_of(*DICE, seeds=(0, 1)), results_with(results_of, *DICE))
    assert gain_in_parts(parts) == (
        " Of the +10.0 (+10.0 to +10.0) points of AUBC by which ASSFT differs from random sampling without a second "
        "stage: query +3.3 (+3.3 to +3.3), steps of a second stage +3.7 (+3.7 to +3.7), pseudo-labels +3.0 (+3.0 to "
        "+3.0)."
    )
    table = attribution_table(parts)
    assert list(table.frame["Part"]) == [QUERY, STEPS, PSEUDO_LABELS, WHOLE]
    assert table.frame["Gain (95 % interval)"].iloc[0] == "+3.33 (+3.33 to +3.33)"
    assert "over 3 orders" in table.caption
    assert not math.isnan(parts["gain"].sum())

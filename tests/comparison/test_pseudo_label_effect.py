"""What pseudo-labels were worth, worked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from nnunet_assft.comparison.pseudo_label_effect import pseudo_label_effect
from nnunet_assft.comparison.tables import effect_table
from nnunet_assft.evaluation.dice import wrong_share
from nnunet_assft.evaluation.intervals import crossed_mean
from tests.comparison.conftest import comparison_of

# of four seeds: the share of wrong voxels, and the gain over the counterpart, in rounds 1 and 2
WRONG = {1: (0.5, 0.6, 0.7, 0.8), 2: (0.2, 0.1, 0.3, 0.4)}
GAIN = {1: (0.06, 0.04, 0.05, 0.01), 2: (0.02, 0.03, 0.01, 0.00)}
Results = Callable[..., pd.DataFrame]


def results(results_of: Results, arm: str = "assft", counterpart: str = "dkd_asd") -> pd.DataFrame:
    runs = {}
    for r in (1, 2):
        for seed in range(4):
            runs[counterpart, seed, r] = {"a": 0.5, "b": 0.6}
            runs[arm, seed, r] = {"a": 0.5 + GAIN[r][seed], "b": 0.6 + GAIN[r][seed]}
    return results_of(runs)


def quality(arm: str = "assft") -> pd.DataFrame:
    """Two selected cases per seed and round, and one that is not; other selections chose worse ones."""
    rows = [
        (arm, seed, 0, r, case, selection, selected, 1 - wrong, wrong)
        for r in (1, 2)
        for seed in range(4)
        for selection, bad in (("reliable", 0.0), ("all", 0.2))
        for case, selected, wrong in (
            ("x", True, WRONG[r][seed] - 0.05 + bad),
            ("y", True, WRONG[r][seed] + 0.05 + bad),
            ("z", False, 0.9),
        )
    ]
    columns = ["arm", "seed", "fold", "round", "case", "selection", "selected", "dice", "wrong"]
    return pd.DataFrame(rows, columns=columns)


def test_the_effect_worked_by_hand(results_of: Results) -> None:
    comparison = comparison_of("assft", "dkd_asd", seeds=(0, 1, 2, 3), rounds=2)
    first, second, whole = pseudo_label_effect(comparison, results(results_of), quality()).to_dict("records")
    assert [row["round"] for row in (first, second, whole)] == [1, 2, "all"]
    assert {row["counterpart"] for row in (first, second, whole)} == {"dkd_asd"}
    assert (first["n"], first["wrong"], first["dice"]) == (8, pytest.approx(0.65), pytest.approx(0.35))
    assert (whole["n"], whole["wrong"]) == (16, pytest.approx((0.65 + 0.25) / 2))
    model = crossed_mean(np.tile(np.array(GAIN[1])[:, None], (1, 2)))
    assert (first["gain"], first["ci_low"], first["ci_high"]) == pytest.approx((0.04, *model.interval()))
    # all relative to the mean of their round
    wrong = pd.Series([-0.15, -0.05, 0.05, 0.15, -0.05, -0.15, 0.05, 0.15]).round(6).rank()
    gain = pd.Series([0.02, 0, 0.01, -0.03, 0.005, 0.015, -0.005, -0.015]).rank()
    assert (whole["rho"], whole["n_rho"]) == (pytest.approx(wrong.corr(gain), abs=0.05), 8)
    assert whole["rho"] < -0.8


def test_without_a_counterpart_there_is_no_gain(results_of: Results) -> None:
    rows = results(results_of)
    alone = comparison_of("assft", seeds=(0, 1, 2, 3), rounds=2)
    found = pseudo_label_effect(alone, rows[rows["arm"] == "assft"], quality())
    assert set(found["counterpart"]) == {""}
    assert found["gain"].isna().all()
    assert found["rho"].isna().all()
    assert found["wrong"].notna().all()
    frame = effect_table(found).frame
    assert list(frame["Counterpart"]) == list(frame["Gain over it (95 % interval)"]) == ["-", "-", "-"]


def test_the_counterpart_has_the_same_query(results_of: Results) -> None:
    rows = results(results_of, "random+pseudo", "random")
    comparison = comparison_of("dkd_asd", "random", "random+pseudo", seeds=(0, 1, 2, 3), rounds=2)
    found = pseudo_label_effect(comparison, rows, quality("random+pseudo"))
    assert set(found["counterpart"]) == {"random"}
    frame = effect_table(found).frame
    assert frame["Arm"].iloc[0] == "RAND, second stage with pseudo-labels"
    assert frame["Wrong voxels"].iloc[0] == "65.0 %"
    assert frame["Gain over it (95 % interval)"].iloc[0].startswith("+4.00 (")
    assert frame["Wrong voxels and gain"].iloc[-1].endswith(", n = 8")


def test_the_counterpart_has_the_options_of_the_query(results_of: Results) -> None:
    """An arm with another first case or embedding queries other cases; one of the selection changes no query."""
    arms = ("dkd_asd+first_case=medoid", "dkd_asd", "assft", "assft+tau_c=1", "assft+embedding=std")
    comparison = comparison_of(*arms, seeds=(0, 1, 2, 3), rounds=2)
    rows = pd.concat([results(results_of, "assft", counterpart) for counterpart in arms[:2]])
    for arm, counterpart in zip(arms[2:], ("dkd_asd", "dkd_asd", ""), strict=True):
        assert set(pseudo_label_effect(comparison, rows, quality(arm))["counterpart"]) == {counterpart}, arm


def test_quality_without_wrong_voxels_is_that_of_an_earlier_version(results_of: Results) -> None:
    comparison = comparison_of("assft", "dkd_asd", seeds=(0, 1, 2, 3), rounds=2)
    found = pseudo_label_effect(comparison, results(results_of), quality().assign(wrong=math.nan))
    assert found["rho"].isna().all()
    assert list(effect_table(found).frame["Wrong voxels"]) == ["-", "-", "-"]


def test_wrong_share_worked_by_hand() -> None:
    segmentation, reference = np.array([[0, 1, 1, 2, 0, 0]]), np.array([[0, 1, 2, 0, 2, 0]])
    assert wrong_share(segmentation, reference) == 3 / 4  # of the four with a structure, three differ
    assert wrong_share(segmentation, np.array([[0, 1, 3, 0, 2, 3]]), ignore_label=3) == 2 / 3
    assert wrong_share(np.zeros((1, 3)), np.zeros((1, 3))) is None

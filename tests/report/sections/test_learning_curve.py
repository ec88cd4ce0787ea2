from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from nnunet_assft.report.material import Material
from nnunet_assft.report.sections.learning_curve import curve, section
from tests.report.conftest import NASTY, Report, without_dice


def test_learning_curve_by_hand(report: Report) -> None:
    written = pd.read_csv(report.root / "r_files" / "learning_curve.csv")
    # per case: 0.3, 0.3, 0.15 and 0.7, 0.5, 0.6; an absent structure is left out
    assert list(written["n_labelled"]) == [1, 3]
    assert list(written["n_cases"]) == [3, 3]
    np.testing.assert_allclose(written["mean"], [0.25, 0.6])
    np.testing.assert_allclose(written["sd"], [np.sqrt(0.0075), 0.1])
    half = t.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    np.testing.assert_allclose(written.loc[1, ["low", "high"]].astype(float), [0.6 - half, 0.6 + half])


def test_equal_cases_have_an_interval_without_width_and_one_case_has_none(material: Material) -> None:
    equal = curve(material.dice.assign(dice=0.5))
    np.testing.assert_array_equal(equal[["mean", "low", "high"]], 0.5)
    one = curve(material.dice[material.dice["case"] == "test_0"])
    assert one[["sd", "low", "high"]].isna().all(axis=None)
    np.testing.assert_allclose(one["mean"], [0.3, 0.7])


def test_the_line_is_what_the_csv_has(report: Report) -> None:
    plot = report.plots["learning_curve"]
    np.testing.assert_allclose(plot.figure.axes[0].lines[-1].get_xydata(), plot.data[["n_labelled", "mean"]])


def test_the_upper_bound_is_a_line_if_it_has_the_same_test_cases(material: Material) -> None:
    assert material.comparison is not None
    (plot,) = section(material).plots
    curve_, line = plot.figure.axes[0].lines[1], plot.figure.axes[0].lines[0]
    np.testing.assert_allclose(line.get_ydata(), 0.9)  # of both structures, all cases and seeds
    np.testing.assert_allclose(curve_.get_ydata(), [0.25, 0.6])
    assert "Upper bound 0.900" in plot.svg()
    assert plot.figure.axes[0].get_ylim()[1] > 0.9
    assert list(plot.data["upper_bound"]) == pytest.approx([0.9, 0.9])
    assert "Upper bound: the same test cases" in plot.caption
    results = material.comparison.results
    lost = results[(results["arm"] != "upper_bound") | (results["case"] != "test_0")]
    no_upper_bound = results[results["arm"] != "upper_bound"]
    for comparison in (None, *(replace(material.comparison, results=rows) for rows in (lost, no_upper_bound))):
        (plot,) = section(replace(material, comparison=comparison)).plots
        assert len(plot.figure.axes[0].lines) == 1
        assert "upper_bound" not in plot.data
        assert "Upper bound" not in plot.caption


def test_minutes_are_added_up_over_rounds(material: Material) -> None:
    minutes = {"case_0": 10.0, NASTY: 7.0, "case_3": 4.0}
    plots = {plot.name: plot for plot in section(replace(material, minutes=minutes)).plots}
    assert list(plots["learning_curve_minutes"].data["minutes"]) == [10.0, 21.0]
    del minutes["case_3"]
    found = section(replace(material, minutes=minutes))
    assert [plot.name for plot in found.plots] == ["learning_curve"]
    assert found.missing == ("There is no curve against time, because the minutes of some annotations are not known.",)


def test_the_table_names_twelve_queried_cases_at_most(material: Material) -> None:
    queried = tuple(f"c{i}" for i in range(14))
    rounds = (material.rounds[0], replace(material.rounds[1], queried=queried))
    (table,) = section(replace(material, rounds=rounds)).tables
    assert list(table.data["queried"]) == ["case_0", ", ".join(queried[:12]) + " and 2 more"]


def test_without_dice_there_is_the_table_alone(material: Material) -> None:
    found = section(without_dice(material))
    assert found.missing == ("No test case has a Dice, so there is no learning curve.",)
    assert not found.plots
    assert found.tables[0].data["Dice, mean"].isna().all()

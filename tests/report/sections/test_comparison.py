from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from nnunet_assft.report.material import Material
from nnunet_assft.report.sections.base import arm_uses_dkd
from nnunet_assft.report.sections.comparison import arm_curves, arms_plot, section
from tests.report.conftest import Report


def test_what_the_comparison_concludes(report: Report) -> None:
    text = report.page.texts["comparison"]
    assert "RAND, seed 1: round 1 missing." in text
    assert "60.50 ± 0.55" in text  # the table of budgets: 0.60 and 0.61, three cases each
    assert "<td><strong>60.50 ± 0.55" in report.html
    findings = report.material.comparison.findings if report.material.comparison else None
    assert findings is not None
    for sentence in (*findings.compared, findings.conclusion, *findings.one_by_one):
        assert sentence in text
    for title in (*(table.title for table in findings.tables), "All tests"):
        assert title in text


def test_without_a_comparison_there_is_no_section(material: Material) -> None:
    assert section(replace(material, comparison=None)) is None


def test_the_warning_is_that_of_the_runs_of_the_comparison(material: Material) -> None:
    assert material.comparison is not None
    spec = material.comparison.spec
    pretrained = replace(spec, settings=replace(spec.settings, encoder="ct_fm.pth"))
    found = section(replace(material, comparison=replace(material.comparison, spec=pretrained)))
    assert found is not None
    assert found.warning == ""
    found = section(material)
    assert found is not None
    assert found.warning.startswith("Arms with DKD: ASSFT. E⁽⁰⁾ is a random encoder here")


def test_which_arms_use_dkd() -> None:
    arms = ("assft", "random", "dkd_asd", "nnunet", "nnunet@assft", "nnunet@random", "upper_bound")
    assert [arm for arm in arms if arm_uses_dkd(arm)] == ["assft", "dkd_asd", "nnunet@assft"]


def test_arms_count_their_seeds_and_cases(material: Material) -> None:
    assert material.comparison is not None
    results = material.comparison.results
    found = arm_curves(results).set_index(["arm", "round"])
    assert [found.loc[("random", r), "n_seeds"] for r in (0, 1)] == [2, 1]
    assert found.loc[("assft", 1), "mean"] == pytest.approx(0.605)
    assert found.index.get_level_values("arm")[0] == "random"  # the order of the paper
    lost = results[~((results["arm"] == "assft") & (results["seed"] == 1) & (results["case"] == "test_0"))]
    of_both_seeds = arm_curves(lost).set_index(["arm", "round"]).loc[("assft", 1), "n_cases"]
    assert of_both_seeds == 2


def test_lines_are_what_the_csv_has(report: Report) -> None:
    panel = report.plots["arm_01_random"]
    own = next(line for line in panel.figure.axes[0].lines if line.get_marker() == "o")
    np.testing.assert_allclose(own.get_xydata(), panel.data[["n_labelled", "mean"]])
    everything = report.plots["comparison_curves"]
    lines = {line.get_label(): line for line in everything.figure.axes[0].lines}
    assert list(lines)[:2] == ["RAND", "ASSFT"]
    np.testing.assert_allclose(lines["ASSFT"].get_ydata(), [0.405, 0.605])
    assert "Upper bound: 0.900." in everything.caption


def test_seven_arms_differ_in_colour_or_dashes() -> None:
    arms = ["random", "entropy", "margin", "coreset", "badge", "sann", "ugtst", "cup"]
    rows = [(arm, 1, 3, 1, 2, 0.5, 0.4, 0.6) for arm in arms]
    columns = ["arm", "round", "n_labelled", "n_seeds", "n_cases", "mean", "low", "high"]
    lines = arms_plot(pd.DataFrame(rows, columns=columns)).figure.axes[0].lines
    assert len({(line.get_color(), str(line._dash_pattern)) for line in lines}) == len(arms)

from __future__ import annotations

from dataclasses import replace

from nnunet_assft.report.material import Material
from nnunet_assft.report.sections.pseudo_labels import section
from tests.report.conftest import Report, with_settings


def test_u_test_of_selected_against_unselected(report: Report) -> None:
    own, other = report.plots["pseudo_labels_reliable"], report.plots["pseudo_labels_all"]
    assert "round 1: 2 against 3, p = 0.2." in own.caption  # 2 of the 10 orders are as extreme
    assert "(this experiment)" in own.title
    assert "round 1: 5 against 0, no unselected case" in other.caption
    assert (own.narrow, other.narrow) == (False, True)


def test_the_selection_of_the_experiment_comes_first(report: Report) -> None:
    names = [plot.name for plot in report.sections["pseudo_labels"].plots]
    assert names == ["pseudo_labels_reliable", "pseudo_labels_all"]


def test_cases_without_dice_are_left_out(material: Material) -> None:
    assert material.quality is not None
    quality = material.quality.assign(dice=material.quality["dice"].where(material.quality["case"] != "case_1"))
    own, _ = section(replace(material, quality=quality)).plots
    assert "round 1: 1 against 3" in own.caption
    assert len(own.data) == 4
    assert not section(replace(material, quality=quality.assign(dice=float("nan")))).plots


def test_why_there_are_none(material: Material) -> None:
    without = replace(material, quality=None)
    assert "has not been computed" in section(without).missing[0]
    assert section(with_settings(without, strategy="random")).missing == ("The experiment makes no pseudo-labels.",)

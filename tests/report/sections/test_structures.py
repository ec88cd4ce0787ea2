from __future__ import annotations

import re

import numpy as np

from nnunet_assft.report.material import Material
from nnunet_assft.report.sections.structures import section
from tests.report.conftest import Report, without_dice


def test_every_case_is_a_dot_and_an_absent_structure_is_left_out(report: Report) -> None:
    plot = report.plots["dice_02_box"]
    dots = np.concatenate([np.asarray(found.get_offsets()) for found in plot.figure.axes[0].collections])
    np.testing.assert_allclose(np.sort(dots[:, 1]), np.sort(plot.data["dice"]))
    assert len(plot.data) == 4  # test_1 has no box
    assert "Medians: 0.30 in round 0, 0.75 in round 1." in plot.alt


def test_dots_say_their_case_and_its_dice(report: Report) -> None:
    plot = report.plots["dice_02_box"]
    assert plot.dots == {
        "round_0": ["test_0, 0.400", "test_2, 0.200"],
        "round_1": ["test_0, 0.800", "test_2, 0.700"],
    }
    assert re.findall(r"<title>([^<]+)</title>", plot.svg()) == [*plot.dots["round_0"], *plot.dots["round_1"]]


def test_without_dice(material: Material) -> None:
    assert section(without_dice(material)).missing == ("No test case has a Dice.",)

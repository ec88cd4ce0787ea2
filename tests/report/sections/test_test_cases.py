"""The test cases: a table of their Dice, and the best, the median and the worst as pictures."""

from __future__ import annotations

import pandas as pd
import pytest

from nnunet_assft.report.material import Material
from nnunet_assft.report.sections.test_cases import chosen_cases, dice_of_cases, section
from tests.conftest import blob_case, write_volume
from tests.report.conftest import BALL, TEST, without_dice


def test_the_cases_of_the_last_round_from_the_worst_to_the_best(material: Material) -> None:
    table = dice_of_cases(material.dice, 1)
    assert list(table["case"]) == ["test_1", "test_2", "test_0"]  # 0.5, 0.6 and 0.7; test_1 has no box
    assert list(table["mean"]) == pytest.approx([0.5, 0.6, 0.7])
    assert list(table.columns) == ["case", "mean", BALL, "box"]
    assert chosen_cases(table) == {"best": "test_0", "median": "test_2", "worst": "test_1"}


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        (["a"], {"best": "a"}),
        (["a", "b"], {"best": "b", "median": "a"}),
        (["a", "b", "c", "d"], {"best": "d", "median": "b", "worst": "a"}),
    ],
)
def test_no_case_is_shown_twice(cases: list[str], expected: dict[str, str]) -> None:
    assert chosen_cases(pd.DataFrame({"case": cases})) == expected


def test_pictures_of_the_segmentations_that_exist(material: Material) -> None:
    folder = material.experiment.paths.test_predictions(1)
    for i, case in enumerate(TEST[1:]):
        write_volume(folder / f"{case}.nii.gz", blob_case(8 + i)[1])
    found = section(material)
    assert [plot.title for plot in found.plots] == ["test_2", "test_1"]
    assert found.plots[1].caption == "The worst test case: Dice 0.500, mean over the structures, after round 1."
    assert set(found.plots[0].data["segmentation"]) == {"label", "segmentation"}
    (missing,) = found.missing
    assert missing.startswith("test_0: no picture could be made (")
    assert len(found.tables[0].data) == 3


def test_without_labels_of_test_cases_there_is_nothing_to_show(material: Material) -> None:
    found = section(without_dice(material))
    assert (found.missing, found.tables, found.plots) == (("No test case has a Dice.",), (), ())

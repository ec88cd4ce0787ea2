"""The test cases: a table of their Dice, and the best, the median and the worst as pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nnunet_assft.active.history import Change
from nnunet_assft.active.state import Experiment
from nnunet_assft.evaluation.case_metrics import DTYPES
from nnunet_assft.report.material import Material, gather
from nnunet_assft.report.sections.test_cases import (
    by_structure,
    chosen_cases,
    compute_distances,
    dice_of_cases,
    section,
)
from tests.conftest import blob_case, write_volume
from tests.report.conftest import BALL, DATASET, TEST, without_dice


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
    assert [plot.title for plot in found.plots] == ["test_2, the median case", "test_1, the worst case"]
    assert found.plots[1].caption == "Dice 0.500, mean over the structures, after round 1."
    assert set(found.plots[0].data["segmentation"]) == {"label", "segmentation"}
    assert found.missing[0] == "NSD and HD95 were not computed; add --distances to compute them."
    assert found.missing[1] == "test_0: no picture could be made (test_round_01 has no test_0.nii.gz)."
    assert len(found.tables[0].data) == 3


def test_distances_are_shown_once_they_were_computed(experiment: Experiment, tmp_path: Path) -> None:
    """The segmentations are the labels."""
    raw = tmp_path / "nnUNet_raw" / DATASET
    for i, case in enumerate(TEST):
        image, label = blob_case(8 + i)
        write_volume(raw / f"imagesTs/{case}_0000.nii.gz", image)
        write_volume(raw / f"labelsTs/{case}.nii.gz", label)
        write_volume(experiment.paths.test_predictions(1) / f"{case}.nii.gz", label)
    material = gather(DATASET, "assft", None)
    assert [table.name for table in section(material).tables] == ["test_cases"]
    compute_distances(material)
    _, table = section(material).tables
    assert table.title == "Dice, NSD and HD95 after round 1"
    assert list(table.data["structure"]) == [BALL, "box"]
    assert table.data["NSD at 1 mm"].tolist() == [1.0, 1.0]
    assert table.data["HD95 in mm, median"].tolist() == [0.0, 0.0]


def test_a_withdrawn_case_has_no_picture_and_its_files_are_not_needed(experiment: Experiment, tmp_path: Path) -> None:
    """test_0 was the best of three. The segmentations are the labels."""
    raw, folder = tmp_path / "nnUNet_raw" / DATASET, experiment.paths.test_predictions(1)
    for i, case in enumerate(TEST):
        image, label = blob_case(8 + i)
        write_volume(raw / f"imagesTs/{case}_0000.nii.gz", image)
        write_volume(raw / f"labelsTs/{case}.nii.gz", label)
        write_volume(folder / f"{case}.nii.gz", label)
    now = experiment.now
    withdrawn = experiment.record(Change(2, False, 2, 2, now.permutation, withdrawn=("test_0",)))
    assert [plot.title for plot in section(gather(DATASET, "assft", None)).plots] == [
        "test_2, the best case",
        "test_1, the median case",
    ]
    for file in tmp_path.rglob("test_0*"):
        file.unlink()
    material = gather(DATASET, "assft", None)
    compute_distances(material)
    found = section(material)
    assert found.missing == ()
    assert found.text[0].startswith("The best, the median and the worst of 2 test cases by their Dice")
    assert list(found.tables[0].data["case"]) == ["test_1", "test_2", "test_0"]  # what was measured
    assert found.tables[1].data["cases"].tolist() == [2, 2]
    withdrawn.record(Change(2, False, 2, 2, now.permutation, withdrawn=("test_1", "test_2")))
    found = section(gather(DATASET, "assft", None))
    assert found.missing[0] == "There are no pictures of withdrawn cases."
    assert not found.plots


def test_means_and_the_median_over_cases_worked_by_hand() -> None:
    """Of four cases, one lacks the structure on both sides, and one has missed it."""
    rows = [("a", 0.9, 1.0, 2.0), ("b", 0.6, 0.5, 4.0), ("c", 0.0, 0.0, np.inf), ("d", np.nan, np.nan, np.nan)]
    metrics = pd.DataFrame([(case, "liver", *values) for case, *values in rows], columns=list(DTYPES))
    assert by_structure(metrics).to_dict("records") == [
        {
            "structure": "liver",
            "cases": 3,
            "Dice": pytest.approx(0.5),
            "NSD at 1 mm": pytest.approx(0.5),
            "HD95 in mm, median": 4.0,
            "missed or false": 1,
        }
    ]


def test_without_labels_of_test_cases_there_is_nothing_to_show(material: Material) -> None:
    found = section(without_dice(material))
    assert (found.missing, found.tables, found.plots) == (("No test case has a Dice.",), (), ())

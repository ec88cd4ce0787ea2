"""The table of Dice, NSD and HD95 per case and structure: worked by hand on volumes of a few voxels."""

import math
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_assft.cluster.engines import Engine
from nnunet_assft.errors import AssftError, WaitingForParts
from nnunet_assft.evaluation import case_metrics as m
from nnunet_assft.evaluation.predictions import keep_prediction
from nnunet_assft.volumes.raw_dataset import find_dataset
from tests.conftest import write_volume
from tests.evaluation.conftest import dataset_with

LABELS = {"liver": 1, "spleen": 2}


def volume(*boxes: tuple[int, slice]) -> np.ndarray:
    """(10, 4, 4) of background; a label fills whole planes of z."""
    array = np.zeros((10, 4, 4), np.uint8)
    for label, planes in boxes:
        array[planes] = label
    return array


@pytest.fixture
def measure(tmp_path):
    """Metrics of {case: (reference, prediction)}, by (case, structure); voxels are 3 mm apart along z, 1 mm along y and
    x.
    """

    def run(cases, **options):
        dataset = dataset_with(tmp_path, LABELS, **options)
        predictions = {case: tmp_path / f"{case}.nii.gz" for case in cases}
        for case, (reference, prediction) in cases.items():
            write_volume(predictions[case], prediction, (1.0, 1.0, 3.0))
            write_volume(dataset.label_file(case), reference, (1.0, 1.0, 3.0))
        return m.case_metrics(dataset, predictions)

    return run


def values(table: pd.DataFrame, case: str, structure: str) -> tuple[float, float, float]:
    row = table[(table["case"] == case) & (table["structure"] == structure)]
    assert len(row) == 1
    return tuple(row[["dice", "nsd", "hd95_mm"]].iloc[0])


def test_cases_are_measured_where_the_engine_says(measure, tmp_path):
    liver = volume((1, slice(2, 4)))
    here = measure({"b": (liver, liver), "a": (liver, volume((1, slice(3, 5))))})
    dataset, folder = dataset_with(tmp_path, LABELS), tmp_path / "test_round_01"
    folder.mkdir()
    for case in "ab":
        shutil.copy(tmp_path / f"{case}.nii.gz", folder)
        keep_prediction(folder, case, ".nii.gz", {"model": "m"})
    with pytest.raises(WaitingForParts, match="2 of 2 parts"):
        m.cached_metrics(dataset, ["a", "b"], folder, {"model": "m"}, Engine("print", parts=2))
    (script,) = tmp_path.glob("jobs/*/sweep_001/part.sh")
    for part in "01":
        subprocess.run(["bash", str(script), part], check=True)
    found = m.cached_metrics(dataset, ["a", "b"], folder, {"model": "m"}, Engine("print", parts=2))
    pd.testing.assert_frame_equal(found, here)


def test_metrics_worked_by_hand(measure):
    found = measure(
        {
            "b": (volume((1, slice(2, 4))), volume((1, slice(2, 4)))),
            "a": (volume((1, slice(1, 3)), (2, slice(6, 8))), volume((1, slice(2, 4)), (2, slice(6, 8)))),
        }
    )
    assert list(found.columns) == ["case", "structure", "dice", "nsd", "hd95_mm"]
    assert found[["case", "structure"]].to_numpy().tolist() == [
        ["a", "liver"],
        ["a", "spleen"],
        ["b", "liver"],
        ["b", "spleen"],
    ]
    # two planes each, one shared: Dice 1/2
    # every voxel of a slab of two planes is surface, half of it is 3 mm (one plane) off
    assert values(found, "a", "liver") == (0.5, 0.5, 3.0)
    assert values(found, "a", "spleen") == values(found, "b", "liver") == (1.0, 1.0, 0.0)
    assert all(math.isnan(value) for value in values(found, "b", "spleen"))


def test_a_structure_in_one_of_the_two_is_0_and_infinitely_far(measure):
    found = measure({"a": (volume((1, slice(1, 3))), volume((2, slice(1, 3))))})
    assert values(found, "a", "liver") == values(found, "a", "spleen") == (0.0, 0.0, math.inf)


def test_voxels_with_the_ignore_label_do_not_count(measure):
    reference = volume((1, slice(1, 3)), (3, slice(3, 6)))
    cases = {"a": (reference, volume((1, slice(1, 5)))), "b": (reference, volume((1, slice(1, 3)), (2, slice(3, 5))))}
    ignoring = measure(cases, ignore_label=3)
    assert values(ignoring, "a", "liver") == (1.0, 1.0, 0.0)
    assert all(math.isnan(value) for value in values(ignoring, "b", "spleen"))
    counting = measure(cases)
    # surfaces: 32 voxels of the two planes, 16 + 12 + 12 + 16 of the four
    # the last 12 and 16 are 3 and 6 mm off, the rest is within 1 mm
    assert values(counting, "a", "liver") == (
        pytest.approx(2 / 3),
        pytest.approx((32 + 28) / (32 + 56)),
        pytest.approx(6.0),
    )
    assert values(counting, "b", "spleen") == (0.0, 0.0, math.inf)


def test_shapes_that_differ_are_named(measure):
    with pytest.raises(AssftError, match=r"\(9, 4, 4\).*\(10, 4, 4\)"):
        measure({"a": (volume(), volume()[1:])})


# Kept metrics ---------------------------------------------------------------------------------------------------------

CASES = ("case_08", "case_09", "case_10")


@pytest.fixture
def predicted(blobs, tmp_path):
    """(dataset, folder): predictions of the test cases of the blobs, right but for one empty volume."""
    for case in CASES:
        label = SimpleITKIO().read_seg(str(blobs / "labelsTs" / f"{case}.nii.gz"))[0][0]
        write_volume(tmp_path / "test" / f"{case}.nii.gz", (label * (case != "case_10")).astype(np.uint8))
    return find_dataset(blobs.name), tmp_path / "test"


def test_metrics_are_kept_until_what_they_are_made_from_changes(predicted, monkeypatch):
    dataset, folder = predicted
    found = m.cached_metrics(dataset, CASES, folder, {"model": "a"})
    assert len(found) == 3 * 2
    assert values(found, "case_08", "ball") == (1.0, 1.0, 0.0)
    assert values(found, "case_10", "box") == (0.0, 0.0, math.inf)
    monkeypatch.setattr(m, "case_metrics", lambda *_, **__: pytest.fail("computed again"))
    pd.testing.assert_frame_equal(m.cached_metrics(dataset, CASES, folder, {"model": "a"}), found)
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        m.cached_metrics(dataset, CASES, folder, {"model": "b"})
    dataset.label_file("case_08").write_bytes(dataset.label_file("case_09").read_bytes())
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        m.cached_metrics(dataset, CASES, folder, {"model": "a"})


def test_a_table_that_was_altered_is_computed_again(predicted):
    dataset, folder = predicted
    found = m.cached_metrics(dataset, CASES, folder, {"model": "a"})
    (folder / "metrics.csv").write_text((folder / "metrics.csv").read_text().replace("1", "2"))
    pd.testing.assert_frame_equal(m.cached_metrics(dataset, CASES, folder, {"model": "a"}), found)


def test_a_prediction_that_was_altered_is_not_evaluated(predicted):
    dataset, folder = predicted
    for case in CASES:
        keep_prediction(folder, case, ".nii.gz", {"model": "a"})
    m.cached_metrics(dataset, CASES, folder, {"model": "a"})
    (folder / "case_08.json").unlink()  # without which nobody knows what made the prediction
    content = bytearray((folder / "case_09.nii.gz").read_bytes())
    content[4] ^= 1  # the time in the header of gzip: the voxels are the same, but who would know
    (folder / "case_09.nii.gz").write_bytes(bytes(content))
    with pytest.raises(
        AssftError, match=r"2 files .* do not match their checksums: .*case_08\.json, .*case_09\.nii\.gz"
    ):
        m.cached_metrics(dataset, CASES, folder, {"model": "a"})


def test_files_that_are_gone_are_named(predicted):
    dataset, folder = predicted
    (folder / "case_09.nii.gz").unlink()
    with pytest.raises(AssftError, match=r"1 files .* do not exist, or .*: .*case_09\.nii\.gz"):
        m.cached_metrics(dataset, CASES, folder, {})


def test_a_table_is_read_as_it_was_written(tmp_path):
    table = pd.DataFrame({"case": ["007", "NA"], "dice": [0.1 + 0.2, math.nan], "hd95_mm": [math.inf, 1 / 3]})
    table.to_csv(tmp_path / "t.csv", index=False)
    read = m.read_table(tmp_path / "t.csv", {"case": str, "dice": float, "hd95_mm": float, "not there": str})
    assert list(read["case"]) == ["007", "NA"]
    for name in ("dice", "hd95_mm"):
        np.testing.assert_array_equal(read[name], table[name])


def test_a_structure_that_nobody_drew_has_no_metric(measure):
    cases = {"a": (volume((1, slice(1, 3))), volume((1, slice(1, 3)), (2, slice(6, 8))))}
    assert values(measure(cases), "a", "spleen") == (0.0, 0.0, math.inf)
    found = measure(cases, not_annotated={"a": ("spleen",)})
    assert all(math.isnan(value) for value in values(found, "a", "spleen"))
    assert values(found, "a", "liver") == (1.0, 1.0, 0.0)


def test_the_kept_table_is_made_again_if_other_structures_are_annotated(blobs):
    folder, case = blobs.parent / "predictions", "case_08"
    folder.mkdir()
    (folder / f"{case}.nii.gz").write_bytes((blobs / f"labelsTs/{case}.nii.gz").read_bytes())
    assert m.cached_metrics(find_dataset(901), [case], folder, {})["dice"].tolist() == [1.0, 1.0]
    (blobs / "not_annotated.json").write_text('{"case_08": ["ball"]}')
    again = m.cached_metrics(find_dataset(901), [case], folder, {})["dice"].tolist()
    assert math.isnan(again[0])
    assert again[1] == 1.0

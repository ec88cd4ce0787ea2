"""What the gate mends and what it warns of: worked numbers, and the files of Slicer and ITK-SNAP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_assft.annotation.gate import Expected, LabelSummary, gate, summarize, warnings_of
from nnunet_assft.annotation.label_files import read_returned_label
from nnunet_assft.errors import AssftError
from nnunet_assft.volumes.grid import Grid
from nnunet_assft.volumes.segmentations import InFileAxes
from tests.annotation.annotators import save_itksnap, save_slicer, segments_of
from tests.conftest import LABELS, blob_case, write_volume

KIDNEYS = {"background": 0, "kidney_right": 1, "kidney_left": 2, "ignore": 3}


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, sitk.Image, np.ndarray]:
    """(image file, image, label) of a blob with unequal spacing."""
    image, label = blob_case(0)
    file = tmp_path / "image.nii.gz"
    write_volume(file, image, (0.7, 0.9, 2.5))
    return file, sitk.ReadImage(str(file)), label


@pytest.mark.parametrize("crop", [True, False])
def test_a_slicer_file_is_read_by_its_names_and_put_back(
    scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path, crop: bool
) -> None:
    image_file, image, label = scene
    save_slicer(tmp_path / "a.seg.nrrd", segments_of(label, LABELS), image, crop=crop)
    gated = gate(tmp_path / "a.seg.nrrd", image_file, LABELS)
    np.testing.assert_array_equal(gated.label.array, label)
    if crop:
        assert gated.notes[-1] == "it was cropped and has been put back on the whole image"
    assert gated.warnings == ()


def test_slicer_layers_that_do_not_overlap_are_one_label_map(
    scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path
) -> None:
    image_file, image, label = scene
    save_slicer(tmp_path / "a.seg.nrrd", {"Ball": label == 1, "BOX": label == 2}, image, layers={"Ball": 0, "BOX": 1})
    np.testing.assert_array_equal(gate(tmp_path / "a.seg.nrrd", image_file, LABELS).label.array, label)


def test_a_slicer_file_of_old_has_one_layer_per_segment_and_says_no_more(
    scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path
) -> None:
    image_file, image, label = scene
    volume = sitk.GetImageFromArray(np.stack([label == 2, label == 1], axis=-1).astype(np.uint8), isVector=True)
    volume.CopyInformation(image)
    for i, name in enumerate(("box", "ball")):
        volume.SetMetaData(f"Segment{i}_Name", name)
    sitk.WriteImage(volume, str(tmp_path / "a.seg.nrrd"))
    np.testing.assert_array_equal(gate(tmp_path / "a.seg.nrrd", image_file, LABELS).label.array, label)


def test_segments_need_not_be_numbered_from_0(scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path) -> None:
    """By its names this file has the two structures the other way round than by its numbers."""
    image_file, image, label = scene
    volume = sitk.GetImageFromArray(label)
    volume.CopyInformation(image)
    for i, (name, value) in enumerate((("box", "1"), ("ball", "2")), 3):
        volume.SetMetaData(f"Segment{i}_Name", name)
        volume.SetMetaData(f"Segment{i}_LabelValue", value)
    sitk.WriteImage(volume, str(tmp_path / "a.seg.nrrd"))
    np.testing.assert_array_equal(
        gate(tmp_path / "a.seg.nrrd", image_file, LABELS).label.array, np.array([0, 2, 1])[label]
    )


def test_a_slicer_file_whose_segments_have_no_names_is_refused(
    scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path
) -> None:
    image_file, image, label = scene
    save_itksnap(tmp_path / "a.seg.nrrd", label, image)
    with pytest.raises(AssftError, match=r"it is a \.seg\.nrrd that names no segments"):
        gate(tmp_path / "a.seg.nrrd", image_file, LABELS)
    save_itksnap(tmp_path / "a.nrrd", label, image)
    np.testing.assert_array_equal(gate(tmp_path / "a.nrrd", image_file, LABELS).label.array, label)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd"])
def test_nan_and_infinity_are_refused(
    scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path, value: float, ending: str
) -> None:
    image_file, image, label = scene
    array = label.astype(np.float32)
    array[0, 0, :2] = value
    volume = sitk.GetImageFromArray(array)
    volume.CopyInformation(image)
    sitk.WriteImage(volume, str(tmp_path / f"a{ending}"))
    with pytest.raises(AssftError, match=r"2 voxels|looks like an image"):
        gate(tmp_path / f"a{ending}", image_file, LABELS)


def test_an_empty_segment_is_an_absent_structure(scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path) -> None:
    image_file, image, label = scene
    save_slicer(tmp_path / "a.seg.nrrd", {"ball": label == 1, "box": label == 9}, image)
    gated = gate(tmp_path / "a.seg.nrrd", image_file, LABELS)
    np.testing.assert_array_equal(gated.label.array, np.where(label == 1, 1, 0))
    assert gated.summary.volumes_ml["box"] == 0


@pytest.mark.parametrize("layer", ["0", "1"])
def test_slicers_file_of_an_empty_segmentation_is_empty(
    scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path, layer: str
) -> None:
    """One voxel of 0, in a geometry of its own."""
    volume = sitk.Image([1, 1, 1], sitk.sitkUInt8)
    for key, value in (("Segment0_Name", "ball"), ("Segment0_Layer", layer)):
        volume.SetMetaData(key, value)
    sitk.WriteImage(volume, str(tmp_path / "a.seg.nrrd"))
    gated = gate(tmp_path / "a.seg.nrrd", scene[0], LABELS)
    assert not gated.label.array.any()
    assert gated.label.array.shape == scene[2].shape
    assert gated.warnings == ("it is empty: no structure has a voxel",)


def test_names_that_differ_in_signs_only(scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path) -> None:
    image_file, image, label = scene
    labels = {"background": 0, "lesion+": 1, "lesion-": 2}
    save_slicer(tmp_path / "a.seg.nrrd", {"lesion-": label == 2, "lesion+": label == 1}, image)
    np.testing.assert_array_equal(gate(tmp_path / "a.seg.nrrd", image_file, labels).label.array, label)
    for name, known in (("Lesion", labels), ("lesion-", {"background": 0, "lesion+": 1})):
        save_slicer(tmp_path / "b.seg.nrrd", {name: label == 1}, image)
        with pytest.raises(AssftError, match=f"segment {name!r} is not a structure of the dataset"):
            gate(tmp_path / "b.seg.nrrd", image_file, known)


def test_a_segment_of_the_background_may_overlap(scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path) -> None:
    image_file, image, label = scene
    segments = {"ball": label == 1, "Background": label < 3, "box": label == 2}
    save_slicer(tmp_path / "a.seg.nrrd", segments, image, layers={"ball": 0, "Background": 1, "box": 0})
    np.testing.assert_array_equal(gate(tmp_path / "a.seg.nrrd", image_file, LABELS).label.array, label)


def test_slicer_labels_outside_of_the_image_are_refused(
    scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path
) -> None:
    image_file, image, label = scene
    larger = sitk.ConstantPad(image, (0, 0, 2), (0, 0, 0))
    drawn = np.pad(label, ((2, 0), (0, 0), (0, 0)))
    drawn[0, 0, :3] = 1
    save_slicer(tmp_path / "a.seg.nrrd", segments_of(drawn, LABELS), larger)
    with pytest.raises(AssftError, match="3 labelled voxels lie outside of its image"):
        gate(tmp_path / "a.seg.nrrd", image_file, LABELS)


def test_an_itksnap_file_and_whole_numbers_in_floats(
    scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path
) -> None:
    image_file, image, label = scene
    save_itksnap(tmp_path / "a.nii.gz", label, image)
    save_itksnap(tmp_path / "b.nii.gz", label, image)
    volume = sitk.ReadImage(str(tmp_path / "b.nii.gz"), sitk.sitkFloat32)
    volume.SetOrigin([v + 1e-4 for v in volume.GetOrigin()])
    sitk.WriteImage(volume, str(tmp_path / "b.nii.gz"))
    assert gate(tmp_path / "a.nii.gz", image_file, LABELS).notes == ()
    mended = gate(tmp_path / "b.nii.gz", image_file, LABELS)
    np.testing.assert_array_equal(mended.label.array, label)
    assert mended.notes == ("rounding errors of its header were repaired (up to 0.00017 mm)",)  # sqrt(3) 1e-4


def test_the_ignore_label_is_a_value_only_if_it_is_declared(
    scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path
) -> None:
    image_file, image, label = scene
    label[:2] = 3
    save_itksnap(tmp_path / "a.nii.gz", label, image)
    assert (gate(tmp_path / "a.nii.gz", image_file, {**LABELS, "ignore": 3}).label.array == 3).any()
    with pytest.raises(
        AssftError,
        match=r"values that dataset.json does not define: 3 \(\d+ voxels\); expected 0 background, 1 ball, 2 box",
    ):
        gate(tmp_path / "a.nii.gz", image_file, LABELS)


def test_a_colour_image_is_no_label_map(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkVectorUInt8, 3), str(tmp_path / "a.nrrd"))
    with pytest.raises(AssftError, match="it has 3 values per voxel; expected one"):
        read_returned_label(tmp_path / "a.nrrd", LABELS)


# Warnings -------------------------------------------------------------------------------------------------------------


def test_volumes_and_sides_worked_by_hand() -> None:
    """Voxels of 1 x 2 x 3 mm are 0.006 ml. The first axis runs to the patient's right: index 4 is at -14 mm."""
    affine = np.array([[-1.0, 0, 0, -10], [0, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]])
    array = np.zeros((3, 3, 6), int)
    array[0, 0, 4] = 1
    array[1, :2, 2] = 2
    array[2] = 3
    seen = summarize(InFileAxes(array), Grid((6, 3, 3), affine), KIDNEYS)
    assert seen.volumes_ml == pytest.approx({"kidney_right": 0.006, "kidney_left": 0.012})
    assert seen.left_mm == pytest.approx({"kidney_right": -14.0, "kidney_left": -12.0})


def summary(right_ml: float, left_ml: float, right_at: float = -60, left_at: float = 60) -> LabelSummary:
    return LabelSummary(
        {"kidney_right": right_ml, "kidney_left": left_ml}, {"kidney_right": right_at, "kidney_left": left_at}
    )


BEFORE = [summary(100, 200), summary(120, 150)]


@pytest.mark.parametrize(
    ("seen", "predicted", "earlier", "expected"),
    [
        (summary(110, 160), {}, BEFORE, None),
        (summary(360, 160), {}, BEFORE, None),  # 3 x 120: just not far outside
        (summary(361, 160), {}, BEFORE, "kidney_right has 361 ml; the 2 labels so far have 100 to 120 ml"),
        (summary(110, 50), {}, BEFORE, None),  # 150 / 3
        (summary(110, 49), {}, BEFORE, "kidney_left has 49 ml; the 2 labels so far have 150 to 200 ml"),
        (summary(361, 160), {}, BEFORE[:1], None),  # one label says nothing
        (summary(0, 160), {"kidney_right": 10.1}, BEFORE, "kidney_right is missing; the model predicted 10.1 ml of it"),
        (summary(0, 160), {"kidney_right": 9.9}, BEFORE, None),  # less than a tenth of the smallest so far
        (summary(0, 160), {"kidney_right": 0.1}, [], "kidney_right is missing; the model predicted 0.1 ml of it"),
        (summary(0, 160), {}, BEFORE, None),
        (summary(0, 0), {"kidney_right": 99}, BEFORE, "it is empty: no structure has a voxel"),
        (
            summary(110, 160, 50, -50),
            {},
            BEFORE,
            "kidney_left and kidney_right seem to be swapped: kidney_left lies 100 mm on the wrong side",
        ),
        (summary(110, 160, 50, -50), {}, [summary(100, 100, 60, -60)], None),  # a mirrored dataset
        (
            summary(110, 160),
            {},
            [summary(100, 100, 60, -60)],
            "seem to be swapped: kidney_left lies 120 mm on the wrong side",
        ),
    ],
)
def test_warnings(
    seen: LabelSummary, predicted: dict[str, float], earlier: list[LabelSummary], expected: str | None
) -> None:
    found = warnings_of(seen, KIDNEYS, Expected(predicted_ml=predicted, earlier=earlier))
    assert len(found) == (expected is not None)
    assert expected is None or expected in found[0]

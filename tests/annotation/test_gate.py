"""What the gate mends and what it warns of: worked numbers, and the files of Slicer and ITK-SNAP."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_assft.annotation.gate import (
    Expected,
    LabelSummary,
    exchanged,
    gate,
    summarize,
    unlike_labels,
    warnings_of,
)
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


SIGNS = {"background": 0, "lesion+": 1, "lesion-": 2}


@pytest.mark.parametrize(
    ("labels", "name", "structure"),
    [
        (SIGNS, "lesion+", "lesion+"),
        (SIGNS, "lesion-", "lesion-"),
        (SIGNS, "Lesion-", "lesion-"),
        (SIGNS, "lesion", None),
        (SIGNS, "lesion -", None),
        ({"background": 0, "lesion+": 1}, "lesion-", None),  # not the only one that is left
        ({"background": 0, "T2*": 1}, "T2", None),
        ({"background": 0, "kidney_left": 1}, "Kidney Left", "kidney_left"),
        ({"background": 0, "kidney_left": 1}, "kidney-left", "kidney_left"),
        ({"background": 0, "kidney_left": 1}, " kidneyleft ", "kidney_left"),
        ({"background": 0, "kidney_left": 1}, "kidney_left_1", None),
        ({"background": 0, "M\u00fcller": 1}, "Mu\u0308ller", "M\u00fcller"),
        (LABELS, "BAckground", "background"),
        (LABELS, "kidneysbckgrd", None),
        (LABELS, "Segment_1", None),
        (LABELS, "b%20ox", None),
    ],
)
def test_names_of_segments(
    scene: tuple[Path, sitk.Image, np.ndarray],
    tmp_path: Path,
    labels: dict[str, int],
    name: str,
    structure: str | None,
) -> None:
    """The segment is a ball. A name means one structure, or the file is refused."""
    image_file, image, label = scene
    save_slicer(tmp_path / "a.seg.nrrd", {name: label == 1}, image)
    if structure:
        expected = np.where(label == 1, labels[structure], 0)
        np.testing.assert_array_equal(gate(tmp_path / "a.seg.nrrd", image_file, labels).label.array, expected)
    else:
        said = f"segment {name.strip()!r} is not a structure of the dataset; expected background"
        with pytest.raises(AssftError, match=re.escape(said)):
            gate(tmp_path / "a.seg.nrrd", image_file, labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Segment1_Layer": "1"}, "segment 'ball' is in layer 1 of a file with 1, label value 2"),
        ({"Segment1_Layer": "-1"}, "segment 'ball' is in layer -1 of a file with 1"),
        ({"Segment1_Layer": "first"}, "its Segment1_Layer is 'first'; expected 1 whole number"),
        ({"Segment1_LabelValue": "0"}, "segment 'ball' is in layer 0 of a file with 1, label value 0"),
        ({"Segment1_LabelValue": "nan"}, "its Segment1_LabelValue is 'nan'; expected 1 whole number"),
        ({"Segment1_LabelValue": "inf"}, "its Segment1_LabelValue is 'inf'; expected 1 whole number"),
        ({"Segment1_LabelValue": "1.5"}, "its Segment1_LabelValue is '1.5'; expected 1 whole number"),
        ({"Segment1_LabelValue": "1 2"}, "its Segment1_LabelValue is '1 2'; expected 1 whole number"),
        ({"Segment1_Extent": "0 5"}, "its Segment1_Extent is '0 5'; expected 6 whole numbers"),
        ({"Segmentation_ReferenceImageExtentOffset": "0"}, "ExtentOffset is '0'; expected 3 whole numbers"),
        ({"Segment1_Name": "BOX"}, "two segments are called 'box' ('box' and 'BOX')"),
        ({"Segmentation_MasterRepresentation": "Fractional labelmap"}, "its segments are fractional label maps"),
        ({"Segmentation_SourceRepresentation": "Fractional labelmap"}, "its segments are fractional label maps"),
    ],
)
def test_damaged_segments(
    scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path, change: dict[str, str], message: str
) -> None:
    image_file, image, label = scene
    save_slicer(tmp_path / "a.seg.nrrd", segments_of(label, LABELS), image, change=change)
    with pytest.raises(AssftError, match=re.escape(message)):
        gate(tmp_path / "a.seg.nrrd", image_file, LABELS)


@pytest.mark.parametrize("layer", ["0", "1", "7"])
def test_an_empty_segment_needs_no_layer(
    scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path, layer: str
) -> None:
    image_file, image, label = scene
    segments = {"ball": label == 1, "box": label == 9}
    save_slicer(tmp_path / "a.seg.nrrd", segments, image, change={"Segment1_Layer": layer})
    np.testing.assert_array_equal(gate(tmp_path / "a.seg.nrrd", image_file, LABELS).label.array, label == 1)


def test_several_segments_of_the_background_do_no_harm(
    scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path
) -> None:
    image_file, image, label = scene
    segments = {"background": label == 0, "ball": label == 1, "Background": label == 0, "box": label == 2}
    layers = {"background": 0, "ball": 0, "Background": 1, "box": 0}
    save_slicer(tmp_path / "a.seg.nrrd", segments, image, layers=layers)
    np.testing.assert_array_equal(gate(tmp_path / "a.seg.nrrd", image_file, LABELS).label.array, label)


def test_a_segment_of_the_background_may_overlap(scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path) -> None:
    image_file, image, label = scene
    segments = {"ball": label == 1, "Background": label < 3, "box": label == 2}
    save_slicer(tmp_path / "a.seg.nrrd", segments, image, layers={"ball": 0, "Background": 1, "box": 0})
    np.testing.assert_array_equal(gate(tmp_path / "a.seg.nrrd", image_file, LABELS).label.array, label)


@pytest.mark.parametrize(("rule", "ball"), [("first", 1), ("last", 0), ("smaller", 1)])
@pytest.mark.parametrize("crop", [True, False])
def test_layers_that_overlap_need_a_rule(  # a rule, a form of the file, and fixtures
    scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path, rule: str, ball: int, crop: bool
) -> None:
    """A box around everything is drawn in a layer of its own, after the ball, and is larger."""
    image_file, image, label = scene
    segments = {"ball": label == 1, "box": label > 0}
    save_slicer(tmp_path / "a.seg.nrrd", segments, image, layers={"ball": 0, "box": 1}, crop=crop)
    n = int((label == 1).sum())
    with pytest.raises(
        AssftError, match=rf"the segments 'ball' and 'box' overlap in {n} voxels; .* --overlap first, l"
    ):
        gate(tmp_path / "a.seg.nrrd", image_file, LABELS)
    gated = gate(tmp_path / "a.seg.nrrd", image_file, LABELS, overlap=rule)
    np.testing.assert_array_equal(gated.label.array, label if ball else 2 * (label > 0))
    winner, loser = ("ball", "box") if ball else ("box", "ball")
    assert f"--overlap {rule} decided: {winner!r} took {n} voxels of {loser!r}" in gated.notes[-1]
    assert gated.overlap == rule
    save_slicer(tmp_path / "b.seg.nrrd", segments_of(label, LABELS), image)
    assert gate(tmp_path / "b.seg.nrrd", image_file, LABELS, overlap=rule).overlap is None


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


def test_whole_numbers_that_meta_image_calls_long(scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path) -> None:
    """Programs on Windows write them. They have 4 bytes, as MET_INT has."""
    image_file, image, label = scene
    volume = sitk.GetImageFromArray(label.astype(np.int32))
    volume.CopyInformation(image)
    sitk.WriteImage(volume, str(tmp_path / "a.mha"))
    (tmp_path / "a.mha").write_bytes((tmp_path / "a.mha").read_bytes().replace(b"MET_INT", b"MET_LONG"))
    np.testing.assert_array_equal(gate(tmp_path / "a.mha", image_file, LABELS).label.array, label)


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


def cropped(label: np.ndarray, image: sitk.Image, margin: int) -> sitk.Image:
    """A label map of the box around the structures, with a margin of voxels on each side."""
    volume = sitk.GetImageFromArray(label)
    volume.CopyInformation(image)
    k, j, i = (slice(int(where.min()) - margin, int(where.max()) + 1 + margin) for where in np.nonzero(label))
    return volume[i, j, k]


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_a_label_map_that_was_cropped_to_its_structures_is_put_back(
    scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path, ending: str
) -> None:
    image_file, image, label = scene
    sitk.WriteImage(cropped(label, image, margin=0), str(tmp_path / f"a{ending}"))
    gated = gate(tmp_path / f"a{ending}", image_file, LABELS)
    np.testing.assert_array_equal(gated.label.array, label)
    assert gated.warnings == ()
    assert gated.notes[-2:] == (
        "it was cropped and has been put back on the whole image",
        "next time, save it as .seg.nrrd, or export it with the image as reference volume",
    )


def test_a_label_map_of_a_part_of_the_image_needs_consent(
    scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path
) -> None:
    """Structures outside of the part may be missing."""
    image_file, image, label = scene
    sitk.WriteImage(cropped(label, image, margin=1), str(tmp_path / "a.nii.gz"))
    gated = gate(tmp_path / "a.nii.gz", image_file, LABELS)
    np.testing.assert_array_equal(gated.label.array, label)
    assert "of the 24 x 26 x 18 voxels of its image, and all others would become background" in gated.warnings[0]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v: v.SetOrigin([mm + 0.35 for mm in v.GetOrigin()]), "it is shifted by"),  # half a voxel
        (
            lambda v: v.SetOrigin(v.TransformIndexToPhysicalPoint((-30, -30, 0))),
            "it has .* voxels, its image 24 x 26 x 18",
        ),
        (lambda v: v.SetSpacing((1, 1, 1)), "its spacing is 1 x 1 x 1 mm"),
    ],
)
def test_a_cropped_label_map_that_is_not_on_voxels_of_the_image_is_refused(
    scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path, spoil: Callable[[sitk.Image], None], message: str
) -> None:
    image_file, image, label = scene
    volume = cropped(label, image, margin=0)
    spoil(volume)
    sitk.WriteImage(volume, str(tmp_path / "a.nii.gz"))
    with pytest.raises(AssftError, match=message):
        gate(tmp_path / "a.nii.gz", image_file, LABELS)


def test_a_segmentation_of_the_size_of_its_image_that_lies_elsewhere(
    scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path
) -> None:
    """Shifted by one slice of 2.5 mm. Programs other than Slicer do not say where the image begins."""
    image_file, image, label = scene
    image.SetOrigin((-3.0, 5.0, 10.0))
    save_slicer(tmp_path / "a.seg.nrrd", segments_of(label, LABELS), image, crop=False)
    assert "it was not drawn on its image" in gate(tmp_path / "a.seg.nrrd", image_file, LABELS).warnings[0]
    change = {"Segmentation_ReferenceImageExtentOffset": ""}
    save_slicer(tmp_path / "b.seg.nrrd", segments_of(label, LABELS), image, crop=False, change=change)
    with pytest.raises(AssftError, match=r"it is shifted by 2\.5 mm \(x \+0, y \+0, z \+2\.5\)"):
        gate(tmp_path / "b.seg.nrrd", image_file, LABELS)


@pytest.mark.parametrize("right_one", ["sform", "qform", None])
def test_sform_and_qform_that_disagree_are_named(
    scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path, right_one: str | None
) -> None:
    """ITK reads the qform of these files, and warns on the terminal, where nothing is to be seen."""
    image_file, image, label = scene
    save_itksnap(tmp_path / "a.nii", label, image)
    volume = nibabel.load(tmp_path / "a.nii")
    if right_one != "qform":
        volume.set_qform(np.eye(4), 1)
    if right_one != "sform":
        volume.set_sform(np.diag([1, 1, 3, 1]), 2)
    nibabel.save(volume, tmp_path / "b.nii")
    if right_one == "qform":
        gated = gate(tmp_path / "b.nii", image_file, LABELS)
        np.testing.assert_array_equal(gated.label.array, label)
        assert "its sform and its qform disagree; the one that ITK reads lies on the image" in gated.notes
    else:
        with pytest.raises(AssftError, match="; its sform and its qform disagree"):
            gate(tmp_path / "b.nii", image_file, LABELS)


# Headers that are not to be trusted -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.nrrd", "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2000 2000 2000\nencoding: raw\n\n"),
        ("a.seg.nrrd", "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2000 2000 2000\nencoding: gzip\n\n"),
        (
            "a.seg.nrrd",
            "NRRD0004\ntype: uint8\ndimension: 4\nsizes: 5000 24 26 18\nkinds: list domain domain domain\n"
            "encoding: raw\nSegment0_Name:=ball\n\n",
        ),
        (
            "a.mha",
            "ObjectType = Image\nNDims = 3\nDimSize = 2000 2000 2000\nElementType = MET_UCHAR\n"
            "ElementDataFile = LOCAL\n",
        ),
    ],
)
def test_a_header_that_claims_far_more_voxels_is_refused_by_its_numbers(
    scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path, name: str, header: str
) -> None:
    (tmp_path / name).write_text(header)
    with pytest.raises(AssftError, match=r"its header claims .* far more than those of its image, 24 x 26 x 18"):
        gate(tmp_path / name, scene[0], LABELS)


def test_a_nifti_header_that_claims_far_more_voxels(scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path) -> None:
    content = bytearray(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)).to_bytes())
    content[42:48] = struct.pack("<3h", 2000, 2000, 2000)
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(AssftError, match="its header claims 2000 x 2000 x 2000 voxels, far more"):
        gate(tmp_path / "a.nii", scene[0], LABELS)


@pytest.mark.parametrize("name", ["a.nrrd", "a.seg.nrrd"])
def test_voxels_of_another_file_are_never_read(
    scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path, name: str
) -> None:
    (tmp_path / "secret").write_bytes(bytes(24 * 26 * 18))
    (tmp_path / name).write_text(
        "NRRD0004\ntype: uint8\ndimension: 3\nspace: left-posterior-superior\nsizes: 24 26 18\n"
        "space directions: (0.7,0,0) (0,0.9,0) (0,0,2.5)\nspace origin: (-3,5,7.5)\nencoding: raw\n"
        f"Segment0_Name:=ball\ndata file: {tmp_path / 'secret'}\n\n"
    )
    assert sitk.ReadImage(str(tmp_path / name)).GetSize() == (24, 26, 18)  # the library follows it
    with pytest.raises(AssftError, match=r"are in another file, which is not opened. Save the label again, as one"):
        gate(tmp_path / name, scene[0], LABELS)


@pytest.mark.parametrize(("key", "value"), [("Offset", "1e30 0 0"), ("Offset", "nan 0 0"), ("ElementSpacing", "0 1 1")])
def test_a_position_that_is_none(
    scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path, key: str, value: str
) -> None:
    _, image, label = scene
    save_itksnap(tmp_path / "a.mha", label, image)
    content = re.sub(rf"\n{key} = [^\n]*".encode(), f"\n{key} = {value}".encode(), (tmp_path / "a.mha").read_bytes())
    (tmp_path / "a.mha").write_bytes(content)
    with pytest.raises(AssftError, match=r"header says Offset|is shifted by|its spacing is|cannot be read"):
        gate(tmp_path / "a.mha", scene[0], LABELS)


def test_a_colour_image_is_no_label_map(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkVectorUInt8, 3), str(tmp_path / "a.nrrd"))
    with pytest.raises(AssftError, match="it has 3 values per voxel; expected one"):
        read_returned_label(tmp_path / "a.nrrd", LABELS, Grid((4, 4, 4), np.eye(4)))


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


def test_numbers_that_were_exchanged_are_named() -> None:
    """Structures of 4, 6 and 8 voxels in a row; the pre-segmentation has one voxel less of the first."""
    labels = {"background": 0, "liver": 2, "spleen": 5, "cyst": 7}
    prelabel = np.array([[[2, 2, 2, 0, 5, 5, 5, 5, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 0]]], np.uint8)
    truth = prelabel.copy()
    truth[..., 3] = 2

    def named(numbers: dict[int, int]) -> list[str]:
        table = np.arange(8)
        table[list(numbers)] = list(numbers.values())
        return exchanged(InFileAxes(table[truth]), InFileAxes(prelabel), labels)

    assert named({}) == []
    assert named({2: 5}) == []  # the spleen is merged with the liver, not exchanged
    assert named({2: 5, 5: 2}) == [
        "liver and spleen seem to be exchanged: liver lies where the pre-segmentation has spleen (Dice 1.00), spleen "
        "lies where the pre-segmentation has liver (Dice 0.86)"  # 2 * 3 / (4 + 3)
    ]
    (all_three,) = named({2: 5, 5: 7, 7: 2})
    assert all_three.startswith("liver and spleen and cyst seem to be exchanged: liver lies where the pre-segmentation")
    elsewhere = InFileAxes(np.roll(truth, 9, axis=-1))
    assert exchanged(elsewhere, InFileAxes(prelabel), labels) == []
    sides = {"background": 0, "kidney_left": 2, "kidney_right": 5}  # of which the gate sees the sides
    assert exchanged(InFileAxes(np.array([[[5, 2]]])), InFileAxes(np.array([[[2, 5]]])), sides) == []


def test_exchanged_numbers_need_consent(scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path) -> None:
    image_file, image, label = scene
    save_itksnap(tmp_path / "a.nii.gz", np.array([0, 2, 1])[label], image)
    (warning,) = gate(tmp_path / "a.nii.gz", image_file, LABELS, Expected(InFileAxes(label))).warnings
    assert warning.startswith("ball and box seem to be exchanged: ball lies where the pre-segmentation has box")


def test_an_accepted_pre_segmentation_is_not_called_unchanged_and_must_be_it(
    scene: tuple[Path, sitk.Image, np.ndarray], tmp_path: Path
) -> None:
    image_file, image, label = scene
    save_itksnap(tmp_path / "a.nii.gz", label, image)
    expected = Expected(InFileAxes(label))
    assert gate(tmp_path / "a.nii.gz", image_file, LABELS, expected).warnings == (
        "it is the pre-segmentation, unchanged",
    )
    accepted = Expected(InFileAxes(label), accepted=True)
    assert gate(tmp_path / "a.nii.gz", image_file, LABELS, accepted).warnings == ()
    for prelabel in (InFileAxes(label * 0), None):
        with pytest.raises(AssftError, match="it is not the pre-segmentation, but its decision is accept"):
            gate(tmp_path / "a.nii.gz", image_file, LABELS, Expected(prelabel, accepted=True))


def test_a_pre_segmentation_unlike_all_labels_is_described() -> None:
    """7.06 ml against a single label of 1.73 ml; a factor of 3 is allowed."""
    one = [LabelSummary({"anterior": 1.73, "posterior": 1.5}, {})]
    assert unlike_labels({"anterior": 7.06, "posterior": 4.4}, one) == [
        "the model found 7.06 ml of anterior, and the 1 label so far has 1.73 ml"
    ]
    two = [*one, LabelSummary({"anterior": 2.0, "posterior": 0.0}, {})]
    assert unlike_labels({"anterior": 0.0, "posterior": 1.4}, two) == [
        "the model found no anterior, and the 2 labels so far have 1.73 to 2 ml"
    ]
    assert unlike_labels({"anterior": 7.06}, []) == []

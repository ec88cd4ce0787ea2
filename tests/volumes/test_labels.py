"""The check of every label that is about to be used: it lies on its image, and its values are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_assft.errors import AssftError
from nnunet_assft.volumes.labels import find_misfit, misplaced, read_label
from nnunet_assft.volumes.raw_dataset import RawDataset, read_dataset
from tests.conftest import LABELS, write_volume

SPACING = (0.8, 1.0, 3.0)  # x, y, z in mm
READERS = ("SimpleITKIO", "NibabelIO", "NibabelIOWithReorient")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., RawDataset]:
    """A dataset of one case whose image has (4, 6, 6) voxels (z, y, x), as many along x as along y."""

    def make_dataset(*, reader: str | None = None, ending: str = ".nii.gz", stored: str = "LPS") -> RawDataset:
        folder = tmp_path / "Dataset903_Labels"
        image_file = folder / "imagesTr" / f"a_0000{ending}"
        write_volume(image_file, np.ones((4, 6, 6), np.float32), SPACING)
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(image_file)), stored), str(image_file))
        (folder / "labelsTr").mkdir(exist_ok=True)
        content = {"channel_names": {"0": "MRI"}, "labels": LABELS, "numTraining": 1, "file_ending": ending}
        content |= {"overwrite_image_reader_writer": reader} if reader else {}
        (folder / "dataset.json").write_text(json.dumps(content))
        return read_dataset(folder)

    return make_dataset


def random_label(dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, (4, 6, 6)).astype(dtype)


def with_values(value: float, n: int) -> np.ndarray:
    label = random_label(np.float32)
    label.ravel()[:n] = value
    return label


def checked(dataset: RawDataset) -> np.ndarray:
    misfit = find_misfit(dataset, "a", dataset.label_file("a"))
    if misfit:
        raise misplaced("a", dataset.label_file("a"), misfit)
    return read_label(dataset, "a", dataset.label_file("a"))


# Values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_a_label_of_whole_numbers_passes_in_any_type(make: Callable[..., RawDataset], dtype: type) -> None:
    dataset = make()
    write_volume(dataset.label_file("a"), random_label(dtype), SPACING)
    found = checked(dataset)
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, random_label()[None])


@pytest.mark.parametrize("present", [(), (1,), (2,)])
def test_a_label_without_some_structures_passes(make: Callable[..., RawDataset], present: tuple[int, ...]) -> None:
    dataset = make()
    label = random_label() * np.isin(random_label(), present)
    write_volume(dataset.label_file("a"), label, SPACING)
    np.testing.assert_array_equal(checked(dataset)[0], label)


@pytest.mark.parametrize(
    ("label", "ending", "cut", "words"),
    [
        (None, ".nii.gz", None, "The label of case a is missing: "),
        (with_values(7, 3), ".nii.gz", None, "dataset.json does not define: 7 (3 voxels); expected [0, 1, 2]"),
        (with_values(0.5, 4), ".nii.gz", None, "0.5 (4 voxels)"),
        (with_values(-1, 2), ".nii.gz", None, "-1 (2 voxels)"),
        (with_values(np.nan, 5), ".mha", None, "nan (5 voxels)"),
        (with_values(np.nan, 5), ".nii.gz", None, "5 voxels are NaN or infinite"),  # ITK alone would read zeros
        (random_label()[:3], ".nii.gz", None, "it has 6 x 6 x 3 voxels, its image 6 x 6 x 4"),
        (np.stack([random_label()] * 2, axis=-1), ".nrrd", None, "it holds 2 values per voxel, such as"),
        (random_label(), ".nii.gz", 60, "cannot be read ("),
        (random_label(), ".nii.gz", -30, "cannot be read ("),
        (random_label(), ".nii", -30, "cannot be read ("),
        (random_label(), ".nii.gz", 0, "it is empty"),
    ],
)
def test_a_label_that_cannot_be_trained_on_is_refused(
    make: Callable[..., RawDataset], label: np.ndarray | None, ending: str, cut: int | None, words: str
) -> None:
    dataset = make(ending=ending, reader="NibabelIO" if ending == ".nii" else None)
    file = dataset.label_file("a")
    if label is not None and label.ndim == 3:
        write_volume(file, label, SPACING)
    elif label is not None:
        sitk.WriteImage(sitk.GetImageFromArray(label, isVector=True), str(file))
    if cut is not None:
        file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(AssftError) as caught:
        checked(dataset)
    text = str(caught.value)
    assert words in text
    assert "case a" in text
    assert str(file) in text
    assert "run the same command again" in text
    assert "\n" not in text


# Position -------------------------------------------------------------------------------------------------------------


def moved(
    *, shift: tuple[float, float, float] = (0, 0, 0), about_z: float = 0, scale: float = 1
) -> Callable[[sitk.Image], sitk.Image]:
    """The same voxels under another header: LPS mm, degrees about the first voxel, factor of the spacing along x."""

    def change(label: sitk.Image) -> sitk.Image:
        label.SetOrigin([a + b for a, b in zip(label.GetOrigin(), shift, strict=True)])
        turn = np.reshape(sitk.Euler3DTransform((0, 0, 0), 0, 0, np.radians(about_z)).GetMatrix(), (3, 3))
        label.SetDirection((turn @ np.reshape(label.GetDirection(), (3, 3))).ravel())
        x, y, z = label.GetSpacing()
        label.SetSpacing((x * scale, y, z))
        return label

    return change


MISPLACED = {
    "shifted": (moved(shift=(0, 0, 40)), r"it is shifted by 40 mm \(x \+0, y \+0, z \+40\)"),
    "shifted by a tenth of a voxel": (
        moved(shift=(0.08, 0, 0)),
        r"it is shifted by 0.08 mm \(x \+0.08, y \+0, z \+0\)",
    ),
    "turned by 180 degrees": (moved(about_z=180), r"it is shifted by 6.403 mm \(x -4, y -5, z \+0\)"),
    "turned by 7 degrees": (moved(about_z=7), r"its axes are rotated by 7 degrees relative to those of its image"),
    "another spacing": (moved(scale=1.25), r"its spacing is .* mm, its image has .* mm"),
}


@pytest.mark.parametrize("kind", MISPLACED)
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("stored", ["LPS", "PIR"])
def test_a_label_that_lies_elsewhere_is_refused_by_every_reader(
    make: Callable[..., RawDataset], reader: str, stored: str, kind: str
) -> None:
    dataset, (change, words) = make(reader=reader, stored=stored), MISPLACED[kind]
    image = sitk.DICOMOrient(sitk.ReadImage(str(dataset.images["a"][0])), "LPS")
    label = sitk.GetImageFromArray(random_label())
    label.CopyInformation(image)
    sitk.WriteImage(sitk.DICOMOrient(change(label), stored), str(dataset.label_file("a")))
    with pytest.raises(AssftError, match=f"The label of case a does not lie on its image: {words}"):
        checked(dataset)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("axes", ["RPS", "PLS", "RAS"], ids=["flipped", "transposed", "turned by 180 degrees in place"])
def test_another_stored_orientation_of_the_same_grid(make: Callable[..., RawDataset], reader: str, axes: str) -> None:
    """Voxels that lie right in space, stored in another order. The reorienting reader turns image and label; for the
    others the arrays do not match."""
    dataset = make(reader=reader)
    label = sitk.GetImageFromArray(random_label())
    image = sitk.ReadImage(str(dataset.images["a"][0]))
    image.SetSpacing((1, 1, 3))  # else a transposed label has another spacing
    sitk.WriteImage(image, str(dataset.images["a"][0]))
    label.CopyInformation(image)
    sitk.WriteImage(sitk.DICOMOrient(label, axes), str(dataset.label_file("a")))
    if reader == "NibabelIOWithReorient":
        np.testing.assert_array_equal(checked(dataset)[0], random_label()[:, ::-1, ::-1])  # LPS to RAS
    else:
        with pytest.raises(AssftError, match=rf"stored in another order or direction \({axes}\) than .* \(LPS\)"):
            checked(dataset)


def test_rounding_in_a_header_is_no_difference(make: Callable[..., RawDataset]) -> None:
    dataset = make()
    label = sitk.GetImageFromArray(random_label())
    label.SetSpacing((0.80001, 1.0, 2.9999))
    label.SetOrigin((-3.001, 5.0, 7.5))
    sitk.WriteImage(label, str(dataset.label_file("a")))
    np.testing.assert_array_equal(checked(dataset)[0], random_label())


@pytest.mark.parametrize(
    ("reader", "stored", "consent"),
    [("SimpleITKIO", "LPS", True), ("NibabelIOWithReorient", "LPS", True), ("NibabelIOWithReorient", "RAS", False)],
)
def test_voxels_can_be_taken_as_stored_only_if_the_reader_turns_them_as_it_turns_the_image(
    make: Callable[..., RawDataset], reader: str, stored: str, consent: bool
) -> None:
    dataset = make(reader=reader)
    label = sitk.GetImageFromArray(random_label())
    label.SetSpacing(SPACING)
    sitk.WriteImage(sitk.DICOMOrient(moved(shift=(9, 9, 9))(label), stored), str(dataset.label_file("a")))
    misfit = find_misfit(dataset, "a", dataset.label_file("a"))
    assert misfit is not None
    assert misfit.same_shape == consent
    text = str(misplaced("a", dataset.label_file("a"), misfit))
    assert ("--accept_geometry a takes its voxels as they are" in text) == consent


def test_two_positions_in_one_nifti_header_are_named(make: Callable[..., RawDataset]) -> None:
    dataset = make(reader="NibabelIO")
    image = nibabel.load(dataset.images["a"][0])
    label = nibabel.Nifti1Image(random_label().transpose(2, 1, 0), image.affine)
    label.set_qform(image.affine, 1)
    label.set_sform(np.eye(4), 2)  # the one that nibabel takes
    nibabel.save(label, dataset.label_file("a"))
    with pytest.raises(AssftError, match=r"its spacing is 1 x 1 x 1 mm, .*; its sform and its qform disagree\. Fix"):
        checked(dataset)


# Labels of 3D Slicer in a dataset of .nrrd files ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"ball": 1, "box": 2}, None),
        ({"Ball": 1, "other": 7}, None),
        ({"b-all": 2}, "'b-all' is 2; expected 1, as in dataset.json"),  # a name of the dataset, as import takes it
        ({"ball": 2, "box": 1}, "'ball' is 2; expected 1, as in dataset.json"),
        ({"BOX": 1}, "'BOX' is 1; expected 2, as in dataset.json"),
    ],
)
def test_numbers_that_slicer_has_given_to_the_structures(
    make: Callable[..., RawDataset], numbers: dict[str, int], said: str | None
) -> None:
    dataset = make(ending=".nrrd")
    volume = sitk.GetImageFromArray(random_label())
    volume.CopyInformation(sitk.ReadImage(str(dataset.images["a"][0])))
    for i, (name, number) in enumerate(numbers.items()):
        volume.SetMetaData(f"Segment{i}_Name", name)
        volume.SetMetaData(f"Segment{i}_LabelValue", str(number))
    sitk.WriteImage(volume, str(dataset.label_file("a")))
    if said is None:
        np.testing.assert_array_equal(checked(dataset)[0], random_label())
    else:
        with pytest.raises(AssftError, match=f"was saved by 3D Slicer with other numbers: {said}"):
            checked(dataset)


def test_segments_in_layers_are_no_label_map(make: Callable[..., RawDataset]) -> None:
    dataset = make(ending=".nrrd")
    layers = np.stack([random_label() == 1, random_label() == 2], axis=-1).astype(np.uint8)
    volume = sitk.GetImageFromArray(layers, isVector=True)
    volume.CopyInformation(sitk.ReadImage(str(dataset.images["a"][0])))
    sitk.WriteImage(volume, str(dataset.label_file("a")))
    with pytest.raises(
        AssftError, match=r"it holds 2 values per voxel, such as colours \(RGB\), vectors or segments in layers"
    ):
        checked(dataset)


def test_a_label_whose_voxels_are_in_another_file_is_refused(make: Callable[..., RawDataset]) -> None:
    dataset = make(ending=".nrrd")
    dataset.label_file("a").write_text(
        "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 6 6 4\nencoding: raw\ndata file: /dev/zero\n\n"
    )
    with pytest.raises(AssftError, match="its header says that its voxels are in another file, which is not opened"):
        checked(dataset)

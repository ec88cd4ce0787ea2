"""Grids in space: worked positions and distances, and that headers are read as nnU-Net's readers read them."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from nnunet_assft.volumes.grid import Grid, Tolerances, corner_distance, itk_grid, read_grid, turns_to_ras
from nnunet_assft.volumes.nifti import forms_disagree

READERS = [SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient]


def test_positions_are_lps() -> None:
    """Voxel (1, 2, 3) of a RAS header lies 2 * 1 - 10 mm to the right, which is 8 mm to the left."""
    grid = Grid.from_ras((4, 5, 6), np.array([[2.0, 0, 0, -10], [0, 3, 0, 0], [0, 0, 4, 5], [0, 0, 0, 1]]))
    np.testing.assert_allclose(grid.affine @ [1, 2, 3, 1], [8, -6, 17, 1])
    assert grid.axes == "RAS"
    np.testing.assert_allclose(grid.spacing, [2, 3, 4])


def test_distances_of_corners_worked_by_hand() -> None:
    """About z: voxel (10, 20, 30) moves from (10, 20, 30) to (-20, 10, 30), by the diagonal sqrt(30^2 + 10^2)."""
    size = (11, 21, 31)
    turn = np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    assert corner_distance(Grid(size, np.eye(4)), Grid(size, turn)) == pytest.approx(np.sqrt(1000))
    assert corner_distance(Grid(size, np.eye(4)), Grid(size, np.diag([1.01, 1, 1, 1]))) == pytest.approx(0.1)


def test_axes_30_degrees_from_a_right_angle() -> None:
    affine = np.eye(4)
    affine[:2, 1] = np.sin(np.radians(30)), np.cos(np.radians(30))
    assert Grid((2, 2, 2), affine).skew == pytest.approx(30)
    assert Grid((2, 2, 2), np.diag([1, 2, 3, 1.0])).skew == pytest.approx(0)


def test_the_limits_of_a_tolerance() -> None:
    image = Grid((2, 2, 2), np.diag([3, 2, 5, 1.0]))
    assert Tolerances().limits(image) == (0.1, 2.0)  # the smallest spacing is one voxel
    assert Tolerances(0.5, 7).limits(image) == (0.5, 7)
    assert Tolerances().words() == {"mm": [0.1, "voxel"]}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("stored", ["LPS", "RAS", "PIR", "SLA"])
def test_a_header_is_read_as_the_reader_reads_the_file(
    reader: type[BaseReaderWriter], stored: str, tmp_path: Path
) -> None:
    volume = sitk.GetImageFromArray(np.zeros((3, 4, 5), np.uint8))
    volume.SetSpacing((1, 2, 3))
    volume.SetOrigin((-7, 11, 13))
    image = sitk.DICOMOrient(volume, stored)
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    grid = read_grid(tmp_path / "a.nii.gz", reader())
    assert (grid.size, grid.axes) == (itk_grid(image).size, stored)
    np.testing.assert_allclose(grid.affine, itk_grid(image).affine, atol=1e-5)
    seen = grid.reoriented() if turns_to_ras(reader()) else grid
    array, properties = reader().read_images([str(tmp_path / "a.nii.gz")])
    assert seen.size == array.shape[:0:-1]
    np.testing.assert_allclose(seen.spacing, properties["spacing"][::-1], rtol=1e-6)


def test_a_format_without_a_position_has_a_shape_and_a_spacing(tmp_path: Path) -> None:
    import tifffile

    (tmp_path / "a.json").write_text('{"spacing": [3, 2, 1]}')
    for name in ("a_0000.tif", "a.tif"):  # an image and its label
        tifffile.imwrite(tmp_path / name, np.zeros((3, 4, 5), np.uint8))
        grid = read_grid(tmp_path / name, Tiff3DIO())
        assert grid.size == (5, 4, 3)
        np.testing.assert_allclose(grid.spacing, [1, 2, 3])


@pytest.mark.parametrize(("last", "reader"), [(1, SimpleITKIO), (2, SimpleITKIO), (2, NibabelIO)])
def test_further_axes_may_have_one_voxel_only(last: int, reader: type[BaseReaderWriter], tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6, last), np.uint8), np.eye(4)), tmp_path / "a.nii.gz")
    if last == 1:
        assert read_grid(tmp_path / "a.nii.gz", reader()).size == (4, 5, 6)
    else:
        with pytest.raises(ValueError, match="4 x 5 x 6 x 2 voxels; expected a volume with three axes"):
            read_grid(tmp_path / "a.nii.gz", reader())


@pytest.mark.parametrize(
    ("sform", "qform", "expected"),
    [((1, 2), (1, 1), False), ((2, 2), (1, 1), True), ((2, 2), (1, 0), True), ((2, 2), (2, 0), False)],
)
def test_two_geometries_in_one_header(
    sform: tuple[float, int], qform: tuple[float, int], expected: bool, tmp_path: Path
) -> None:
    """(spacing, code) of each. A qform with code 0 says nothing of the position, but readers take its spacing."""
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.uint8), None)
    image.set_sform(np.diag([sform[0]] * 3 + [1]), sform[1])
    image.set_qform(np.diag([qform[0]] * 3 + [1]), qform[1])
    nibabel.save(image, tmp_path / "a.nii.gz")
    assert forms_disagree(tmp_path / "a.nii.gz") == expected

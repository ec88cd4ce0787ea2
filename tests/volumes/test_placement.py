"""Grids in space: worked positions, and that what was turned, flipped and cropped comes back voxel by voxel."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_assft.volumes.grid import Grid
from nnunet_assft.volumes.placement import DoesNotFitError, placement, put_back, require_same_box
from nnunet_assft.volumes.segmentations import InFileAxes

AFFINE = np.array([[1.0, 0, 0, -3], [0, 2, 0, 5], [0, 0, 3, 7.5], [0, 0, 0, 1]])
IMAGE = Grid((6, 5, 4), AFFINE)


@pytest.mark.parametrize("stored", ["RAS", "LPS", "PIR", "SLA"])
@pytest.mark.parametrize("reader", [NibabelIOWithReorient, NibabelIO, SimpleITKIO])
def test_arrays_of_nnunets_readers_along_the_axes_of_the_file_and_back(
    reader: type[BaseReaderWriter], stored: str, tmp_path: Path
) -> None:
    file = str(tmp_path / "a.nii.gz")
    volume = sitk.GetImageFromArray(np.arange(60, dtype=np.float32).reshape(3, 4, 5))
    volume.SetSpacing((1, 2, 3))
    sitk.WriteImage(sitk.DICOMOrient(volume, stored), file)
    array, properties = reader().read_images([file])
    stored_array = InFileAxes.of(array[0], properties)
    np.testing.assert_array_equal(stored_array.array, sitk.GetArrayFromImage(sitk.ReadImage(file)))
    np.testing.assert_array_equal(stored_array.in_reader_axes(properties), array[0])


def moved(*mm: float) -> Grid:
    affine = AFFINE.copy()
    affine[:3, 3] += mm
    return Grid(IMAGE.size, affine)


def test_the_same_grid() -> None:
    where = placement(IMAGE, IMAGE)
    assert (where.axes, where.flips, where.offset, where.noise_mm) == ((0, 1, 2), (False, False, False), (0, 0, 0), 0.0)
    assert not where.is_reoriented


def test_a_whole_voxel_is_an_offset_and_a_shift_for_what_must_cover_the_image() -> None:
    label = moved(1, -2, 3)
    where = placement(label, IMAGE)
    assert where.offset == (1, -1, 1)
    with pytest.raises(DoesNotFitError, match=r"shifted by 3.742 mm \(x \+1, y -2, z \+3\)"):  # sqrt(14)
        require_same_box(where, label, IMAGE)


def test_half_a_voxel_is_refused_in_mm() -> None:
    with pytest.raises(DoesNotFitError, match=r"shifted by 1.5 mm \(x \+0, y \+0, z \+1.5\)"):
        placement(moved(0, 0, 1.5), IMAGE)


def test_rounding_of_a_header_is_mended_up_to_a_twentieth_of_a_voxel() -> None:
    where = placement(moved(0.03, 0.04, 0), IMAGE)
    assert where.offset == (0, 0, 0)
    assert where.noise_mm == pytest.approx(0.05)  # 3-4-5
    with pytest.raises(DoesNotFitError, match=r"shifted by 0.06 mm"):
        placement(moved(0.06, 0, 0), IMAGE)


def test_spacing_counts_over_the_whole_extent() -> None:
    def with_spacing(size: int, mm: float) -> Grid:
        return Grid((size, 2, 2), np.diag([mm, 1, 1, 1.0]))

    placement(with_spacing(5, 1.01), with_spacing(5, 1.0))  # four gaps: 0.04 voxels at the far end
    with pytest.raises(DoesNotFitError, match=r"its spacing is 1.01 x 1 x 1 mm, its image has 1 x 1 x 1 mm"):
        placement(with_spacing(100, 1.01), with_spacing(100, 1.0))


def test_a_turn_is_refused_with_angle_and_displacement() -> None:
    t = np.radians(90 - 60)
    turn = np.array([[np.cos(t), -np.sin(t), 0, 0], [np.sin(t), np.cos(t), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    with pytest.raises(DoesNotFitError, match="rotated by 30 degrees"):
        placement(Grid((9, 9, 9), turn), Grid((9, 9, 9), np.eye(4)))


def test_a_label_that_sticks_out_loses_what_it_has_there() -> None:
    label = np.ones((2, 5, 4), int)
    where = placement(Grid((2, 5, 4), moved(-1, 0, 0).affine), IMAGE)
    whole, lost = put_back(label, where, IMAGE.size)
    assert lost == 20  # one slab of 5 x 4
    assert whole.sum() == 20
    assert whole[0].all()
    far, lost = put_back(label, placement(Grid((2, 5, 4), moved(60, 0, 0).affine), IMAGE), IMAGE.size)
    assert (far.any(), lost) == (False, 40)


@settings(max_examples=60, deadline=None)
@given(
    axes=st.sampled_from(list(itertools.permutations(range(3)))),
    flips=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    low=st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 1)),
    oblique=st.floats(0, 1),
)
def test_turned_flipped_and_cropped_comes_back(
    axes: tuple[int, int, int], flips: tuple[bool, bool, bool], low: tuple[int, int, int], oblique: float
) -> None:
    rng = np.random.default_rng(3)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(oblique), -np.sin(oblique)], [np.sin(oblique), np.cos(oblique)]]
    image = Grid(IMAGE.size, turn @ AFFINE)
    whole = np.zeros(image.size, int)
    region = tuple(slice(a, n) for a, n in zip(low, image.size, strict=True))
    whole[region] = rng.integers(0, 4, whole[region].shape)
    part = np.flip(whole[region], tuple(a for a in range(3) if flips[a])).transpose(axes)
    index = np.eye(4)  # of a voxel of the part -> of the same voxel in the image
    index[:3, :3] = 0
    for own, axis in enumerate(axes):
        index[axis, own] = -1 if flips[axis] else 1
        index[axis, 3] = image.size[axis] - 1 if flips[axis] else low[axis]
    where = placement(Grid((part.shape[0], part.shape[1], part.shape[2]), image.affine @ index), image)
    back, lost = put_back(where.oriented(part), where, image.size)
    np.testing.assert_array_equal(back, whole)
    assert lost == 0
    assert where.offset == low

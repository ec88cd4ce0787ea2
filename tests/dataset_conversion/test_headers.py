"""Distances between the grids of an image and its label, worked by hand; which severity they get."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from nnunet_assft.dataset_conversion.headers import Header, Tolerances, pair_findings, read_header

UINT8 = np.dtype(np.uint8)


def header(affine: np.ndarray, shape: tuple[int, int, int] = (11, 21, 31)) -> Header:
    return Header(shape, affine, UINT8, False)


def test_a_shift_of_3_mm_is_3_mm() -> None:
    label = np.eye(4)
    label[2, 3] = 3
    measured = difference(header(np.eye(4)), header(label))
    assert (measured.affine, measured.spacing, measured.direction) == (pytest.approx(3), 0, 0)


def test_the_far_corner_counts() -> None:
    """1 mm against 1.01 mm along x, 11 voxels: the last one is 10 * 0.01 mm off. That is 1 %."""
    measured = difference(header(np.eye(4)), header(np.diag([1.01, 1, 1, 1])))
    assert measured.affine == pytest.approx(0.1)
    assert measured.spacing == pytest.approx(1)
    assert measured.direction == pytest.approx(0, abs=1e-5)


def test_a_quarter_turn_is_90_degrees() -> None:
    """About z: voxel (10, 20, 30) moves from (10, 20, 30) to (-20, 10, 30), which is the diagonal sqrt(30^2 + 10^2)."""
    turn = np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    measured = difference(header(np.eye(4)), header(turn))
    assert measured.direction == pytest.approx(90)
    assert measured.affine == pytest.approx(np.sqrt(1000))


def test_axes_30_degrees_from_a_right_angle() -> None:
    affine = np.eye(4)
    affine[:2, 1] = np.sin(np.radians(30)), np.cos(np.radians(30))
    assert skew(header(affine)) == pytest.approx(30)
    assert skew(header(np.diag([1, 2, 3, 1.0]))) == pytest.approx(0)


def test_a_grid_stored_in_two_orientations_agrees_only_for_a_reader_that_reorients(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.diag([1, 2, 3, 1.0]))
    for axes in ("RAS", "PSL"):
        turn = nibabel.orientations.ornt_transform(
            nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(axes)
        )
        nibabel.save(image.as_reoriented(turn), tmp_path / f"{axes}.nii.gz")
    first, second = (read_header(tmp_path / f"{axes}.nii.gz") for axes in ("RAS", "PSL"))
    assert (first.shape, second.shape, second.axes) == ((3, 4, 5), (4, 5, 3), "PSL")
    assert second.reoriented().shape == (3, 4, 5)
    np.testing.assert_allclose(second.reoriented().affine, first.affine)
    codes = [
        [f.code for f in pair_findings("a", first, second, Tolerances(), reorient=reorient)]
        for reorient in (True, False)
    ]
    assert codes == [["orientation_differs"], ["shape_mismatch"]]


@pytest.mark.parametrize(
    ("mm", "severity"),
    [(0.0, None), (0.0005, None), (0.09, "info"), (0.11, "warning"), (2.0, "warning"), (2.01, "error")],
)
def test_the_default_limits_are_a_tenth_of_a_millimetre_and_the_smallest_spacing(
    mm: float, severity: str | None
) -> None:
    image, label = np.diag([2, 3, 5, 1.0]), np.diag([2, 3, 5, 1.0])
    label[0, 3] = mm
    findings = pair_findings("a", header(image), header(label), Tolerances(), reorient=True)
    assert [f.severity for f in findings] == ([severity] if severity else [])


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_header_is_read_as_nibabel_reads_it(tmp_path: Path, kind: type, name: str) -> None:
    affine = np.array([[0, -2, 0, 5], [1.5, 0, 0, -7], [0, 0, 3, 11], [0, 0, 0, 1.0]])
    nibabel.save(kind(np.zeros((4, 5, 6), np.int16), affine), tmp_path / name)
    read = read_header(tmp_path / name)
    assert (read.shape, read.stored, read.scaled, read.volume_bytes) == ((4, 5, 6), np.int16, False, 240)
    np.testing.assert_allclose(read.affine, affine)
    np.testing.assert_allclose(read.spacing, [1.5, 2, 3])


def test_a_scaled_or_big_endian_header(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4), nibabel.Nifti1Header(endianness=">"))
    image.set_data_dtype(np.int16)
    image.header.set_slope_inter(0.5, 3)
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    read = read_header(tmp_path / "a.nii")
    assert (read.shape, read.stored.kind, read.stored.itemsize) == ((4, 5, 6), "i", 2)

"""Distances between the grids of an image and its label, worked by hand; which severity they get."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from nnunet_assft.dataset_conversion.findings import Finding
from nnunet_assft.dataset_conversion.headers import Tolerances, pair_findings
from nnunet_assft.volumes.headers import Header, read_header

UINT8 = np.dtype(np.uint8)


def header(affine: np.ndarray, shape: tuple[int, int, int] = (11, 21, 31)) -> Header:
    return Header(shape, affine, UINT8, False)


def of_pair(image: np.ndarray, label: np.ndarray, *, reorient: bool = True) -> list[Finding]:
    return pair_findings("a", header(image), header(label), Tolerances(), reorient=reorient)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (np.eye(4) + 3 * np.eye(4, k=1)[[3, 3, 2, 3]], "lie 3.00 mm apart: it is shifted by 3 mm (x +0, y +0, z +3)"),
        # 1 mm against 1.01 mm along x, 11 voxels: the last one is 10 * 0.01 mm off
        (np.diag([1.01, 1, 1, 1]), "lie 0.10 mm apart: its spacing is 1.01 x 1 x 1 mm, its image has 1 x 1 x 1 mm"),
        (np.eye(4) + 1e-2 * np.eye(4, k=1)[[3, 3, 2, 3]], "lie 0.01 mm apart: the difference is rounding"),
    ],
)
def test_how_far_image_and_label_lie_apart(label: np.ndarray, words: str) -> None:
    (finding,) = of_pair(np.eye(4), label)
    assert finding.code == "affine_differs"
    assert words in finding.message


def test_a_grid_stored_in_two_orientations_agrees_only_for_a_reader_that_reorients(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.diag([1, 2, 3, 1.0]))
    for axes in ("RAS", "PSL"):
        turn = nibabel.orientations.ornt_transform(
            nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(axes)
        )
        nibabel.save(image.as_reoriented(turn), tmp_path / f"{axes}.nii.gz")
    first, second = (read_header(tmp_path / f"{axes}.nii.gz") for axes in ("RAS", "PSL"))
    assert (first.shape, second.shape, second.grid.axes) == ((3, 4, 5), (4, 5, 3), "PSL")
    assert second.grid.reoriented().size == (3, 4, 5)
    np.testing.assert_allclose(second.grid.reoriented().affine, first.grid.affine)
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
    assert [f.severity for f in of_pair(image, label)] == ([severity] if severity else [])


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_header_is_read_as_nibabel_reads_it(tmp_path: Path, kind: type, name: str) -> None:
    affine = np.array([[0, -2, 0, 5], [1.5, 0, 0, -7], [0, 0, 3, 11], [0, 0, 0, 1.0]])
    nibabel.save(kind(np.zeros((4, 5, 6), np.int16), affine), tmp_path / name)
    read = read_header(tmp_path / name)
    assert (read.shape, read.stored, read.scaled, read.volume_bytes) == ((4, 5, 6), np.int16, False, 240)
    np.testing.assert_allclose(read.affine, affine)
    np.testing.assert_allclose(read.grid.spacing, [1.5, 2, 3])


def test_a_scaled_or_big_endian_header(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4), nibabel.Nifti1Header(endianness=">"))
    image.set_data_dtype(np.int16)
    image.header.set_slope_inter(0.5, 3)
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    read = read_header(tmp_path / "a.nii")
    assert (read.shape, read.stored.kind, read.stored.itemsize) == ((4, 5, 6), "i", 2)

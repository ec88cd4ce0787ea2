"""The header of a NIfTI file, which can hold two geometries that disagree: the sform and the qform."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from nnunet_assft.volumes.grid import RAS, TOLERANCE, Grid, corner_distance

LONGEST_HEADER = 540  # bytes, of NIfTI-2


def is_nifti(file: Path) -> bool:
    return file.name.lower().endswith((".nii", ".nii.gz"))


def is_gzipped(file: Path) -> bool:
    return file.name.lower().endswith(".gz")


def parse_header(block: bytes) -> nibabel.Nifti1Header:
    """Return the header at the start of an uncompressed NIfTI-1 or NIfTI-2 file. Raises ValueError if there is none."""
    sizes = {int.from_bytes(block[:4], order) for order in ("little", "big")} if len(block) >= 348 else set()
    if block.startswith(b"\x1f\x8b"):
        raise ValueError("it is compressed twice. Unpack it once")
    kind = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}.get(next(iter(sizes & {348, 540}), 0))
    if kind is None:
        raise ValueError("it is not a NIfTI file" if len(block) >= 348 else f"it ends after {len(block)} bytes")
    header = kind(block[: kind.template_dtype.itemsize], check=False)
    if not header["pixdim"][0] < 0:
        header["pixdim"][0] = 1  # as readers take a 0 there
    return header


def read_nifti_header(file: Path) -> nibabel.Nifti1Header:
    """Read the header of a NIfTI file, and no voxel. Raises OSError, EOFError or ValueError if it cannot be read."""
    opener: Callable[..., Any] = gzip.open if is_gzipped(file) else open
    with opener(file, "rb") as stream:
        return parse_header(stream.read(LONGEST_HEADER))


def forms_disagree(file: Path) -> bool:
    """Whether a NIfTI header gives two geometries. Readers differ in which they use."""
    return is_nifti(file) and bool(disagreement(read_nifti_header(file)))


def disagreement(header: nibabel.Nifti1Header) -> str:
    """Describe how the geometry of the sform differs from that of the qform and the pixdim; "" if it does not.

    The pixdim holds the spacing of the qform. It counts even if the header has no qform, because ITK and nnU-Net's
    NibabelIO take the spacing from it.
    """
    shape, pixdim = header.get_data_shape(), np.asarray(header["pixdim"][1:4], dtype=np.float64)
    sform, code = header.get_sform(coded=True)
    if not code or len(shape) < 3 or not np.isfinite([*pixdim, *np.ravel(sform)]).all():
        return ""
    first = Grid.from_ras(shape[:3], sform)
    steps = np.maximum(np.array(first.size) - 1, 1)
    if (np.abs(first.spacing - np.abs(pixdim)) * steps > TOLERANCE * first.spacing).any():
        return f"the sform has a spacing of {_mm(first.spacing)} mm, the qform one of {_mm(np.abs(pixdim))} mm"
    if not header["qform_code"]:
        return ""
    qform = qform_of(header)
    if not np.isfinite(qform).all():
        return "the numbers of the qform are no rotation and position"
    second = Grid.from_ras(shape[:3], qform)
    distance = corner_distance(first, second)
    if distance <= TOLERANCE * float(first.spacing.min()):
        return ""
    return (
        f"the corners of the volume lie up to {distance:.4g} mm apart; the sform puts its first voxel at "
        f"{_position(first)} mm and its last at {_position(first, last=True)} mm, the qform at {_position(second)} mm "
        f"and {_position(second, last=True)} mm"
    )


def best_affine(header: nibabel.Nifti1Header) -> np.ndarray:
    """Return the affine that nibabel takes, RAS; NaN where the header has no valid one."""
    return qform_of(header) if header["qform_code"] > 0 >= header["sform_code"] else header.get_best_affine()


def qform_of(header: nibabel.Nifti1Header) -> np.ndarray:
    """Return the qform; NaN if its numbers are no rotation."""
    try:
        return np.asarray(header.get_qform(coded=False))
    except ValueError:
        return np.full((4, 4), np.nan)


def _mm(values: np.ndarray) -> str:
    return " x ".join(f"{value:.5g}" for value in values)


def _position(grid: Grid, *, last: bool = False) -> str:
    """Return the position of the first or the last voxel in the RAS coordinates of NIfTI."""
    position = RAS @ grid.affine @ [*(np.array(grid.size) - 1 if last else (0, 0, 0)), 1]
    return f"({', '.join(f'{value + 0.0:.5g}' for value in np.round(position[:3], 4))})"

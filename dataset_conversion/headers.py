"""Read and check NIfTI headers: they can be read, have three axes, and place image and label on the same grid. No voxel
is read."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from nnunet_assft.dataset_conversion.findings import ERROR, INFO, WARNING, Finding, found
from nnunet_assft.volumes.grid import Grid, corner_distance
from nnunet_assft.volumes.grid import Tolerances as Tolerances
from nnunet_assft.volumes.placement import DoesNotFitError, require_same_voxels

Affine = npt.NDArray[np.float64]

NOT_WORTH_A_WORD = 1e-3  # mm; smaller differences are rounding errors of float32 headers
SKEWED = 0.01  # degrees; larger deviations from a right angle are reported


@dataclass(frozen=True)
class Header:
    """The content of a NIfTI header.

    shape: number of voxels (x, y, z). affine: 4x4, RAS in mm. stored: type of the voxels in the file. scaled: whether
    the values are the stored voxels times a slope plus an intercept.
    """

    shape: tuple[int, ...]
    affine: Affine
    stored: np.dtype[Any]
    scaled: bool

    @property
    def grid(self) -> Grid:
        """Where the voxels lie. Raises ValueError unless there are three axes."""
        return Grid.from_ras(self.shape, self.affine)

    @property
    def volume_bytes(self) -> int:
        """Size of the voxels in memory."""
        return int(np.prod(self.shape, dtype=np.int64)) * (8 if self.scaled else self.stored.itemsize)


def parse_header(block: bytes) -> nibabel.Nifti1Header:
    """Return the header at the start of an uncompressed NIfTI-1 or NIfTI-2 file. Raises ValueError if there is none."""
    sizes = {int.from_bytes(block[:4], order) for order in ("little", "big")} if len(block) >= 348 else set()
    kind = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}.get(next(iter(sizes & {348, 540}), 0))
    if kind is None:
        raise ValueError("it is not a NIfTI file" if len(block) >= 348 else f"it ends after {len(block)} bytes")
    return kind(block[: kind.template_dtype.itemsize], check=False)


def read_header(file: Path) -> Header:
    """Read the header of a NIfTI file.

    Raises OSError, EOFError, ValueError or an error of nibabel if it cannot be read.
    """
    opener: Callable[..., Any] = gzip.open if file.name.lower().endswith(".gz") else open
    with opener(file, "rb") as stream:
        header = parse_header(stream.read(540))
    slope, inter = header.get_slope_inter()
    shape = tuple(int(n) for n in header.get_data_shape())
    if not shape or min(shape) < 1:
        raise ValueError(f"its header gives the shape {shape}")
    affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    return Header(shape, affine, header.get_data_dtype(), (slope, inter) not in ((None, None), (1.0, 0.0)))


def header_findings(case: str, file: str, header: Header) -> list[Finding]:
    """Return a finding for a header with a wrong type of voxels, without three axes, without an invertible affine, or
    with axes that are not at right angles."""
    if header.stored.kind not in "iuf":
        return [found("unreadable", case, f"{file} stores {header.stored} per voxel; expected one real number")]
    if len(header.shape) != 3:
        return [found("not_3d", case, f"{file} has the shape {_shape(header)}; expected three axes")]
    if not np.isfinite(header.affine).all() or abs(np.linalg.det(header.affine[:3, :3])) < 1e-9:
        return [
            found(
                "invalid_affine",
                case,
                f"the affine of {file} is {header.affine[:3].round(3).tolist()}; expected an invertible one",
            )
        ]
    if (angle := header.grid.skew) > SKEWED:
        return [
            found("non_orthonormal", case, f"two axes of {file} are {angle:.2f} degrees from a right angle; expected 0")
        ]
    return []


def misfit(image: Header, label: Header, *, reorient: bool) -> str | None:
    """Return why a label, or a second channel, does not lie on its image, in the words of `volumes.placement`; None if
    it does.

    reorient: whether both are reoriented to RAS first, as by nnU-Net's reorienting reader.
    """
    try:
        require_same_voxels(label.grid, image.grid, turned_to_ras=reorient)
    except DoesNotFitError as error:
        return str(error)
    return None


def pair_findings(case: str, image: Header, label: Header, tolerances: Tolerances, *, reorient: bool) -> list[Finding]:
    """Return findings on how far an image and its label (or second channel) lie apart, see `misfit`."""
    if image.shape == label.shape and np.array_equal(image.affine, label.affine):
        return []
    grids = [header.grid.reoriented() if reorient else header.grid for header in (image, label)]
    if grids[0].size != grids[1].size:
        text = f"the label has the shape {_shape(label)}; expected that of the image, {_shape(image)}"
        return [found("shape_mismatch", case, text)]
    findings = []
    distance, (info, error) = corner_distance(*grids), tolerances.limits(image.grid)
    if not distance <= NOT_WORTH_A_WORD:
        severity = INFO if distance < info else WARNING if distance <= error else ERROR
        reason = misfit(image, label, reorient=reorient)
        text = f"image and label lie {distance:.2f} mm apart: {reason or 'the difference is rounding'}"
        if tolerances.moves:
            text += f"; tolerated up to {error:.2f} mm"
        elif reason:
            severity = ERROR
        findings.append(found("affine_differs", case, text, severity))
    axes = image.grid.axes, label.grid.axes
    if reorient and axes[0] != axes[1]:
        text = f"the image is stored as {axes[0]}, the label as {axes[1]}"
        findings.append(found("orientation_differs", case, text))
    return findings


def _shape(header: Header) -> str:
    return "x".join(map(str, header.shape))

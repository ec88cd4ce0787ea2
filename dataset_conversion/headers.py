"""NIfTI headers, and how far the grids of an image and its label lie apart. Nothing here reads a voxel."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import nibabel
import numpy as np
import numpy.typing as npt
from nibabel.orientations import aff2axcodes, inv_ornt_aff, io_orientation

from nnunet_assft.dataset_conversion.findings import ERROR, INFO, WARNING, Finding, found

Affine = npt.NDArray[np.float64]

NOT_WORTH_A_WORD = 1e-3  # mm, percent, degrees: rounding of float32 headers
SKEWED = 0.01  # degrees from a right angle


@dataclass(frozen=True)
class Header:
    """What a NIfTI header says.

    shape: voxels (x, y, z). affine: 4x4, mm. stored: type of the voxels in the file. scaled: whether they are not the
    values themselves.
    """

    shape: tuple[int, ...]
    affine: Affine
    stored: np.dtype[Any]
    scaled: bool

    @property
    def spacing(self) -> Affine:
        """Voxel size in mm (x, y, z)."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def volume_bytes(self) -> int:
        """Size of the voxels in memory."""
        return int(np.prod(self.shape, dtype=np.int64)) * (8 if self.scaled else self.stored.itemsize)

    @property
    def axes(self) -> str:
        """Orientation as letters, such as RAS."""
        return "".join(code or "?" for code in aff2axcodes(self.affine))

    def reoriented(self) -> Header:
        """The same grid with its axes in the order and direction closest to RAS, as nnU-Net's reader turns it."""
        orientation = io_orientation(self.affine)
        shape = [0] * 3
        for axis, (new, _) in enumerate(orientation):
            shape[int(new)] = self.shape[axis]
        affine = self.affine @ inv_ornt_aff(orientation, self.shape)
        return Header(tuple(shape), affine, self.stored, self.scaled)


@dataclass(frozen=True)
class Tolerances:
    """Up to the first number a difference is information, above the second it is an error, between them a warning.

    affine: mm; None as the second number means one voxel (the smallest spacing of the image). spacing: percent.
    direction: degrees.
    """

    affine: tuple[float, float | None] = (0.1, None)
    spacing: ClassVar[tuple[float, float]] = (0.1, 1.0)
    direction: ClassVar[tuple[float, float]] = (0.1, 1.0)

    def words(self) -> dict[str, list[float | str]]:
        """For dataset.json: (info, error) with units in the names."""
        info, error = self.affine
        return {
            "mm": [info, "voxel" if error is None else error],
            "percent": [*self.spacing],
            "degrees": [*self.direction],
        }


@dataclass(frozen=True)
class Difference:
    """affine: largest displacement of a corner voxel, mm; spacing: percent; direction: degrees between two axes."""

    affine: float
    spacing: float
    direction: float


def parse_header(block: bytes) -> nibabel.Nifti1Header:
    """The header at the start of an uncompressed NIfTI-1 or NIfTI-2 file. Raises ValueError if it is none."""
    sizes = {int.from_bytes(block[:4], order) for order in ("little", "big")} if len(block) >= 348 else set()
    kind = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}.get(next(iter(sizes & {348, 540}), 0))
    if kind is None:
        raise ValueError("it is no NIfTI file" if len(block) >= 348 else f"it ends after {len(block)} bytes")
    return kind(block[: kind.template_dtype.itemsize], check=False)


def read_header(file: Path) -> Header:
    """Read the header of a NIfTI file.

    Raises OSError, EOFError, ValueError or what nibabel raises if there is none to read.
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


def difference(image: Header, label: Header) -> Difference:
    """How far the grid of `label` lies from that of `image`; both of the same shape."""
    corners = np.array([[*corner, 1] for corner in product(*((0, n - 1) for n in image.shape))])
    shift = np.linalg.norm((corners @ (label.affine - image.affine).T)[:, :3], axis=1).max()
    ratio = np.abs(label.spacing / image.spacing - 1).max()
    cosines = ((label.affine[:3, :3] / label.spacing) * (image.affine[:3, :3] / image.spacing)).sum(axis=0)
    angle = np.degrees(np.arccos(np.clip(cosines, -1, 1))).max()
    return Difference(float(shift), float(100 * ratio), float(angle))


def skew(header: Header) -> float:
    """Largest departure of two axes from a right angle, degrees."""
    directions = header.affine[:3, :3] / header.spacing
    cosines = (directions.T @ directions)[np.triu_indices(3, 1)]
    return float(np.abs(90 - np.degrees(np.arccos(np.clip(cosines, -1, 1)))).max())


def header_findings(case: str, file: str, header: Header) -> list[Finding]:
    """What is wrong with one header: no numbers, not three axes, no affine, skewed axes."""
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
    if (angle := skew(header)) > SKEWED:
        return [
            found("non_orthonormal", case, f"two axes of {file} are {angle:.2f} degrees from a right angle; expected 0")
        ]
    return []


def pair_findings(case: str, image: Header, label: Header, tolerances: Tolerances, *, reorient: bool) -> list[Finding]:
    """Differences between the grids of an image and its label (or second channel).

    reorient: compare as nnU-Net's reorienting reader sees them, so that two orientations of one grid agree.
    """
    if image.shape == label.shape and np.array_equal(image.affine, label.affine):
        return []
    stored_differently = image.axes != label.axes
    axes = f"the image is stored as {image.axes}, the label as {label.axes}"
    if reorient:
        image, label = image.reoriented(), label.reoriented()
    if image.shape != label.shape:
        return [
            found(
                "shape_mismatch",
                case,
                f"the label has the shape {_shape(label)}; expected that of the image, {_shape(image)}",
            )
        ]
    findings = list(_measured(case, difference(image, label), image, tolerances))
    if reorient and stored_differently:
        findings.append(found("orientation_differs", case, axes))
    return findings


def _measured(case: str, measured: Difference, image: Header, tolerances: Tolerances) -> Iterator[Finding]:
    info, error = tolerances.affine
    limits = (info, float(image.spacing.min()) if error is None else error)
    rows = (
        ("affine_differs", measured.affine, limits, "mm", "image and label lie {} mm apart"),
        ("spacing_differs", measured.spacing, tolerances.spacing, "%", "the spacing of the label differs by {} %"),
        (
            "direction_differs",
            measured.direction,
            tolerances.direction,
            "degrees",
            "the axes of the label are turned by {} degrees",
        ),
    )
    for code, value, (info, error), unit, text in rows:
        if not value <= NOT_WORTH_A_WORD:
            severity = INFO if value < info else WARNING if value <= error else ERROR
            yield found(code, case, f"{text.format(f'{value:.2f}')}; tolerated up to {error:.2f} {unit}", severity)


def _shape(header: Header) -> str:
    return "x".join(map(str, header.shape))

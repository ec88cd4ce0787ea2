"""Whether the slices of a series are one volume, and the grid of that volume. Pure: headers in, numbers out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnunet_assft.runtime.text import by, count, some
from nnunet_assft.volumes.dicom.slices import Slice
from nnunet_assft.volumes.grid import RAS

MODALITIES = ("CT", "MR")
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and what starts with it
INVERTED = "MONOCHROME1"  # GDCM turns its numbers round
GREY = ("MONOCHROME2", INVERTED, "")
ENHANCED = tuple(  # CT, then MR; also what was converted to it
    f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2.1", "2.2", "4.1", "4.3", "4.4")
)
DECODABLE = {  # transfer syntaxes that SimpleITK reads: 1.2.840.10008.1.2 and so on
    f"1.2.840.10008.1.2{end}"
    for end in ("", ".1", ".2", ".1.99", ".4.50", ".4.51", ".4.57", ".4.70", ".4.80", ".4.81", ".4.90", ".4.91", ".5")
}
UNCOMPRESSED = {f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2")}
SAME_PLACE = 1e-3  # mm; two slices that lie closer have the same position
SAME_DIRECTION = 1e-3  # difference of direction cosines, which many scanners round
MOST_MM, MOST_SHARE = 0.1, 0.1  # a slice may lie this far from an even grid: mm, and share of the spacing

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Stack:
    """The volume of a series. files: one per slice, in the order of the third axis. shape: number of voxels
    (x, y, z). affine: 4x4, RAS in mm. states: size and modification time of each file."""

    files: tuple[Path, ...]
    shape: tuple[int, int, int]
    affine: Array
    modality: str
    states: tuple[tuple[int, int], ...]

    @property
    def spacing(self) -> Array:
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def words(self) -> str:
        """The volume in words, without anything about the patient."""
        return f"{self.modality}, {by(self.shape)} voxels of {by_mm(self.spacing)} mm"


@dataclass(frozen=True)
class Refused:
    """Why a series is no volume that can be converted: code of a finding, and its text."""

    code: str
    text: str


def by_mm(values: Array) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def stack(slices: Sequence[Slice]) -> Stack | Refused:
    """Return the volume of a series, or the first reason why it is none."""
    for code, check in CHECKS_OF_HEADERS:
        if text := check(slices):
            return Refused(code, text)
    row, column = _axes(slices[0])
    normal = np.cross(row, column)
    ordered = sorted(slices, key=lambda s: float(np.dot(s.position, normal)))
    positions = np.array([s.position for s in ordered])
    for code, place in CHECKS_OF_POSITIONS:
        if text := place(positions, normal, min(slices[0].spacing)):
            return Refused(code, text)
    step = float((positions[-1] - positions[0]) @ normal) / (len(ordered) - 1)
    between_rows, between_columns = slices[0].spacing
    affine = np.eye(4)
    affine[:3] = np.column_stack((row * between_columns, column * between_rows, normal * step, positions[0]))
    return Stack(
        tuple(s.file for s in ordered),
        (slices[0].columns, slices[0].rows, len(ordered)),
        RAS @ affine,
        slices[0].modality,
        tuple(s.state for s in ordered),
    )


def _axes(first: Slice) -> tuple[Array, Array]:
    """Return the directions of growing column and row numbers, at right angles to the last digit."""
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row
    return row, column / np.linalg.norm(column)


# Headers: each check returns what is wrong, or None -------------------------------------------------------------------


def _modality(slices: Sequence[Slice]) -> str | None:
    others = sorted({s.modality for s in slices} - set(MODALITIES))
    if not others and len({s.modality for s in slices}) == 1:
        return None
    known = [name for name in others if re.fullmatch(r"[A-Z]{2,8}", name)]
    return f"its modality is {some(known) if known else 'unknown or mixed'}; expected CT or MR"


def _is_scan(slices: Sequence[Slice]) -> str | None:
    if any(s.samples != 1 or s.photometric not in GREY for s in slices):
        return "its images are in colour; expected grey values"
    captured = any(s.sop_class.startswith(SECONDARY_CAPTURE) for s in slices)
    return "its images are secondary captures, such as screenshots; expected a scan" if captured else None


def _localizer(slices: Sequence[Slice]) -> str | None:
    return "it is a localizer, by which a scan is planned" if all("LOCALIZER" in s.image_type for s in slices) else None


def _frames(slices: Sequence[Slice]) -> str | None:
    if all(s.frames == 1 and s.sop_class not in ENHANCED for s in slices):
        return None
    return f"{count(len(slices), 'file')} with {sum(s.frames for s in slices)} frames; expected one file for each slice"


def _decodable(slices: Sequence[Slice]) -> str | None:
    short = sum(s.transfer_syntax in UNCOMPRESSED and s.state[0] < s.rows * s.columns for s in slices)
    if short:
        return f"{short} of {len(slices)} files are too short for the voxels that their headers promise"
    if any(s.photometric == INVERTED for s in slices):
        return f"its numbers are inverted ({INVERTED}), which decoders treat differently; expected MONOCHROME2"
    if any(s.mapped for s in slices):
        return "its values are mapped by a table (Modality LUT Sequence); expected a slope and an intercept"
    others = sorted({s.transfer_syntax for s in slices} - DECODABLE)
    known = [name for name in others if re.fullmatch(r"[0-9.]{1,64}", name)]
    text = f"its voxels are compressed as {some(known) or 'nobody says'} (transfer syntax), which cannot be decoded"
    return text if others else None


def _several(slices: Sequence[Slice]) -> str | None:
    return None if len(slices) > 1 else "it has 1 slice; expected at least two"


def _placed(slices: Sequence[Slice]) -> str | None:
    n = sum(
        not (s.position and s.orientation and s.spacing)
        or not np.isfinite([*s.position, *s.orientation, *s.spacing]).all()
        or min(s.spacing) <= 0
        for s in slices
    )
    return f"{n} of {len(slices)} slices have no usable position, orientation or pixel spacing" if n else None


def _sizes(slices: Sequence[Slice]) -> str | None:
    sizes = sorted({(s.columns, s.rows) for s in slices})
    if len(sizes) > 1:
        return f"its slices have {len(sizes)} sizes ({some(map(by, sizes))} pixels); expected one"
    spacings = np.array([s.spacing for s in slices])
    if np.abs(spacings - spacings[0]).max() * max(*sizes[0]) > MOST_SHARE * spacings.min():
        texts = sorted({by_mm(spacing[::-1]) for spacing in spacings})
        return f"its slices have {len(texts)} pixel spacings ({some(texts)} mm); expected one"
    return None


def _orientations(slices: Sequence[Slice]) -> str | None:
    groups: list[Array] = []
    for s in slices:
        if not any(np.abs(np.array(s.orientation) - known).max() <= SAME_DIRECTION for known in groups):
            groups.append(np.array(s.orientation))
    frames = len({s.frame for s in slices})
    if len(groups) > 1:
        return f"its {len(slices)} slices lie in {len(groups)} orientations; expected one"
    return f"its {len(slices)} slices have {frames} frames of reference; expected one" if frames > 1 else None


def _right_angles(slices: Sequence[Slice]) -> str | None:
    row, column = np.array(slices[0].orientation[:3]), np.array(slices[0].orientation[3:])
    products = np.array([row @ row - 1, column @ column - 1, row @ column])
    if np.abs(products).max() <= 2 * SAME_DIRECTION:
        return None
    return "the directions of its rows and columns are not at right angles, or not of length 1"


CHECKS_OF_HEADERS: tuple[tuple[str, Callable[[Sequence[Slice]], str | None]], ...] = (
    ("not_a_scan", _is_scan),
    ("not_ct_or_mr", _modality),
    ("localizer", _localizer),
    ("multi_frame", _frames),
    ("undecodable", _decodable),
    ("not_3d", _several),
    ("invalid_affine", _placed),
    ("mixed_sizes", _sizes),
    ("mixed_orientations", _orientations),
    ("non_orthonormal", _right_angles),
)

# Positions (n, 3) in mm, in their order along the normal; pixel: the smaller pixel spacing ----------------------------


def _duplicates(positions: Array, normal: Array, pixel: float) -> str | None:
    n = int((np.diff(positions @ normal) <= SAME_PLACE).sum())
    text = f"{n} of {len(positions)} slices have the position of another one, as if there were several scans in one"
    return text if n else None


def _tilt(positions: Array, normal: Array, pixel: float) -> str | None:
    offsets = positions - positions[0]
    along = offsets @ normal
    aside = np.linalg.norm(offsets - along[:, None] * normal, axis=1)
    if aside.max() <= min(MOST_MM, MOST_SHARE * pixel):
        return None
    angle = np.degrees(np.arctan2(aside[-1], along[-1]))
    return (
        f"its slices are shifted against each other by up to {aside.max():.3g} mm ({angle:.2g} degrees), as with a "
        "tilted gantry; expected each slice straight above the one before"
    )


def _missing(positions: Array, normal: Array, pixel: float) -> str | None:
    gaps = np.diff(positions @ normal)
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    times = np.round(gaps / usual)
    if times.max() < 2 or np.abs(gaps - times * usual).max() > MOST_SHARE * usual:
        return None
    n, (first, *more) = int(times.sum()) - len(gaps), np.flatnonzero(times > 1)
    where = f"a gap of {gaps[first]:.4g} mm between slices {first + 1} and {first + 2} of {len(positions)}"
    others = f" and {count(len(more), 'more gap')}" if more else ""
    verb = "slice is" if n == 1 else "slices are"
    return f"{n} {verb} missing: there is {where}{others}; the other slices lie {usual:.4g} mm apart"


def _uneven(positions: Array, normal: Array, pixel: float) -> str | None:
    along = positions @ normal
    step = (along[-1] - along[0]) / (len(along) - 1)
    if np.abs(along - along[0] - step * np.arange(len(along))).max() <= min(MOST_MM, MOST_SHARE * step):
        return None
    gaps = np.diff(along)
    return f"its slices lie {gaps.min():.4g} to {gaps.max():.4g} mm apart; expected one distance"


CHECKS_OF_POSITIONS: tuple[tuple[str, Callable[[Array, Array, float], str | None]], ...] = (
    ("duplicate_slices", _duplicates),
    ("gantry_tilt", _tilt),
    ("missing_slice", _missing),
    ("uneven_slices", _uneven),
)

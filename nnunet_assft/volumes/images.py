"""The check of every image that is about to be used: planning, prediction and annotation read images here."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.ranges import SMALLEST_SPACING
from nnunet_assft.runtime.text import reason
from nnunet_assft.volumes.contents import OtherContentError
from nnunet_assft.volumes.grid import turns_to_ras
from nnunet_assft.volumes.headers import Header
from nnunet_assft.volumes.placement import DoesNotFitError, require_same_voxels
from nnunet_assft.volumes.whole_files import require_readable, unpacked

LARGEST_SPACING = 100.0  # mm; as what is finer than SMALLEST_SPACING, what is coarser is another unit, or damage
SKEWED = 0.01  # degrees; larger deviations from a right angle are reported
FEWEST_VOXELS = 2  # along an axis
FARTHEST = 1e6  # mm from the origin; farther away, the single precision of a header does not tell voxels apart
LARGEST_VALUE = 1e14  # of a voxel; the variance of larger ones overflows in float32, so that all become 0 or NaN
FLAT = 1e-3  # the volume of a cell with edges of the length 1, below which its axes lie in a plane


@dataclass(frozen=True)
class Problem:
    """What is wrong with an image. code: the kind, a key of `dataset_conversion.findings.CODES`. text: what was found,
    what was expected and what to do, without a full stop. is_error: whether the image cannot be used."""

    code: str
    text: str
    is_error: bool = True


@dataclass(frozen=True)
class CheckedImage:
    """An image that can be used.

    array: (channels, z, y, x) float32; properties: both as nnU-Net's reader returns them. remarks: what a person should
    know about it.
    """

    array: np.ndarray
    properties: dict[str, Any]
    remarks: tuple[str, ...]


def read_image(files: Sequence[Path], reader: BaseReaderWriter, n_channels: int | None = None) -> CheckedImage:
    """Read and check an image with nnU-Net's reader.

    files: one per channel. n_channels: how many there must be. Every file is unpacked once. Raises an `AssftError` with
    everything that is wrong with the image. No memory is allocated for a file that cannot hold what its header
    promises.
    """
    if n_channels is not None and len(files) != n_channels:
        names = ", ".join(file.name for file in files)
        raise AssftError(f"it has {len(files)} channels ({names}), expected {n_channels}. Check the names of its files")
    headers, problems = _read_headers(files, reader)
    errors = [problem.text for problem in problems if problem.is_error]
    if errors:
        raise AssftError("; ".join(errors))
    try:
        with ExitStack() as stack, np.errstate(all="ignore"):  # what is not finite afterwards is refused below
            whole = [
                str(stack.enter_context(unpacked(file, header))) for file, header in zip(files, headers, strict=True)
            ]
            array, properties = reader.read_images(whole)
    except Exception as error:  # readers may raise any exception
        raise AssftError(f"cannot be read ({reason(error)})") from error
    _check_array(array, len(files))
    spacing = " x ".join(f"{mm:.5g}" for mm in properties["spacing"][::-1])
    used = f"; nnU-Net's {type(reader).__name__} reads a spacing of {spacing} mm"
    remarks = (f"{found.text}{used if found.code == 'forms_disagree' else ''}" for found in problems)
    return CheckedImage(array, properties, tuple(remarks))


def check_headers(files: Sequence[Path], reader: BaseReaderWriter) -> list[Problem]:
    """Return everything that can be found in an image without reading its voxels."""
    return _read_headers(files, reader)[1]


def _read_headers(files: Sequence[Path], reader: BaseReaderWriter) -> tuple[list[Header | None], list[Problem]]:
    """Return the headers of the readable files, None for one of a format without, and what is wrong with them."""
    by_itk = isinstance(reader, SimpleITKIO)
    problems: list[Problem] = []
    headers: list[Header | None] = []
    for file in files:
        try:
            header = require_readable(file, by_itk=by_itk)
        except OtherContentError as error:
            found = [Problem("other_content", str(error))]
        except Exception as error:  # a damaged header makes gzip, zlib, nibabel and numpy raise almost anything
            found = [Problem("unreadable", f"cannot be read ({reason(error)})")]
        else:
            found = header_problems(header) if header else []
            headers.append(header)
        prefix = f"{file.name}: " if len(files) > 1 else ""
        problems += [Problem(problem.code, f"{prefix}{problem.text}", problem.is_error) for problem in found]
    if any(problem.is_error for problem in problems) or headers[0] is None:
        return headers, problems
    for file, header in zip(files[1:], headers[1:], strict=True):
        try:
            if header is not None:
                require_same_voxels(header.grid, headers[0].grid, turned_to_ras=turns_to_ras(reader))
        except DoesNotFitError as error:  # noqa: PERF203 - a few channels
            problems.append(Problem("affine_differs", f"{file.name} does not lie on the first channel: {error}"))
    return headers, problems


def header_problems(header: Header) -> list[Problem]:
    """Return what is wrong with the header of an image: its voxels, its axes, its spacing and its position."""
    if header.values != 1 or header.stored.kind not in "iuf":
        return [Problem("not_one_number", f"{_stored(header)}. Expected one real number per voxel")]
    if len(header.shape) != 3 or min(header.shape) < FEWEST_VOXELS:
        return [Problem("not_3d", _axes(header.shape))]
    if spacing := _implausible_spacing(header):
        limits = f"{SMALLEST_SPACING:g} to {LARGEST_SPACING:g} mm"
        return [Problem("implausible_spacing", f"its spacing is {spacing} mm, expected {limits}. Correct its header")]
    if not np.isfinite(header.affine).all() or abs(np.linalg.det(header.grid.directions)) < FLAT:
        affine = header.affine[:3].round(3).tolist()
        return [Problem("invalid_affine", f"its affine is {affine}, expected an invertible one. Correct its header")]
    if (farthest := np.abs(header.affine[:3, 3]).max()) > FARTHEST:
        text = f"its first voxel lies at {farthest:.3g} mm, expected at most {FARTHEST:g} mm. Correct its header"
        return [Problem("invalid_affine", text)]
    if header.is_skewed:
        advice = 'Resample it, or plan with "overwrite_image_reader_writer": "NibabelIOWithReorient" in dataset.json'
        return [Problem("non_orthonormal", f"ITK refuses its header ({header.refused.rstrip('.')}). {advice}")]
    problems = []
    if (angle := header.grid.skew) > SKEWED:
        text = f"two of its axes are {angle:.2f} degrees from a right angle, expected 0. ITK may refuse such a file"
        problems.append(Problem("non_orthonormal", text, is_error=False))
    if header.forms:
        text = f"its sform and its qform disagree: {header.forms}"
        problems.append(Problem("forms_disagree", text, is_error=False))
    return problems


def _check_array(array: np.ndarray, n_channels: int) -> None:
    """Raise `AssftError` unless the voxels can be used."""
    if array.ndim != 4 or array.shape[0] != n_channels or min(array.shape[1:]) < FEWEST_VOXELS:
        raise AssftError(_axes(array.shape[:0:-1]))
    lowest, highest = array.min(axis=(1, 2, 3)), array.max(axis=(1, 2, 3))  # NaN if a voxel is
    for channel, extremes in zip(array, zip(lowest, highest, strict=True), strict=True):
        if not np.isfinite(extremes).all():
            raise AssftError(f"{int((~np.isfinite(channel)).sum())} voxels are NaN or infinite")
        if np.abs(extremes).max() > LARGEST_VALUE:
            n = int((np.abs(channel) > LARGEST_VALUE).sum())
            raise AssftError(f"{n} voxels are beyond {LARGEST_VALUE:g}. Replace such values, for example by 0")
    if (lowest == highest).all():
        raise AssftError(f"all voxels are {lowest[0]:g}")


def _stored(header: Header) -> str:
    if header.stored.kind == "c":
        return "it holds complex numbers"
    if header.stored.names or header.values != 1:
        n = len(header.stored.names or ()) or header.values
        return f"it holds {n} values per voxel, such as colours (RGB), vectors or segments in layers"
    return "it holds a type of voxels that is not supported"


def _axes(shape: Sequence[int]) -> str:
    shown = " x ".join(map(str, shape))
    if len(shape) > 3 and all(n == 1 for n in shape[3:]):
        return f"it has {shown} voxels, expected three axes. Drop the last one, for example with nibabel.squeeze_image"
    if len(shape) > 3:
        return f"it has {shown} voxels, expected three axes. Save each volume as a file of its own"
    return f"it has {shown} voxels, expected a 3D volume with at least {FEWEST_VOXELS} along each of three axes"


def _implausible_spacing(header: Header) -> str:
    """Return the spacing in the file, or that of the reader, if a scan cannot have it; otherwise ""."""
    spacings = [header.pixdim, *([tuple(header.grid.spacing)] if np.isfinite(header.affine).all() else [])]
    for spacing in spacings:
        if not all(SMALLEST_SPACING <= mm <= LARGEST_SPACING for mm in spacing):  # NaN as well
            return " x ".join(f"{mm:.6g}" for mm in spacing)
    return ""

"""Read the labels that annotators return: label maps (ITK-SNAP, Slicer's export) and Slicer's segmentations
(.seg.nrrd)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_assft.annotation.segments import REFUSE, Segment, merge, structures_named
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.text import by, count, reason, some
from nnunet_assft.volumes.grid import Grid, itk_grid, read_itk_grid
from nnunet_assft.volumes.one_file import refuse_unsafe
from nnunet_assft.volumes.whole_files import require_readable, whole_file

# ending -> how ITK reads it, by this alone: by default it guesses from the content, and some formats name other files
FORMATS = {
    ".seg.nrrd": "NrrdImageIO",  # before .nrrd
    ".nrrd": "NrrdImageIO",
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".mha": "MetaImageIO",
    ".gipl": "GiplImageIO",
}
MAX_VALUES = 300  # a file with more different values than this is not a label map
MAX_SIZE = 8  # times the voxels of its image: a segmentation may reach beyond it, but is not read if it is larger


@dataclass(frozen=True)
class ReturnedLabel:
    """The content of a returned file, which may cover a part of its image.

    array: (i, j, k) int64, with the numbers of dataset.json. is_segmentation: whether it is one of Slicer's, which are
    cropped to what is drawn. reference_offset: index of its first voxel in the volume that it was drawn on, if the file
    states it. overlapped: a sentence about voxels that several segments had, or "".
    """

    array: np.ndarray
    grid: Grid
    is_segmentation: bool = False
    reference_offset: tuple[int, ...] | None = None
    overlapped: str = ""


def ending_of(name: str) -> str | None:
    """Return the ending of a label file in lower case, as in FORMATS, or None if files of this name are not read."""
    return next((ending for ending in FORMATS if name.lower().endswith(ending)), None)


def read_returned_label(file: Path, labels: Mapping[str, int], image: Grid, overlap: str = REFUSE) -> ReturnedLabel:
    """Read the label in `file`. labels: name -> number, as in dataset.json. image: the grid of its image. overlap: see
    `segments.merge`.

    Raises `AssftError`, which says what was found, for a file that is not a label map of this dataset.
    """
    volume = _read(file, image)
    array = sitk.GetArrayFromImage(volume)
    is_segmentation = bool(_segment_numbers(volume)) or ending_of(file.name) == ".seg.nrrd"
    if is_segmentation and not array.any():  # Slicer then writes one voxel, whose position has no meaning
        return ReturnedLabel(np.zeros(volume.GetSize(), np.int64), itk_grid(volume), is_segmentation=True)
    if _segment_numbers(volume):
        _refuse_fractions(volume)
        layers = array if array.ndim == 4 else array[..., None]  # (z, y, x, layer)
        merged, overlapped = merge(_segments(volume, layers, labels), layers.shape[:3], overlap)
        offset = _numbers(volume, "Segmentation_ReferenceImageExtentOffset", 3)
        return ReturnedLabel(merged.transpose(2, 1, 0), itk_grid(volume), True, offset, overlapped)
    if is_segmentation:
        raise AssftError(
            "it is a .seg.nrrd that names no segments, so the meaning of its numbers is unknown. Save it from Slicer "
            "again, or name it CASE.nrrd if it is a label map with the numbers of dataset.json."
        )
    return ReturnedLabel(_whole_numbers(array, labels).transpose(2, 1, 0), itk_grid(volume))


def _read(file: Path, image: Grid) -> sitk.Image:
    """Read a file that has one volume of about the size of the image at most, which its header says.

    Raises `AssftError` if it is damaged, or before its voxels are read if it holds anything else.
    """
    try:
        refuse_unsafe(file)
    except ValueError as error:
        raise AssftError(f"{error}. Save the label again, as one file such as CASE.seg.nrrd or CASE.nii.gz.") from error
    reader = sitk.ImageFileReader()
    reader.SetImageIO(FORMATS[ending_of(file.name) or ".nii"])
    reader.SetFileName(str(file))
    try:
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            require_readable(file, by_itk=True)  # which knows the reason
            raise
        _require_one_label(reader, image)
        with whole_file(file) as whole:
            reader.SetFileName(str(whole))
            return reader.Execute()
    except AssftError:
        raise
    except Exception as error:  # ITK and nibabel raise exceptions of many types
        raise AssftError(f"the file cannot be read ({reason(error)}). Save it again.") from error


def _require_one_label(header: sitk.ImageFileReader, image: Grid) -> None:
    """Raise `AssftError` unless a header describes a label map or segments, of about the size of the image at most."""
    size, values, segments = header.GetSize(), header.GetNumberOfComponents(), _segment_numbers(header)
    if len(size) != 3:
        raise AssftError(
            f"it has {len(size)} dimensions, {by(size)} voxels; expected a 3D label map. Save one volume, not a series."
        )
    if values != 1 and not segments:
        raise AssftError(f"it has {values} values per voxel; expected one. Export a label map, not colours.")
    if math.prod(size) * values > MAX_SIZE * math.prod(image.size) * max(1, len(segments)):
        layers = f" in {values} layers" if values > 1 else ""
        raise AssftError(
            f"its header claims {by(size)} voxels{layers}, far more than those of its image, {by(image.size)}; it is "
            "not read. Draw on the image of the work folder and save in its geometry."
        )


def image_grid(file: Path) -> Grid:
    """Read the grid of an image file from its header.

    Raises `AssftError` if ITK refuses the file, for example because its axes are not at right angles.
    """
    try:
        return read_itk_grid(file)
    except (RuntimeError, ValueError) as error:
        raise AssftError(
            f"ITK cannot open the image {file} ({reason(error)}), and neither can programs that "
            "are built on it. Fix its header, or annotate it with another program and save the label in labelsTr."
        ) from error


# Label maps -----------------------------------------------------------------------------------------------------------


def _whole_numbers(array: np.ndarray, labels: Mapping[str, int]) -> np.ndarray:
    """Return the array as integers. Raises `AssftError` unless every value is a label of the dataset; floats may hold
    whole numbers."""
    values, counts = np.unique(array, return_counts=True)
    known = ", ".join(f"{number} {name}" for name, number in labels.items())
    fractions = [(v, n) for v, n in zip(values, counts, strict=True) if v != np.rint(v)]
    unknown = [(v, n) for v, n in zip(values, counts, strict=True) if v not in set(labels.values())]
    if not unknown:
        return array.astype(np.int64)
    if len(values) > MAX_VALUES or values.min() < 0:
        raise AssftError(
            f"it has {len(values)} different values from {values.min():g} to {values.max():g}: this looks like an "
            f"image, not like a label map. Expected {known}. Check whether the image was saved instead of the label."
        )
    if fractions:
        raise AssftError(
            f"its values are not whole numbers: {_listed(fractions)}. The label was interpolated or holds "
            "probabilities; save the segmentation itself, without resampling."
        )
    if len(values) <= 2 and values.max() == 255:
        raise AssftError(
            f"it is a mask of 0 and 255, not a label map; expected {known}. Replace 255 by the number of the structure."
        )
    raise AssftError(
        f"it has values that dataset.json does not define: {_listed(unknown)}; expected {known}. Give the structures "
        "these numbers, which the label descriptions of the work folder contain."
    )


def _listed(values: list[tuple[float, int]]) -> str:
    return some(f"{v:g} ({count(n, 'voxel')})" for v, n in values)


# Slicer's segmentations -----------------------------------------------------------------------------------------------


def _segments(image: sitk.Image, layers: np.ndarray, labels: Mapping[str, int]) -> list[Segment]:
    """Return the segments of the file, in its order. Older versions of Slicer write one layer per segment, with the
    value 1.

    A segment is identified by its name; the label values in the file do not matter. Raises `AssftError` if a voxel
    belongs to no segment.
    """
    numbers = _segment_numbers(image)
    names = [_text(image, f"Segment{i}_Name") or _text(image, f"Segment{i}_ID") for i in numbers]
    found: list[Segment] = []
    explained = np.zeros(layers.shape, dtype=bool)
    for i, name, known in zip(numbers, names, structures_named(names, labels), strict=True):
        (layer,) = _numbers(image, f"Segment{i}_Layer") or (min(i, layers.shape[3] - 1),)
        (value,) = _numbers(image, f"Segment{i}_LabelValue") or (1,)
        extent = _numbers(image, f"Segment{i}_Extent", 6)
        if extent and any(last < first for first, last in zip(extent[::2], extent[1::2], strict=True)):
            layer = min(layer, layers.shape[3] - 1)  # an empty segment needs no layer of its own
        if not 0 <= layer < layers.shape[3] or (value == 0 and labels[known]):
            place = f"in layer {layer} of a file with {layers.shape[3]}, label value {value}"
            raise AssftError(f"segment {name!r} is {place}. Save it from Slicer again.")
        voxels = layers[..., layer] == value
        _require_within_extent(voxels, extent, name)
        explained[..., layer] |= voxels
        found.append(Segment(known, labels[known], partial(np.equal, layers[..., layer], value)))
    _require_explained(layers, explained)
    return found


def _require_explained(layers: np.ndarray, explained: np.ndarray) -> None:
    stray = (layers != 0) & ~explained
    if stray.any():
        values = ", ".join(f"{v:g}" for v in np.unique(layers[stray])[:5])
        raise AssftError(
            f"{int(stray.sum())} voxels belong to no segment of the file (values {values}), which was changed outside "
            "of Slicer. Save it from Slicer again."
        )


def _refuse_fractions(image: sitk.Image) -> None:
    """Raise `AssftError` if the voxels of a file say how much of them belongs to a segment."""
    keys = ("Segmentation_MasterRepresentation", "Segmentation_SourceRepresentation")  # up to Slicer 5.2, and since
    if any("fractional" in _text(image, key).lower() for key in keys):
        raise AssftError(
            "its segments are fractional label maps, of which a voxel can belong to several. Convert them to binary "
            "label maps in Slicer (Segmentations, Representations), make these the source, and save it again."
        )


def _segment_numbers(image: sitk.Image | sitk.ImageFileReader) -> list[int]:
    """The n of all Segment{n}_ID and Segment{n}_Name."""
    matches = (re.fullmatch(r"Segment(\d+)_(?:ID|Name)", key) for key in image.GetMetaDataKeys())
    return sorted({int(match[1]) for match in matches if match})


def _require_within_extent(voxels: np.ndarray, extent: tuple[int, ...] | None, name: str) -> None:
    """Raise `AssftError` if a segment has voxels outside of its extent, to which Slicer clips it on reading.

    extent: first and last index along i, j and k; an empty segment has 0 and -1.
    """
    if extent is None:
        return
    k, j, i = (slice(max(extent[2 * axis], 0), max(extent[2 * axis + 1] + 1, 0)) for axis in (2, 1, 0))
    outside = int(voxels.sum() - voxels[k, j, i].sum())
    if outside:
        shown = " ".join(map(str, extent))
        raise AssftError(
            f"segment {name!r} has {outside} voxels outside of the extent that the file gives it ({shown}); Slicer "
            "would not show them. Save it from Slicer again."
        )


def _text(image: sitk.Image, key: str) -> str:
    return str(image.GetMetaData(key)).strip() if image.HasMetaDataKey(key) else ""


def _numbers(image: sitk.Image, key: str, n: int = 1) -> tuple[int, ...] | None:
    """Return the n whole numbers that the file has under this key, None if it lacks the key.

    Raises `AssftError` if it has anything else there.
    """
    text = _text(image, key)
    try:
        floats = [float(part) for part in text.split()]
    except ValueError:
        floats = []
    numbers = tuple(int(number) for number in floats if number.is_integer())
    if text and not n == len(numbers) == len(floats):
        raise AssftError(f"its {key} is {text!r}; expected {count(n, 'whole number')}. Save it from Slicer again.")
    return numbers or None

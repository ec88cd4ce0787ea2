"""Read DICOM segmentations (SEG). Each frame is placed on the slices of its series; no voxel is resampled."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.text import by, count, reason
from nnunet_assft.volumes.dicom.slices import require_pydicom
from nnunet_assft.volumes.dicom.stack import MOST_SHARE
from nnunet_assft.volumes.grid import TOLERANCE, Grid
from nnunet_assft.volumes.headers import MOST_PER_BYTE, require_memory
from nnunet_assft.volumes.placement import DoesNotFitError, Placement, common_box, placement

SEGMENTATION, LABELMAP = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"
DEFLATED = "1.2.840.10008.1.2.1.99"
SIZES = 8  # times the pixels of a slice of the image: frames that claim more are not read
# slices may lie this far from the even grid of their image, in voxels: see `stack`
SLICE_TOLERANCE = MOST_SHARE + TOLERANCE


@dataclass(frozen=True)
class Origin:
    """What the header of a DICOM object says about its kind and where it comes from.

    kind: name of its SOP class, or its modality. own_series: its own SeriesInstanceUID. series, instances: the
    SeriesInstanceUIDs, and the SOPInstanceUIDs of slices, that it refers to.
    """

    sop_class: str
    kind: str
    own_series: str
    series: tuple[str, ...]
    instances: tuple[str, ...]

    @property
    def is_segmentation(self) -> bool:
        return self.sop_class in (SEGMENTATION, LABELMAP)


@dataclass(frozen=True)
class Frame:
    """A frame: where it lies. segment: the number of its segment in the file; 0 if it holds all of them. where: of its
    pixels in the image."""

    index: int
    segment: int
    where: Placement


@dataclass
class DicomSegmentation:
    """The segments of a file. names: number in the file -> name of the segment. Voxels are read when asked for."""

    names: dict[int, str]
    _data: Any
    _frames: Sequence[Frame]
    _image: Grid
    _is_labelmap: bool

    def voxels(self, number: int) -> np.ndarray:
        """Return the voxels of a segment, (z, y, x) bool on the grid of the image. Raises `AssftError` if some lie
        outside of the image, or cannot be decoded."""
        if self._is_labelmap:
            return self._numbers == number
        own = [frame for frame in self._frames if frame.segment == number]
        return self._placed(own, np.dtype(bool), f"segment {self.names[number]!r}")

    def numbers_without_a_name(self) -> set[int]:
        """Return the numbers of segments that frames or pixels have and the file does not describe; 0 is the
        background."""
        if self._is_labelmap:
            return set(map(int, np.unique(self._numbers))) - {0, *self.names}
        return {frame.segment for frame in self._frames} - set(self.names)

    @cached_property
    def _numbers(self) -> np.ndarray:
        """The number of every voxel in a label map, (z, y, x)."""
        return self._placed(self._frames, np.dtype(np.uint16), "its segments")

    def _placed(self, frames: Sequence[Frame], kind: np.dtype[Any], whose: str) -> np.ndarray:
        """Put the pixels of frames on the grid of the image, (z, y, x). kind: of the voxels. whose: in messages."""
        whole = np.zeros(self._image.size, kind, order="F")
        lost = 0
        for frame, pixels in zip(frames, self._pixels([frame.index for frame in frames]), strict=True):
            label = frame.where.oriented(pixels.astype(kind).T[:, :, None])
            target, source = common_box(label.shape, frame.where, self._image.size)
            if self._is_labelmap and (whole[target].astype(bool) & label[source].astype(bool)).any():
                raise AssftError(f"its frame {frame.index + 1} lies on voxels of another frame. Save it again.")
            whole[target] |= label[source]
            lost += np.count_nonzero(label) - np.count_nonzero(label[source])
        if lost:
            raise AssftError(f"{count(lost, 'voxel')} of {whose} lie outside of its image.")
        return whole.transpose(2, 1, 0)

    def _pixels(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the pixels of some frames, (row, column)."""
        from pydicom.pixels import iter_pixels

        if not indices:
            return
        try:
            yield from iter_pixels(self._data, indices=list(indices), raw=True)
        except Exception as error:  # decoders raise exceptions of many types
            raise AssftError(f"its pixels cannot be decoded ({reason(error)}). Save it again.") from error


def origin_of(file: Path) -> Origin:
    """Return what a DICOM file is and which slices it refers to. Pixels are not read.

    Raises `AssftError` if it cannot be parsed.
    """
    data = _header(file)
    series = [str(item.get("SeriesInstanceUID", "")) for item in _items(data, "ReferencedSeriesSequence")]
    instances = [
        str(source.get("ReferencedSOPInstanceUID", ""))
        for frame in _items(data, "PerFrameFunctionalGroupsSequence")
        for source in _sources(frame)
    ]
    sop_class = str(data.get("SOPClassUID", ""))
    kind = require_pydicom().uid.UID(sop_class).name if sop_class else str(data.get("Modality", "unknown"))
    return Origin(sop_class, kind, str(data.get("SeriesInstanceUID", "")), tuple(series), tuple(instances))


def is_dicom(file: Path) -> bool:
    """Whether a file starts as a DICOM file does, whatever its name."""
    with open(file, "rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def read_segmentation(file: Path, image: Grid, slices: Sequence[str]) -> DicomSegmentation:
    """Read a SEG of the types BINARY and LABELMAP. image: the grid of the image. slices: the SOPInstanceUIDs of its
    slices, in the order of its third axis.

    A frame lies where its ImagePositionPatient and ImageOrientationPatient say or, if it has none, on the slice that it
    refers to. Raises `AssftError` if one lies on no slice, or if the file holds anything else.
    """
    if len(slices) != image.size[2]:
        raise AssftError(
            f"the key file has {count(len(slices), 'slice')} of its series, and its image has {image.size[2]}. Convert "
            "the dataset again."
        )
    data = _header(file, pixels=True)
    kind = "LABELMAP" if data.get("SOPClassUID") == LABELMAP else str(data.get("SegmentationType", ""))
    if kind == "FRACTIONAL":
        raise AssftError(
            "its segments are fractional: a pixel says how much of it, or how probably, belongs to a segment. Convert "
            "them to binary segments with a threshold, and save it as a binary SEG."
        )
    if kind not in ("BINARY", "LABELMAP"):
        raise AssftError(f"its segmentation type is {kind!r}; expected BINARY or LABELMAP.")
    names = _names(data, is_labelmap=kind == "LABELMAP")
    try:
        frames = list(_frames(data, image, slices, names, is_labelmap=kind == "LABELMAP"))
    except AssftError:
        raise
    except Exception as error:  # of a damaged header
        raise AssftError(f"its header is damaged ({reason(error)}). Save it again.") from error
    return DicomSegmentation(names, data, frames, image, kind == "LABELMAP")


def _header(file: Path, *, pixels: bool = False) -> Any:
    pydicom = require_pydicom()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            meta = pydicom.filereader.read_file_meta_info(file)
            if meta.get("TransferSyntaxUID") == DEFLATED:  # unpacked as a whole
                require_memory(file.stat().st_size * MOST_PER_BYTE, "once unpacked, it can need")
            return pydicom.dcmread(file, stop_before_pixels=not pixels)
    except ValueError as error:
        raise AssftError(f"it is not read: {reason(error)}.") from error
    except Exception as error:  # a damaged header makes pydicom raise almost anything
        raise AssftError(f"it is a damaged DICOM file ({reason(error)}). Save it again.") from error


def _items(data: Any, name: str) -> Sequence[Any]:
    items = data.get(name) if data is not None else None
    return items if items is not None else ()


def _sources(frame: Any) -> Iterator[Any]:
    for derivation in _items(frame, "DerivationImageSequence"):
        yield from _items(derivation, "SourceImageSequence")


def _names(data: Any, *, is_labelmap: bool) -> dict[int, str]:
    names: dict[int, str] = {}
    for item in _items(data, "SegmentSequence"):
        number, name = int(item.get("SegmentNumber", -1)), str(item.get("SegmentLabel") or "").strip()
        if is_labelmap and number == 0:
            continue  # the background
        if not name or number < 1 or number in names:
            raise AssftError(
                f"its segment with the number {number} has {'the label ' + repr(name) if name else 'no label'}; "
                "expected segments with a label and a number from 1 on, each once. Save it again with names."
            )
        names[number] = name
    return names


# Where frames lie -----------------------------------------------------------------------------------------------------


# five parameters and what kind of file it is
def _frames(
    data: Any, image: Grid, slices: Sequence[str], names: Mapping[int, str], *, is_labelmap: bool
) -> Iterator[Frame]:
    (shared,) = _items(data, "SharedFunctionalGroupsSequence") or (None,)
    groups = _items(data, "PerFrameFunctionalGroupsSequence")
    n, size = int(data.get("NumberOfFrames", 0)), (int(data.Columns), int(data.Rows))
    if len(groups) != n:
        raise AssftError(f"its header has {n} frames and the positions of {len(groups)}. Save it again.")
    if math.prod(size) > SIZES * max(math.prod(image.size) // side for side in image.size):
        raise AssftError(
            f"its header claims frames of {by(size)} pixels, far more than its image has, {by(image.size)}; it is not "
            "read. Draw on the series of the case."
        )
    numbers = {uid: k for k, uid in enumerate(slices)}
    known: dict[tuple[float, ...], Placement] = {}
    for index, group in enumerate(groups):
        of_segment = _items(group, "SegmentIdentificationSequence") or _items(shared, "SegmentIdentificationSequence")
        segment = 0 if is_labelmap else int(of_segment[0].ReferencedSegmentNumber)
        of = "" if is_labelmap else f", of segment {names.get(segment, segment)!r},"
        try:
            place = _place(group, shared)
            referred = {numbers.get(str(source.get("ReferencedSOPInstanceUID"))) for source in _sources(group)}
            if place is None:
                where = _on_slice(size, referred, image)
            else:
                where = known[place] = known.get(place) or place_frame(size, place, image)
                _require_agreement(where, referred, image)
        except DoesNotFitError as error:
            raise AssftError(
                f"frame {index + 1} of {n}{of} lies on no slice of its series: {error}. Draw on the series of the "
                "case, and do not resample."
            ) from error
        yield Frame(index, segment, where)


def _place(group: Any, shared: Any) -> tuple[float, ...] | None:
    """Return ImagePositionPatient, ImageOrientationPatient and PixelSpacing of a frame; None without a position."""
    values: list[float] = []
    for sequence, name in (
        ("PlanePositionSequence", "ImagePositionPatient"),
        ("PlaneOrientationSequence", "ImageOrientationPatient"),
        ("PixelMeasuresSequence", "PixelSpacing"),
    ):
        item = next(iter(_items(group, sequence) or _items(shared, sequence)), None)
        if item is None or item.get(name) is None:
            return None
        values += map(float, item[name].value)
    return tuple(values)


def place_frame(size: tuple[int, int], place: Sequence[float], image: Grid) -> Placement:
    """Find the voxels of the image that the pixels of a frame are.

    size: columns, rows. place: position (3), directions of growing column and row numbers (6), and spacing between rows
    and between columns, in the axes of DICOM and mm. Raises `DoesNotFitError` if the frame is not on voxels of the
    image.
    """
    position, row, column = (np.array(place[i : i + 3]) for i in (0, 3, 6))
    normal = np.cross(row, column)
    if not np.isfinite(place).all() or abs(np.linalg.norm(normal) - 1) > 0.01:
        raise DoesNotFitError("its position or direction is none")
    # a frame has no third axis; it is given that of the image
    between_slices = image.spacing[np.abs(image.directions.T @ normal).argmax()]
    affine = np.eye(4)
    affine[:3] = np.column_stack((row * place[10], column * place[9], normal * between_slices, position))
    return placement(Grid((*size, 1), affine), image, SLICE_TOLERANCE)


def _on_slice(size: tuple[int, int], referred: set[int | None], image: Grid) -> Placement:
    """Return the place of a frame that only refers to its slice."""
    (k, *more) = referred or {None}
    if k is None or more:
        raise DoesNotFitError("it has no position, and does not refer to one slice of the series of its case")
    if size != image.size[:2]:
        raise DoesNotFitError(f"it has {by(size)} pixels, its slice {by(image.size[:2])}")
    return Placement((0, 1, 2), (False, False, False), (0, 0, k), 0.0)


def _require_agreement(where: Placement, referred: set[int | None], image: Grid) -> None:
    """Raise `DoesNotFitError` if a frame lies outside of the image, or not on the slice that it refers to."""
    if where.axes[2] != 2:  # it cuts the slices
        return
    k = where.offset[2]
    if not 0 <= k < image.size[2]:
        raise DoesNotFitError(f"it would be slice {k + 1} of {image.size[2]}")
    (other, *more) = referred or {None}
    if not more and other is not None and other != k:
        raise DoesNotFitError(f"it lies on slice {k + 1}, but refers to slice {other + 1}")

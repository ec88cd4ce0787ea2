"""Read what the headers of DICOM files say. Names of files mean nothing here, and no voxel is read."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.cases import for_each_case, in_processes
from nnunet_assft.runtime.files import sha256_file, walk
from nnunet_assft.runtime.processes import number_of_processes

TAGS = [
    *("PatientID", "IssuerOfPatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("StudyDate", "SeriesNumber", "SeriesDescription", "SOPClassUID", "SOPInstanceUID", "Modality", "ImageType"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "ModalityLUTSequence"),
]
NOTES = ("StudyDate", "SeriesNumber", "SeriesDescription")  # by which a person recognises a series in the key file
DICOMDIR = "1.2.840.10008.1.3.10"
# modalities whose files may have rows and columns, but are made from a scan
DERIVED = frozenset({"SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "SR", "PR", "KO", "REG", "DOC", "FID", "RWV"})
NOT_DICOM, DIRECTORY, OTHER_OBJECT, UNREADABLE, COPY = "not_dicom", "directory", "other_object", "unreadable", "copy"
FILES_AT_ONCE = 500
BYTES_PER_HEADER = 100_000  # a header counts like this many bytes: a process is worth starting for 2000 headers

Vector = tuple[float, ...]


@dataclass(frozen=True)
class Slice:
    """What the header of one image file says.

    position, orientation, spacing: ImagePositionPatient, ImageOrientationPatient and PixelSpacing (rows, columns), in
    mm; empty if the header lacks them. photometric: such as MONOCHROME2. mapped: whether a table gives the values, and
    not slope and intercept. notes: what NOTES lists. state: size in bytes and modification time of the file in ns.
    """

    file: Path
    patient_id: str
    issuer: str
    study: str
    series: str
    frame: str
    sop_class: str
    sop_instance: str
    transfer_syntax: str
    modality: str
    image_type: tuple[str, ...]
    rows: int
    columns: int
    frames: int
    samples: int
    photometric: str
    position: Vector
    orientation: Vector
    spacing: Vector
    mapped: bool
    notes: dict[str, str] = field(hash=False)
    state: tuple[int, int]

    @property
    def patient(self) -> tuple[str, ...]:
        """Whose scan it is. Without a PatientID, every study is one patient."""
        return (self.patient_id, self.issuer) if self.patient_id else ("", "", self.study)


@dataclass
class Found:
    """The files below some folders.

    slices: of every image. passed_over: NOT_DICOM, DIRECTORY, OTHER_OBJECT or COPY -> number of files. unreadable:
    files that start as DICOM files do, but cannot be parsed. n_files: number of all files.
    """

    slices: list[Slice] = field(default_factory=list)
    passed_over: dict[str, int] = field(default_factory=dict)
    unreadable: list[Path] = field(default_factory=list)
    n_files: int = 0


def require_pydicom() -> Any:
    """Return the module pydicom. Raises `AssftError` if it is not installed."""
    try:
        import pydicom
    except ImportError as error:
        raise AssftError("DICOM needs pydicom. Install it with: pip install 'nnunet_assft[dicom]'") from error
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # warnings name files, and quote the header
    return pydicom


def find_slices(roots: Sequence[Path], num_processes: int | None) -> Found:
    """Read the headers of all files below the folders."""
    require_pydicom()
    files = [file for root in roots for file in walk(root)]
    parts = {
        f"files {start + 1} to {start + len(some)}": some
        for start in range(0, len(files), FILES_AT_ONCE)
        if (some := files[start : start + FILES_AT_ONCE])
    }
    processes = number_of_processes(num_processes, total_bytes=len(files) * BYTES_PER_HEADER)
    read = for_each_case(_read_headers, parts, desc="Scanning", executor=in_processes(processes))
    found = Found(passed_over=dict.fromkeys((NOT_DICOM, DIRECTORY, OTHER_OBJECT, COPY), 0), n_files=len(files))
    for file, result in zip(files, [entry for part in read.values() for entry in part], strict=True):
        if isinstance(result, Slice):
            found.slices.append(result)
        elif result == UNREADABLE:
            found.unreadable.append(file)
        else:
            found.passed_over[result] += 1
    return _without_copies(found)


def _without_copies(found: Found) -> Found:
    """Leave out files with the same content as another file. An export often holds some twice."""
    first: dict[str, Slice] = {}
    kept = []
    for slice_ in found.slices:
        other = first.setdefault(slice_.sop_instance, slice_)
        if other is not slice_ and _same_content(other.file, slice_.file):
            found.passed_over[COPY] += 1
        else:
            kept.append(slice_)
    found.slices = kept
    return found


def _same_content(first: Path, second: Path) -> bool:
    try:
        return sha256_file(first) == sha256_file(second)
    except OSError:  # whose message would name the file
        return False


def _read_headers(files: Sequence[Path]) -> list[Slice | str]:
    return list(map(partial(read_header, pydicom=require_pydicom()), files))


def read_header(file: Path, pydicom: Any) -> Slice | str:
    """Return what the header of a file says, or why it is no image: NOT_DICOM, DIRECTORY, OTHER_OBJECT, UNREADABLE."""
    try:
        if not file.is_file():
            return NOT_DICOM
        with open(file, "rb") as stream:
            if stream.read(132)[128:] != b"DICM":
                return NOT_DICOM
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS)
            kind = pydicom.uid.UID(header.get("SOPClassUID") or "").name
            return _slice_of(file, header, kind)
    except Exception:  # a damaged header makes pydicom raise almost anything
        return UNREADABLE


def _slice_of(file: Path, header: Any, kind: str) -> Slice | str:
    """kind: name of the SOP class, such as "CT Image Storage"."""

    def text(name: str) -> str:
        return str(header.get(name) or "").strip()

    def numbers(name: str, n: int) -> Vector:
        values = header.get(name)
        return tuple(map(float, values)) if values is not None and len(values) == n else ()

    meta = header.file_meta
    if meta.get("MediaStorageSOPClassUID") == DICOMDIR:
        return DIRECTORY
    if text("Modality") in DERIVED:
        return OTHER_OBJECT
    if not (text("SOPInstanceUID") and header.get("Rows") and header.get("Columns")):
        return UNREADABLE if not kind or "Image Storage" in kind else OTHER_OBJECT  # the file is cut off
    kinds = header.get("ImageType") or ()
    state = file.stat()
    return Slice(
        file=file,
        patient_id=text("PatientID"),
        issuer=text("IssuerOfPatientID"),
        study=text("StudyInstanceUID"),
        series=text("SeriesInstanceUID"),
        frame=text("FrameOfReferenceUID"),
        sop_class=text("SOPClassUID"),
        sop_instance=text("SOPInstanceUID"),
        transfer_syntax=str(meta.get("TransferSyntaxUID") or ""),
        modality=text("Modality"),
        image_type=(kinds,) if isinstance(kinds, str) else tuple(map(str, kinds)),
        rows=int(header.Rows),
        columns=int(header.Columns),
        frames=int(header.get("NumberOfFrames") or 1),
        samples=int(header.get("SamplesPerPixel") or 1),
        photometric=text("PhotometricInterpretation"),
        position=numbers("ImagePositionPatient", 3),
        orientation=numbers("ImageOrientationPatient", 6),
        spacing=numbers("PixelSpacing", 2),
        mapped=bool(header.get("ModalityLUTSequence")),
        notes={name: text(name) for name in NOTES},
        state=(state.st_size, state.st_mtime_ns),
    )

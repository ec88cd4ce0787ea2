"""Write a segmentation as DICOM (SEG), frame by frame on the slices of its series."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_assft import __version__
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import atomic_path
from nnunet_assft.runtime.text import by
from nnunet_assft.volumes.dicom.codes import Code, meaning_of
from nnunet_assft.volumes.dicom.slices import require_pydicom
from nnunet_assft.volumes.dicom.stack import Stack
from nnunet_assft.volumes.structures import structures

NAME = "nnunet_assft"
SERIES_NUMBER = 900  # far from those that scanners give
# what the standard wants in every object, even if it is empty, and old or pseudonymised series lack
EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName"),
)
REFERRED = ("StudyInstanceUID", "FrameOfReferenceUID")  # what a segmentation shares with its series
UTF_8 = "ISO_IR 192"


def require_highdicom() -> Any:
    """Return the module highdicom. Raises `AssftError` if it is not installed."""
    require_pydicom()
    try:
        import highdicom.seg
    except ImportError as error:
        raise AssftError(
            "Writing DICOM segmentations needs highdicom. Install it with: pip install 'nnunet_assft[dicom]'"
        ) from error
    logging.getLogger("highdicom").setLevel(logging.CRITICAL)
    return highdicom


def write_dicom_segmentation(file: Path, series: Stack, label: np.ndarray, labels: Mapping[str, int]) -> None:
    """Write a SEG of the type BINARY with one segment per structure.

    label: (z, y, x) on the grid of the series. labels: name -> number, as in dataset.json. A structure without a voxel
    is described, too, and has no frames unless no structure has a voxel. Patient and study are those of the series, as
    the standard requires; all texts are in UTF-8, because the character set of the series need not have the letters of
    the structures. Raises `AssftError` if a file of the series cannot be read any more, or if its header does not have
    what a segmentation needs.
    """
    highdicom = require_highdicom()
    if label.shape != series.shape[::-1]:
        raise AssftError(f"The segmentation has {by(label.shape[::-1])} voxels, its series {by(series.shape)}.")
    sources = [_header(source, number, series) for number, source in enumerate(series.files, start=1)]
    known = structures(labels)
    numbers = {value: number for number, value in enumerate(known.values(), start=1)}
    renumbered = np.zeros(label.shape, np.uint16 if len(known) > 255 else np.uint8)
    for value, number in numbers.items():
        renumbered[label == value] = number
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # highdicom warns of empty segmentations, and pydicom quotes the header
        try:
            seg = _segmentation(highdicom, sources, renumbered, list(known))
        except MemoryError:
            raise
        except Exception as error:  # of a header that breaks the standard; its message may quote the header
            raise AssftError(
                "The headers of the series break the DICOM standard, so that no segmentation of it can be written "
                f"({type(error).__name__}). Export the series again."
            ) from None
        with atomic_path(file) as partial:
            seg.save_as(partial)


def _segmentation(highdicom: Any, sources: list[Any], pixels: np.ndarray, names: list[str]) -> Any:
    """Return a SEG. pixels: (slice, row, column), with the numbers of the segments from 1 on, in the order of names."""
    seg = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(highdicom, n, name) for n, name in enumerate(names, start=1)],
        series_instance_uid=highdicom.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=NAME,
        manufacturer_model_name=NAME,
        software_versions=__version__,
        device_serial_number="0",
        series_description=f"Segmentation by {NAME}",
        content_label="SEGMENTATION",
    )
    seg.copy_patient_and_study_information(sources[0])
    return seg


def _header(file: Path, number: int, series: Stack) -> Any:
    """Return the header of a slice, completed where the standard wants more than the series has."""
    pydicom = require_pydicom()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = pydicom.dcmread(file, stop_before_pixels=True)
            data.decode()  # with the character set of the series, before it gets another one
    except Exception as error:  # a damaged header makes pydicom raise almost anything; its message would name the file
        raise AssftError(
            f"Slice {number} of {len(series.files)} of the series cannot be read ({type(error).__name__}); a DICOM "
            "segmentation needs the headers of all of them. Restore the files of the series."
        ) from None
    if missing := [name for name in REFERRED if not data.get(name)]:
        raise AssftError(
            f"Slice {number} of {len(series.files)} of the series has no {' and no '.join(missing)}, which a DICOM "
            "segmentation has to share with it. Export the series again."
        )
    data.SpecificCharacterSet = UTF_8
    for name in EMPTY:
        if name not in data:
            setattr(data, name, "")
    if data.get("SliceThickness") is None:
        data.SliceThickness = f"{series.spacing[2]:.10g}"
    return data


def _description(highdicom: Any, number: int, name: str) -> Any:
    meaning = meaning_of(name)
    method = highdicom.AlgorithmIdentificationSequence(
        name=NAME, family=_coded(highdicom, Code("123110", "Artificial Intelligence"), "DCM"), version=__version__
    )
    description = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=_coded(highdicom, meaning.category),
        segmented_property_type=_coded(highdicom, meaning.kind),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=method,
    )
    if meaning.side:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_coded(highdicom, meaning.side)]
    return description


def _coded(highdicom: Any, code: Code, scheme: str = "SCT") -> Any:
    return highdicom.sr.CodedConcept(code.value, scheme, code.meaning)

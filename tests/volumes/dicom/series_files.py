"""DICOM series made from a volume, one file for each slice, in files whose names say nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # from the axes of DICOM to those of NIfTI, and back
SHAPE, SPACING = (7, 6, 5), (0.7, 0.9, 2.5)  # columns, rows, slices; mm
PATIENT, NAME = "MEIER-1963-4711", "Meier^Hans"

_c, _s = np.cos(np.radians(25)), np.sin(np.radians(25))
# the directions, in the axes of DICOM, in which columns, rows and slices are counted
ORIENTATIONS = {
    "axial": np.eye(3),
    "reversed axial": np.diag([1.0, 1.0, -1.0]),
    "sagittal": np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0]], float),
    "reversed sagittal": np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]], float),
    "coronal": np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], float),
    "oblique": np.array([[_c, -_s, 0], [_s, _c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, _c, -_s], [0, _s, _c]]),
}


def affine_of(orientation: str = "axial", origin: tuple[float, ...] = (-101.25, 43.5, 812.75)) -> np.ndarray:
    """Voxel (x, y, z) -> RAS in mm."""
    affine = np.eye(4)
    affine[:3, :3] = ORIENTATIONS[orientation] * SPACING
    affine[:3, 3] = origin
    return RAS @ affine


def scan(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Numbers as a CT has them: no two slices are the same."""
    return np.random.default_rng(seed).integers(-1000, 1500, shape).astype(np.int16)


def headers(  # six parameters: a series, and what is wrong with it
    stored: np.ndarray,
    affine: np.ndarray,
    *,
    modality: str = "CT",
    patient: str = PATIENT,
    study: str | None = None,
    **changes: Any,
) -> list[FileDataset]:
    """One data set for each slice of `stored` (x, y, z). changes: attributes of all of them."""
    lps = RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    row, column = lps[:3, 0] / spacing[0], lps[:3, 1] / spacing[1]
    series, frame, study = generate_uid(), generate_uid(), study or generate_uid()
    made = []
    for k in range(stored.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        data.PatientID, data.PatientName, data.PatientBirthDate = patient, NAME, "19630401"
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
        data.StudyDate, data.SeriesDescription, data.SeriesNumber = "20240229", "portal venous Meier", "4"
        data.Modality, data.ImageType = modality, ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.InstanceNumber = stored.shape[2] - k  # which need not follow the positions
        data.ImagePositionPatient = [f"{value:.10g}" for value in (lps @ [0, 0, k, 1])[:3]]
        data.ImageOrientationPatient = [f"{value:.13g}" for value in (*row, *column)]
        data.PixelSpacing = [f"{spacing[1]:.10g}", f"{spacing[0]:.10g}"]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.Rows, data.Columns = stored.shape[1], stored.shape[0]
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.RescaleSlope, data.RescaleIntercept = "1", "0"
        data.PixelData = stored[:, :, k].T.astype("<i2").tobytes()
        for name, value in changes.items():
            setattr(data, name, value)
        made.append(data)
    return made


def save(folder: Path, made: list[FileDataset], seed: int = 0) -> list[Path]:
    """Write data sets into a folder, under names in another order than the slices. Returns the files by slice."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(seed).permutation(len(made))
    files = [folder / f"{NAME}_{seed}_{number:03d}" for number in numbers]
    for file, data in zip(files, made, strict=True):
        pydicom.dcmwrite(file, data)
    return files


def write_series(folder: Path, stored: np.ndarray, affine: np.ndarray, seed: int = 0, **changes: Any) -> list[Path]:
    return save(folder, headers(stored, affine, **changes), seed)

"""Read the voxels of a series, and write them as one NIfTI file. This is the only module here that reads voxels."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from nnunet_assft.dataset_conversion.dicom.stack import Stack
from nnunet_assft.dataset_conversion.file_placement import COMPRESSION
from nnunet_assft.dataset_conversion.findings import Finding, errors, found
from nnunet_assft.dataset_conversion.manifest import Record
from nnunet_assft.dataset_conversion.source_cases import POOL
from nnunet_assft.dataset_conversion.voxels import image_findings
from nnunet_assft.runtime.files import sha256_file, write_bytes

Voxels = npt.NDArray[Any]
ENDING = ".nii.gz"
MM, SCANNER = 2, 1  # codes of a NIfTI header


@dataclass(frozen=True)
class Job:
    """A series to convert. made_with: checksum of all that determines the image. channel: its name in dataset.json."""

    case: str
    stack: Stack
    folder: Path
    channel: str
    made_with: str


class _CannotDecodeError(Exception):
    """Its message names the slice, and neither file nor patient, as a message of a library would."""


def convert_series(job: Job) -> Record:
    """Read, check and write one series, unless it has an error. Returns its record, which names no source file.

    Raises OSError if the dataset folder cannot be written to.
    """
    findings: list[Finding] = []
    outputs: list[dict[str, Any]] = []
    content = ""
    try:
        volume = read_volume(job.stack)
    except _CannotDecodeError as error:
        findings.append(found("undecodable", job.case, str(error)))
    else:
        content = hashlib.sha256(f"{volume.shape}{volume.dtype.str}".encode() + volume.tobytes(order="F")).hexdigest()
        findings += image_findings(job.case, "the image", volume, job.channel, by_id=False)
        if not errors(findings):
            outputs.append(_write(job, volume))
    return {
        "part": POOL,
        "made_with": job.made_with,
        "sources": [],  # which the key file lists
        "outputs": outputs,
        "content": content,
        "structures": None,
        "findings": [asdict(finding) for finding in findings],
    }


def read_volume(stack: Stack) -> Voxels:
    """Return the voxels (x, y, z) of a series in the unit that its rescale slope and intercept give, such as HU.

    The type is int16 if all values are integers that fit, otherwise int32, or float32 for other values. Raises
    `_CannotDecodeError`.
    """
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # warnings of ITK name files
    slices: list[Voxels] = []
    for number, file in enumerate(stack.files, start=1):
        try:
            reader = sitk.ImageFileReader()
            reader.SetImageIO("GDCMImageIO")
            reader.SetFileName(str(file))
            array = sitk.GetArrayFromImage(reader.Execute())
        except Exception as error:  # SimpleITK raises RuntimeError; its text holds the name of the file
            text = f"slice {number} of {len(stack.files)} cannot be decoded ({type(error).__name__})"
            raise _CannotDecodeError(text) from None
        if array.shape != (1, stack.shape[1], stack.shape[0]):
            raise _CannotDecodeError(f"slice {number} of {len(stack.files)} has another size than its header says")
        slices.append(_smallest(array[0].T))
    volume = np.asfortranarray(np.stack(slices, axis=-1))  # of the type that holds the values of all slices
    return volume.astype(np.float32) if np.issubdtype(volume.dtype, np.inexact) else volume


def _smallest(values: Voxels) -> Voxels:
    if np.issubdtype(values.dtype, np.integer):
        fits = np.iinfo(np.int16).min <= values.min() and values.max() <= np.iinfo(np.int16).max
        return values.astype(np.int16 if fits else np.int32)
    return values.astype(np.float32)


def _write(job: Job, volume: Voxels) -> dict[str, Any]:
    """Write the image, and return its entry for the manifest. The bytes depend on voxels and geometry alone."""
    path = f"imagesTr/{job.case}_0000{ENDING}"
    image = nibabel.Nifti1Image(volume, job.stack.affine)
    image.set_sform(job.stack.affine, SCANNER)
    image.set_qform(job.stack.affine, SCANNER)
    image.header.set_xyzt_units(MM)
    write_bytes(job.folder / path, gzip.compress(image.to_bytes(), COMPRESSION, mtime=0))
    state = (job.folder / path).stat()
    return {
        "path": path,
        "action": "written",
        "sha256": sha256_file(job.folder / path),
        "size": state.st_size,
        "mtime_ns": state.st_mtime_ns,
    }

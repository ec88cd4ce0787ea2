"""Read the voxels of a series, check them, and write them as the image of a case."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunet_assft.dataset_conversion.findings import Finding, errors, found
from nnunet_assft.dataset_conversion.manifest import Record
from nnunet_assft.dataset_conversion.source_cases import POOL
from nnunet_assft.dataset_conversion.voxels import image_findings
from nnunet_assft.runtime.files import sha256_file, write_bytes
from nnunet_assft.volumes.dicom.stack import Stack
from nnunet_assft.volumes.dicom.voxels import CannotDecodeError, Voxels, nifti_bytes, read_volume

ENDING = ".nii.gz"


@dataclass(frozen=True)
class Job:
    """A series to convert. made_with: checksum of all that determines the image. channel: its name in dataset.json."""

    case: str
    stack: Stack
    folder: Path
    channel: str
    made_with: str


def convert_series(job: Job) -> Record:
    """Read, check and write one series, unless it has an error. Returns its record, which names no source file.

    Raises OSError if the dataset folder cannot be written to.
    """
    findings: list[Finding] = []
    outputs: list[dict[str, Any]] = []
    content = ""
    try:
        volume = read_volume(job.stack)
    except CannotDecodeError as error:
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


def _write(job: Job, volume: Voxels) -> dict[str, Any]:
    """Write the image, and return its entry for the manifest. The bytes depend on voxels and geometry alone."""
    path = f"imagesTr/{job.case}_0000{ENDING}"
    write_bytes(job.folder / path, nifti_bytes(volume, job.stack.affine))
    state = (job.folder / path).stat()
    return {
        "path": path,
        "action": "written",
        "sha256": sha256_file(job.folder / path),
        "size": state.st_size,
        "mtime_ns": state.st_mtime_ns,
    }

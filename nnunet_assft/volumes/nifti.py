"""Find what readers do not report about a NIfTI file: damage, and two geometries that disagree."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from nnunet_assft.volumes.grid import TOLERANCE, Grid, corner_distance


def refuse_damaged_nifti(file: Path) -> None:
    """Raise ValueError or OSError if a NIfTI file is truncated, fails its checksum, or holds NaN or infinity. Other
    formats are not checked.

    ITK fills a missing end with zeros and turns NaN into 0, both without an error, so that a network would learn
    background from a truncated label.
    """
    if not _is_nifti(file):
        return
    compressed = file.name.lower().endswith(".gz")
    if compressed:
        with gzip.open(file) as stream:  # read to the end, where gzip checks length and checksum
            while stream.read(2**20):
                pass
    image: Any = nibabel.load(file)
    stored = image.dataobj
    if compressed and np.issubdtype(stored.dtype, np.integer):
        return  # the file is complete, and integers are finite
    voxels = stored.get_unscaled()
    if np.issubdtype(voxels.dtype, np.inexact) and (n := int((~np.isfinite(voxels)).sum())):
        raise ValueError(f"{n} voxels are NaN or infinite")


def forms_disagree(file: Path) -> bool:
    """Whether a NIfTI header gives two different positions in space, sform and qform. Readers differ in which they
    use."""
    if not _is_nifti(file):
        return False
    image: Any = nibabel.load(file)
    try:
        sform, qform = (image.get_sform(coded=True), image.get_qform(coded=True))
    except ValueError:  # a quaternion that is none
        return True
    if not sform[1] or not qform[1] or len(image.shape) < 3:
        return False
    grids = [Grid.from_ras(image.shape[:3], affine) for affine, _ in (sform, qform)]
    return corner_distance(*grids) > TOLERANCE * float(grids[0].spacing.min())


def _is_nifti(file: Path) -> bool:
    return file.name.lower().endswith((".nii", ".nii.gz"))

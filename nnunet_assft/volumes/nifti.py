"""What ITK, with which nnU-Net reads images and labels, does not say of a damaged NIfTI file."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np


def refuse_damaged_nifti(file: Path) -> None:
    """Raises if a NIfTI file is cut short, fails its checksum, or holds NaN or infinity. Other formats pass.

    ITK fills a missing end with zeros and turns NaN into 0, both without an error: a label cut short would teach
    background.
    """
    compressed = file.name.lower().endswith(".nii.gz")
    if not compressed and not file.name.lower().endswith(".nii"):
        return
    if compressed:
        with gzip.open(file) as stream:  # to the very end, where length and checksum are
            while stream.read(2**20):
                pass
    image: Any = nibabel.load(file)
    stored = image.dataobj
    if compressed and np.issubdtype(stored.dtype, np.integer):
        return  # whole, and integers are finite
    voxels = stored.get_unscaled()
    if np.issubdtype(voxels.dtype, np.inexact) and (n := int((~np.isfinite(voxels)).sum())):
        raise ValueError(f"{n} voxels are NaN or infinite")

"""Segmentations on disk, in the geometry of their image."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from nnunet_assft.runtime.files import atomic_path
from nnunet_assft.volumes.nifti import refuse_damaged_nifti


def write_segmentation(
    reader: BaseReaderWriter, segmentation: np.ndarray, file: Path, properties: dict[str, Any]
) -> None:
    """Write a segmentation, (z, y, x) as the reader gives its image, in the geometry of that image.

    nnU-Net's own writer is used. ITK does not say when a disk is full and leaves a truncated file, so what was written is
    read again. Raises OSError if it is not whole.
    """
    with atomic_path(file) as partial:
        reader.write_seg(segmentation, str(partial), properties)
        try:
            refuse_damaged_nifti(partial)
            whole = np.array_equal(reader.read_seg(str(partial))[0][0], segmentation)
        except Exception:  # readers raise what they like
            whole = False
        if not whole:
            raise OSError(errno.ENOSPC, "the file was truncated while it was written", str(file))

"""Write segmentations in the geometry of their image, and convert between the two orders of the axes of an array.

A plain array in this package has the axes that nnU-Net's reader gives an image, (z, y, x). nnU-Net's reorienting
readers turn every image to RAS. Annotation programs and ITK see the axes of the file instead: `InFileAxes`.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from nnunet_assft.runtime.files import atomic_path
from nnunet_assft.volumes.whole_files import whole_file


@dataclass(frozen=True)
class InFileAxes:
    """An array (z, y, x) along the axes of the image file, as ITK reads it.

    The `properties` of its methods are those that nnU-Net's reader returns for the image.
    """

    array: np.ndarray

    @classmethod
    def of(cls, array: np.ndarray, properties: Mapping[str, Any]) -> InFileAxes:
        """Convert an array that has the axes of nnU-Net's reader."""
        to_ras = _turn_to_ras(properties)
        return cls(array if to_ras is None else _turned(array, ornt_transform(axcodes2ornt("RAS"), to_ras)))

    def in_reader_axes(self, properties: Mapping[str, Any]) -> np.ndarray:
        """Return the array with the axes of nnU-Net's reader; the inverse of `of`."""
        to_ras = _turn_to_ras(properties)
        return self.array if to_ras is None else _turned(self.array, to_ras)


def write_segmentation(
    reader: BaseReaderWriter, segmentation: np.ndarray | InFileAxes, file: Path, properties: dict[str, Any]
) -> None:
    """Write a segmentation in the geometry of its image with nnU-Net's own writer.

    properties: those that the reader returned for the image. ITK leaves a truncated file without an error if the disk
    is full, so the file is read again. Raises OSError if it is not complete.
    """
    array = segmentation.in_reader_axes(properties) if isinstance(segmentation, InFileAxes) else segmentation
    with atomic_path(file) as partial:
        reader.write_seg(array, str(partial), properties)
        try:
            with whole_file(partial) as whole:
                is_same = np.array_equal(reader.read_seg(str(whole))[0][0], array)
        except Exception:  # readers raise exceptions of many types
            is_same = False
        if not is_same:
            raise OSError(errno.ENOSPC, "the file was truncated while it was written", str(file))


def _turn_to_ras(properties: Mapping[str, Any]) -> np.ndarray | None:
    affines = properties.get("nibabel_stuff", {})
    return np.asarray(io_orientation(affines["original_affine"])) if "reoriented_affine" in affines else None


def _turned(array: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(apply_orientation(array.transpose(2, 1, 0), orientation).transpose(2, 1, 0))

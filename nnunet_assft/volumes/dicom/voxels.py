"""Read the voxels of a series, and pack them as one NIfTI file."""

from __future__ import annotations

import gzip
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from nnunet_assft.volumes.dicom.stack import Stack

Voxels = npt.NDArray[Any]
MM, SCANNER = 2, 1  # codes of a NIfTI header
COMPRESSION = 4  # gzip level


class CannotDecodeError(Exception):
    """Its message names the slice, and neither file nor patient, as a message of a library would."""


def read_volume(stack: Stack) -> Voxels:
    """Return the voxels (x, y, z) of a series in the unit that its rescale slope and intercept give, such as HU.

    The type is int16 if all values are integers that fit, otherwise int32, or float32 for other values. Raises
    `CannotDecodeError`.
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
            raise CannotDecodeError(text) from None
        if array.shape != (1, stack.shape[1], stack.shape[0]):
            raise CannotDecodeError(f"slice {number} of {len(stack.files)} has another size than its header says")
        slices.append(_smallest(array[0].T))
    volume = np.asfortranarray(np.stack(slices, axis=-1))  # of the type that holds the values of all slices
    return volume.astype(np.float32) if np.issubdtype(volume.dtype, np.inexact) else volume


def _smallest(values: Voxels) -> Voxels:
    if np.issubdtype(values.dtype, np.integer):
        fits = np.iinfo(np.int16).min <= values.min() and values.max() <= np.iinfo(np.int16).max
        return values.astype(np.int16 if fits else np.int32)
    return values.astype(np.float32)


def nifti_bytes(volume: Voxels, affine: npt.NDArray[np.float64]) -> bytes:
    """Return a .nii.gz file. volume: (x, y, z). affine: RAS in mm. The bytes depend on voxels and geometry alone."""
    image = nibabel.Nifti1Image(volume, affine)
    image.set_sform(affine, SCANNER)
    image.set_qform(affine, SCANNER)
    image.header.set_xyzt_units(MM)
    return gzip.compress(image.to_bytes(), COMPRESSION, mtime=0)

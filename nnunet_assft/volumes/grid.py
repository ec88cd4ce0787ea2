"""The position of the voxels of a volume in space: the only geometry class, and functions that read it from headers.

Coordinates are LPS in mm, as in ITK: x runs to the patient's left, y to the back, z to the head. NIfTI files and
nibabel use RAS; `Grid.from_ras` converts.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from nibabel.orientations import aff2axcodes, inv_ornt_aff, io_orientation
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.ranges import check

TOLERANCE = 0.05  # voxels; smaller differences are rounding errors of a header, larger ones are real
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # LPS -> RAS and back

# ITK prints its warnings past Python; what they mean for a volume is checked and reported by this package
sitk.ProcessObject.SetGlobalWarningDisplay(False)


@dataclass(frozen=True)
class Tolerances:
    """How far image and label may lie apart when a dataset is converted; the label is then moved onto its image.

    A difference below `info` is reported for information, one above `error` is an error, and one between them is a
    warning; both in mm. error: None stands for one voxel, which is the smallest spacing of the image. moves: False if
    labels stay where they are, as when a dataset is only checked; a label that does not lie on its image is then always
    an error, because a round would refuse it.
    """

    info: float = 0.1
    error: float | None = None
    moves: bool = True

    def __post_init__(self) -> None:
        """Raise `AssftError` for a tolerance that is negative, infinite or NaN, and unless info <= error."""
        for value in (self.info, self.error):
            if value is not None:
                check("tolerance_mm", value)
        if self.error is not None and self.info > self.error:
            raise AssftError(f"--tolerance_mm {self.info:g} {self.error:g}: expected INFO to be no larger than ERROR.")

    def limits(self, image: Grid) -> tuple[float, float]:
        """Return (info, error) in mm for this image."""
        return self.info, float(image.spacing.min()) if self.error is None else self.error

    def words(self) -> dict[str, list[float | str]]:
        """Return (info, error) for dataset.json, with the unit as the key."""
        return {"mm": [self.info, "voxel" if self.error is None else self.error]}


@dataclass(frozen=True)
class Grid:
    """The grid of a volume.

    size: number of voxels along i, j, k. affine: (4, 4), maps an index (i, j, k, 1) to the position of the centre of
    the voxel, LPS in mm.
    """

    size: tuple[int, int, int]
    affine: np.ndarray

    @classmethod
    def from_ras(cls, size: Sequence[int], affine: np.ndarray) -> Grid:
        """Make a grid from an affine in RAS and mm, as in a NIfTI header."""
        return cls(_three(size), RAS @ np.asarray(affine, dtype=np.float64))

    @property
    def spacing(self) -> np.ndarray:
        """Spacing in mm along i, j, k, (3,)."""
        spacing: np.ndarray = np.linalg.norm(self.affine[:3, :3], axis=0)
        return spacing

    @property
    def directions(self) -> np.ndarray:
        """Unit vectors along i, j, k as the columns of a (3, 3) matrix."""
        directions: np.ndarray = self.affine[:3, :3] / self.spacing
        return directions

    @property
    def axes(self) -> str:
        """The directions that i, j, k run to, such as RAS for right, anterior, superior."""
        return "".join(code or "?" for code in aff2axcodes(RAS @ self.affine))

    @property
    def skew(self) -> float:
        """The largest deviation of two axes from a right angle, in degrees."""
        cosines = (self.directions.T @ self.directions)[np.triu_indices(3, 1)]
        return float(np.abs(90 - np.degrees(np.arccos(np.clip(cosines, -1, 1)))).max())

    def corners(self) -> np.ndarray:
        """Return the homogeneous indices of the eight corner voxels, (4, 8)."""
        return np.array([[*corner, 1] for corner in itertools.product(*((0, n - 1) for n in self.size))], dtype=float).T

    def reoriented(self) -> Grid:
        """Return the grid of the same voxels with their axes in the order and direction closest to RAS, as after
        nnU-Net's reorienting readers."""
        orientation = io_orientation(RAS @ self.affine)
        size = [0, 0, 0]
        for n, new in zip(self.size, orientation[:, 0], strict=True):
            size[int(new)] = n
        return Grid(_three(size), self.affine @ inv_ornt_aff(orientation, self.size))


def corner_distance(a: Grid, b: Grid) -> float:
    """Return the largest distance in mm between corner voxels of the same index; both grids have the same size."""
    return float(np.linalg.norm(((b.affine - a.affine) @ a.corners())[:3], axis=0).max())


# Headers --------------------------------------------------------------------------------------------------------------


def read_grid(file: Path, reader: BaseReaderWriter) -> Grid:
    """Read the grid of an image or label file as it is stored.

    Reads only the header, with the library that `reader` uses, because a NIfTI file can hold two geometries that
    disagree. Files in formats without a position in space are read completely, and their origin is 0. Raises whatever
    the library raises.
    """
    if isinstance(reader, SimpleITKIO):
        return read_itk_grid(file)
    if isinstance(reader, NibabelIO | NibabelIOWithReorient):
        header: Any = nibabel.load(file)
        return Grid.from_ras(header.shape, header.affine)
    is_channel = re.search(r"_\d{4}\.\w+$", file.name)  # the name of a TIFF file says where nnU-Net finds its spacing
    array, properties = reader.read_images([str(file)]) if is_channel else reader.read_seg(str(file))
    return Grid(_three(array.shape[:0:-1]), np.diag([*(float(mm) for mm in properties["spacing"][::-1]), 1.0]))


def turns_to_ras(reader: BaseReaderWriter) -> bool:
    """Whether a reader reorients every file to RAS, so that images and labels may be stored in different
    orientations."""
    return isinstance(reader, NibabelIOWithReorient | SimpleITKIOWithReorient)


def read_itk_grid(file: Path) -> Grid:
    """Read the grid of the voxels as they are stored, from the header as ITK reads it.

    Raises RuntimeError if ITK cannot read it, and ValueError unless there are three axes and one value per voxel.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
    if reader.GetNumberOfComponents() != 1:
        n = reader.GetNumberOfComponents()
        raise ValueError(
            f"it has {n} values per voxel; expected one, and neither colours nor Slicer's segments in layers"
        )
    return itk_grid(reader)


def itk_grid(image: sitk.Image | sitk.ImageFileReader) -> Grid:
    """Return the grid of an ITK image, or of a reader that has read a header. It may have additional axes with one
    voxel."""
    n = image.GetDimension()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(n, n)[:3, :3] * image.GetSpacing()[:3]
    affine[:3, 3] = image.GetOrigin()[:3]
    return Grid(_three(image.GetSize()), affine)


def _three(size: Sequence[int]) -> tuple[int, int, int]:
    if len(size) < 3 or any(n != 1 for n in size[3:]):
        raise ValueError(f"it has {' x '.join(map(str, size))} voxels; expected a volume with three axes")
    i, j, k = (int(n) for n in size[:3])
    return i, j, k

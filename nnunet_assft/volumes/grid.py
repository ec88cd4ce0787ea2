"""Where the voxels of a volume lie in space: the one geometry class, and the headers that it is read from.

Coordinates are LPS in mm, as ITK has them: x runs to the patient's left, y to the back, z to the head. NIfTI files and
nibabel say RAS; `Grid.from_ras` converts.
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

TOLERANCE = 0.05  # voxels: a smaller difference is rounding in a header, a larger one is real
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # LPS -> RAS and back


@dataclass(frozen=True)
class Tolerances:
    """How far image and label may lie apart when a dataset is converted, where the label is then moved onto its image.

    Below `info` a difference is only worth a note, above `error` it is an error; both in mm. error: None stands for one
    voxel, that is the smallest spacing of the image.
    """

    info: float = 0.1
    error: float | None = None

    def limits(self, image: Grid) -> tuple[float, float]:
        """(info, error) in mm for this image."""
        return self.info, float(image.spacing.min()) if self.error is None else self.error

    def words(self) -> dict[str, list[float | str]]:
        """(info, error) for dataset.json, with the unit as the name."""
        return {"mm": [self.info, "voxel" if self.error is None else self.error]}


@dataclass(frozen=True)
class Grid:
    """size: voxels along i, j, k. affine: (4, 4), index (i, j, k, 1) -> position of the voxel's centre, LPS in mm."""

    size: tuple[int, int, int]
    affine: np.ndarray

    @classmethod
    def from_ras(cls, size: Sequence[int], affine: np.ndarray) -> Grid:
        """affine: RAS in mm, as in a NIfTI header."""
        return cls(_three(size), RAS @ np.asarray(affine, dtype=np.float64))

    @property
    def spacing(self) -> np.ndarray:
        """(3,) mm along i, j, k."""
        spacing: np.ndarray = np.linalg.norm(self.affine[:3, :3], axis=0)
        return spacing

    @property
    def directions(self) -> np.ndarray:
        """(3, 3), unit vectors of i, j, k in its columns."""
        directions: np.ndarray = self.affine[:3, :3] / self.spacing
        return directions

    @property
    def axes(self) -> str:
        """Where i, j, k run to, such as RAS for right, anterior, superior."""
        return "".join(code or "?" for code in aff2axcodes(RAS @ self.affine))

    @property
    def skew(self) -> float:
        """Largest departure of two axes from a right angle, in degrees."""
        cosines = (self.directions.T @ self.directions)[np.triu_indices(3, 1)]
        return float(np.abs(90 - np.degrees(np.arccos(np.clip(cosines, -1, 1)))).max())

    def corners(self) -> np.ndarray:
        """(4, 8) homogeneous indices of the outermost voxels."""
        return np.array([[*corner, 1] for corner in itertools.product(*((0, n - 1) for n in self.size))], dtype=float).T

    def reoriented(self) -> Grid:
        """The same voxels with their axes in the order and direction closest to RAS, as nnU-Net's reorienting readers
        turn them."""
        orientation = io_orientation(RAS @ self.affine)
        size = [0, 0, 0]
        for n, new in zip(self.size, orientation[:, 0], strict=True):
            size[int(new)] = n
        return Grid(_three(size), self.affine @ inv_ornt_aff(orientation, self.size))


def corner_distance(a: Grid, b: Grid) -> float:
    """The largest distance in mm between corner voxels of the same index; both grids have the same size."""
    return float(np.linalg.norm(((b.affine - a.affine) @ a.corners())[:3], axis=0).max())


# Headers --------------------------------------------------------------------------------------------------------------


def read_grid(file: Path, reader: BaseReaderWriter) -> Grid:
    """The grid of an image or label file as it is stored.

    Reads the header only, by the rules of the library that `reader` uses, which matters where a NIfTI file holds two
    geometries that disagree. Formats without a position in space are read whole, and begin at 0. Raises what the
    reading library raises.
    """
    if isinstance(reader, SimpleITKIO):
        return read_itk_grid(file)
    if isinstance(reader, NibabelIO | NibabelIOWithReorient):
        header: Any = nibabel.load(file)
        return Grid.from_ras(header.shape, header.affine)
    is_channel = re.search(r"_\d{4}\.\w+$", file.name)  # nnU-Net finds the spacing of a TIFF file by its name
    array, properties = reader.read_images([str(file)]) if is_channel else reader.read_seg(str(file))
    return Grid(_three(array.shape[:0:-1]), np.diag([*(float(mm) for mm in properties["spacing"][::-1]), 1.0]))


def turns_to_ras(reader: BaseReaderWriter) -> bool:
    """Whether a reader turns every file to RAS, so that images and labels may be stored in different orientations."""
    return isinstance(reader, NibabelIOWithReorient | SimpleITKIOWithReorient)


def read_itk_grid(file: Path) -> Grid:
    """The grid of the voxels as they are stored, from the header as ITK reads it. Raises RuntimeError or ValueError."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
    if reader.GetNumberOfComponents() != 1:
        raise ValueError(f"it has {reader.GetNumberOfComponents()} values per voxel; expected one")
    return itk_grid(reader)


def itk_grid(image: sitk.Image | sitk.ImageFileReader) -> Grid:
    """The grid of an image of ITK, or of what a reader has read the header of; it may have further axes of one
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

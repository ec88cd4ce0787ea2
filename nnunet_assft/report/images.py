"""Volumes for the report: an image and its segmentations on one coarse grid, and as NIfTI for the viewer; and which
queried cases are shown."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

from nnunet_assft.active.state import Round
from nnunet_assft.report.material import Material
from nnunet_assft.volumes.display import grey_range
from nnunet_assft.volumes.raw_dataset import RawDataset
from nnunet_assft.volumes.readers import PLAIN_READERS

MAX_CASES = 8
MAX_VOXELS = 256**3  # of the pictures


@dataclass(frozen=True)
class QueriedCase:
    """The files of a queried case. segmentations: "pre-segmentation" and "label" -> file, if they exist. entropy: the
    file of `annotation.preview.Prelabels.entropy_file`, which need not exist; None if it is not to be shown."""

    case: str
    round: int
    rank: int
    image: Path
    segmentations: Mapping[str, Path]
    entropy: Path | None = None


@dataclass(frozen=True)
class ViewerCase:
    """A case for the script of the viewer: the image and, by name, its segmentations, as base64 of NIfTI files."""

    case: str
    round: int
    rank: int
    image: str
    layers: Mapping[str, str]


@dataclass(frozen=True)
class Volume:
    """An image and its segmentations on one grid: arrays (z, y, x) that run from feet to head, front to back, right to
    left.

    image: uint8 grey values. spacing, origin: (x, y, z) in mm, LPS.
    """

    image: np.ndarray
    segmentations: Mapping[str, np.ndarray]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]


def queried_cases(material: Material, max_cases: int = MAX_CASES) -> list[QueriedCase]:
    """Return the queried cases, those of the last round first and by rank, at most max_cases of them. No case that was
    withdrawn is shown."""
    found = []
    for done in reversed(material.rounds):
        ranked = [
            (rank, case) for rank, case in enumerate(done.queried, 1) if case not in material.experiment.withdrawn
        ]
        found += [_queried(material, done, case, rank) for rank, case in ranked]
    return found[:max_cases]


def _queried(material: Material, done: Round, case: str, rank: int) -> QueriedCase:
    dataset, paths, name = material.dataset, material.experiment.paths, f"{case}{material.dataset.file_ending}"
    files = {"pre-segmentation": paths.previews(done.round) / name}
    if case in done.labelled:
        files["label"] = dataset.label_file(case)
    existing = {name: file for name, file in files.items() if file.is_file()}
    return QueriedCase(case, done.round, rank, dataset.images[case][0], existing, paths.entropies(done.round) / name)


def why_no_images(dataset: RawDataset) -> str | None:
    """Return a sentence that says why no pictures of this dataset can be made, or None if they can be made."""
    name = type(dataset.reader).__name__
    if name in PLAIN_READERS:
        return None
    readers = " or ".join(PLAIN_READERS)
    return f"There are no pictures, because the images are read with nnU-Net's {name}; expected {readers}."


def load_volume(
    image_file: Path, segmentation_files: Mapping[str, Path], max_voxels: int, window: tuple[float, float] | None
) -> Volume:
    """Load an image and its segmentations on the grid of the image, or on a coarser one if this has more than
    max_voxels.

    segmentation_files: name -> file. window: see `volumes.display`. Raises RuntimeError or ValueError for files that
    are not 3D images or differ in shape.
    """
    image = sitk.ReadImage(str(image_file), sitk.sitkFloat32)
    if image.GetDimension() != 3:
        raise ValueError(f"{image_file.name} has {image.GetDimension()} dimensions; expected 3")
    image = sitk.DICOMOrient(image, "LPS")
    grid = _coarser(image, max_voxels)
    segmentations = {}
    for name, file in segmentation_files.items():
        segmentation = sitk.DICOMOrient(sitk.ReadImage(str(file), sitk.sitkUInt16), "LPS")
        if segmentation.GetSize() != image.GetSize():
            raise ValueError(f"{file.name} has {segmentation.GetSize()} voxels; its image has {image.GetSize()}")
        segmentation.CopyInformation(image)  # headers may differ by rounding
        on_grid = sitk.Resample(segmentation, grid, sitk.Transform(), sitk.sitkNearestNeighbor)
        segmentations[name] = sitk.GetArrayFromImage(on_grid)
    grey = sitk.GetArrayFromImage(sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear))
    segmented = np.any([array > 0 for array in segmentations.values()], axis=0) if segmentations else None
    shown = to_grey(grey, grey_range(grey, window, segmented))
    return Volume(shown, segmentations, grid.GetSpacing(), grid.GetOrigin())


def to_grey(image: np.ndarray, black_and_white: tuple[float, float]) -> np.ndarray:
    """Return uint8 grey values: 0 for the lower of the two values and everything below it, 255 for the higher one and
    everything above it."""
    low, high = black_and_white
    return np.rint(255 * np.clip((image - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8)


def _coarser(image: sitk.Image, max_voxels: int) -> sitk.Image:
    """Return an empty image with at most max_voxels that covers the same box.

    The axes with the smallest spacing are coarsened first, so that voxels become cubes; no axis becomes finer.
    """
    size, spacing = np.array(image.GetSize()), np.array(image.GetSpacing())
    step = spacing.min()
    while np.prod(new_size := np.maximum(1, np.floor(size * spacing / np.maximum(spacing, step)))) > max_voxels:
        step *= 1.02
    new_spacing = size * spacing / new_size
    grid = sitk.Image([int(n) for n in new_size], sitk.sitkUInt8)
    grid.SetDirection(image.GetDirection())
    grid.SetSpacing([float(s) for s in new_spacing])
    first = image.TransformContinuousIndexToPhysicalPoint([float(c) for c in new_spacing / spacing / 2 - 0.5])
    grid.SetOrigin(first)
    return grid


def nifti_base64(array: np.ndarray, volume: Volume) -> str:
    """Return an array on the grid of the volume as a gzipped NIfTI file in base64, without the rotation of the
    grid."""
    affine = np.diag([-volume.spacing[0], -volume.spacing[1], volume.spacing[2], 1.0])
    affine[:3, 3] = -volume.origin[0], -volume.origin[1], volume.origin[2]
    nifti = nibabel.Nifti1Image(np.ascontiguousarray(array.transpose(2, 1, 0)), affine)
    return base64.b64encode(gzip.compress(nifti.to_bytes(), 9, mtime=0)).decode()

"""Queried cases as pictures: image, pre-segmentation and label on one small grid, and as NIfTI for the viewer."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from nnunet_assft.active.state import Round
from nnunet_assft.report.material import Material
from nnunet_assft.volumes.display import grey_range
from nnunet_assft.volumes.display import window_of as window_of
from nnunet_assft.volumes.raw_dataset import PLAIN_READERS, RawDataset

MAX_CASES = 8
MAX_VOXELS = 256**3  # of the pictures
MAX_VIEWER_VOXELS = 2_300_000  # about 130 x 130 x 130
MAX_VIEWER_BYTES = 20_000_000  # of all volumes in the page, as base64


@dataclass(frozen=True)
class QueriedCase:
    """Files of a queried case. segmentations: of "pre-segmentation" and "label" what is there."""

    case: str
    round: int
    rank: int
    image: Path
    segmentations: Mapping[str, Path]


@dataclass(frozen=True)
class Volume:
    """(z, y, x) from feet to head, front to back, right to left. image: uint8 grey values. spacing, origin: (x, y, z) in mm, of LPS."""

    image: np.ndarray
    segmentations: Mapping[str, np.ndarray]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]


def queried_cases(material: Material, max_cases: int = MAX_CASES) -> list[QueriedCase]:
    """The best ranked cases of the last rounds. A label is shown only of a case that is labelled."""
    found = []
    for done in reversed(material.rounds):
        found += [_queried(material, done, case, rank) for rank, case in enumerate(done.queried, 1)]
    return found[:max_cases]


def _queried(material: Material, done: Round, case: str, rank: int) -> QueriedCase:
    dataset = material.dataset
    files = {"pre-segmentation": material.experiment.paths.previews(done.round) / f"{case}{dataset.file_ending}"}
    if case in done.labelled:
        files["label"] = dataset.label_file(case)
    return QueriedCase(
        case, done.round, rank, dataset.images[case][0], {name: file for name, file in files.items() if file.is_file()}
    )


def why_no_images(dataset: RawDataset) -> str | None:
    """None if the images can be read here; see `annotation_export.require_plain_volumes`."""
    name = type(dataset.reader).__name__
    return (
        None
        if name in PLAIN_READERS
        else f"The images are read with nnU-Net's {name}; pictures are made of those of {' and '.join(PLAIN_READERS)}."
    )


def load_volume(queried: QueriedCase, max_voxels: int, window: tuple[float, float] | None) -> Volume:
    """On the image's grid, or a coarser one of at most max_voxels. window: grey values shown; None, or if it does
    not fit what is segmented (MR that calls itself CT): percentiles 1 and 99.

    Raises RuntimeError or ValueError for files that are no 3D images or do not lie on one grid.
    """
    image = sitk.ReadImage(str(queried.image), sitk.sitkFloat32)
    if image.GetDimension() != 3:
        raise ValueError(f"{queried.image.name} has {image.GetDimension()} dimensions")
    image = sitk.DICOMOrient(image, "LPS")
    grid = _coarser(image, max_voxels)
    segmentations = {}
    for name, file in queried.segmentations.items():
        segmentation = sitk.DICOMOrient(sitk.ReadImage(str(file), sitk.sitkUInt8), "LPS")
        if segmentation.GetSize() != image.GetSize():
            raise ValueError(f"{file.name} has {segmentation.GetSize()} voxels, its image {image.GetSize()}")
        segmentation.CopyInformation(image)  # header noise
        segmentations[name] = sitk.GetArrayFromImage(
            sitk.Resample(segmentation, grid, sitk.Transform(), sitk.sitkNearestNeighbor)
        )
    grey = sitk.GetArrayFromImage(sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear))
    mask = (
        np.any([array > 0 for array in segmentations.values()], axis=0) if segmentations else np.zeros(grey.shape, bool)
    )
    low, high = grey_range(grey, window, mask)
    grey = np.clip((grey - low) / max(high - low, 1e-6), 0, 1)
    return Volume(np.rint(255 * grey).astype(np.uint8), segmentations, grid.GetSpacing(), grid.GetOrigin())


def _coarser(image: sitk.Image, max_voxels: int) -> sitk.Image:
    """An empty image on the same box whose voxels are as near to cubes as max_voxels asks for; no axis becomes finer."""
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


# The viewer ------------------------------------------------------------------------------------------------------------


def nifti_base64(array: np.ndarray, volume: Volume) -> str:
    """A gzipped uint8 NIfTI of an array on the volume's grid; rotations of oblique scans are left out."""
    affine = np.diag([-volume.spacing[0], -volume.spacing[1], volume.spacing[2], 1.0])
    affine[:3, 3] = -volume.origin[0], -volume.origin[1], volume.origin[2]
    nifti = nibabel.Nifti1Image(np.ascontiguousarray(array.transpose(2, 1, 0)), affine)
    return base64.b64encode(gzip.compress(nifti.to_bytes(), 9, mtime=0)).decode()


def viewer_cases(
    cases: list[QueriedCase], window: tuple[float, float] | None, max_bytes: int = MAX_VIEWER_BYTES
) -> list[dict]:
    """What the viewer's script reads: per case its name, round, rank, and base64 of `image` and of each segmentation, within max_bytes.

    A case that cannot be read is left out.
    """
    found, total = [], 0
    for queried in tqdm(cases, desc="viewer", unit="case", leave=False):
        try:
            volume = load_volume(queried, MAX_VIEWER_VOXELS, window)
        except (RuntimeError, ValueError):
            continue
        layers = {name: nifti_base64(array, volume) for name, array in volume.segmentations.items()}
        entry = {
            "case": queried.case,
            "round": queried.round,
            "rank": queried.rank,
            "image": nifti_base64(volume.image, volume),
        }
        total += len(entry["image"]) + sum(map(len, layers.values()))
        if total > max_bytes:
            break
        found.append({**entry, "layers": layers})
    return found

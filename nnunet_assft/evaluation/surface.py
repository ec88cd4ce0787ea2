"""Distances between the surfaces of two segmentations of one structure: NSD and HD95.

The surface of a mask is the set of its voxels with a background voxel among their 6 neighbours (4 in 2D); what lies
outside the image is background. Every surface voxel counts once, whatever area it stands for, and its position is its
centre. This is MONAI's definition (without sub-voxels). google-deepmind's surface-distance weights surface elements by
their area instead: with a tolerance near the voxel spacing its NSD of small structures is off by points, with a wide
one hardly, so an NSD is compared with that of the same definition only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

DEFAULT_TOLERANCE_MM = 1.0


def surface_distances(
    reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Distance in mm from every surface voxel of one mask to the nearest surface voxel of the other.

    reference, prediction: bool, same shape, 2D or 3D; not modified. spacing: mm per axis of the arrays. Returns (from
    the reference to the prediction, from the prediction to the reference), each 1D. The distances from a mask to an
    empty one are inf, those from an empty one an array of length 0. Raises ValueError for other shapes or types.
    """
    _check(reference, prediction, spacing)
    either = reference | prediction
    if not either.any():
        return np.empty(0), np.empty(0)
    # No distance leaves the box that holds both masks, and beyond it is background, as beyond the image.
    box = ndimage.find_objects(either.view(np.uint8))[0]
    of_reference, of_prediction = (mask & ~ndimage.binary_erosion(mask) for mask in (reference[box], prediction[box]))
    return _distances(of_reference, of_prediction, spacing), _distances(of_prediction, of_reference, spacing)


def normalized_surface_distance(
    distances: tuple[np.ndarray, np.ndarray], tolerance_mm: float = DEFAULT_TOLERANCE_MM
) -> float:
    """NSD, also surface Dice at a tolerance: share of the surface voxels of both masks, pooled, that are within the
    tolerance.

    distances: of `surface_distances`. In [0, 1]; a distance equal to the tolerance is within. NaN if both masks are
    empty, 0 if one is. (Nikolov et al. 2018, with voxels in place of areas.)
    """
    pooled = np.concatenate(distances)
    return float(np.mean(pooled <= tolerance_mm)) if pooled.size else math.nan


def hausdorff_distance_95(distances: tuple[np.ndarray, np.ndarray]) -> float:
    """HD95 in mm: the larger of the two directed 95th percentiles, each interpolated linearly between surface voxels.

    distances: of `surface_distances`. NaN if both masks are empty, inf if one is (as surface-distance; MONAI has NaN).
    """
    if all(d.size == 0 for d in distances):
        return math.nan
    if any(d.size == 0 for d in distances):
        return math.inf
    return float(max(np.percentile(d, 95) for d in distances))


def _distances(from_surface: np.ndarray, to_surface: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    if not to_surface.any():
        return np.full(int(from_surface.sum()), math.inf)
    return np.asarray(ndimage.distance_transform_edt(~to_surface, sampling=spacing)[from_surface])


def _check(reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float]) -> None:
    if reference.dtype != bool or prediction.dtype != bool:
        raise ValueError(f"the masks are {reference.dtype} and {prediction.dtype}; expected bool.")
    if reference.shape != prediction.shape or reference.ndim not in (2, 3):
        raise ValueError(
            f"the masks have the shapes {reference.shape} and {prediction.shape}; expected one 2D or 3D shape."
        )
    if len(spacing) != reference.ndim or not all(0 < s < math.inf for s in spacing):
        raise ValueError(f"spacing is {tuple(spacing)}; expected {reference.ndim} positive lengths in mm.")

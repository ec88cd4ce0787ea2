"""Distances between the surfaces of two segmentations of one structure: NSD and HD95.

The surface of a mask is the set of its voxels that have a background voxel among their 6 neighbours (4 in 2D);
everything outside of the image is background. Every surface voxel counts once, regardless of the surface area in it,
and its position is its centre. This is MONAI's definition (without sub-voxels). google-deepmind's surface-distance
weights surface elements by their area instead. With a tolerance near the voxel spacing, its NSD of small structures
differs from this one by points, with a large tolerance hardly. Compare NSD values of the same definition only.
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
    """Compute the distance in mm from every surface voxel of each mask to the nearest surface voxel of the other mask.

    reference, prediction: bool, of the same 2D or 3D shape; they are not modified. spacing: mm along each axis of the
    arrays. Returns two 1D arrays: from the reference to the prediction, and from the prediction to the reference. The
    distances to an empty mask are inf, and those from an empty mask are an array of length 0. Raises ValueError for
    other shapes, types or spacings.
    """
    _check(reference, prediction, spacing)
    either = reference | prediction
    if not either.any():
        return np.empty(0), np.empty(0)
    # The surfaces lie within the box around both masks, and voxels outside of the box are background.
    box = ndimage.find_objects(either.view(np.uint8))[0]
    of_reference, of_prediction = (mask & ~ndimage.binary_erosion(mask) for mask in (reference[box], prediction[box]))
    return _distances(of_reference, of_prediction, spacing), _distances(of_prediction, of_reference, spacing)


def normalized_surface_distance(
    distances: tuple[np.ndarray, np.ndarray], tolerance_mm: float = DEFAULT_TOLERANCE_MM
) -> float:
    """Compute the NSD, also called surface Dice: the share of the surface voxels of both masks, pooled, whose distance
    is at most the tolerance (Nikolov et al. 2018, with voxels instead of areas).

    distances: of `surface_distances`. Returns a value in [0, 1], which is 0 if one mask is empty, and NaN if both are.
    """
    pooled = np.concatenate(distances)
    return float(np.mean(pooled <= tolerance_mm)) if pooled.size else math.nan


def hausdorff_distance_95(distances: tuple[np.ndarray, np.ndarray]) -> float:
    """Compute HD95 in mm: the larger of the two directed 95th percentiles, each interpolated linearly.

    distances: of `surface_distances`. Returns inf if one mask is empty, as surface-distance does (MONAI returns NaN),
    and NaN if both are.
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
        raise ValueError(f"The masks have the types {reference.dtype} and {prediction.dtype}; expected bool.")
    if reference.shape != prediction.shape or reference.ndim not in (2, 3):
        raise ValueError(
            f"The masks have the shapes {reference.shape} and {prediction.shape}; expected the same 2D or 3D shape."
        )
    if len(spacing) != reference.ndim or not all(0 < s < math.inf for s in spacing):
        raise ValueError(f"The spacing is {tuple(spacing)}; expected {reference.ndim} positive lengths in mm.")

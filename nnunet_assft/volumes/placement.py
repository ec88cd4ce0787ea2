"""The position of a label in its image: pure maths on grids. Every label is checked by `require_same_voxels`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_assft.runtime.text import by
from nnunet_assft.volumes.grid import TOLERANCE, Grid


@dataclass(frozen=True)
class Placement:
    """How the voxels of a label become voxels of its image without interpolation.

    axes: the label axis that lies along each image axis. flips: whether that axis runs in the opposite direction.
    offset: image index of the label's first voxel after reordering and flipping its axes. noise_mm: the largest
    displacement of a corner voxel by rounding of the header, in mm.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    offset: tuple[int, int, int]
    noise_mm: float

    @property
    def is_reoriented(self) -> bool:
        return self.axes != (0, 1, 2) or any(self.flips)

    def oriented(self, label: np.ndarray) -> np.ndarray:
        """Reorder and flip the axes (i, j, k) of a label to those of the image."""
        turned = label.transpose(self.axes)
        return np.flip(turned, tuple(axis for axis in range(3) if self.flips[axis]))


class DoesNotFitError(ValueError):
    """A label whose voxels are not voxels of the image."""


def placement(label: Grid, image: Grid, tolerance: float = TOLERANCE) -> Placement:
    """Find the voxels of the image that the voxels of the label are. tolerance: in voxels of the image.

    Raises `DoesNotFitError`, which says by how many mm they lie apart, if the label is not on voxels of the image.
    """
    if not np.isfinite(label.affine).all() or not label.spacing.all():
        raise DoesNotFitError("its header gives no position: its spacing is 0, or a number is NaN or infinite")
    to_image = np.linalg.inv(image.affine) @ label.affine
    turn = np.rint(to_image[:3, :3])
    is_permutation = (np.abs(turn).sum(axis=0) == 1).all() and (np.abs(turn).sum(axis=1) == 1).all()
    along = np.abs(turn) if is_permutation else np.abs(image.directions.T @ label.directions)
    axes = along.argmax(axis=1)
    extent = np.array(label.size)[axes]
    if (np.abs(label.spacing[axes] / image.spacing - 1) * np.maximum(extent - 1, 1) > tolerance).any():
        raise DoesNotFitError(f"its spacing is {_mm(label.spacing)} mm, its image has {_mm(image.spacing)} mm")
    residual = to_image[:3] @ label.corners() - turn @ label.corners()[:3]
    if not is_permutation or np.ptp(residual, axis=1).max() > tolerance:
        raise DoesNotFitError(_turned_words(label, image, residual))
    first = residual.mean(axis=1) + np.minimum(turn @ (np.array(label.size) - 1), 0)
    offset = np.rint(first)
    if np.abs(first - offset).max() > tolerance:
        same_size = tuple(extent) == image.size  # otherwise it was cropped, and only the fraction of a voxel is wrong
        raise DoesNotFitError(_shifted_words(image, first if same_size else first - offset))
    noise = residual - np.rint(residual.mean(axis=1, keepdims=True))
    flips = [bool(turn[axis, axes[axis]] < 0) for axis in range(3)]
    return Placement(
        axes=_ints(axes),
        flips=(flips[0], flips[1], flips[2]),
        offset=_ints(offset),
        noise_mm=float(np.linalg.norm(image.affine[:3, :3] @ noise, axis=0).max()),
    )


def require_same_box(where: Placement, label: Grid, image: Grid) -> None:
    """Raise `DoesNotFitError` unless the label covers exactly the voxels of the image."""
    size = tuple(label.size[axis] for axis in where.axes)
    if size != image.size:
        raise DoesNotFitError(f"it has {by(label.size)} voxels, its image {by(image.size)}")
    if any(where.offset):
        raise DoesNotFitError(_shifted_words(image, np.array(where.offset, dtype=float)))


def require_same_voxels(label: Grid, image: Grid, *, turned_to_ras: bool) -> None:
    """Raise `DoesNotFitError` unless each voxel of the label lies on the voxel of the image with the same index.

    label, image: the grids as they are stored. turned_to_ras: whether the reader reorients both to RAS first, see
    `grid.turns_to_ras`, so that any stored order and direction of their axes is accepted.
    """
    if turned_to_ras:
        label, image = label.reoriented(), image.reoriented()
    where = placement(label, image)
    require_same_box(where, label, image)
    if where.is_reoriented:
        raise DoesNotFitError(
            f"its axes are stored in another order or direction ({label.axes}) than those of its image ({image.axes})"
        )


def put_back(label: np.ndarray, where: Placement, size: tuple[int, int, int]) -> tuple[np.ndarray, int]:
    """Return the label on the whole grid of the image, and the number of foreground voxels that lie outside of it and
    are lost.

    label: (i, j, k) along the axes of the image, possibly cropped; see `Placement.oriented`.
    """
    whole = np.zeros(size, dtype=label.dtype)
    target, source = common_box(label.shape, where, size)
    inside = label[source]
    whole[target] = inside
    return whole, int(np.count_nonzero(label) - np.count_nonzero(inside))


def common_box(
    shape: tuple[int, ...], where: Placement, size: tuple[int, int, int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return what a label and its image have in common: as slices of the image, and of the label.

    shape: of the label along the axes of the image. size: of the image.
    """
    target, source = [], []
    for start, n, limit in zip(where.offset, shape, size, strict=True):
        low, high = max(start, 0), max(min(start + n, limit), 0)
        target.append(slice(low, max(low, high)))
        source.append(slice(low - start, max(low, high) - start))
    return tuple(target), tuple(source)


def _ints(values: np.ndarray) -> tuple[int, int, int]:
    return int(values[0]), int(values[1]), int(values[2])


def _mm(values: np.ndarray) -> str:
    return " x ".join(f"{v:.5g}" for v in values)


def _shifted_words(image: Grid, voxels: np.ndarray) -> str:
    vector = np.round(image.affine[:3, :3] @ voxels, 6) + 0.0  # no -0
    x, y, z = (f"{v:+.4g}" for v in vector)
    return f"it is shifted by {np.linalg.norm(vector):.4g} mm (x {x}, y {y}, z {z})"


def _turned_words(label: Grid, image: Grid, residual: np.ndarray) -> str:
    cosines = np.abs(label.directions.T @ image.directions).max(axis=0)
    angle = np.degrees(np.arccos(np.clip(cosines.min(), -1, 1)))
    moved = image.affine[:3, :3] @ (residual - residual.mean(axis=1, keepdims=True))
    return (
        f"its axes are rotated by {angle:.3g} degrees relative to those of its image, which moves its corners by up to "
        f"{np.linalg.norm(moved, axis=0).max():.4g} mm"
    )

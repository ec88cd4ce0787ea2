"""Where a label lies in space, compared with its image: pure maths on grids. Coordinates are LPS in mm, as ITK has them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

TOLERANCE = 0.05  # voxels: below this a difference is rounding in a header, above it a real one


@dataclass(frozen=True)
class Grid:
    """size: voxels along i, j, k. affine: (4, 4), index (i, j, k, 1) -> position of the voxel's centre in mm."""

    size: tuple[int, int, int]
    affine: np.ndarray

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

    def corners(self) -> np.ndarray:
        """(4, 8) homogeneous indices of the outermost voxels."""
        return np.array([[*corner, 1] for corner in itertools.product(*((0, n - 1) for n in self.size))], dtype=float).T


@dataclass(frozen=True)
class Placement:
    """How a label's voxels become voxels of its image, without interpolation.

    axes: label axis that lies along each image axis. flips: whether that axis runs backwards. offset: image index of the
    label's first voxel, then. noise_mm: what of the header was rounding.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    offset: tuple[int, int, int]
    noise_mm: float

    @property
    def is_reoriented(self) -> bool:
        return self.axes != (0, 1, 2) or any(self.flips)

    def oriented(self, label: np.ndarray) -> np.ndarray:
        """label: (i, j, k) in its own axes. Returns it along the axes of the image."""
        turned = label.transpose(self.axes)
        return np.flip(turned, tuple(axis for axis in range(3) if self.flips[axis]))


class DoesNotFitError(ValueError):
    """A label whose voxels are not voxels of the image."""


def placement(label: Grid, image: Grid) -> Placement:
    """Where the label's voxels are in the image. Raises `DoesNotFitError` saying by how many mm they are somewhere else."""
    to_image = np.linalg.inv(image.affine) @ label.affine
    turn = np.rint(to_image[:3, :3])
    is_permutation = (np.abs(turn).sum(axis=0) == 1).all() and (np.abs(turn).sum(axis=1) == 1).all()
    axes = (
        np.abs(turn).argmax(axis=1) if is_permutation else np.abs(label.directions.T @ image.directions).argmax(axis=0)
    )
    spacing = label.spacing[axes]
    extent = np.array(label.size)[axes]
    if (np.abs(spacing / image.spacing - 1) * np.maximum(extent - 1, 1) > TOLERANCE).any():
        raise DoesNotFitError(f"its spacing is {_mm(label.spacing)} mm, its image has {_mm(image.spacing)} mm")
    corners = label.corners()
    exact = to_image[:3] @ corners
    turned = turn @ corners[:3]
    residual = exact - turned
    if not is_permutation or np.ptp(residual, axis=1).max() > TOLERANCE:
        angle = np.degrees(np.arccos(np.clip(np.abs(label.directions.T @ image.directions).max(axis=0).min(), -1, 1)))
        moved = image.affine[:3, :3] @ (residual - residual.mean(axis=1, keepdims=True))
        raise DoesNotFitError(
            f"its axes are turned by {angle:.3g} degrees against those of its image, which moves its corners by up to "
            f"{np.linalg.norm(moved, axis=0).max():.4g} mm"
        )
    first = residual.mean(axis=1) + np.minimum(turn @ (np.array(label.size) - 1), 0)
    offset = np.rint(first)
    if np.abs(first - offset).max() > TOLERANCE:
        same_size = tuple(extent) == image.size  # else it was cropped, and only the part of a voxel is wrong
        raise DoesNotFitError(
            f"it is shifted by {_shift(image.affine[:3, :3] @ (first if same_size else first - offset))}"
        )
    noise = np.linalg.norm(
        image.affine[:3, :3] @ (residual - np.rint(residual.mean(axis=1, keepdims=True))), axis=0
    ).max()
    flips = [bool(turn[axis, axes[axis]] < 0) for axis in range(3)]
    return Placement(
        axes=_ints(axes),
        flips=(flips[0], flips[1], flips[2]),
        offset=_ints(offset),
        noise_mm=float(noise),
    )


def require_same_box(where: Placement, label: Grid, image: Grid) -> None:
    """Raises `DoesNotFitError` unless the label covers exactly the voxels of the image."""
    size = tuple(label.size[axis] for axis in where.axes)
    if size != image.size:
        raise DoesNotFitError(f"it has {_by(label.size)} voxels, its image {_by(image.size)}")
    if any(where.offset):
        raise DoesNotFitError(f"it is shifted by {_shift(image.affine[:3, :3] @ np.array(where.offset))}")


def put_back(label: np.ndarray, where: Placement, size: tuple[int, int, int]) -> tuple[np.ndarray, int]:
    """(the label on the whole grid of the image, foreground voxels that lie outside of it and are lost).

    label: (i, j, k) along the axes of the image, perhaps cropped; see `Placement.oriented`.
    """
    whole = np.zeros(size, dtype=label.dtype)
    target, source = [], []
    for start, n, limit in zip(where.offset, label.shape, size, strict=True):
        low, high = max(start, 0), max(min(start + n, limit), 0)
        target.append(slice(low, max(low, high)))
        source.append(slice(low - start, max(low, high) - start))
    inside = label[tuple(source)]
    whole[tuple(target)] = inside
    return whole, int(np.count_nonzero(label) - np.count_nonzero(inside))


def to_file_axes(array: np.ndarray, properties: Mapping[str, Any]) -> np.ndarray:
    """An array as nnU-Net's reader gives it, (z, y, x), along the axes that its file has. properties: of that reader.

    nnU-Net's reorienting reader turns every image to RAS; the others leave it as it is.
    """
    turn = _turn_to_ras(properties)
    return array if turn is None else _turned(array, ornt_transform(axcodes2ornt("RAS"), turn))


def to_reader_axes(array: np.ndarray, properties: Mapping[str, Any]) -> np.ndarray:
    """The inverse of `to_file_axes`."""
    turn = _turn_to_ras(properties)
    return array if turn is None else _turned(array, turn)


def _turn_to_ras(properties: Mapping[str, Any]) -> np.ndarray | None:
    affines = properties.get("nibabel_stuff", {})
    return np.asarray(io_orientation(affines["original_affine"])) if "reoriented_affine" in affines else None


def _turned(array: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(apply_orientation(array.transpose(2, 1, 0), orientation).transpose(2, 1, 0))


def _ints(values: np.ndarray) -> tuple[int, int, int]:
    return int(values[0]), int(values[1]), int(values[2])


def _by(size: tuple[int, int, int]) -> str:
    return " x ".join(map(str, size))


def _mm(values: np.ndarray) -> str:
    return " x ".join(f"{v:.5g}" for v in values)


def _shift(vector: np.ndarray) -> str:
    x, y, z = (f"{v:+.4g}" for v in vector)
    return f"{np.linalg.norm(vector):.4g} mm (x {x}, y {y}, z {z})"

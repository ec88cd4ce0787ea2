"""What a returned label must be before it enters labelsTr, and what a person should look at before it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nnunet_assft.annotation.label_files import ReturnedLabel, image_grid, read_returned_label
from nnunet_assft.errors import AssftError
from nnunet_assft.volumes.grid import Grid
from nnunet_assft.volumes.nifti import forms_disagree
from nnunet_assft.volumes.placement import DoesNotFitError, Placement, placement, put_back, require_same_box
from nnunet_assft.volumes.segmentations import InFileAxes
from nnunet_assft.volumes.structures import pairs, structures

UNUSUAL_FACTOR = 3.0  # a volume beyond this factor of all earlier ones is unusual
MIN_EARLIER_LABELS = 2  # fewer earlier labels say nothing about a volume
SEEN_FRACTION = 0.1  # of the smallest earlier volume: the model has seen a structure if it predicts more than this


@dataclass(frozen=True)
class LabelSummary:
    """volumes_ml: structure -> ml, 0 if absent. left_mm: structure -> position of its centre of mass, in mm to the
    patient's left."""

    volumes_ml: Mapping[str, float]
    left_mm: Mapping[str, float]


@dataclass(frozen=True)
class Expected:
    """What is known of a case before its label comes back.

    prelabel: the pre-segmentation. predicted_ml: its volumes. Both are empty if there was no model. earlier: the human
    labels so far.
    """

    prelabel: InFileAxes | None = None
    predicted_ml: Mapping[str, float] = field(default_factory=dict)
    earlier: Sequence[LabelSummary] = ()


@dataclass(frozen=True)
class GatedLabel:
    """label: integers on the grid of the image. notes: what was repaired. warnings: what needs a person's consent."""

    label: InFileAxes
    summary: LabelSummary
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def gate(
    file: Path,
    image_file: Path,
    labels: Mapping[str, int],
    expected: Expected = Expected(),
    *,
    accept_geometry: bool = False,
) -> GatedLabel:
    """The label in `file` on the grid of its image. Raises `AssftError` for one that must not be used.

    accept_geometry: a label whose header places it elsewhere is taken voxel by voxel, if it has the shape of its image.
    """
    returned, grid = read_returned_label(file, labels), image_grid(image_file)
    try:
        label, notes, warnings = _on_grid(returned, grid)
    except DoesNotFitError as error:
        reason = f"{error}; its sform and its qform disagree" if forms_disagree(file) else str(error)
        same_shape = returned.array.shape == grid.size
        if not (accept_geometry and same_shape):
            consent = (
                " If only its header is wrong, --accept_geometry CASE takes its voxels as they are."
                if same_shape
                else ""
            )
            raise AssftError(
                f"{reason}. Draw on the image of the work folder and save in its geometry.{consent}"
            ) from error
        label = InFileAxes(returned.array.transpose(2, 1, 0))
        notes, warnings = [f"its voxels are taken although its header says otherwise: {reason}"], []
    summary = summarize(label, grid, labels)
    if expected.prelabel is not None and label.array.any() and np.array_equal(expected.prelabel.array, label.array):
        warnings.append("it is the pre-segmentation, unchanged")
    warnings += warnings_of(summary, labels, expected)
    return GatedLabel(label, summary, tuple(notes), tuple(warnings))


def _on_grid(returned: ReturnedLabel, image: Grid) -> tuple[InFileAxes, list[str], list[str]]:
    """(label, notes, warnings). Raises `DoesNotFitError`."""
    notes, warnings = [], []
    if returned.cropped and not returned.array.any():  # Slicer's file of an empty segmentation lies anywhere
        return InFileAxes(np.zeros(image.size[::-1], returned.array.dtype)), [], []
    where = placement(returned.grid, image)
    if not returned.cropped:
        _require_whole(where, returned.grid, image)
    if where.noise_mm > 1e-6:
        notes.append(f"rounding of its header repaired (up to {where.noise_mm:.2g} mm)")
    if where.is_reoriented:
        warnings.append(
            "its axes are stored in another order or direction than those of its image; they can be reordered without "
            "loss"
        )
    array, lost = put_back(where.oriented(returned.array), where, image.size)
    if lost:
        raise AssftError(
            f"{lost} labelled voxels lie outside of its image. Draw on the image of the work folder alone."
        )
    if returned.array.shape != image.size and returned.cropped:
        notes.append("cropped extent put back")
    offset = returned.reference_offset
    if offset is not None and offset != where.offset and not where.is_reoriented:
        said, found = (" ".join(map(str, voxel)) for voxel in (offset, where.offset))
        warnings.append(
            f"it was drawn on another volume than its image: its reference extent begins at voxel {said}, its position "
            f"in mm is voxel {found} and is taken"
        )
    return InFileAxes(array.transpose(2, 1, 0)), notes, warnings


def _require_whole(where: Placement, label: Grid, image: Grid) -> None:
    try:
        require_same_box(where, label, image)
    except DoesNotFitError as error:
        ends = [start + label.size[axis] for start, axis in zip(where.offset, where.axes, strict=True)]
        is_part = min(where.offset) >= 0 and all(end <= n for end, n in zip(ends, image.size, strict=True))
        hint = ", and lies inside of it: it was cropped. Export it with the image as reference volume, or as .seg.nrrd"
        raise DoesNotFitError(f"{error}{hint if is_part else ''}") from error


# What a label looks like ----------------------------------------------------------------------------------------------


def summarize(label: InFileAxes, grid: Grid, labels: Mapping[str, int]) -> LabelSummary:
    """Volumes and positions of the structures. grid: of the image file. The ignore label is no structure."""
    ml_per_voxel = abs(float(np.linalg.det(grid.affine[:3, :3]))) / 1000
    volumes, left = {}, {}
    for name, value in structures(labels).items():
        k, j, i = np.nonzero(label.array == value)
        volumes[name] = len(i) * ml_per_voxel
        if len(i):  # in LPS the first coordinate is the one to the left
            left[name] = float(grid.affine[0] @ np.array([i.mean(), j.mean(), k.mean(), 1.0]))
    return LabelSummary(volumes, left)


def warnings_of(summary: LabelSummary, labels: Mapping[str, int], expected: Expected) -> list[str]:
    """What is unusual about a label, one sentence each."""
    if not any(summary.volumes_ml.values()):
        return ["it is empty: no structure has a voxel"]
    warnings = []
    for name in structures(labels):
        ml = summary.volumes_ml[name]
        before = [other.volumes_ml[name] for other in expected.earlier if other.volumes_ml.get(name)]
        predicted = expected.predicted_ml.get(name, 0.0)
        if not ml and predicted > SEEN_FRACTION * min(before, default=0.0):
            warnings.append(f"{name} is missing; the model saw {predicted:.3g} ml of it")
        elif ml and len(before) >= MIN_EARLIER_LABELS and _is_unusual(ml, before):
            warnings.append(
                f"{name} has {ml:.3g} ml; the {len(before)} labels so far have {min(before):.3g} to {max(before):.3g} "
                "ml"
            )
    return warnings + [
        f"{left} and {right} look swapped: {left} lies {abs(_side(left, right, summary)):.3g} mm on the wrong side of "
        f"{right}"
        for left, right in pairs(labels)
        if _is_swapped(left, right, summary, expected.earlier)
    ]


def _is_unusual(ml: float, before: Sequence[float]) -> bool:
    return not min(before) / UNUSUAL_FACTOR <= ml <= max(before) * UNUSUAL_FACTOR


def _is_swapped(left: str, right: str, summary: LabelSummary, earlier: Sequence[LabelSummary]) -> bool:
    """Whether the left one lies to the right; or to the other side than in all earlier labels, if a dataset is
    mirrored."""
    sides = [_side(left, right, other) for other in earlier]
    known = [side for side in sides if side]
    usual = -1 if known and all(side < 0 for side in known) else 1
    return _side(left, right, summary) * usual < 0


def _side(left: str, right: str, summary: LabelSummary) -> float:
    """Above 0: left lies to the left of right; 0: one of them is absent."""
    if left not in summary.left_mm or right not in summary.left_mm:
        return 0.0
    return summary.left_mm[left] - summary.left_mm[right]

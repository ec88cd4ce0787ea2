"""What a returned label must be before it enters labelsTr, and what a person should look at before it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_assft.annotation.label_files import ReturnedLabel, image_grid, read_returned_label
from nnunet_assft.errors import AssftError
from nnunet_assft.volumes.placement import DoesNotFitError, Grid, placement, put_back, require_same_box

FAR = 3.0  # a volume beyond this factor of all earlier ones is far outside
ENOUGH = 2  # earlier labels that say something about a volume
SEEN = 0.1  # of the smallest earlier volume: a prediction below this does not count as seen


@dataclass(frozen=True)
class LabelSummary:
    """volumes_ml: structure -> ml, 0 if absent. left_mm: structure -> position of its centre of mass, in mm to the patient's left."""

    volumes_ml: Mapping[str, float]
    left_mm: Mapping[str, float]


@dataclass(frozen=True)
class GatedLabel:
    """array: (z, y, x) integers on the grid of the image. notes: what was mended. warnings: what needs a person's consent."""

    array: np.ndarray
    summary: LabelSummary
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def gate(
    file: Path,
    image_file: Path,
    labels: Mapping[str, int],
    *,
    prelabel: np.ndarray | None = None,
    predicted_ml: Mapping[str, float] | None = None,
    earlier: Sequence[LabelSummary] = (),
) -> GatedLabel:
    """The label in `file` on the grid of its image. Raises `AssftError` for one that must not be used.

    prelabel: the pre-segmentation, (z, y, x); predicted_ml: its volumes; None: no model was there yet. earlier: the
    human labels so far.
    """
    grid = image_grid(image_file)
    array, notes, warnings = _on_grid(read_returned_label(file, labels), grid)
    summary = summarize(array, grid, labels)
    unchanged = prelabel is not None and np.array_equal(prelabel, array)
    if unchanged and array.any():
        warnings.append("it is the pre-segmentation, unchanged")
    warnings += warnings_of(summary, labels, predicted_ml or {}, earlier)
    return GatedLabel(array, summary, tuple(notes), tuple(warnings))


def _on_grid(label: ReturnedLabel, image: Grid) -> tuple[np.ndarray, list[str], list[str]]:
    """(label (z, y, x), notes, warnings)."""
    notes, warnings = [], []
    try:
        where = placement(label.grid, image)
        if not label.cropped:
            require_same_box(where, label.grid, image)
    except DoesNotFitError as error:
        raise AssftError(f"{error}. Draw on the image of the work folder and save in its geometry.") from error
    if where.noise_mm > 1e-6:
        notes.append(f"rounding of its header mended (up to {where.noise_mm:.2g} mm)")
    if where.is_reoriented:
        warnings.append(
            "its axes are stored in another order or direction than those of its image; they can be reordered without loss"
        )
    array, lost = put_back(where.oriented(label.array), where, image.size)
    if lost:
        raise AssftError(
            f"{lost} labelled voxels lie outside of its image. Draw on the image of the work folder alone."
        )
    if label.array.shape != image.size and label.cropped:
        notes.append("cropped extent put back")
    if (
        label.reference_offset is not None
        and not where.is_reoriented
        and label.reference_offset != where.offset
        and label.array.any()
    ):
        said, found = (" ".join(map(str, offset)) for offset in (label.reference_offset, where.offset))
        warnings.append(
            f"it was drawn on another volume than its image: its reference extent begins at voxel {said}, its position in mm "
            f"is voxel {found} and is taken"
        )
    return array.transpose(2, 1, 0), notes, warnings


# What a label looks like -----------------------------------------------------------------------------------------------


def summarize(array: np.ndarray, grid: Grid, labels: Mapping[str, int]) -> LabelSummary:
    """array: (z, y, x) on this grid. The ignore label is no structure."""
    ml_per_voxel = abs(float(np.linalg.det(grid.affine[:3, :3]))) / 1000
    volumes, left = {}, {}
    for name, value in structures(labels).items():
        k, j, i = np.nonzero(array == value)
        volumes[name] = len(i) * ml_per_voxel
        if len(i):
            left[name] = float(
                grid.affine[0] @ np.array([i.mean(), j.mean(), k.mean(), 1.0])
            )  # LPS: the first axis runs to the left
    return LabelSummary(volumes, left)


def structures(labels: Mapping[str, int]) -> dict[str, int]:
    """name -> number of what is neither background nor the ignore label."""
    return {name: value for name, value in labels.items() if value != 0 and name != "ignore"}


def warnings_of(
    summary: LabelSummary, labels: Mapping[str, int], predicted_ml: Mapping[str, float], earlier: Sequence[LabelSummary]
) -> list[str]:
    """What is unusual about a label, one sentence each."""
    if not any(summary.volumes_ml.values()):
        return ["it is empty: no structure has a voxel"]
    warnings = []
    for name in structures(labels):
        ml = summary.volumes_ml[name]
        before = [other.volumes_ml[name] for other in earlier if other.volumes_ml.get(name)]
        predicted = predicted_ml.get(name, 0.0)
        if not ml and predicted > SEEN * min(before, default=0.0):
            warnings.append(f"{name} is missing; the model saw {predicted:.3g} ml of it")
        elif ml and len(before) >= ENOUGH and not min(before) / FAR <= ml <= max(before) * FAR:
            warnings.append(
                f"{name} has {ml:.3g} ml; the {len(before)} labels so far have {min(before):.3g} to {max(before):.3g} ml"
            )
    return warnings + [
        _swapped(left, right, summary) for left, right in pairs(labels) if _is_swapped(left, right, summary, earlier)
    ]


def pairs(labels: Mapping[str, int]) -> list[tuple[str, str]]:
    """(left, right) structures: names that differ by these words alone."""
    return [
        (name, right)
        for name in labels
        if "left" in name.lower()
        for right in labels
        if right.lower() == _mirrored(name)
    ]


def _mirrored(name: str) -> str:
    return name.lower().replace("left", "right")


def _is_swapped(left: str, right: str, summary: LabelSummary, earlier: Sequence[LabelSummary]) -> bool:
    """Whether the left one lies to the right; or to the other side than in all earlier labels, if a dataset is mirrored."""
    sides = [_side(left, right, other) for other in earlier]
    known = [side for side in sides if side]
    usual = -1 if known and all(side < 0 for side in known) else 1
    return _side(left, right, summary) * usual < 0


def _side(left: str, right: str, summary: LabelSummary) -> float:
    """Above 0: left lies to the left of right; 0: one of them is absent."""
    if left not in summary.left_mm or right not in summary.left_mm:
        return 0.0
    return summary.left_mm[left] - summary.left_mm[right]


def _swapped(left: str, right: str, summary: LabelSummary) -> str:
    return f"{left} and {right} look swapped: {left} lies {abs(_side(left, right, summary)):.3g} mm on the wrong side of {right}"

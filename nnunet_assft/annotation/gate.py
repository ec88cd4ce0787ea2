"""The checks that a returned label must pass before it is written to labelsTr, and the warnings that a person must
accept."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from nnunet_assft.annotation.dicom_labels import read_dicom_label
from nnunet_assft.annotation.label_files import ReturnedLabel, image_grid, read_returned_label
from nnunet_assft.annotation.segments import REFUSE
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.text import by, count
from nnunet_assft.volumes.grid import Grid
from nnunet_assft.volumes.nifti import forms_disagree
from nnunet_assft.volumes.not_annotated import annotated
from nnunet_assft.volumes.placement import DoesNotFitError, Placement, placement, put_back, require_same_box
from nnunet_assft.volumes.segmentations import InFileAxes
from nnunet_assft.volumes.structures import pairs, structures

UNUSUAL_FACTOR = 3.0  # a volume is unusual if it differs from all earlier ones by more than this factor
MIN_EARLIER_LABELS = 2  # with fewer earlier labels, volumes are not compared
EXCHANGED_DICE = 0.3  # below this Dice, a pre-segmentation does not say which structure is which
SEEN_FRACTION = 0.1  # the model has seen a structure if it predicts more than this share of the smallest earlier volume


@dataclass(frozen=True)
class LabelSummary:
    """Where the structures of a label are, and how large.

    volumes_ml: structure -> volume in ml, 0 if it is absent; without structures that nobody drew. left_mm: structure ->
    coordinate of its centre of mass along the axis to the patient's left, in mm; absent structures are left out.
    """

    volumes_ml: Mapping[str, float]
    left_mm: Mapping[str, float]


@dataclass(frozen=True)
class Expected:
    """What is known about a case before its label is returned.

    prelabel: the pre-segmentation; predicted_ml: its volumes in ml by structure; None and empty if there was no model.
    earlier: summaries of the human labels so far. not_annotated: structures that nobody was to draw. accepted: whether
    the annotator has accepted the pre-segmentation as it is.
    """

    prelabel: InFileAxes | None = None
    predicted_ml: Mapping[str, float] = field(default_factory=dict)
    earlier: Sequence[LabelSummary] = ()
    not_annotated: Collection[str] = ()
    accepted: bool = False


@dataclass(frozen=True)
class GatedLabel:
    """A label that has passed the gate.

    label: integers on the grid of the image. notes: what was repaired. warnings: what a person must accept. overlap:
    the rule that decided about overlapping segments; None if none overlapped.
    """

    label: InFileAxes
    summary: LabelSummary
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    overlap: str | None = None


# seven parameters: a label, what it belongs to, and what a person has accepted
def gate(
    file: Path,
    image_file: Path,
    labels: Mapping[str, int],
    expected: Expected = Expected(),
    *,
    accept_geometry: bool = False,
    overlap: str = REFUSE,
    slices: Sequence[str] | None = None,
) -> GatedLabel:
    """Read the label in `file`, put it on the grid of its image and check it.

    labels: name -> number, as in dataset.json. accept_geometry: whether to take the voxels as they are stored if the
    header places the label elsewhere than its image; it must have the shape of the image. overlap: see
    `segments.merge`. slices: of a DICOM SEG, the SOPInstanceUIDs of the slices of its series, in the order of the
    image; None for other files. Raises `AssftError` for a label that must not be used.
    """
    grid = image_grid(image_file)
    if slices is None:
        returned, two_forms = read_returned_label(file, labels, grid, overlap), forms_disagree(file)
    else:
        returned, two_forms = read_dicom_label(file, labels, grid, slices, overlap), False
    try:
        label, notes, warnings = _on_grid(returned, grid)
        if two_forms:
            notes.append("its sform and its qform disagree; the one that ITK reads lies on the image")
    except DoesNotFitError as error:
        reason = f"{error}; its sform and its qform disagree" if two_forms else str(error)
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
        notes, warnings = [f"its voxels were taken as they are stored, although {reason}"], []
    notes += [returned.overlapped] if returned.overlapped else []
    undrawn_notes, undrawn_warnings = undrawn(label, labels, expected)
    notes, warnings = [*notes, *undrawn_notes], [*warnings, *undrawn_warnings]
    summary = summarize(label, grid, annotated(labels, expected.not_annotated))
    unchanged = expected.prelabel is not None and np.array_equal(expected.prelabel.array, label.array)
    if expected.accepted and not unchanged:
        raise AssftError("it is not the pre-segmentation, but its decision is accept. Write fix, or remove the file.")
    if unchanged and label.array.any() and not expected.accepted:
        warnings.append("it is the pre-segmentation, unchanged")
    warnings += warnings_of(summary, labels, expected)
    if expected.prelabel is not None:
        warnings += exchanged(label, expected.prelabel, labels)
    decided = overlap if returned.overlapped else None
    return GatedLabel(label, summary, tuple(notes), tuple(warnings), decided)


def _on_grid(returned: ReturnedLabel, image: Grid) -> tuple[InFileAxes, list[str], list[str]]:
    """Return (label on the grid of the image, notes, warnings). Raises `DoesNotFitError` if it does not fit."""
    notes, warnings = [], []
    if returned.is_segmentation and not returned.array.any():  # the position of Slicer's empty ones has no meaning
        return InFileAxes(np.zeros(image.size[::-1], returned.array.dtype)), [], []
    where = placement(returned.grid, image)
    oriented = where.oriented(returned.array)
    is_cropped = oriented.shape != image.size and (returned.is_segmentation or _is_inside(oriented, where, image))
    if not is_cropped and returned.reference_offset is None:
        require_same_box(where, returned.grid, image)
    if where.noise_mm > 1e-6:
        notes.append(f"rounding errors of its header were repaired (up to {where.noise_mm:.2g} mm)")
    if where.is_reoriented:
        warnings.append(
            "its axes are stored in another order or direction than those of its image; they can be reordered without "
            "loss"
        )
    array, lost = put_back(oriented, where, image.size)
    if lost:
        raise AssftError(f"{lost} labelled voxels lie outside of its image. Draw on the image of the work folder only.")
    if is_cropped:
        notes.append("it was cropped and has been put back on the whole image")
    if is_cropped and not returned.is_segmentation:
        advice = "save it as .seg.nrrd, or export it with the image as reference volume"
        if _is_tight(oriented, where, image):
            notes.append(f"next time, {advice}")
        else:
            warnings.append(
                f"it covers only {by(oriented.shape)} of the {by(image.size)} voxels of its image, and all others "
                f"would become background. Better {advice}"
            )
    offset = returned.reference_offset
    if offset is not None and offset != where.offset and not where.is_reoriented:
        said, found = (" ".join(map(str, voxel)) for voxel in (offset, where.offset))
        warnings.append(
            f"it was not drawn on its image: its reference extent begins at voxel {said}, but its position in mm is "
            f"that of voxel {found}, which is used"
        )
    return InFileAxes(array.transpose(2, 1, 0)), notes, warnings


def _is_inside(label: np.ndarray, where: Placement, image: Grid) -> bool:
    """Whether a label, along the axes of the image, begins and ends inside of it."""
    return all(
        first >= 0 and first + n <= whole for first, n, whole in zip(where.offset, label.shape, image.size, strict=True)
    )


def _is_tight(label: np.ndarray, where: Placement, image: Grid) -> bool:
    """Whether a label was cropped to its structures: they reach each of its sides that is not a side of the image.

    Otherwise the image itself may have been cropped, and structures outside of the part are missing.
    """
    return all(
        (where.offset[axis] == 0 or label.take(0, axis).any())
        and (where.offset[axis] + label.shape[axis] == image.size[axis] or label.take(-1, axis).any())
        for axis in range(3)
    )


# What a label looks like ----------------------------------------------------------------------------------------------


def summarize(label: InFileAxes, grid: Grid, labels: Mapping[str, int]) -> LabelSummary:
    """Measure the volume and the position of every structure. grid: that of the image file. The ignore label is not a
    structure."""
    ml_per_voxel = abs(float(np.linalg.det(grid.affine[:3, :3]))) / 1000
    volumes, left = {}, {}
    for name, value in structures(labels).items():
        k, j, i = np.nonzero(label.array == value)
        volumes[name] = len(i) * ml_per_voxel
        if len(i):  # in LPS, the first coordinate increases to the patient's left
            left[name] = float(grid.affine[0] @ np.array([i.mean(), j.mean(), k.mean(), 1.0]))
    return LabelSummary(volumes, left)


def undrawn(label: InFileAxes, labels: Mapping[str, int], expected: Expected) -> tuple[list[str], list[str]]:
    """Return notes and warnings about the voxels of structures that nobody was to draw, which are not used."""
    notes, warnings = [], []
    for name in expected.not_annotated:
        voxels = label.array == labels[name]
        if not voxels.any():
            continue
        text = f"{name} is not annotated, so its {count(int(voxels.sum()), 'voxel')} are not used"
        prelabel = expected.prelabel
        if prelabel is not None and np.array_equal(voxels, prelabel.array == labels[name]):
            notes.append(f"{text}; they are those of the pre-segmentation")
        else:
            warnings.append(f"{text}; if somebody drew it, import the case with another --not_annotated")
    return notes, warnings


def warnings_of(summary: LabelSummary, labels: Mapping[str, int], expected: Expected) -> list[str]:
    """Describe what is unusual about a label, one sentence for each finding."""
    labels = annotated(labels, expected.not_annotated)
    if not any(summary.volumes_ml.values()):
        return ["it is empty: no structure has a voxel"]
    warnings = []
    for name in structures(labels):
        ml = summary.volumes_ml[name]
        before = [other.volumes_ml[name] for other in expected.earlier if other.volumes_ml.get(name)]
        predicted = expected.predicted_ml.get(name, 0.0)
        if not ml and predicted > SEEN_FRACTION * min(before, default=0.0):
            warnings.append(f"{name} is missing; the model predicted {predicted:.3g} ml of it")
        elif ml and len(before) >= MIN_EARLIER_LABELS and _is_unusual(ml, before):
            warnings.append(
                f"{name} has {ml:.3g} ml; the {len(before)} labels so far have {min(before):.3g} to {max(before):.3g} "
                "ml"
            )
    return warnings + [
        f"{left} and {right} seem to be swapped: {left} lies {abs(_side(left, right, summary)):.3g} mm on the wrong "
        f"side of {right}"
        for left, right in pairs(labels)
        if _is_swapped(left, right, summary, expected.earlier)
    ]


def _is_unusual(ml: float, before: Sequence[float]) -> bool:
    return not min(before) / UNUSUAL_FACTOR <= ml <= max(before) * UNUSUAL_FACTOR


def _is_swapped(left: str, right: str, summary: LabelSummary, earlier: Sequence[LabelSummary]) -> bool:
    """Whether the left structure lies to the right of the right one. If all earlier labels are mirrored, the test is
    the other way round."""
    sides = [_side(left, right, other) for other in earlier]
    known = [side for side in sides if side]
    usual = -1 if known and all(side < 0 for side in known) else 1
    return _side(left, right, summary) * usual < 0


def exchanged(label: InFileAxes, prelabel: InFileAxes, labels: Mapping[str, int]) -> list[str]:
    """Describe structures whose numbers seem to be exchanged: each lies where the pre-segmentation has another one.

    The structures of the label are matched with those of the pre-segmentation by the largest sum of Dice. Left and
    right are left out, because their sides say it better.
    """
    names = list(structures(labels))
    dice = _dice_of_all(label, prelabel, list(structures(labels).values()))
    matched = zip(*linear_sum_assignment(-dice), strict=True)
    other = {i: j for i, j in matched if dice[i, j] >= EXCHANGED_DICE and dice[i, j] > dice[i, i]}
    while any(j not in other for j in other.values()):  # what is left is a permutation
        other = {i: j for i, j in other.items() if j in other}
    sides = [{names.index(left), names.index(right)} for left, right in pairs(labels)]
    other = {i: j for i, j in other.items() if not ({i, j} in sides and other[j] == i)}
    if not other:
        return []
    told = ", ".join(
        f"{names[i]} lies where the pre-segmentation has {names[j]} (Dice {dice[i, j]:.2f})" for i, j in other.items()
    )
    return [f"{' and '.join(names[i] for i in other)} seem to be exchanged: {told}"]


def _dice_of_all(label: InFileAxes, prelabel: InFileAxes, values: Sequence[int]) -> np.ndarray:
    """Return the Dice of every structure of the label (rows) with every one of the pre-segmentation (columns)."""
    n = len(values) + 1
    index = np.zeros(max(int(label.array.max()), int(prelabel.array.max()), *values) + 1, np.int64)
    index[list(values)] = range(1, n)
    both = np.bincount((index[label.array] * n + index[prelabel.array]).ravel(), minlength=n * n).reshape(n, n)
    sizes = both.sum(axis=1)[1:, None] + both.sum(axis=0)[None, 1:]
    return 2 * both[1:, 1:] / np.maximum(sizes, 1)


def unlike_labels(volumes_ml: Mapping[str, float], earlier: Sequence[LabelSummary]) -> list[str]:
    """Describe the structures of a pre-segmentation whose volume is unlike that in all human labels so far, of which a
    single one is enough."""
    found = []
    for name, ml in volumes_ml.items():
        before = [other.volumes_ml[name] for other in earlier if other.volumes_ml.get(name)]
        if before and _is_unusual(ml, before):
            low, high = f"{min(before):.3g}", f"{max(before):.3g}"
            between = low if low == high else f"{low} to {high}"
            has = f"{ml:.3g} ml of {name}" if ml else f"no {name}"
            labels = f"{count(len(before), 'label')} so far"
            found.append(
                f"the model found {has}, and the {labels} {'has' if len(before) == 1 else 'have'} {between} ml"
            )
    return found


def _side(left: str, right: str, summary: LabelSummary) -> float:
    """How far `left` lies to the left of `right`, in mm; negative if it lies to the right, 0 if one is absent."""
    if left not in summary.left_mm or right not in summary.left_mm:
        return 0.0
    return summary.left_mm[left] - summary.left_mm[right]

"""A queried case in three planes, with contours of its label and of what the model made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from nnunet_assft.report.images import Volume
from nnunet_assft.report.plot import CONTOURS, INK, STYLE, WIDE, Plot, label_colour

PLANES = {"axial": 0, "coronal": 1, "sagittal": 2}  # -> axis of a Volume
DASHES = {"label": "solid", "pre-segmentation": "dashed"}


def overlay_plot(name: str, title: str, caption: str, volume: Volume, labels: Mapping[str, int]) -> Plot:
    """The three planes at one scale, as radiologists look at them, each through the slice with the most segmented voxels.

    labels: structure -> value. Data: how many pixels of each structure each plane shows.
    """
    segmentations = volume.segmentations
    slices = {
        plane: _fullest(list(segmentations.values()), axis, volume.image.shape[axis]) for plane, axis in PLANES.items()
    }
    present = {
        structure: value
        for structure, value in labels.items()
        if any((s == value).any() for s in segmentations.values())
    }
    numbered = len(labels) > len(CONTOURS)  # colours repeat
    depth, height, width = np.array(volume.image.shape) * np.array(volume.spacing[::-1])  # mm
    inches = (WIDE[0] - 0.1) / (width + height) * (height + depth) + 0.5
    with style.context(["default", STYLE, {"axes.grid": False}]):
        tight = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
        figure = Figure(figsize=(WIDE[0], float(np.clip(inches, 2.2, 7.5))), layout=tight)
        cells = figure.subplots(2, 2, gridspec_kw={"width_ratios": [width, height], "height_ratios": [height, depth]})
        for plane, axes in zip(PLANES, (cells[0, 0], cells[1, 0], cells[1, 1]), strict=True):
            _draw_plane(axes, plane, slices[plane], volume, list(present.values()), numbered)
        _draw_legend(cells[0, 1], present, list(segmentations), numbered)
    rows = [
        (plane, slices[plane] + 1, source, structure, int((array.take(slices[plane], axis) == value).sum()))
        for plane, axis in PLANES.items()
        for source, array in segmentations.items()
        for structure, value in present.items()
    ]
    data = pd.DataFrame(rows, columns=["plane", "slice", "segmentation", "structure", "pixels"])
    contours = (
        f"contours of {' and '.join(segmentations)} ({', '.join(present) or 'no structure'})"
        if segmentations
        else "no contours"
    )
    return Plot(name, title, caption, f"{title}: axial, coronal and sagittal slice with {contours}.", data, figure)


def _draw_plane(axes: Axes, plane: str, index: int, volume: Volume, values: Sequence[int], numbered: bool) -> None:
    axis = PLANES[plane]
    up, across = (n for n in (0, 1, 2) if n != axis)
    image, step_up, step_across = volume.image.take(index, axis), volume.spacing[2 - up], volume.spacing[2 - across]
    bottom, top = image.shape[0] * step_up, 0.0  # the front is above; but the head is above where z goes up
    if plane != "axial":
        bottom, top = top, bottom
    axes.imshow(
        image,
        cmap="gray",
        vmin=0,
        vmax=255,
        interpolation="none",
        origin="upper" if plane == "axial" else "lower",
        extent=(0.0, image.shape[1] * step_across, bottom, top),
    )
    x, y = (
        (np.arange(-1, n + 1) + 0.5) * step for n, step in ((image.shape[1], step_across), (image.shape[0], step_up))
    )
    for source, array in volume.segmentations.items():
        for value in values:
            mask = np.pad(array.take(index, axis) == value, 1)  # so that contours close at the border
            if not mask.any():
                continue
            colour = label_colour(value)
            axes.contour(x, y, mask, levels=[0.5], colors=[colour], linewidths=1.1, linestyles=DASHES[source])
            if numbered and source == "label":
                centre = x @ mask.sum(0) / mask.sum(), y @ mask.sum(1) / mask.sum()
                axes.annotate(str(value), centre, color=colour, fontsize=6.5, ha="center", va="center")
    axes.set(xlim=(0.0, image.shape[1] * step_across), ylim=(bottom, top))  # contours reach one voxel further
    axes.set_title(f"{plane} {index + 1}/{volume.image.shape[axis]}", fontsize=7.5, pad=2)
    axes.set_axis_off()


def _draw_legend(axes: Axes, present: Mapping[str, int], sources: Sequence[str], numbered: bool) -> None:
    axes.set_axis_off()
    for structure, value in present.items():
        axes.plot(
            [], [], color=label_colour(value), label=(f"{value} " if numbered else "") + structure.replace("_", " ")
        )
    for source in sources:
        axes.plot([], [], color=INK, linewidth=1, linestyle=DASHES[source], label=source)
    if sources:
        axes.legend(loc="center left", fontsize=7 if len(present) < 12 else 5.5, borderaxespad=0)


def _fullest(segmentations: Sequence[np.ndarray], axis: int, n: int) -> int:
    """The slice with the most segmented voxels; the middle if there is none."""
    others = tuple(i for i in (0, 1, 2) if i != axis)
    counts = sum(((s > 0).sum(axis=others) for s in segmentations), np.zeros(n, int))
    return int(counts.argmax()) if counts.any() else n // 2

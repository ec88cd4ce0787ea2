"""Figures of a case in three planes: with contours of its label and of a segmentation, or with the entropy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from nnunet_assft.annotation.overlay import BEHIND, draw_scale_bar
from nnunet_assft.report.images import Volume
from nnunet_assft.report.plot import INK, SMALLEST, STYLE, WIDE, Plot, label_colour, legend_below

PLANES = {"axial": 0, "coronal": 1, "sagittal": 2}  # -> axis of a Volume
LINES = {"label": "solid", "pre-segmentation": "dashed", "segmentation": "dashed"}
# plane -> what is at the left, right, top and bottom: right, left, anterior, posterior, head, feet
SIDES = {"axial": "RLAP", "coronal": "RLHF", "sagittal": "APHF"}
LEGEND_LINE = 0.17  # inches
MAX_BESIDE = 12  # structures; the names of more do not fit into the empty quarter of the figure
TELLABLE = 7  # number of colours that can be distinguished; with more structures, their numbers are drawn, too


def overlay_plot(name: str, title: str, caption: str, volume: Volume, structures: Mapping[str, int]) -> Plot:
    """Draw the axial, coronal and sagittal plane at the same scale, in radiological orientation.

    Each plane is the slice with the most segmented voxels. structures: name -> value. The data of the plot are the
    numbers of pixels of each structure in each plane.
    """
    overlay = _Overlay(volume, structures)
    sources = list(volume.segmentations)
    contours = "no contours"
    if sources:
        contours = f"contours of {' and '.join(sources)} ({', '.join(overlay.present) or 'no structure'})"
    alt = f"{title}: axial, coronal and sagittal slice with {contours}."
    return Plot(name, title, caption, alt, overlay.pixels(), overlay.figure())


def entropy_plot(name: str, title: str, caption: str, volume: Volume, entropy: np.ndarray) -> Plot:
    """Draw the three planes of `overlay_plot` with the entropy in place of contours: the slices with the most of it.

    entropy: on the grid of the volume, 0 to 1. The data of the plot are the mean and the largest entropy in each slice.
    """
    drawn = _Overlay(replace(volume, segmentations={}), {}, entropy)
    slices = {plane: entropy.take(k, PLANES[plane]) for plane, k in drawn.slices.items()}
    rows = [(plane, drawn.slices[plane] + 1, float(s.mean()), float(s.max())) for plane, s in slices.items()]
    data = pd.DataFrame(rows, columns=["plane", "slice", "mean", "largest"])
    alt = f"{title}: axial, coronal and sagittal slice; the brighter, the less sure the network is."
    return Plot(name, title, caption, alt, data, drawn.figure())


@dataclass(frozen=True)
class _Overlay:
    """Draws one case. entropy: drawn over the grey values if it is given."""

    volume: Volume
    structures: Mapping[str, int]
    entropy: np.ndarray | None = None

    @cached_property
    def present(self) -> dict[str, int]:
        """The structures that have a voxel in any segmentation of the volume."""
        segmentations = self.volume.segmentations.values()
        return {
            name: value for name, value in self.structures.items() if any((s == value).any() for s in segmentations)
        }

    @cached_property
    def slices(self) -> dict[str, int]:
        """plane -> index of the slice that is shown."""
        if self.entropy is not None:
            others = {plane: tuple({0, 1, 2} - {axis}) for plane, axis in PLANES.items()}
            return {plane: int(self.entropy.sum(axis=axes).argmax()) for plane, axes in others.items()}
        segmentations, shape = list(self.volume.segmentations.values()), self.volume.image.shape
        return {plane: fullest_slice(segmentations, axis, shape[axis]) for plane, axis in PLANES.items()}

    @property
    def is_numbered(self) -> bool:
        return len(self.structures) > TELLABLE

    @property
    def has_legend_below(self) -> bool:
        return len(self.present) > MAX_BESIDE

    def pixels(self) -> pd.DataFrame:
        rows = [
            (plane, k + 1, source, name, int((array.take(k, PLANES[plane]) == value).sum()))
            for plane, k in self.slices.items()
            for source, array in self.volume.segmentations.items()
            for name, value in self.present.items()
        ]
        return pd.DataFrame(rows, columns=["plane", "slice", "segmentation", "structure", "pixels"])

    def figure(self) -> Figure:
        depth, height, width = np.array(self.volume.image.shape) * np.array(self.volume.spacing[::-1])  # mm
        inches = (WIDE[0] - 0.1) / (width + height) * (height + depth) + 0.5
        with style.context(["default", STYLE, {"axes.grid": False}]):
            tight = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
            below = LEGEND_LINE * len(self.present) / 2 if self.has_legend_below else 0
            figure = Figure(figsize=(WIDE[0], float(np.clip(inches, 2.2, 7.5)) + below), layout=tight)
            ratios = {"width_ratios": [width, height], "height_ratios": [height, depth]}
            cells = figure.subplots(2, 2, gridspec_kw=ratios)
            for plane, axes in zip(PLANES, (cells[0, 0], cells[1, 0], cells[1, 1]), strict=True):
                self._draw_plane(axes, plane)
            self._draw_legend(cells[0, 1])
        return figure

    def _draw_plane(self, axes: Axes, plane: str) -> None:
        volume, k, axis = self.volume, self.slices[plane], PLANES[plane]
        up, across = (n for n in (0, 1, 2) if n != axis)
        steps = volume.spacing[2 - up], volume.spacing[2 - across]  # mm
        image = volume.image.take(k, axis)
        bottom, top = image.shape[0] * steps[0], 0.0  # the front is above
        if plane != "axial":
            bottom, top = top, bottom  # the head is above, where z goes up
        right = image.shape[1] * steps[1]
        look: dict[str, Any] = {
            "origin": "upper" if plane == "axial" else "lower",
            "cmap": "gray",
            "interpolation": "none",
        }
        axes.imshow(image, extent=(0.0, right, bottom, top), vmin=0, vmax=255, **look)
        if self.entropy is not None:
            heat = self.entropy.take(k, axis)
            look |= {"cmap": "inferno", "alpha": np.clip(2 * heat, 0, 0.8)}
            axes.imshow(heat, extent=(0.0, right, bottom, top), vmin=0, vmax=1, **look)
        for source, array in volume.segmentations.items():
            for value in self.present.values():
                self._draw_contour(axes, array.take(k, axis) == value, steps, value, LINES[source])
        axes.set(xlim=(0.0, right), ylim=(bottom, top))  # the padded contours extend the limits by one voxel
        axes.set_title(f"{plane} {k + 1}/{volume.image.shape[axis]}", fontsize=7.5, pad=2)
        for mark, (x, y) in zip(SIDES[plane], ((0.01, 0.5), (0.99, 0.5), (0.5, 0.99), (0.5, 0.01)), strict=True):
            where: dict[str, Any] = {
                "ha": {0.01: "left", 0.99: "right"}.get(x, "center"),
                "va": {0.99: "top", 0.01: "bottom"}.get(y, "center"),
            }
            axes.text(x, y, mark, transform=axes.transAxes, color="white", fontsize=SMALLEST, bbox=BEHIND, **where)
        draw_scale_bar(axes, right, SMALLEST)
        axes.set_axis_off()

    def _draw_contour(self, axes: Axes, mask: np.ndarray, steps: tuple[float, float], value: int, line: str) -> None:
        """Draw the contour of a mask. steps: height and width of a pixel in mm."""
        if not mask.any():
            return
        padded = np.pad(mask, 1)  # so that contours are closed at the border
        y, x = ((np.arange(-1, n + 1) + 0.5) * step for n, step in zip(mask.shape, steps, strict=True))
        axes.contour(x, y, padded, levels=[0.5], colors=[label_colour(value)], linewidths=1.1, linestyles=line)
        if self.is_numbered and line == LINES["label"]:
            centre = x @ padded.sum(0) / padded.sum(), y @ padded.sum(1) / padded.sum()
            axes.annotate(str(value), centre, color=label_colour(value), fontsize=SMALLEST, ha="center", va="center")

    def _draw_legend(self, axes: Axes) -> None:
        axes.set_axis_off()
        for structure, value in self.present.items():
            number = f"{value} " if self.is_numbered else ""
            axes.plot([], [], color=label_colour(value), label=number + structure.replace("_", " "))
        if len(self.volume.segmentations) > 1:  # the caption names the only one
            for source in self.volume.segmentations:
                axes.plot([], [], color=INK, linewidth=1, linestyle=LINES[source], label=source)
        if self.has_legend_below:
            legend_below(axes)
        elif axes.lines:
            axes.legend(loc="center left", fontsize=SMALLEST, borderaxespad=0)


def fullest_slice(segmentations: Sequence[np.ndarray], axis: int, n: int) -> int:
    """Return the slice with the most segmented voxels, or the middle one if there are none."""
    others = tuple(i for i in (0, 1, 2) if i != axis)
    counts = sum(((s > 0).sum(axis=others) for s in segmentations), np.zeros(n, int))
    return int(counts.argmax()) if counts.any() else n // 2

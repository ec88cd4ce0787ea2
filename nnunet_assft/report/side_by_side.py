"""Figure of several segmentations of one case side by side, in three planes through the region where two of them
differ most."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.patches import Patch, Rectangle
from scipy import ndimage

from nnunet_assft.annotation.overlay import BEHIND
from nnunet_assft.report.images import Volume
from nnunet_assft.report.overlay import PLANES, TELLABLE, fullest_slice
from nnunet_assft.report.plot import FULL, MUTED, RULE, STYLE, label_colour
from nnunet_assft.volumes.structures import colour

MAX_COLUMNS = 8  # in a row of the figure; more columns continue in a new row, behind the first column again
OPACITY = 0.5  # of the structures over the image
AROUND = 0.08  # of the longest side of what is segmented: what the panels show around it
BOX_MARGIN = 0.03  # of the longest side of a panel: between the region and the box around it
BOX = "#ff1f1f"  # red, as in the paper
# inches
STRIP, GAP = 0.34, 0.05  # the names of the planes at the left, and the space between panels
COLUMN, NARROWEST, LOWEST, HIGHEST = 1.9, 0.75, 0.5, 6.0  # limits of a column, and of a plane and of all three of them
LINE = 0.13  # of text


@dataclass(frozen=True)
class Column:
    """A column of the figure. title: may have several lines. segmentation: on the grid of the volume, (z, y, x); None
    if it is missing. bold: whether the title is bold."""

    title: str
    segmentation: np.ndarray | None
    bold: bool = False


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Return the mask of the largest connected component of a mask of two or three dimensions, whose voxels are
    connected by their faces. Of components of the same size, it is the first one. An empty mask has none, and stays
    empty."""
    labels, n = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())[1:]
    return labels == 1 + sizes.argmax() if n else np.zeros(mask.shape, bool)


@dataclass(frozen=True)
class SideBySide:
    """Draws one case. All panels have the same scale, and radiological orientation.

    columns: the first one is repeated at the start of every row of the figure. region: mask, (z, y, x). The planes are
    those with most of it, and the box contains the largest connected part of it in the plane. If it is empty, there is
    no box, and the planes are those with the most segmented voxels of the first column. structures: name -> value.
    """

    volume: Volume
    columns: Sequence[Column]
    region: np.ndarray
    structures: Mapping[str, int]

    @cached_property
    def _segmentations(self) -> list[np.ndarray]:
        return [column.segmentation for column in self.columns if column.segmentation is not None]

    @cached_property
    def _spacing(self) -> np.ndarray:
        """(z, y, x) in mm."""
        return np.array(self.volume.spacing[::-1])

    @cached_property
    def present(self) -> dict[str, int]:
        """The structures that have a pixel in any panel."""
        shown = [self._cut(array, plane) for array in self._segmentations for plane in PLANES]
        found = set(np.concatenate([np.unique(labels) for labels in shown]))
        return {name: value for name, value in self.structures.items() if value in found}

    @cached_property
    def slices(self) -> dict[str, int]:
        """plane -> index of the slice that is shown."""
        through = [self.region] if self.region.any() else self._segmentations[:1]
        return {plane: fullest_slice(through, axis, self.region.shape[axis]) for plane, axis in PLANES.items()}

    @cached_property
    def view(self) -> np.ndarray:
        """The voxels that panels show: (first, end) along z, y and x. They contain every segmented voxel, and some
        space around them."""
        segmented = np.any([array > 0 for array in self._segmentations], axis=0)
        shape = np.array(segmented.shape)
        if not segmented.any():
            return np.stack([np.zeros(3, int), shape], axis=1)
        first, end = _bounds(segmented).T
        around = np.ceil(AROUND * ((end - first) * self._spacing).max() / self._spacing).astype(int)
        return np.stack([np.maximum(first - around, 0), np.minimum(end + around, shape)], axis=1)

    @cached_property
    def size(self) -> np.ndarray:
        """The size of what panels show, (z, y, x) in mm."""
        return np.diff(self.view)[:, 0] * self._spacing

    def box(self, plane: str) -> tuple[float, float, float, float] | None:
        """Return the box in the panels of a plane, (left, right, top, bottom) in mm from their upper left corner. None
        without a region."""
        part = largest_component(self._cut(self.region, plane))
        if not part.any():
            return None
        size = self._shown(plane)[:, None]
        margin = BOX_MARGIN * float(self.size.max()) * np.array([-1, 1])
        in_mm = _bounds(part) * self._steps(plane)[:, None]
        (top, bottom), (left, right) = np.clip(in_mm + margin, 0, size).tolist()
        return left, right, top, bottom

    def pixels(self) -> pd.DataFrame:
        """Return what is drawn as numbers of pixels, NaN where a segmentation is missing. The columns of the table are
        column, plane, slice, structure and pixels."""
        rows = []
        for column in self.columns:
            for plane in PLANES:
                labels = None if column.segmentation is None else self._cut(column.segmentation, plane)
                for name, value in self.present.items():
                    n = math.nan if labels is None else int((labels == value).sum())
                    rows.append((" ".join(column.title.split()), plane, self.slices[plane] + 1, name, n))
        return pd.DataFrame(rows, columns=["column", "plane", "slice", "structure", "pixels"])

    # Drawing ----------------------------------------------------------------------------------------------------------

    @cached_property
    def _rows(self) -> list[list[Column]]:
        first, *others = self.columns
        n_rows = max(1, math.ceil(len(others) / (MAX_COLUMNS - 1)))
        n = math.ceil(len(others) / n_rows)
        return [[first, *others[i * n : (i + 1) * n]] for i in range(n_rows)]

    @cached_property
    def _scale(self) -> float:
        """Inches per mm."""
        z, y, x = self.size
        column = min(COLUMN, (FULL - STRIP) / len(self._rows[0])) - GAP
        return float(min(column / max(x, y), HIGHEST / (y + 2 * z)))

    @cached_property
    def _pitch(self) -> float:
        """The distance of two columns in inches."""
        return float(max(self._scale * self.size[1:].max(), NARROWEST) + GAP)

    def figure(self) -> Figure:
        """Draw the figure, which is at most FULL inches wide."""
        width = STRIP + self._pitch * len(self._rows[0])
        n_legend = self._legend_lines(width)
        titles = [[_wrapped(column.title, self._pitch) for column in row] for row in self._rows]
        lines = [max(title.count("\n") + 1 for title in row) for row in titles]
        planes = sum(max(self._scale * self._shown(plane)[0], LOWEST) + GAP for plane in PLANES)
        height = sum(LINE * (n + 1) + planes for n in lines) + LINE * 1.2 * n_legend + GAP
        with style.context(["default", STYLE]):
            fixed = PlaceHolderLayoutEngine(True, True)  # a figure without any would be given that of STYLE when saved
            figure = Figure(figsize=(width, height), layout=fixed)
            axes = figure.add_axes((0, 0, 1, 1))
            axes.set(xlim=(0, width), ylim=(height, 0))  # inches from the upper left corner
            axes.set_axis_off()
            top = 0.0
            for row, of_row, n in zip(self._rows, titles, lines, strict=True):
                top += LINE * (n + 0.6)
                for i, (column, title) in enumerate(zip(row, of_row, strict=True)):
                    where = STRIP + (i + 0.5) * self._pitch, top - 0.03
                    weight = "bold" if column.bold else "normal"
                    axes.text(*where, title, ha="center", va="bottom", fontsize=7, weight=weight, linespacing=1.15)
                for plane in PLANES:
                    top = self._draw_plane(axes, row, plane, top)
                top += 0.4 * LINE
            self._draw_legend(axes, n_legend)
        return figure

    def _draw_plane(self, axes: Axes, row: Sequence[Column], plane: str, top: float) -> float:
        """Draw one plane of a row of columns as a single image, because a PNG stores what its panels share only once.

        top: in inches, where it starts. Returns where the next plane starts.
        """
        high, wide = self._scale * self._shown(plane)
        n_high, n_wide = self._cut(self.volume.image, plane).shape
        pixel = self._scale * self._steps(plane)[1]  # the width of a pixel in inches
        n_parts = math.ceil(pixel / (GAP / 2))  # of a pixel, so that panels begin where they should
        n_wide, pixel = n_wide * n_parts, pixel / n_parts
        across = [round((i * self._pitch + (self._pitch - wide) / 2) / pixel) for i in range(len(row))]
        image = np.zeros((n_high, across[-1] + n_wide, 4), np.uint8)  # transparent
        for column, first in zip(row, across, strict=True):
            left = STRIP + first * pixel
            if column.segmentation is None:
                self._draw_missing(axes, (left, top, wide, high))
                continue
            panel = self._panel(column.segmentation, plane)
            image[:, first : first + n_wide] = np.repeat(panel, n_parts, axis=1)
            self._draw_box(axes, plane, (left, top))
        extent = (STRIP, STRIP + image.shape[1] * pixel, top + high, top)
        axes.imshow(image, extent=extent, aspect="auto", interpolation="none", origin="upper")
        if len(self.structures) > TELLABLE:
            self._draw_numbers(axes, plane, (STRIP + across[0] * pixel, top))
        name = f"{plane}\n{self.slices[plane] + 1}/{self.region.shape[PLANES[plane]]}"
        taken = max(high, LOWEST)
        where = STRIP - GAP, top + taken / 2
        axes.text(*where, name, rotation=90, ha="right", va="center", fontsize=6.5, color=MUTED, linespacing=1.1)
        return top + taken + GAP

    def _panel(self, segmentation: np.ndarray, plane: str) -> np.ndarray:
        """Return the image with the structures over it, (height, width, RGBA), opaque."""
        labels = self._cut(segmentation, plane)
        rgb = np.repeat(self._cut(self.volume.image, plane)[..., None], 3, axis=2).astype(float)
        for value in self.present.values():
            inside = labels == value
            rgb[inside] = (1 - OPACITY) * rgb[inside] + OPACITY * 255 * np.array(colour(value))
        return np.dstack([np.rint(rgb), np.full(labels.shape, 255)]).astype(np.uint8)

    def _cut(self, array: np.ndarray, plane: str) -> np.ndarray:
        """Return what a panel shows of a volume: the front is above in the axial plane, the head in the others."""
        axis = PLANES[plane]
        inside = [slice(*ends) for ends in self.view]
        inside[axis] = slice(self.slices[plane], self.slices[plane] + 1)
        cut = array[tuple(inside)].squeeze(axis)
        return cut if plane == "axial" else cut[::-1]

    def _shown(self, plane: str) -> np.ndarray:
        """Return the height and the width of a panel in mm."""
        return np.delete(self.size, PLANES[plane])

    def _steps(self, plane: str) -> np.ndarray:
        """Return the height and the width of a pixel in mm."""
        return np.delete(self._spacing, PLANES[plane])

    def _draw_box(self, axes: Axes, plane: str, corner: tuple[float, float]) -> None:
        """Draw the box around the region. corner: the upper left corner of the panel in inches."""
        if box := self.box(plane):
            left, right, top, bottom = (self._scale * edge for edge in box)
            frame = Rectangle((corner[0] + left, corner[1] + top), right - left, bottom - top, zorder=3)
            frame.set(fill=False, edgecolor=BOX, linewidth=1.0)
            axes.add_patch(frame)

    def _draw_missing(self, axes: Axes, panel: tuple[float, float, float, float]) -> None:
        """Draw an empty panel. panel: left, top, width and height in inches."""
        left, top, width, height = panel
        axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=RULE, linewidth=0.8))
        where = left + width / 2, top + height / 2
        axes.text(*where, "missing", ha="center", va="center", fontsize=7, color=MUTED)

    def _draw_numbers(self, axes: Axes, plane: str, corner: tuple[float, float]) -> None:
        """Write the values of the structures onto the first panel. corner: its upper left corner in inches."""
        labels, steps = self._cut(self._segmentations[0], plane), self._scale * self._steps(plane)
        for value in self.present.values():
            inside = np.argwhere(labels == value)
            if len(inside):
                y, x = (inside.mean(axis=0) + 0.5) * steps
                where = corner[0] + x, corner[1] + y
                axes.text(*where, str(value), ha="center", va="center", fontsize=6, color="white", bbox=BEHIND)

    def _legend_lines(self, width: float) -> int:
        """Return the number of lines that the list of structures takes in a figure of this width in inches."""
        in_a_line = max(1, int(width / (0.06 * max(map(len, self.present), default=1) + 0.45)))
        return math.ceil(len(self.present) / in_a_line)

    def _draw_legend(self, axes: Axes, n_lines: int) -> None:
        """List the structures below the panels."""
        if not self.present:
            return
        numbered = len(self.structures) > TELLABLE
        names = {value: name.replace("_", " ") for name, value in self.present.items()}
        patches = [
            Patch(color=label_colour(value), label=f"{value} {name}" if numbered else name)
            for value, name in names.items()
        ]
        look: dict[str, Any] = {"fontsize": 7, "handlelength": 1, "handleheight": 1, "columnspacing": 1.2}
        axes.legend(
            handles=patches, loc="lower left", ncols=math.ceil(len(patches) / n_lines), borderaxespad=0.2, **look
        )


def _bounds(mask: np.ndarray) -> np.ndarray:
    """Return (first, end) of the voxels of a mask, which is not empty, along each axis."""
    (found,) = ndimage.find_objects(mask.astype(np.uint8))
    return np.array([(part.start, part.stop) for part in found])


def _wrapped(title: str, inches: float) -> str:
    """Break the lines of a title so that they fit into a column."""
    n = max(8, int(inches / 0.063))  # letters of 7 points
    return "\n".join(part for line in title.splitlines() for part in textwrap.wrap(line, n))

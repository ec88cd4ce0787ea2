"""The picture that shows an annotator why a case was chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from nnunet_assft.annotation.preview import Preview, as_radiologists_look, axial_slice
from nnunet_assft.runtime.files import atomic_path
from nnunet_assft.volumes.display import grey_range
from nnunet_assft.volumes.structures import colour, structures

# of white text on a picture, so that it can be read where the picture is white
BEHIND: dict[str, Any] = {"boxstyle": "round,pad=0.15", "facecolor": (0, 0, 0, 0.5), "linewidth": 0}


@dataclass(frozen=True)
class Overlay:
    """The suggested axial slice, shown twice: with contours of the pre-segmentation, and with the entropy in the
    foreground.

    contours: whether the pre-segmentation is drawn. window: see `volumes.display`.
    """

    title: str
    seen: Preview
    image: sitk.Image
    labels: Mapping[str, int]
    window: tuple[float, float] | None
    contours: bool

    @style.context("default")  # nnU-Net's trainer changes the global font size
    def save(self, file: Path) -> None:
        """Write the picture as a PNG."""
        entropy = as_radiologists_look(self.seen.masked_entropy, self.image)
        k = axial_slice(entropy)
        oriented = sitk.DICOMOrient(self.image, "LPS")
        grey = sitk.GetArrayViewFromImage(oriented)[k]
        segmentation = as_radiologists_look(self.seen.segmentation.array.astype(np.uint16), self.image)[k]
        pixel = oriented.GetSpacing()[1] / oriented.GetSpacing()[0]  # height over width
        figure = Figure(figsize=(10, 5 * min(2.0, pixel * grey.shape[0] / grey.shape[1]) + 0.8), layout="constrained")
        FigureCanvasAgg(figure)
        black, white = grey_range(grey, self.window, segmentation > 0)
        left, right = figure.subplots(1, 2)
        for axes, title in ((left, "pre-segmentation" if self.contours else "image"), (right, "uncertainty")):
            axes.imshow(grey, cmap="gray", aspect=pixel, vmin=black, vmax=white)
            axes.set_axis_off()
            axes.set_title(title, fontsize=9)
            for side, x in (("R", 0.01), ("L", 0.97)):  # of the patient; the front is above
                axes.text(x, 0.5, side, transform=axes.transAxes, color="white", fontsize=9, bbox=BEHIND)
            draw_scale_bar(axes, grey.shape[1] * oriented.GetSpacing()[0])
        if self.contours:
            _draw_contours(left, segmentation, self.labels)
        shown = right.imshow(np.ma.masked_equal(entropy[k], 0), cmap="inferno", alpha=0.6, aspect=pixel, vmin=0)
        figure.colorbar(shown, ax=right, label="entropy (nats)", shrink=0.8)
        figure.suptitle(self.title, fontsize=10, parse_math=False)  # a name may hold $
        with atomic_path(file) as partial:
            figure.savefig(partial, format="png", dpi=100)


def draw_scale_bar(axes: Axes, width_mm: float, size: float = 8) -> None:
    """Draw a bar of 1, 2 or 5 times a power of ten mm at the lower right of a picture, at most a third of its width.

    size: of the font.
    """
    power = 10 ** math.floor(math.log10(width_mm / 3))
    length = max(step * power for step in (1, 2, 5) if step * power <= width_mm / 3)
    left = 0.97 - length / width_mm
    inside: dict[str, Any] = {"transform": axes.transAxes, "color": "white"}
    edge = [withStroke(linewidth=3.5, foreground="black", alpha=0.5)]
    axes.add_line(Line2D([left, 0.97], [0.03, 0.03], linewidth=2, label="_scale", path_effects=edge, **inside))
    middle = (left + 0.97) / 2
    axes.text(middle, 0.05, f"{length:g} mm", fontsize=size, ha="center", va="bottom", bbox=BEHIND, **inside)


def _draw_contours(axes: Axes, segmentation: np.ndarray, labels: Mapping[str, int]) -> None:
    for name, value in structures(labels).items():
        if 0 < (segmentation == value).sum() < segmentation.size:
            axes.contour(segmentation == value, levels=[0.5], colors=[colour(value)], linewidths=1)
            axes.plot([], [], color=colour(value), label=name.replace("_", " "))
    if axes.get_legend_handles_labels()[1]:
        for text in axes.legend(fontsize=7, loc="lower left").get_texts():
            text.set_parse_math(False)

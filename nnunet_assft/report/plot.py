"""Figures of the report: colours and style, export as PNG, SVG and part of the page, and shared drawing functions.

Lines and dots have the colours of Okabe and Ito. On the page, colours become CSS variables, so that a figure follows
the light or dark theme; the files have the colours themselves, on white. Structures have the colours of the annotator's
work folder.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO, StringIO
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import escape
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from nnunet_assft.runtime.text import count
from nnunet_assft.volumes.structures import colour

INK, MUTED, RULE, PAPER = "#16191d", "#66707a", "#d9dee4", "#fffffe"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = "osD^vP"
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
CSS = {INK: "currentColor", MUTED: "var(--muted)", RULE: "var(--rule)", PAPER: "var(--paper)"}
CSS |= {series: f"var(--series-{i})" for i, series in enumerate(SERIES)}
STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "text.color": INK,
    "text.parse_math": False,  # case names may contain a $
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
}
# Inches; two or three figures in a row on a monitor, one on a phone, where SMALLEST is still nine pixels high.
WIDE, NARROW = (4.1, 2.9), (3.1, 2.3)
SMALLEST = 7  # points; the smallest text of a figure
FULL = 9.6  # inches; the whole width of the page
REM_PER_INCH = 7.25  # of a figure of size FULL
MANY = 2000  # with more points than this, an SVG contains them as an image


@dataclass(frozen=True)
class Plot:
    """A figure of the report with the numbers that it shows.

    name: stem of its files. alt: description of the figure for screen readers. data: exactly what is drawn.
    narrow: whether it is small, so that three fit in a row. full: whether it has a row of the
    page to itself, in which it is scrolled sideways if the screen is narrow. dots: id of a group of dots in the figure
    (matplotlib's `gid`) -> a text for each of them, which a browser shows beside the pointer; dots that are drawn as
    an image have none.
    """

    name: str
    title: str
    caption: str
    alt: str
    data: pd.DataFrame
    figure: Figure
    narrow: bool = False
    full: bool = False
    dots: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def width(self) -> float:
        """The width of a `full` figure on the page in rem, at which its text can be read."""
        return round(REM_PER_INCH * self.figure.get_figwidth(), 2)

    def png(self) -> bytes:
        buffer = BytesIO()
        self.figure.savefig(buffer, format="png", dpi=200)
        return buffer.getvalue()

    @cached_property
    def _svg(self) -> str:
        """The SVG without a background."""
        self.figure.patch.set_visible(False)
        with style.context(["default", {**STYLE, "svg.hashsalt": self.name}]):
            buffer = StringIO()
            self.figure.savefig(
                buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
            )
        self.figure.patch.set_visible(True)
        text = buffer.getvalue()
        for group, texts in self.dots.items():
            text = _with_titles(text, group, texts)
        return text

    def svg(self) -> str:
        """Return the SVG file, with a white background."""
        return re.sub(r"(<svg[^>]*>)", r'\1\n <rect width="100%" height="100%" fill="#ffffff"/>', self._svg, count=1)

    def inline_svg(self) -> str:
        """Return the SVG as part of a page, with colours from CSS, the font of the page, and ids that are unique on
        the page."""
        text = self._svg
        text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
        for attribute in ("height", "width"):
            text = re.sub(rf'(<svg[^>]*?) {attribute}="[^"]*"', r"\1", text, count=1)
        text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
        text = re.sub(r" ?font-family: [^;\"]*;?", "", text)  # which newer versions of matplotlib write apart
        for mark in ('id="', "url(#", 'href="#'):
            text = text.replace(mark, f"{mark}{self.name}-")
        for fixed, variable in CSS.items():
            text = text.replace(fixed, variable)
        return text.replace("<svg", f'<svg role="img" aria-label="{escape(self.alt)}"', 1).strip()


def _with_titles(svg: str, group: str, texts: Sequence[str]) -> str:
    """Give every dot of a group in an SVG a title. texts: those of its dots, in their order."""
    before, begin, rest = svg.partition(f'<g id="{group}">')
    dots, following, after = rest.partition("<g id=")
    titles = iter(texts)
    dots = re.sub(r"(<use [^>]*)/>", lambda dot: f"{dot[1]}><title>{escape(next(titles))}</title></use>", dots)
    return before + begin + dots + following + after


def label_colour(value: int) -> str:
    """Return the colour of a structure as `#rrggbb`, which is the same in every picture and in the annotator's work
    folder."""
    return to_hex(colour(value))


def file_name(text: str) -> str:
    """Make a text part of a file name: everything that is not an ASCII letter or a digit becomes an underscore."""
    return re.sub(r"[^A-Za-z0-9]+", "_", text)


# Drawing ------------------------------------------------------------------------------------------------------------


def draw_on_axes(draw: Callable[[Axes], None], size: tuple[float, float]) -> Figure:
    """Make a figure in the style of the report. size: width and height in inches."""
    with style.context(["default", STYLE]):  # nnU-Net's trainer changes the global font size
        figure = Figure(figsize=size)
        draw(figure.subplots())
    return figure


def note(axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **look: Any) -> None:
    """Write a small text beside a point. offset: in points (1/72 inch), to the right and upwards."""
    axes.annotate(text, at, xytext=offset, textcoords="offset points", **look)


def draw_reference(axes: Axes, mean: float, name: str) -> None:
    """Draw a thin horizontal line with its name, with which a curve can be compared."""
    axes.axhline(mean, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
    note(axes, name, (0, mean), (3, 2), xycoords=("axes fraction", "data"), fontsize=SMALLEST, color=MUTED)


def draw_band(axes: Axes, x: pd.Series, data: pd.DataFrame) -> None:
    """Shade the interval from `low` to `high` of a curve."""
    axes.fill_between(x.astype(float), data["low"], data["high"], color=SERIES[0], alpha=0.18, linewidth=0)


@dataclass(frozen=True)
class BoxLook:
    """How a box plot looks. filled: whether the box is filled. width: in units of the axis. dots: id of the group of
    its dots, see `Plot`."""

    colour: str = SERIES[0]
    filled: bool = True
    width: float = 0.5
    dots: str | None = None


def draw_box(axes: Axes, position: float, values: np.ndarray, look: BoxLook = BoxLook()) -> None:
    """Draw the median, the quartiles, whiskers to 1.5 times the distance between the quartiles, and every value as a
    dot."""
    if not len(values):
        return
    face = (look.colour, 0.25) if look.filled else "none"
    line = {"color": look.colour, "linewidth": 1.1}
    axes.boxplot(
        [values],
        positions=[position],
        widths=look.width,
        showfliers=False,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": face, "edgecolor": look.colour, "linewidth": 1.1},
        medianprops={"color": INK, "linewidth": 1.5},
        whiskerprops=line,
        capprops=line,
    )
    jitter = np.linspace(-0.28, 0.28, len(values)) * look.width if len(values) > 1 else np.zeros(1)
    dots: dict[str, Any] = {"s": 7, "color": look.colour, "linewidths": 0, "zorder": 3}
    axes.scatter(position + jitter, values, gid=look.dots, rasterized=len(values) > MANY, **dots)


def legend_below(axes: Axes, columns: int = 4) -> int:
    """Draw the legend below the axes, in as many columns, up to `columns`, as the figure is wide enough for. Returns
    the number of its rows."""
    lines = axes.get_legend_handles_labels()
    for n in range(columns, 0, -1):
        legend = axes.figure.legend(
            *lines,
            loc="outside lower center",
            ncols=n,
            handletextpad=0.4,
            columnspacing=1.2,
        )
        # at another resolution, text is up to a tenth wider
        if n == 1 or 1.1 * legend.get_window_extent().width <= axes.figure.bbox.width:
            break
        legend.remove()
    return math.ceil(len(lines[0]) / n)


def dice_limits(data: pd.DataFrame) -> tuple[float, float]:
    """Return the limits of an axis of Dice, within [0, 1], with room for bands and numbers. data: columns mean, low and
    high."""
    low, high = np.nanmin(data[["mean", "low"]].to_numpy()), np.nanmax(data[["mean", "high"]].to_numpy())
    room = 0.12 * max(high - low, 0.1)
    return max(0.0, low - room), min(1.0, high + 1.5 * room) if high < 1 else 1.0


def span(counts: pd.Series, thing: str) -> str:
    """Return the range of counts in words: "1 seed", or "1 to 3 seeds" if they differ."""
    low, high = counts.min(), counts.max()
    return count(low, thing) if low == high else f"{low} to {high} {thing}s"

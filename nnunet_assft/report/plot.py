"""A figure of the report: its colours, its style, and how it becomes PNG, SVG and a part of the page.

Colours are those of Okabe and Ito. In the page they become CSS variables, so that a figure follows light and dark; in the
files they stay as they are, on white.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO, StringIO

import pandas as pd
from markupsafe import escape
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, RULE, PAPER = "#16191d", "#66707a", "#d9dee4", "#fffffe"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
CONTOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2")
CSS = {INK: "currentColor", MUTED: "var(--muted)", RULE: "var(--rule)", PAPER: "var(--paper)"}
CSS |= {colour: f"var(--series-{i})" for i, colour in enumerate(SERIES)}
STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "text.color": INK,
    "text.parse_math": False,  # a $ in the name of a case is a $
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
WIDE, NARROW = (4.6, 3.1), (3.1, 2.3)  # inches; two or three in a row on a desk, one on a phone


@dataclass(frozen=True)
class Plot:
    """A picture. name: of its files; alt: what it shows, in words; warning: said beside it; narrow: three in a row."""

    name: str
    title: str
    caption: str
    alt: str
    data: pd.DataFrame
    figure: Figure
    warning: str = ""
    narrow: bool = False

    def png(self) -> bytes:
        buffer = BytesIO()
        self.figure.savefig(buffer, format="png", dpi=200)
        return buffer.getvalue()

    @cached_property
    def _svg(self) -> str:
        """Without a background."""
        self.figure.patch.set_visible(False)
        with style.context(["default", {**STYLE, "svg.hashsalt": self.name}]):
            buffer = StringIO()
            self.figure.savefig(
                buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
            )
        self.figure.patch.set_visible(True)
        return buffer.getvalue()

    def svg(self) -> str:
        return re.sub(r"(<svg[^>]*>)", r'\1\n <rect width="100%" height="100%" fill="#ffffff"/>', self._svg, count=1)

    def inline_svg(self) -> str:
        """The SVG as part of a page: colours by CSS, the page's font, ids that no other figure has."""
        text = self._svg
        text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
        text = re.sub(
            r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1), count=1
        )
        text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
        for mark in ('id="', "url(#", 'href="#'):
            text = text.replace(mark, f"{mark}{self.name}-")
        for colour, variable in CSS.items():
            text = text.replace(colour, variable)
        return text.replace("<svg", f'<svg role="img" aria-label="{escape(self.alt)}"', 1).strip()


def label_colour(value: int) -> str:
    """The same for a structure in every picture; from the eighth on they come again."""
    return CONTOURS[(value - 1) % len(CONTOURS)]


def draw_on_axes(draw: Callable[[Axes], None], size: tuple[float, float]) -> Figure:
    with style.context(["default", STYLE]):  # nnU-Net's trainer changes the font size of everything
        figure = Figure(figsize=size)
        draw(figure.subplots())
    return figure

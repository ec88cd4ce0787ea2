"""What figures of the report have in common."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pandas as pd
import pytest
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunet_assft.report.plot import NARROW, STYLE, WIDE, Plot, draw_on_axes, legend_below
from tests.report.conftest import Report

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("name", "columns"),
    [("RAND", 3), ("DKD+ASD, no second stage", 2), ("RAND, second stage with pseudo-labels of all", 1)],
)
def test_a_legend_is_no_wider_than_its_figure(name: str, columns: int) -> None:
    with style.context(["default", STYLE]):
        figure = Figure(figsize=WIDE)
        axes = figure.subplots()
        for i in range(8):
            axes.plot([0, 1], [i, i], label=f"{name} {i}")
        rows = legend_below(axes, 3)
        (legend,) = figure.legends
        for dpi in (72, 100, 200):  # SVG, and PNG
            figure.set_dpi(dpi)
            figure.draw_without_rendering()
            assert legend.get_window_extent().width <= figure.bbox.width
    assert len({text.get_window_extent().x0 for text in legend.get_texts()}) == columns
    assert rows == math.ceil(8 / columns)


def test_every_dot_has_its_text_for_the_pointer() -> None:
    """Two groups of dots, the ticks of the axes between the markers of other lines, and a name that means something in
    HTML."""

    def draw(axes: Axes) -> None:
        axes.scatter([0, 1], [0, 1], gid="first")
        axes.plot([0, 1], [1, 0], marker="o")
        axes.scatter([0.2, 0.8, 0.5], [0.5, 0.5, 0.5], gid="second", marker="^")

    dots = {"second": ["c", "d", "e"], "first": ["<a>", "b&b"]}
    plot = Plot("p", "", "", "", pd.DataFrame(), draw_on_axes(draw, NARROW), dots=dots)
    for svg in (plot.svg(), plot.inline_svg()):
        root = ElementTree.fromstring(svg)
        groups = {group.get("id", "").removeprefix("p-"): group for group in root.iter(f"{SVG}g")}
        for group, texts in dots.items():
            found = [(use.get("x"), use.findtext(f"{SVG}title")) for use in groups[group].iter(f"{SVG}use")]
            assert [text for _, text in found] == texts
        left_to_right = sorted(found, key=lambda dot: float(dot[0] or 0))  # of the first group
        assert [text for _, text in left_to_right] == ["<a>", "b&b"]
        assert len(list(root.iter(f"{SVG}title"))) == 5


def test_a_figure_on_the_page_has_the_font_of_the_page() -> None:
    plot = Plot("p", "", "", "", pd.DataFrame(), draw_on_axes(lambda axes: axes.set_xlabel("x"), NARROW))
    assert "DejaVu" in plot.svg()
    assert "DejaVu" not in plot.inline_svg()
    assert "font-size: 8.5px" in plot.inline_svg()


def test_dots_that_are_drawn_as_an_image_have_no_text() -> None:
    def draw(axes: Axes) -> None:
        axes.scatter([0, 1], [0, 1], gid="dots", rasterized=True)

    plot = Plot("p", "", "", "", pd.DataFrame(), draw_on_axes(draw, NARROW), dots={"dots": ["a", "b"]})
    assert "<image" in plot.svg()
    assert "<title>" not in plot.svg()


def test_text_can_be_read_on_a_phone(report: Report) -> None:
    """A figure is 382 pixels wide on a screen of 390; a `full` one keeps its width and is scrolled."""
    for plot in report.plots.values():
        svg = plot.svg()
        width = float(re.findall(r'viewBox="0 0 ([\d.]+)', svg)[0])
        smallest = min(float(size) for size in re.findall(r"font(?:-size)?: (?:\w+ )*([\d.]+)px", svg))
        shown = 16 * plot.width if plot.full else 382
        assert smallest * shown / width >= 9, plot.name

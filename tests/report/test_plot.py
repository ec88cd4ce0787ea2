"""What figures of the report have in common."""

from __future__ import annotations

import pytest
from matplotlib import style
from matplotlib.figure import Figure

from nnunet_assft.report.plot import STYLE, WIDE, legend_below


@pytest.mark.parametrize(
    ("name", "columns"),
    [("RAND", 3), ("DKD+ASD, no second stage", 2), ("RAND, second stage with pseudo-labels" * 2, 1)],
)
def test_a_legend_is_no_wider_than_its_figure(name: str, columns: int) -> None:
    with style.context(["default", STYLE]):
        figure = Figure(figsize=WIDE)
        axes = figure.subplots()
        for i in range(8):
            axes.plot([0, 1], [i, i], label=f"{name} {i}")
        legend_below(axes, 3)
        figure.draw_without_rendering()
        (legend,) = figure.legends
    assert len({text.get_window_extent().x0 for text in legend.get_texts()}) == columns
    assert legend.get_window_extent().width <= figure.bbox.width

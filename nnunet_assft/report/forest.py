"""Forest plots: differences with their intervals, one below the other."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from nnunet_assft.comparison.arms import name_of
from nnunet_assft.comparison.statistics import AUBC, NOT_SHOWN
from nnunet_assft.report.plot import INK, MUTED, SERIES, WIDE, Plot, draw_on_axes

COLUMNS = ["label", "difference", "low", "high", "shown"]
ROW_HEIGHT = 0.34  # inches
LABEL_WIDTH = 24  # characters


def aubc_forest(statistics: pd.DataFrame) -> Plot | None:
    """Plot the difference in AUBC of the reference from every other arm. statistics: rows of `compare_arms`; None if no
    arm can be compared."""
    rows = statistics[(statistics["round"] == AUBC) & (statistics["n_cases"] > 0)]
    if rows.empty:
        return None
    reference = name_of(rows["reference"].iloc[0])
    data = _in_points(rows.rename(columns={"arm": "label"}))
    data["label"], data["shown"] = data["label"].map(name_of), rows["verdict"].to_numpy() != NOT_SHOWN
    caption = (
        f"{reference} minus the other arm, in points of Dice: area under the budget curve with its 95 % interval over "
        f"seeds and test cases. Filled: a difference is shown after Holm's correction."
    )
    return _forest("aubc_forest", f"Differences of {reference}", caption, data)


def attribution_forest(parts: pd.DataFrame) -> Plot | None:
    """Plot the parts of the gain of ASSFT over random sampling. parts: rows of `attribution`; None if there are
    none."""
    if parts.empty or parts["n_cases"].iloc[-1] == 0:
        return None
    data = _in_points(parts.rename(columns={"part": "label", "gain": "difference"}))
    data["shown"] = True
    caption = (
        "What the gain in the area under the budget curve consists of, in points of Dice, with 95 % intervals over "
        "seeds and test cases. The parts add up to the last row."
    )
    return _forest("attribution", "Parts of the gain of ASSFT over random sampling", caption, data)


def _in_points(rows: pd.DataFrame) -> pd.DataFrame:
    numbers = 100 * rows[["difference", "ci_low", "ci_high"]].to_numpy(float)
    data = pd.DataFrame(numbers, columns=["difference", "low", "high"])
    return data.assign(label=rows["label"].to_numpy(), shown=False)[COLUMNS]


def _forest(name: str, title: str, caption: str, data: pd.DataFrame) -> Plot:
    """Make a forest plot of rows with COLUMNS; an interval that is not known (NaN) is not drawn."""
    told = "; ".join(
        f"{row.label} {row.difference:+.1f}" + ("" if np.isnan(row.low) else f" ({row.low:+.1f} to {row.high:+.1f})")
        for row in data.itertuples()
    )
    if data["low"].isna().any():
        caption += " Without an interval: it is not known with a single seed or a single test case."
    return Plot(
        name=name,
        title=title,
        caption=caption,
        alt=f"Forest plot, in points of Dice: {told}.",
        data=data,
        figure=draw_on_axes(lambda axes: _draw(axes, data), (WIDE[0], 0.7 + ROW_HEIGHT * len(data))),
    )


def _draw(axes: Axes, data: pd.DataFrame) -> None:
    for y, row in enumerate(data.itertuples()):
        axes.plot([row.low, row.high], [y, y], color=SERIES[0], linewidth=1.6, solid_capstyle="butt")
        face = SERIES[0] if row.shown else "none"
        axes.plot(row.difference, y, marker="o", color=SERIES[0], markerfacecolor=face, linestyle="none")
    axes.axvline(0, color=INK, linewidth=0.8)
    labels = [textwrap.fill(str(label), LABEL_WIDTH, break_long_words=False) for label in data["label"]]
    axes.set_yticks(range(len(data)), labels, color=INK, fontsize=7.5)
    axes.set_ylim(len(data) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("points of Dice", color=MUTED)

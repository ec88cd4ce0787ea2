"""Why cases were queried: the scores of the whole query pool in every round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.report.material import Material
from nnunet_assft.report.plot import MANY, MUTED, PAPER, SERIES, SMALLEST, WIDE, Plot, draw_on_axes, legend_below, note
from nnunet_assft.report.sections.base import MAX_ROWS, Section, SectionTable, dkd_is_random
from nnunet_assft.runtime.text import count

DKD_COLUMNS = ("pakd", "pd", "dkd", "dkd_minmax", "dkd_rank", "q")  # columns of a scores file that contain DKD
NAMES = {  # column of a scores file -> its name on the page
    "query_rank": "rank in the query",
    "position": "position in the random order",
    "pakd": "PAKD",
    "pd": "PD",
    "dkd": "DKD",
    "asd": "ASD",
    "dkd_minmax": "DKD, min-max",
    "asd_minmax": "ASD, min-max",
    "dkd_rank": "rank of DKD",
    "asd_rank": "rank of ASD",
    "q": "Q",
}
RANDOM = "E⁽⁰⁾ random"
MAX_NUMBERS = 12  # with more queried cases than this, their ranks are not drawn


def section(material: Material) -> Section:
    title, strategy = "Query", material.experiment.settings.strategy
    if not material.scores:
        why = "There are no scores, because round 0 has no query and no later round has a file of scores."
        return Section("query", title, missing=(why,))
    plots, tables, missing = [], [], []
    for done in reversed(material.rounds[1:]):
        if done.round not in material.scores:
            missing.append(f"The scores of round {done.round} are missing (scores_round_{done.round:02d}.csv).")
            continue
        scores, random = material.scores[done.round], dkd_is_random(material)
        plot = scores_plot(done.round, scores, random=random)
        plots += [plot] if plot else []
        tables += _tables(done.round, scores, random=random)
    text = [f"Strategy {strategy}: {STRATEGIES[strategy].description} ({STRATEGIES[strategy].source})."]
    if any({"dkd_rank", "asd_rank"} <= set(scores) for scores in material.scores.values()):
        text.append(
            "The ranks of DKD and ASD run from 0 (smallest) to 1 (largest) within the query pool; Q is their sum "
            "(Eq. 16)."
        )
    return Section("query", title, tuple(text), missing=tuple(missing), plots=tuple(plots), tables=tuple(tables))


def _tables(r: int, scores: pd.DataFrame, *, random: bool) -> list[SectionTable]:
    """Make a table of the queried cases by rank, and one of the other cases by Q if the strategy has it."""
    marked = {name: RANDOM for name in scores if random and name in DKD_COLUMNS}
    queried = scores[scores["query_rank"].notna()].sort_values("query_rank")
    rest = scores[scores["query_rank"].isna()]
    rest = rest.sort_values("q", ascending=False, kind="stable") if "q" in rest else rest
    tables = []
    for name, part in (("queried", queried), ("not_queried", rest)):
        tables.append(
            SectionTable(
                f"scores_round_{r:02d}_{name}",
                f"Round {r}: {count(len(part), 'case')} {name.replace('_', ' ')}",
                part.reset_index(drop=True),
                f"The first {MAX_ROWS} of {len(part)} cases; the CSV has all." if len(part) > MAX_ROWS else "",
                NAMES,
                marked,
                folded=name == "not_queried",
            )
        )
    return tables


# The plot -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _View:
    """What a plot of scores shows. data: columns case, query_rank, x and y. cut: the smallest Q of a queried case."""

    data: pd.DataFrame
    x: str
    y: str
    x_label: str
    y_label: str
    caption: str
    cut: float | None = None

    @property
    def queried(self) -> pd.DataFrame:
        return self.data[self.data["query_rank"].notna()].sort_values("query_rank")

    @property
    def rest(self) -> pd.DataFrame:
        return self.data[self.data["query_rank"].isna()]


def scores_plot(r: int, scores: pd.DataFrame, *, random: bool) -> Plot | None:
    """Plot the ranks of DKD and ASD if both are known, otherwise the first score of the strategy that varies.

    scores: rows of a scores file. random: see `dkd_is_random`; if it is, axes of DKD say so. Returns None if no score
    varies.
    """
    draw = _ranks if {"dkd_rank", "asd_rank", "q"} <= set(scores) else _one_score
    view = draw(r, scores, random=random)
    if view is None:
        return None
    names = ", ".join(view.queried["case"].head(MAX_NUMBERS))
    numbered = len(view.queried) <= MAX_NUMBERS
    return Plot(
        name=f"scores_round_{r:02d}",
        title=f"Scores of round {r}",
        caption=view.caption + (" Numbers: rank in the query." if numbered else ""),
        alt=f"Scatter plot of the scores of {len(scores)} cases in round {r}; queried: {names}.",
        data=view.data.reset_index(drop=True),
        figure=draw_on_axes(lambda axes: _draw(axes, view, numbered), WIDE),
        dots={
            "queried": [f"{case}, rank {rank:.0f}" for case, rank in view.queried[["case", "query_rank"]].to_numpy()],
            "rest": [f"{case}, not queried" for case in view.rest["case"]],
        },
    )


def _ranks(r: int, scores: pd.DataFrame, *, random: bool) -> _View:
    caption = (
        f"Round {r}: the {len(scores)} cases of the query pool; rank 1 is the largest score. The dashed line marks the "
        "smallest Q of a queried case."
    )
    return _View(
        data=scores[["case", "query_rank", "dkd_rank", "asd_rank", "q"]],
        x="dkd_rank",
        y="asd_rank",
        x_label=f"rank of DKD ({RANDOM})" if random else "rank of DKD",
        y_label="rank of ASD",
        caption=caption,
        cut=float(scores.loc[scores["query_rank"].notna(), "q"].min()),
    )


def _one_score(r: int, scores: pd.DataFrame, *, random: bool) -> _View | None:
    names = [name for name in scores if name not in ("case", "query_rank", "position") and scores[name].nunique() > 1]
    if not names:
        return None
    name = names[0]
    data = scores[["case", "query_rank", name]].sort_values(name, ascending=False, ignore_index=True)
    shown = NAMES.get(name, name.replace("_", " "))
    return _View(
        data=data.assign(order=np.arange(1, len(data) + 1)),
        x="order",
        y=name,
        x_label="cases, largest score first",
        y_label=f"{shown} ({RANDOM})" if random and name in DKD_COLUMNS else shown,
        caption=f"Round {r}: the score {shown} of the {len(scores)} cases of the query pool.",
    )


def _draw(axes: Axes, view: _View, numbered: bool) -> None:
    rest, queried = view.rest, view.queried
    hollow: dict[str, Any] = {"s": 20, "facecolors": "none", "edgecolors": MUTED, "linewidths": 1}
    axes.scatter(rest[view.x], rest[view.y], label="not queried", gid="rest", rasterized=len(rest) > MANY, **hollow)
    full: dict[str, Any] = {"s": 34, "color": SERIES[1], "marker": "^", "edgecolors": PAPER, "linewidths": 0.5}
    axes.scatter(queried[view.x], queried[view.y], label="queried", gid="queried", **full)
    for _, row in queried.iterrows() if numbered else ():
        note(axes, f"{row['query_rank']:.0f}", (row[view.x], row[view.y]), (5, 3), fontsize=SMALLEST)
    axes.set(xlabel=view.x_label, ylabel=view.y_label)
    if view.cut is not None:
        line = [view.cut - 1.05, 1.05]  # where the two ranks add up to the cut
        axes.plot(line, line[::-1], color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)), zorder=0)
        axes.set(xlim=(-0.06, 1.09), ylim=(-0.06, 1.09))
    legend_below(axes)

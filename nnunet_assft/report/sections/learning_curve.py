"""Dice on the test cases against the number of annotated cases, and against the minutes of their annotation."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from nnunet_assft.comparison.arms import name_of
from nnunet_assft.evaluation.intervals import student_interval
from nnunet_assft.report.material import Material
from nnunet_assft.report.plot import (
    SERIES,
    WIDE,
    Plot,
    dice_limits,
    draw_band,
    draw_on_axes,
    draw_reference,
    note,
    span,
)
from nnunet_assft.report.sections.base import Section, SectionTable
from nnunet_assft.report.sections.comparison import UPPER, arm_curves
from nnunet_assft.runtime.text import some

MAX_NAMES = 12  # of queried cases in a row of the table
UPPER_TEXT = "Upper bound: the same test cases after training on the whole pool of the comparison, mean over its seeds."
X_LABELS = {"n_labelled": "annotated cases", "minutes": "minutes of annotation"}


def section(material: Material) -> Section:
    title = "Learning curve"
    tables = (SectionTable("rounds", "Rounds", _rounds(material), "SD: over the test cases."),)
    if material.dice["dice"].notna().sum() == 0:
        why = "No test case has a Dice, so there is no learning curve."
        return Section("learning", title, missing=(why,), tables=tables)
    data = curve(material.dice).assign(**upper_bound(material))
    plots = [curve_plot(data, "n_labelled")]
    missing: tuple[str, ...] = ()
    labelled = {done.round: done.labelled for done in material.rounds}
    minutes = [sum(material.minutes.get(case, np.nan) for case in labelled[r]) for r in data["round"]]
    if not np.isnan(minutes).any():
        plots.append(curve_plot(data.assign(minutes=minutes), "minutes"))
    elif material.minutes:
        missing = ("There is no curve against time, because the minutes of some annotations are not known.",)
    return Section("learning", title, missing=missing, plots=tuple(plots), tables=tables)


def curve(dice: pd.DataFrame) -> pd.DataFrame:
    """Return the mean Dice of each round over its test cases, with Student's 95 % interval over the cases.

    dice: rows of `Material.dice`. The Dice of a case is the mean over its structures without those that are absent.
    There is one row per round with the columns round, n_labelled, n_cases, mean, sd, low and high, of which the last
    three are NaN for a single case.
    """
    per_case = dice.groupby(["round", "n_labelled", "case"])["dice"].mean().dropna()
    by_round = per_case.groupby(["round", "n_labelled"])
    data = by_round.agg(n_cases="count", mean="mean", sd="std").reset_index()
    intervals = [student_interval(scores.to_numpy()) for _, scores in by_round]
    return data.assign(low=[low for _, low, _ in intervals], high=[high for _, _, high in intervals])


def upper_bound(material: Material) -> dict[str, float]:
    """Return the mean Dice of the upper bound of the comparison as {"upper_bound": mean}. It is empty without a
    comparison, or if the upper bound does not have a Dice for every test case of the experiment."""
    if material.comparison is None:
        return {}
    results, cases = material.comparison.results, material.dice.dropna(subset=["dice"])["case"].unique()
    found = arm_curves(results[(results["arm"] == UPPER) & results["case"].isin(cases)])
    found = found[found["n_cases"] == len(cases)]
    return dict(zip(found["arm"], found["mean"], strict=True))


def curve_plot(data: pd.DataFrame, x: str) -> Plot:
    """Plot the learning curve. data: rows of `curve`, and a column `upper_bound` if that is to be drawn. x: the column
    for the horizontal axis, a key of X_LABELS."""
    upper = data.get("upper_bound", pd.Series(dtype=float)).head(1)
    limits = dice_limits(pd.concat([data, upper.to_frame("mean")]))

    def draw(axes: Axes) -> None:
        for mean in upper:
            draw_reference(axes, mean, f"{name_of(UPPER)} {mean:.3f}")
        draw_band(axes, data[x], data)
        axes.plot(data[x], data["mean"], color=SERIES[0], marker="o")
        for at, mean in zip(data[x], data["mean"], strict=True):
            note(axes, f"{mean:.3f}", (at, mean), (0, 7), ha="center", fontsize=7.5)
        axes.set(xlabel=X_LABELS[x], ylabel="Dice on the test cases", ylim=limits)
        if x == "n_labelled":
            axes.set_xticks(data[x])
        axes.margins(x=0.06)

    first, last = data.iloc[0], data.iloc[-1]
    return Plot(
        name="learning_curve" if x == "n_labelled" else f"learning_curve_{x}",
        title=f"Dice against {X_LABELS[x]}",
        caption=f"Mean over {span(data['n_cases'], 'test case')} (of each case, over its structures), one point per "
        "round. Band: Student's 95 % interval of the mean over cases; it does not include the variation "
        "between trainings." + (f" {UPPER_TEXT}" if len(upper) else ""),
        alt=f"Line chart of the mean test Dice against {X_LABELS[x]}: {first['mean']:.3f} at {first[x]:g}, "
        f"{last['mean']:.3f} at {last[x]:g}.",
        data=data,
        figure=draw_on_axes(draw, WIDE),
    )


def _rounds(material: Material) -> pd.DataFrame:
    rows = [
        {
            "round": done.round,
            "annotated": len(done.labelled),
            "pseudo-labelled": len(done.pseudo_labelled),
            "Dice, mean": done.dice["mean"],
            "SD": done.dice["sd"],
            "test cases": done.dice["n_cases"],
            "queried": some(done.queried, MAX_NAMES),
        }
        for done in material.rounds
    ]
    return pd.DataFrame(rows).astype({"Dice, mean": float, "SD": float})

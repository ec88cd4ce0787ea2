"""The findings of a comparison: curves of all arms, conclusions and tables."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunet_assft.comparison.arms import BOUNDS, name_of, ordered
from nnunet_assft.comparison.statistics import case_scores, folds_of
from nnunet_assft.evaluation.intervals import crossed_mean
from nnunet_assft.report.forest import attribution_forest, aubc_forest
from nnunet_assft.report.material import FinishedComparison, Material
from nnunet_assft.report.plot import (
    DASHES,
    INK,
    MARKERS,
    NARROW,
    RULE,
    SERIES,
    WIDE,
    Plot,
    dice_limits,
    draw_band,
    draw_on_axes,
    draw_reference,
    file_name,
    legend_below,
    span,
)
from nnunet_assft.report.sections.base import Section, SectionTable, arms_warning, arms_with_dkd

UPPER, BASELINE = "upper_bound", "random"
ROW_OF_LEGEND = 0.16  # inches


def section(material: Material) -> Section | None:
    compared = material.comparison
    if compared is None:
        return None
    curves = arm_curves(compared.results)
    warning = arms_warning(arms_with_dkd(compared, curves["arm"].unique()))
    findings = compared.findings
    drawn = (aubc_forest(findings.statistics), attribution_forest(findings.attribution))
    forests = [plot for plot in drawn if plot]
    text = (
        f"Comparison {compared.folder.name!r}. Bands: 95 % interval of the mean over other seeds and other test cases. "
        "It is not known with a single seed, and then there is no band.",
        *findings.compared,
        findings.conclusion,
    )
    return Section(
        "comparison",
        "Comparison",
        text,
        warning,
        findings.missing,
        plots=(arms_plot(curves), *forests, *arm_panels(curves)),
        tables=_tables(compared),
    )


def _tables(compared: FinishedComparison) -> tuple[SectionTable, ...]:
    findings = compared.findings
    sentences = pd.DataFrame({"conclusion": findings.one_by_one})
    title = "Conclusions, round by round and over the whole curve"
    return (
        *(SectionTable(f"comparison_{t.name}", t.title, t.frame, t.caption) for t in findings.tables),
        SectionTable("comparison_conclusions", title, sentences, folded=True),
        SectionTable("comparison_statistics", "All tests", findings.statistics, folded=True),
    )


def arm_curves(results: pd.DataFrame) -> pd.DataFrame:
    """Return the mean Dice of every arm and round, over the seeds that have the round and the cases that all these
    seeds have.

    results: rows of results.csv. The columns are arm, round, n_labelled, n_seeds, n_cases, mean, low and high; the last
    two are its interval, see `crossed_mean`. Arms are in the order of the paper's tables.
    """
    rows = []
    scores, folds = case_scores(results).dropna(subset=["score"]), folds_of(results)
    for arm in ordered(scores["arm"]):
        for r, group in scores[scores["arm"] == arm].groupby("round"):
            table = group.pivot_table(index="seed", columns="case", values="score").dropna(axis="columns")
            found = crossed_mean(table.to_numpy(), folds[table.columns])
            rows.append((arm, int(r), group["n_labelled"].max(), *table.shape, found.mean, *found.interval()))
    return pd.DataFrame(rows, columns=["arm", "round", "n_labelled", "n_seeds", "n_cases", "mean", "low", "high"])


# All arms in one plot -----------------------------------------------------------------------------------------------


def arms_plot(curves: pd.DataFrame) -> Plot:
    """Plot the means of all arms. curves: rows of `arm_curves`; the upper bound is a horizontal line."""
    is_bound = curves["arm"].isin(BOUNDS)
    shown, bounds = curves[~is_bound], curves[is_bound]
    n_arms = shown["arm"].nunique()
    upper = bounds[bounds["arm"] == UPPER]  # with the lower one, the curves would lie too close together
    last = shown.groupby("arm", sort=False).tail(1).sort_values("mean", ascending=False)
    told = ", ".join(f"{name_of(row.arm)} {row.mean:.3f}" for row in last.itertuples())
    caption = (
        f"Mean over {span(curves['n_cases'], 'test case')} and {span(curves['n_seeds'], 'seed')}. The small figures "
        "show the intervals."
    )
    return Plot(
        name="comparison_curves",
        title="All arms",
        caption=caption + "".join(f" {name_of(row.arm)}: {row.mean:.3f}." for row in bounds.itertuples()),
        alt=f"Line chart of the mean test Dice of {n_arms} arms. At the end: {told}.",
        data=curves,
        figure=draw_on_axes(lambda axes: _draw_arms(axes, shown, upper), WIDE),
    )


def _draw_arms(axes: Axes, shown: pd.DataFrame, upper: pd.DataFrame) -> None:
    for i, (arm, part) in enumerate(shown.groupby("arm", sort=False)):
        line: dict[str, Any] = {"color": SERIES[i % 6], "marker": MARKERS[i % 6], "linestyle": DASHES[i // 6 % 3]}
        axes.plot(part["n_labelled"], part["mean"], markersize=3.8, linewidth=1.2, label=name_of(str(arm)), **line)
    for mean in upper["mean"]:
        draw_reference(axes, mean, name_of(UPPER))
    axes.set(xlabel="annotated cases", ylabel="Dice on the test cases")
    axes.set_xticks(sorted(shown["n_labelled"].unique()))
    assert isinstance(axes.figure, Figure)
    axes.figure.set_figheight(WIDE[1] + ROW_OF_LEGEND * legend_below(axes, 3))


# One plot per arm ---------------------------------------------------------------------------------------------------


def arm_panels(curves: pd.DataFrame) -> list[Plot]:
    """Make one small plot per arm with its band, in front of the other arms."""
    shown = curves[~curves["arm"].isin(BOUNDS)]
    plots = []
    for i, arm in enumerate(shown["arm"].unique()):
        data = shown[shown["arm"] == arm].sort_values("n_labelled").reset_index(drop=True)

        def draw(axes: Axes, arm: str = arm, data: pd.DataFrame = data) -> None:
            _draw_panel(axes, arm, data, shown)

        told = ", ".join(f"{row.mean:.3f} at {row.n_labelled}" for row in data.itertuples())
        plots.append(
            Plot(
                name=f"arm_{i + 1:02d}_{file_name(arm)}",
                title=name_of(arm),
                caption=f"{span(data['n_cases'], 'case')}, {span(data['n_seeds'], 'seed')}",
                alt=f"Learning curve of {name_of(arm)}: {told}.",
                data=data,
                figure=draw_on_axes(draw, NARROW),
                narrow=True,
            )
        )
    return plots


def _draw_panel(axes: Axes, arm: str, data: pd.DataFrame, shown: pd.DataFrame) -> None:
    """Draw an arm with its band; random sampling is dashed, and the other arms are pale."""
    for other, part in shown[shown["arm"] != arm].groupby("arm", sort=False):
        look: dict[str, Any] = {"color": RULE, "linewidth": 1}
        if other == BASELINE:
            look |= {"color": INK, "linestyle": (0, (3, 2)), "label": name_of(other)}
        axes.plot(part["n_labelled"], part["mean"], **look)
    draw_band(axes, data["n_labelled"], data)
    axes.plot(data["n_labelled"], data["mean"], color=SERIES[0], marker="o")
    ticks = sorted(shown["n_labelled"].unique())
    axes.set(xlabel="annotated cases", ylabel="Dice", ylim=dice_limits(shown), xticks=ticks)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right")

"""Are the selected pseudo-labels better than the others? This is known only in a benchmark, where hidden labels
exist."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from nnunet_assft.active.options import PSEUDO
from nnunet_assft.comparison.statistics import p_text, selection_test
from nnunet_assft.report.material import Material
from nnunet_assft.report.plot import MUTED, NARROW, SERIES, WIDE, BoxLook, Plot, draw_box, draw_on_axes, legend_below
from nnunet_assft.report.sections.base import Section

SELECTED, UNSELECTED = BoxLook(SERIES[2], width=0.3), BoxLook(MUTED, filled=False, width=0.3)


def section(material: Material) -> Section:
    title, experiment = "Selected and unselected pseudo-labels", material.experiment
    if material.quality is None:
        why = (
            "The quality of the pseudo-labels has not been computed (pseudo_label_quality_round_RR.csv is missing). "
            "nnUNetv2_assft_compare computes it for its own runs; for a single experiment there is no command."
        )
        return Section(
            "pseudo_labels",
            title,
            missing=(why if experiment.settings.second_stage == PSEUDO else "The experiment makes no pseudo-labels.",),
        )
    own = experiment.options.selection
    known = material.quality.dropna(subset=["dice"])
    of_selection = {str(name): rows for name, rows in known.groupby("selection")}
    names = sorted(of_selection, key=lambda name: (name != own, name))
    plots = tuple(selection_plot(name, of_selection[name], name == own) for name in names)
    text = (
        "Dice of the pseudo-label of every unlabelled case against its hidden label. It is known only in a benchmark, "
        "and is computed after the round. The small figures show what other selection strategies would have chosen."
    )
    return Section("pseudo_labels", title, (text,), plots=plots)


def selection_plot(selection: str, quality: pd.DataFrame, is_own: bool) -> Plot:
    """Plot the Dice of selected and unselected cases as a pair of boxes per round.

    quality: rows of one selection strategy with the columns round, case, selected and dice, without NaN. is_own:
    whether it is the selection of this experiment.
    """
    data = quality[["round", "case", "selected", "dice"]].reset_index(drop=True)
    rounds = sorted(data["round"].unique())

    def draw(axes: Axes) -> None:
        for (r, selected), group in data.groupby(["round", "selected"]):
            draw_box(
                axes, r - 0.2 if selected else r + 0.2, group["dice"].to_numpy(), SELECTED if selected else UNSELECTED
            )
        axes.scatter([], [], marker="s", color=SERIES[2], label="selected")
        axes.scatter([], [], marker="s", facecolors="none", edgecolors=MUTED, label="not selected")
        limits = (min(rounds) - 0.6, max(rounds) + 0.6)
        axes.set(xlabel="round", ylabel="Dice of the pseudo-label", xticks=rounds, xlim=limits)
        legend_below(axes, 2)

    tests = list(selection_test(quality).itertuples())
    told = "; ".join(
        f"round {row.round}: {row.n_selected} against {row.n_unselected}, {row.reason or f'p = {p_text(row.p)}'}"
        for row in tests
    )
    medians = "; ".join(
        f"round {row.round}: {row.median_selected:.2f} and {row.median_unselected:.2f}" for row in tests
    )
    return Plot(
        name=f"pseudo_labels_{selection}",
        title=f"Selected by “{selection}”" + (" (this experiment)" if is_own else ""),
        caption=f"Mann-Whitney U test, two-sided: {told}.",
        alt=f"Box plots of the Dice of selected and unselected cases in each round. Medians: {medians}.",
        data=data,
        figure=draw_on_axes(draw, WIDE if is_own else NARROW),
        narrow=not is_own,
    )

"""Dice of every structure on the test cases, round by round."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from nnunet_assft.report.material import Material
from nnunet_assft.report.plot import NARROW, BoxLook, Plot, draw_box, draw_on_axes, file_name
from nnunet_assft.report.sections.base import Section


def section(material: Material) -> Section:
    title = "Dice per structure"
    if material.dice["dice"].notna().sum() == 0:
        return Section("structures", title, missing=("No test case has a Dice.",))
    text = (
        f"Dice of {material.dice['case'].nunique()} test cases in each round: median, quartiles, and whiskers to 1.5 "
        "times the distance between the quartiles; every dot is a case. A case is left out if the structure is absent "
        "in both reference and prediction; its Dice is 0 if the structure is absent in one of them."
    )
    plots = tuple(structure_boxes(material.dice))
    return Section("structures", title, (text,), plots=plots)


def structure_boxes(dice: pd.DataFrame) -> list[Plot]:
    """Make one small plot per structure, with a box per round. dice: rows of `Material.dice`."""
    rounds = sorted(dice["round"].unique())
    plots = []
    for i, (structure, group) in enumerate(dice.groupby("structure", sort=False)):
        data = group[["round", "case", "dice"]].dropna().reset_index(drop=True)

        def draw(axes: Axes, data: pd.DataFrame = data) -> None:
            for r, of_round in data.groupby("round"):
                draw_box(axes, r, of_round["dice"].to_numpy(), BoxLook(dots=f"round_{r}"))
            axes.set(xlabel="round", ylabel="Dice", xticks=rounds, ylim=(-0.03, 1.03))
            axes.set_xlim(min(rounds) - 0.6, max(rounds) + 0.6)

        dots = {
            f"round_{r}": [f"{case}, {dice:.3f}" for case, dice in of_round[["case", "dice"]].to_numpy()]
            for r, of_round in data.groupby("round")
        }
        medians = data.groupby("round")["dice"].median()
        told = ", ".join(f"{median:.2f} in round {r}" for r, median in medians.items())
        plots.append(
            Plot(
                name=f"dice_{i + 1:02d}_{file_name(str(structure))}",
                title=str(structure).replace("_", " "),
                caption="",
                alt=f"Box plots of the Dice of {structure} in each round. Medians: {told or 'none'}.",
                data=data,
                figure=draw_on_axes(draw, NARROW),
                narrow=True,
                dots=dots,
            )
        )
    return plots

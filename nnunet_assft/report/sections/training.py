"""Training curves: loss and pseudo-Dice of every epoch, as nnU-Net logged them in its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from nnunet_assft.report.material import Material
from nnunet_assft.report.plot import DASHES, MUTED, RULE, SERIES, SMALLEST, WIDE, Plot, draw_on_axes, legend_below, note
from nnunet_assft.report.sections.base import Section
from nnunet_assft.runtime.text import count

LOSSES = {"train_loss": "training", "val_loss": "validation, on training cases"}  # column -> name in the legend
PSEUDO_DICE = {"pseudo_dice": "pseudo-Dice"}


def section(material: Material) -> Section:
    training = material.training
    missing = [
        f"There is no training curve of {', '.join(stages)}, because {why}."
        for stages, why in (
            (training.absent, "the checkpoint no longer exists"),
            (training.damaged, "the checkpoint cannot be read"),
        )
        if stages
    ]
    plots = training_plots(training.epochs) if len(training.epochs) else []
    return Section("training", "Training", missing=tuple(missing), plots=tuple(plots))


def training_plots(epochs: pd.DataFrame) -> list[Plot]:
    """Plot loss and pseudo-Dice over all epochs of the experiment. epochs: rows of `TrainingCurves.epochs`, in
    order."""
    data = epochs.assign(total_epoch=np.arange(1, len(epochs) + 1))
    n_stages = len(data.groupby(["round", "stage"]))
    keys = ["round", "stage", "epoch", "total_epoch"]
    loss = Plot(
        name="training_loss",
        title="Loss",
        caption=f"{count(n_stages, 'stage')} of training, each from one vertical line to the next; the first one of a "
        "round is labelled. nnU-Net's loss is Dice loss plus cross-entropy. The validation cases are training cases, "
        "because there are no other labels.",
        alt=f"Line chart of the loss over {len(data)} epochs.",
        data=data[[*keys, *LOSSES]],
        figure=draw_on_axes(lambda axes: _draw(axes, data, LOSSES, "loss"), WIDE),
    )
    dice = Plot(
        name="training_pseudo_dice",
        title="Pseudo-Dice",
        caption="nnU-Net's pseudo-Dice of each epoch: the mean over structures, on patches of training cases. "
        "It shows that training ran, not how good the model is.",
        alt=f"Line chart of the pseudo-Dice over {len(data)} epochs.",
        data=data[[*keys, *PSEUDO_DICE]],
        figure=draw_on_axes(lambda axes: _draw(axes, data, PSEUDO_DICE, "pseudo-Dice, training cases"), WIDE),
    )
    return [loss, dice]


def _draw(axes: Axes, data: pd.DataFrame, columns: Mapping[str, str], label: str) -> None:
    """Draw a line per column and stage, and a vertical line where a stage begins, with its round above the axes, where
    no curve is."""
    stages = data.groupby(["round", "stage"], sort=False)
    for i, (column, name) in enumerate(columns.items()):
        for j, (_, part) in enumerate(stages):
            marker = "." if len(part) < 3 else None
            line: dict[str, Any] = {"color": SERIES[i], "linestyle": DASHES[i], "linewidth": 1.2, "marker": marker}
            axes.plot(part["total_epoch"], part[column], label=None if j else name, **line)
    for (r, stage), start in stages["total_epoch"].min().items():
        axes.axvline(start - 0.5, color=RULE, linewidth=1, zorder=0)
        is_long_enough = (data["round"] == r).sum() > 0.08 * len(data)
        if stage == "supervised" and is_long_enough:
            at = (start - 0.5, 1)
            note(axes, f"round {r}", at, (0, 2), xycoords=("data", "axes fraction"), fontsize=SMALLEST, color=MUTED)
    axes.set(xlabel="epochs so far", ylabel=label)
    axes.grid(axis="x", visible=False)
    if len(columns) > 1:
        legend_below(axes)

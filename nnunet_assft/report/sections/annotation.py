"""The work of the annotators: who drew a case, for how long, and how much of the pre-segmentation they changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from nnunet_assft.annotation.agreement import MEAN
from nnunet_assft.annotation.records import load_readings
from nnunet_assft.errors import AssftError
from nnunet_assft.evaluation.dice import case_dice, mean_of
from nnunet_assft.report.material import Material
from nnunet_assft.report.plot import SERIES, WIDE, Plot, draw_on_axes
from nnunet_assft.report.sections.base import Section, SectionTable
from nnunet_assft.runtime.csv_files import bare_table

TEXT = (
    "The Dice of a pre-segmentation, which the model of the round before has made, is that against the label that came "
    "back. It needs no test case, but it is not the Dice of the model on new cases: a strategy has chosen the queried "
    "cases, and an annotator who corrects a segmentation tends to leave what is nearly right."
)


def section(material: Material) -> Section | None:
    """Return the section, or None in a benchmark."""
    if material.experiment.settings.annotator != "human":
        return None
    table = annotated_cases(material)
    tables, missing = [SectionTable("annotation", "Annotated cases", table)], []
    for done in material.rounds:
        file = material.experiment.paths.agreement_file(done.round)
        if not file.is_file():
            continue
        agreement = _agreement(file)
        if agreement is None:
            missing.append(f"{file.name} is no longer as it was written, so it is not shown.")
        else:
            title = f"Agreement of two annotators in round {done.round}"
            tables.append(SectionTable(f"agreement_round_{done.round:02d}", title, agreement, "Dice per structure."))
    if table["minutes"].isna().any():
        missing.append("Minutes that nobody has recorded are missing; annotate import takes --minutes or --times.")
    plots = () if table["Dice of the pre-segmentation"].isna().all() else (_plot(table),)
    return Section("annotation", "Annotation", (TEXT,), missing=tuple(missing), plots=plots, tables=tuple(tables))


def _agreement(file: Path) -> pd.DataFrame | None:
    """Return the table of `write_agreement`; None if somebody has saved it in another form."""
    texts = {"case": str, "reader_1": str, "reader_2": str}
    try:
        table = pd.read_csv(file, dtype=texts, keep_default_na=False)
    except (OSError, ValueError):  # of pandas, and of another encoding
        return None
    return bare_table(table) if {*texts, MEAN} <= set(table.columns) else None


def annotated_cases(material: Material) -> pd.DataFrame:
    """Return one row per case that a human has labelled before the start, in a round or by a second look at its
    pseudo-label, with NaN for what is not known."""
    paths, rows, given = material.experiment.paths, [], set(material.experiment.labelled_at_start)
    asked = [
        (done.round, case, paths.previews(done.round), "no, labelled at the start" if case in given else "query")
        for done in material.rounds
        for case in done.queried
    ]
    for change in material.experiment.history:
        r = change.round - 1  # which has pseudo-labelled the cases
        asked += [(r, case, paths.second_look(r), "second look") for case in change.labelled]
    for r, case, folder, why in asked:
        readings = load_readings(paths.annotation_file(case))
        rows.append(
            {
                "round": r,
                "case": case,
                "annotator": ", ".join(str(entry["annotator"]) for entry in readings if entry["annotator"]),
                "minutes": material.minutes.get(case, np.nan),
                "decision": ", ".join(entry["decision"] for entry in readings if entry.get("decision")),
                "asked for": why,
                "Dice of the pre-segmentation": _dice_of_prelabel(material, folder, case),
            }
        )
    return pd.DataFrame(rows).astype({"minutes": float, "Dice of the pre-segmentation": float})


def _dice_of_prelabel(material: Material, folder: Path, case: str) -> float:
    """Return the mean over the structures; NaN without a pre-segmentation or a label that can be read."""
    dataset = material.dataset
    prelabel, label = folder / f"{case}{dataset.file_ending}", dataset.label_file(case)
    if not (prelabel.is_file() and label.is_file()):
        return np.nan
    try:
        arrays = (dataset.reader.read_seg(str(file))[0] for file in (prelabel, label))
        segmentation, reference = (dataset.as_annotated(case, array) for array in arrays)
    except (RuntimeError, ValueError, OSError, AssftError):
        return np.nan
    dice = case_dice(segmentation, reference, dataset.structures, ignore_label=dataset.ignore_label)
    mean = mean_of(dice.values())
    return np.nan if mean is None else mean


def _plot(table: pd.DataFrame) -> Plot:
    column = "Dice of the pre-segmentation"
    data = table[["round", "case", column]].dropna().reset_index(drop=True)
    means = data.groupby("round")[column].mean()

    def draw(axes: Axes) -> None:
        axes.scatter(data["round"], data[column], s=14, color=SERIES[0], alpha=0.6, linewidths=0)
        axes.plot(means.index, means, color=SERIES[0], marker="o")
        axes.set(xlabel="round", ylabel=column, xticks=list(means.index), ylim=(-0.03, 1.03))

    told = ", ".join(f"{mean:.2f} in round {r}" for r, mean in means.items())
    return Plot(
        name="prelabel_dice",
        title="How good the pre-segmentations were",
        caption="Every dot is a queried case; the line is their mean.",
        alt=f"Scatter plot of the Dice of the pre-segmentations against the round. Means: {told}.",
        data=data,
        figure=draw_on_axes(draw, WIDE),
    )

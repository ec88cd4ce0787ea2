"""The test cases after the last round: the Dice of each, and pictures of the best, the median and the worst one. The
files of a case that was withdrawn since are not needed, as they may have been deleted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from nnunet_assft.cluster.engines import HERE, Engine
from nnunet_assft.evaluation.case_metrics import cached_metrics, metrics_or_none
from nnunet_assft.report.images import MAX_VOXELS, load_volume, why_no_images
from nnunet_assft.report.material import Material
from nnunet_assft.report.overlay import overlay_plot
from nnunet_assft.report.plot import Plot
from nnunet_assft.report.sections.base import Section, SectionTable, grey_values, no_picture
from nnunet_assft.runtime.text import count
from nnunet_assft.volumes.display import window_of
from nnunet_assft.volumes.raw_dataset import RawDataset

DISTANCES = (
    "Dice and NSD are means over the test cases. HD95 is the median, because it is infinite for a case in which the "
    "structure is missing in the label or in the segmentation alone; the last column counts these cases."
)
MEAN = "mean"  # of the structures; the first column of numbers


def section(material: Material) -> Section:
    title, last = "Test cases", material.rounds[-1]
    if material.dice["dice"].notna().sum() == 0:
        return Section("test_cases", title, missing=("No test case has a Dice.",))
    table = dice_of_cases(material.dice, last.round)
    tables = (
        SectionTable("test_cases", f"Dice after round {last.round}", table, folded=True),
        *(distances := _distances(material)),
    )
    missing = [] if distances else ["NSD and HD95 were not computed; add --distances to compute them."]
    left = _without_withdrawn(material, table)
    why = why_no_images(material.dataset) or (None if len(left) else "There are no pictures of withdrawn cases.")
    if why:
        return Section("test_cases", title, missing=(why, *missing), tables=tables)
    plots, window = [], window_of(material.dataset)
    for rule, case in tqdm(chosen_cases(left).items(), desc="test cases", unit="case", leave=False):
        try:
            plots.append(_picture(material, rule, case, float(table.set_index("case").loc[case, MEAN])))
        except (RuntimeError, ValueError, KeyError) as error:  # noqa: PERF203 - one case must not stop the others
            missing.append(no_picture(case, error))
    text = (
        f"The best, the median and the worst of {count(len(left), 'test case')} by their Dice after round "
        f"{last.round}, mean over the structures. Solid contours: the label. Dashed contours: the segmentation by the "
        "model. The slices are those with the largest segmented area, in radiological orientation. "
        f"{grey_values(window)}"
    )
    return Section("test_cases", title, (text,), missing=tuple(missing), plots=tuple(plots), tables=tables)


def compute_distances(material: Material, engine: Engine = HERE) -> None:
    """Compute NSD and HD95 of the test cases after the last round and keep them beside the segmentations.

    engine: where the cases are worked on. Raises `AssftError` if a segmentation or a label does not exist.
    """
    cached_metrics(*_of_last_round(material), engine=engine)


def _without_withdrawn(material: Material, table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a table of `dice_of_cases` whose case was not withdrawn."""
    return table[~table["case"].isin(list(material.experiment.withdrawn))]


def _of_last_round(material: Material) -> tuple[RawDataset, list[str], Path, dict[str, str]]:
    """Return the arguments of `evaluation.case_metrics`: the cases that have a Dice and were not withdrawn, and what
    segmented them."""
    last = material.rounds[-1]
    table = _without_withdrawn(material, dice_of_cases(material.dice, last.round))
    cases = sorted(str(case) for case in table["case"])
    folder = material.experiment.paths.test_predictions(last.round)
    return material.dataset, cases, folder, {"model": last.model.weights_sha256}


def _distances(material: Material) -> tuple[SectionTable, ...]:
    metrics = metrics_or_none(*_of_last_round(material))
    if metrics is None:
        return ()
    title = f"Dice, NSD and HD95 after round {material.rounds[-1].round}"
    return (SectionTable("distances", title, by_structure(metrics), DISTANCES),)


def by_structure(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return one row per structure: the means of Dice and NSD, the median HD95, and how many cases have one that is not
    finite.

    metrics: rows of `evaluation.case_metrics`. Absent structures, which have NaN, are left out.
    """
    rows = []
    for structure, group in metrics.groupby("structure", sort=False):
        known = group[group["dice"].notna()]
        rows.append(
            {
                "structure": structure,
                "cases": len(known),
                "Dice": known["dice"].mean(),
                "NSD at 1 mm": known["nsd"].mean(),
                "HD95 in mm, median": known["hd95_mm"].median(),
                "missed or false": int(np.isinf(known["hd95_mm"]).sum()),
            }
        )
    return pd.DataFrame(rows)


def dice_of_cases(dice: pd.DataFrame, r: int) -> pd.DataFrame:
    """Return one row per test case of round r, the worst first: case, the mean over its structures, each structure.

    dice: rows of `Material.dice`. Cases without a Dice are left out. Of equal cases, the smaller id comes first.
    """
    of_round = dice[dice["round"] == r]
    table = of_round.pivot(index="case", columns="structure", values="dice")
    table = table[list(dict.fromkeys(of_round["structure"]))]
    table.insert(0, MEAN, table.mean(axis="columns"), allow_duplicates=True)
    return table[table.iloc[:, 0].notna()].sort_index().sort_values(MEAN, kind="stable").reset_index()


def chosen_cases(table: pd.DataFrame) -> dict[str, str]:
    """Return rule -> case, from a table of `dice_of_cases`. The median is the lower one of the middle two. Fewer than
    three cases give fewer rules."""
    cases = [str(case) for case in table["case"]]
    chosen = {"best": cases[-1], "median": cases[(len(cases) - 1) // 2], "worst": cases[0]}
    return {rule: case for i, (rule, case) in enumerate(chosen.items()) if case not in list(chosen.values())[:i]}


def _picture(material: Material, rule: str, case: str, dice: float) -> Plot:
    dataset, last = material.dataset, material.rounds[-1]
    prediction = material.experiment.paths.test_predictions(last.round) / f"{case}{dataset.file_ending}"
    if not prediction.is_file():
        raise ValueError(f"{prediction.parent.name} has no {prediction.name}")
    files = {"label": dataset.label_file(case), "segmentation": prediction}
    volume = load_volume(dataset.images_of(case)[0], files, MAX_VOXELS, window_of(dataset))
    caption = f"Dice {dice:.3f}, mean over the structures, after round {last.round}."
    return overlay_plot(f"test_case_{rule}", f"{case}, the {rule} case", caption, volume, dataset.structures)

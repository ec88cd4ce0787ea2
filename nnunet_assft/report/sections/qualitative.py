"""Segmentations of test cases by all arms of a comparison, side by side with the reference, as in Figs. 2 to 4 of the
paper. The cases are chosen by a rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from nnunet_assft.comparison.arms import BOUNDS, Arm, Comparison, name_of, ordered
from nnunet_assft.comparison.conclusions import reference_arm
from nnunet_assft.comparison.statistics import DIGITS, case_scores
from nnunet_assft.errors import AssftError
from nnunet_assft.report.images import Volume, load_volume, why_no_images
from nnunet_assft.report.material import FinishedComparison, Material
from nnunet_assft.report.plot import Plot
from nnunet_assft.report.sections.base import Section, grey_values, no_picture
from nnunet_assft.report.side_by_side import Column, SideBySide, largest_component
from nnunet_assft.volumes.display import window_of
from nnunet_assft.volumes.raw_dataset import RawDataset

MAX_GRID_VOXELS = 3_000_000  # of a case, about 145 x 145 x 145
REFERENCE, BASELINE = "reference", "random"
LOWER, UPPER = BOUNDS
# rule -> the difference of its case, from those of all cases
RULES: dict[str, Callable[[pd.Series], float]] = {
    "median": lambda differences: differences.quantile(0.5, interpolation="lower"),
    "best": lambda differences: differences.max(),
    "worst": lambda differences: differences.min(),
}


class Choice(NamedTuple):
    """A case that is shown. rule: one of RULES. difference: in Dice, the first minus the second of the two arms."""

    rule: str
    case: str
    difference: float


@dataclass(frozen=True)
class Shown:
    """What is shown: the segmentations by one seed after one round.

    pair: ids of the two arms compared. folders: id of an arm -> its folder of predictions, None if there is none, in
    the order of the columns. dice: (id of an arm, case) -> mean over the structures.
    """

    pair: tuple[str, str]
    seed: int
    round: int
    folders: Mapping[str, Path | None]
    dice: Mapping[tuple[str, str], float]


def section(material: Material) -> Section | None:
    compared = material.comparison
    if compared is None:
        return None
    id_, title, dataset = "qualitative", "Segmentations side by side", material.dataset
    if why := why_no_images(dataset):
        return Section(id_, title, missing=(why,))
    shown = what_is_shown(compared)
    results = _of_first_fold(compared.results)
    results = results[~results["case"].isin(list(material.experiment.withdrawn))]  # no picture of these
    choices = choose_cases(results, shown.pair, shown.round) if shown else []
    if shown is None or not choices:
        why = "There are no two arms with the Dice of a case after the same round and with the first seed."
        return Section(id_, title, missing=(why,))
    window = window_of(dataset)
    plots: list[Plot] = []
    missing: list[str] = []
    for choice in tqdm(choices, desc="side by side", unit="case", leave=False):
        try:
            plot = case_plot(choice, shown, dataset, window)
        except (RuntimeError, ValueError) as error:
            missing.append(no_picture(choice.case, error))
            continue
        plots.append(plot)
    return Section(id_, title, (_text(shown, window),), missing=tuple(missing), plots=tuple(plots))


def _text(shown: Shown, window: tuple[float, float] | None) -> str:
    return (
        "A rule chooses the cases: those with the median, the best and the worst difference in Dice between "
        f"{_names(shown)} (bold). Below each arm is its Dice for the case with seed {shown.seed}, mean over the "
        "structures. The planes go through the largest connected region in which the segmentations by these two arms "
        "differ, each where its area is largest. The red box contains the largest part of the region in the plane, and "
        "is at the same place in all columns. Panels show the part of the scan in which anything is segmented, in "
        f"radiological orientation. {grey_values(window)}"
    )


def _names(shown: Shown, between: str = " and ") -> str:
    return between.join(map(name_of, shown.pair))


# What is shown ------------------------------------------------------------------------------------------------------


def what_is_shown(compared: FinishedComparison) -> Shown | None:
    """Return what is shown of a comparison: the first fold and seed, after the last round that both arms compared have
    finished with them. None if there is no such round after round 0, which is the same for all strategies."""
    spec, seed = compared.spec, compared.spec.seeds[0]
    pair, results = arms_compared(spec), _of_first_fold(compared.results)
    of_seed = results[results["seed"] == seed]
    rounds = [set(of_seed.loc[(of_seed["arm"] == arm) & (of_seed["round"] > 0), "round"]) for arm in pair]
    if not rounds or not set.intersection(*rounds):
        return None
    first, second = pair
    r = int(max(set.intersection(*rounds)))
    arms = {arm.id: arm for arm in spec.arms if arm.id != LOWER}
    folders = {arm: predictions_of(spec, arms[arm], seed, r) for arm in dict.fromkeys((*pair, *ordered(arms)))}
    if not folders.get(UPPER):
        folders.pop(UPPER, None)
    scores = case_scores(of_seed)
    scores = scores[(scores["round"] == r) | (scores["arm"] == UPPER)]  # the upper bound has one round
    dice = dict(zip(zip(scores["arm"], scores["case"], strict=True), scores["score"], strict=True))
    return Shown((first, second), seed, r, folders, dice)


def _of_first_fold(results: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the first test fold, whose segmentations are shown."""
    return results[results["fold"] == 0] if "fold" in results else results


def arms_compared(spec: Comparison) -> tuple[str, ...]:
    """Return the ids of the two arms whose difference is looked at: the one with which the conclusions compare the
    others, and random, or otherwise the first other arm that is no bound. Empty if there is no other arm."""
    first = reference_arm(spec).id
    others = [arm.id for arm in spec.arms if arm.id != first and not arm.is_bound]
    return (first, BASELINE if BASELINE in others else others[0]) if others else ()


def predictions_of(spec: Comparison, arm: Arm, seed: int, r: int) -> Path | None:
    """Return the folder of an arm's segmentations of the test cases after round r; None if they do not exist. Those of
    a bound are the same for all rounds."""
    try:
        experiment = arm.load_experiment_or_none(spec, seed)
    except AssftError:  # for example, its strategy is not installed here
        return None
    found = arm.predictions(spec, experiment, seed) if experiment else ()
    return next((done.folder for done in found if arm.is_bound or done.round == r), None)


def choose_cases(results: pd.DataFrame, pair: tuple[str, str], r: int) -> list[Choice]:
    """Choose the median, the best and the worst case of the difference in Dice between two arms in round r.

    results: rows of results.csv. The Dice of a case is the mean over its structures, and the difference the mean over
    the seeds that have this round of both arms. Cases that lack a Dice with one of these seeds are left out. Of an even
    number of differences, the median is the lower one of the middle two. Of equal differences, the smaller case id is
    chosen. No case is chosen twice: the best case is that of all but the median, and so on, so that fewer than three
    cases give fewer choices.
    """
    scores = case_scores(results[results["arm"].isin(pair) & (results["round"] == r)])
    table = scores.pivot(index="case", columns=["arm", "seed"], values="score").sort_index()
    by_seed = (table[pair[0]] - table[pair[1]]).dropna(axis="columns", how="all").dropna()
    left = by_seed.mean(axis="columns").dropna().round(DIGITS)
    choices = []
    for rule, value_of in RULES.items():
        if left.empty:
            break
        value = value_of(left)
        case = str(left.index[left == value][0])
        choices.append(Choice(rule, case, float(value)))
        left = left.drop(case)
    return choices


# The figure of a case -----------------------------------------------------------------------------------------------


def case_plot(choice: Choice, shown: Shown, dataset: RawDataset, window: tuple[float, float] | None) -> Plot:
    """Make the figure of a case. window: see `volumes.display`. Raises RuntimeError or ValueError if the case is no
    longer in the dataset or its files cannot be read."""
    case = choice.case
    if case not in dataset.images and case not in dataset.test_images:
        raise ValueError(f"{dataset.name} no longer has it")
    files = {arm: folder / f"{case}{dataset.file_ending}" for arm, folder in shown.folders.items() if folder}
    files = {REFERENCE: dataset.label_file(case), **{arm: file for arm, file in files.items() if file.is_file()}}
    volume = load_volume(dataset.images_of(case)[0], files, MAX_GRID_VOXELS, window)
    columns = [Column("Reference", volume.segmentations[REFERENCE])]
    for arm in shown.folders:
        dice = shown.dice.get((arm, case), math.nan)
        title = f"{name_of(arm)}\nDice {'unknown' if math.isnan(dice) else f'{dice:.3f}'}"
        columns.append(Column(title, volume.segmentations.get(arm), arm in shown.pair))
    both = [volume.segmentations[arm] for arm in shown.pair if arm in volume.segmentations]
    region = largest_component(both[0] != both[1]) if len(both) == 2 else np.zeros(volume.image.shape, bool)
    drawn = SideBySide(volume, columns, region, dataset.structures)
    told = "; ".join(" ".join(column.title.split()) for column in columns)
    return Plot(
        name=f"qualitative_{choice.rule}",
        title=f"{case}, the {choice.rule} case",
        caption=f"The {choice.rule} difference in Dice, {_names(shown, ' minus ')}, mean over structures and seeds: "
        f"{choice.difference:+.3f}. Round {shown.round}, seed {shown.seed}. {_boxed(both, region, volume)}",
        alt=f"{case}: axial, coronal and sagittal slice with the segmentations {told}.",
        data=drawn.pixels(),
        figure=drawn.figure(),
        full=True,
    )


def _boxed(both: Sequence[np.ndarray], region: np.ndarray, volume: Volume) -> str:
    """Return a sentence on the region in which both segmentations differ most, or on why there is none."""
    if len(both) < 2:
        return "There is no box, because a segmentation is missing."
    if not region.any():
        return "There is no box, because both segmentations are the same."
    ml = float(region.sum() * np.prod(volume.spacing)) / 1000
    return f"Largest region in which they differ: {ml:.{0 if ml >= 10 else 2}f} ml."

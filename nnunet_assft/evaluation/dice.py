"""Compute Dice with nnU-Net's own functions.

Absent structures are treated as by nnU-Net: the Dice of a structure that is absent in reference and prediction is NaN
and is left out of every mean; that of a structure that is absent in one of them is 0.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TypedDict

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from nnunet_assft.runtime.cases import Executor, for_each_case, here
from nnunet_assft.runtime.files import signature
from nnunet_assft.volumes.not_annotated import as_annotated
from nnunet_assft.volumes.raw_dataset import RawDataset


class Dice(TypedDict):
    """Dice of predictions, see `evaluate_cases`."""

    mean: float | None
    sd: float | None
    n_cases: int
    per_structure: dict[str, float | None]
    per_case: dict[str, dict[str, float | None]]


def evaluate_cases(dataset: RawDataset, predictions: Mapping[str, Path], *, executor: Executor = here) -> Dice:
    """Compare predictions (case -> file) with the labels of the dataset: Dice per case and structure, and mean and SD
    as in the paper, where the Dice of a case is the mean over its structures, and mean and SD (n - 1) are over cases.

    Dice is in [0, 1], and None where nnU-Net has NaN and for a structure that nobody drew in the label. Voxels with the
    ignore label do not count. Returns the keys mean, sd, n_cases (cases with a Dice), per_structure and per_case.
    """
    labels = dataset.structures
    of_cases = {}
    for case in sorted(predictions):
        files = predictions[case], dataset.label_file(case)
        # with their signatures, by which an executor tells a result of files that were replaced since
        of_cases[case] = (*files, dataset.not_annotated.get(case, ()), signature(files))
    compare = partial(_dice_of_files, dataset.reader, labels, dataset.ignore_label)
    per_case = for_each_case(compare, of_cases, desc="evaluation", executor=executor)
    case_means = [mean_of(dice.values()) for dice in per_case.values()]
    known = [mean for mean in case_means if mean is not None]
    return {
        "mean": mean_of(known),
        "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        "n_cases": len(known),
        "per_structure": {name: mean_of(dice[name] for dice in per_case.values()) for name in labels},
        "per_case": per_case,
    }


def _dice_of_files(
    reader: BaseReaderWriter,
    labels: Mapping[str, int],
    ignore_label: int | None,
    of_case: tuple[Path, Path, Collection[str], object],
) -> dict[str, float | None]:
    *files, missing, _ = of_case
    segmentation, reference = (as_annotated(reader.read_seg(str(file))[0], labels, missing) for file in files)
    return case_dice(segmentation, reference, labels, ignore_label=ignore_label)


def case_dice(
    segmentation: np.ndarray, reference: np.ndarray, labels: Mapping[str, int], *, ignore_label: int | None = None
) -> dict[str, float | None]:
    """Compute Dice per structure of one case, from arrays of the same shape; otherwise like `evaluate_cases`.

    labels: structure -> value, foreground only.
    """
    from nnunetv2.evaluation.evaluate_predictions import (  # with torch
        compute_tp_fp_fn_tn,
        region_or_label_to_mask,
    )

    ignored = reference == ignore_label if ignore_label is not None else None
    dice: dict[str, float | None] = {}
    for name, value in labels.items():
        masks = (region_or_label_to_mask(array, value) for array in (reference, segmentation))
        tp, fp, fn, _ = (int(count) for count in compute_tp_fp_fn_tn(*masks, ignored))
        dice[name] = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None
    return dice


def wrong_share(segmentation: np.ndarray, reference: np.ndarray, *, ignore_label: int | None = None) -> float | None:
    """Return the share of the voxels with a structure in the segmentation or the reference in which the two differ.

    Voxels that the reference ignores do not count. None if no voxel has a structure.
    """
    counted = (segmentation > 0) | (reference > 0)
    if ignore_label is not None:
        counted &= reference != ignore_label
    return float((segmentation != reference)[counted].mean()) if counted.any() else None


def mean_of(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not None, or None if there are none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None

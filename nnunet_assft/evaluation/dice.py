"""Dice on the test cases, counted by nnU-Net's own functions.

Absent structures are treated as nnU-Net does: a structure that is absent in reference and prediction is NaN and left
out of every mean; a structure that is absent in one of them has Dice 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.evaluation.evaluate_predictions import compute_tp_fp_fn_tn, region_or_label_to_mask
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from nnunet_assft.runtime.cases import for_each_case


def evaluate_cases(
    predictions: Mapping[str, Path],
    references: Mapping[str, Path],
    reader: BaseReaderWriter,
    labels: Mapping[str, int],
    *,
    ignore_label: int | None = None,
) -> dict[str, Any]:
    """Dice per case and structure, and their mean and SD as the paper prints them: per case over structures, then over
    cases.

    labels: structure -> value, foreground only. Dice is in [0, 1], and None where nnU-Net has NaN. SD over cases, with
    n - 1.
    """

    def evaluate(case: str) -> dict[str, float | None]:
        segmentation, reference = (reader.read_seg(str(files[case]))[0] for files in (predictions, references))
        return case_dice(segmentation, reference, labels, ignore_label=ignore_label)

    per_case = for_each_case(evaluate, sorted(predictions), desc="evaluation")
    case_means = [mean_of(dice.values()) for dice in per_case.values()]
    known = [mean for mean in case_means if mean is not None]
    return {
        "mean": mean_of(known),
        "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        "n_cases": len(known),
        "per_structure": {name: mean_of(dice[name] for dice in per_case.values()) for name in labels},
        "per_case": per_case,
    }


def case_dice(
    segmentation: np.ndarray, reference: np.ndarray, labels: Mapping[str, int], *, ignore_label: int | None = None
) -> dict[str, float | None]:
    """Dice per structure of one case in memory; the arrays have the same shape. The rest is as in `evaluate_cases`."""
    ignored = reference == ignore_label if ignore_label is not None else None
    dice: dict[str, float | None] = {}
    for name, value in labels.items():
        masks = (region_or_label_to_mask(array, value) for array in (reference, segmentation))
        tp, fp, fn, _ = (int(count) for count in compute_tp_fp_fn_tn(*masks, ignored))
        dice[name] = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None
    return dice


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are not None; None if nothing is left."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None

"""Agreement between two annotators of the same cases: Dice per structure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nnunet_assft.active.annotation import AnnotationRequest
from nnunet_assft.active.context import Context
from nnunet_assft.annotation.records import load_readings, reading_of
from nnunet_assft.evaluation.dice import evaluate_cases, mean_of
from nnunet_assft.runtime.csv_files import write_csv
from nnunet_assft.volumes.labels import read_label

DICE, MEAN = "dice_", "mean_dice"  # the beginning of the column of a structure, and the column of their mean


def write_agreement(context: Context, request: AnnotationRequest) -> list[dict[str, Any]]:
    """Write agreement_round_RR.csv and return its rows: one per case that two annotators have labelled.

    Returns an empty list and writes nothing if there is no such case yet. The Dice is that of nnU-Net's evaluator, with
    the first annotator's label as the reference (Dice is symmetric). It is None where neither annotator has drawn the
    structure, and where it is not annotated in one of the two labels. The column of a structure begins with DICE,
    because a structure may be called like any other column. Raises `AssftError` for a label that was damaged since it
    was imported.
    """
    dataset = context.experiment.raw_dataset()  # as it is after an import
    second, missing = {}, {}
    for case, names in request.annotators.items():
        if len(names) > 1:
            other = context.paths.second_reading(names[1], case, dataset.file_ending)
            if dataset.label_file(case).is_file() and other.is_file():
                second[case] = other
                for file in (dataset.label_file(case), other):
                    read_label(dataset, case, file)
                reading = reading_of(load_readings(context.paths.annotation_file(case)), names[1])
                missing[case] = (*dataset.not_annotated.get(case, ()), *(reading.get("not_annotated") or ()))
    if not second:
        return []
    found = evaluate_cases(replace(dataset, not_annotated=missing), second)
    rows = []
    for case, dice in found["per_case"].items():
        reader_1, reader_2 = request.annotators[case]
        of_structures = {f"{DICE}{name}": value for name, value in dice.items()}
        rows.append(
            {"case": case, "reader_1": reader_1, "reader_2": reader_2, **of_structures, MEAN: mean_of(dice.values())}
        )
    write_csv(context.paths.agreement_file(request.round), rows)
    return rows

"""Agreement between two readers of the same cases: Dice per structure."""

from __future__ import annotations

from typing import Any

from nnunet_assft.active.annotation import Request
from nnunet_assft.active.context import Context
from nnunet_assft.evaluation.dice import evaluate_cases, mean_of
from nnunet_assft.runtime.files import write_csv


def write_agreement(context: Context, request: Request) -> list[dict[str, Any]]:
    """One row per doubly read case whose two labels are in, and agreement_round_RR.csv with the same; empty: none yet.

    Dice by nnU-Net's evaluator, the first reader's label as reference; it is symmetric. None where neither has the structure.
    """
    dataset = context.dataset
    labels = dataset.structures
    first, second, names = {}, {}, {}
    for case, readers in request.readers.items():
        if len(readers) > 1:
            other = context.paths.second_reading(readers[1], case, dataset.file_ending)
            if dataset.label_file(case).is_file() and other.is_file():
                first[case], second[case], names[case] = dataset.label_file(case), other, readers
    if not first:
        return []
    per_case = evaluate_cases(second, first, dataset.reader, labels, ignore_label=dataset.labels.get("ignore"))[
        "per_case"
    ]
    rows = [
        {"case": case, "reader_1": names[case][0], "reader_2": names[case][1], **dice, "mean": mean_of(dice.values())}
        for case, dice in per_case.items()
    ]
    write_csv(context.paths.agreement_file(request.round), rows)
    return rows

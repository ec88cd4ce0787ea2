"""Which labels of the round in progress have been returned, and by whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_assft.active.annotation import AnnotationRequest
from nnunet_assft.active.state import Experiment
from nnunet_assft.annotation.records import is_rejected, load_readings


@dataclass(frozen=True)
class Progress:
    """The state of one annotator's label of a case. minutes: None if unknown. state: in words."""

    case: str
    annotator: str | None
    minutes: float | None
    state: str


def progress(experiment: Experiment, request: AnnotationRequest) -> list[Progress]:
    """Return one row per case and annotator, in the order of the work list."""
    dataset = experiment.raw_dataset()
    rows = []
    for case in request.cases:
        record = experiment.paths.annotation_file(case)
        readings = {entry["annotator"]: entry for entry in load_readings(record)}
        first, *others = request.annotators[case] or (next(iter(readings), None),)
        if is_rejected(record, request.round, second_look=request.second_look):
            minutes = readings[first]["minutes"] if first in readings else None
            rows.append(Progress(case, first, minutes, "pre-segmentation rejected, to be drawn from scratch"))
        else:
            rows.append(_first_reading(case, first, dataset.label_file(case), readings))
        for name in others:
            file = experiment.paths.second_reading(str(name), case, dataset.file_ending)
            rows.append(_second_reading(case, name, file, readings))
    return rows


def _first_reading(case: str, annotator: str | None, file: Path, readings: Mapping[str | None, Any]) -> Progress:
    """The progress of the label that is trained on."""
    if not file.is_file():
        return Progress(case, annotator, None, "missing")
    if annotator not in readings:
        return Progress(case, annotator, None, "put into labelsTr by hand")
    return Progress(case, annotator, readings[annotator]["minutes"], "imported")


def _second_reading(case: str, annotator: str | None, file: Path, readings: Mapping[str | None, Any]) -> Progress:
    if file.is_file() and annotator in readings:
        return Progress(case, annotator, readings[annotator]["minutes"], "second reading, imported")
    return Progress(case, annotator, None, "second reading, missing (the round does not wait for it)")

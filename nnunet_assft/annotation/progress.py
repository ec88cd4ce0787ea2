"""Which labels of the round in progress have been returned, and by whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_assft.active.annotation import AnnotationRequest
from nnunet_assft.active.state import Experiment
from nnunet_assft.annotation.records import load_readings, reading_of, rejected_by


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
        readings = load_readings(record)
        rejected = rejected_by(record, request.round, second_look=request.second_look)
        first, *others = request.annotators[case] or (readings[0]["annotator"] if readings else None,)
        state = _first_reading(reading_of(readings, first), dataset.label_file(case), rejected=first in rejected)
        rows.append(Progress(case, first, reading_of(readings, first).get("minutes"), state))
        for name in others:
            file = experiment.paths.second_reading(str(name), case, dataset.file_ending)
            state = _second_reading(reading_of(readings, name), file, rejected=name in rejected)
            rows.append(Progress(case, name, reading_of(readings, name).get("minutes"), state))
    return rows


def _first_reading(entry: Mapping[str, Any], file: Path, *, rejected: bool) -> str:
    """The progress of the label that is trained on. entry: that of its annotator, empty if there is none."""
    if not file.is_file():
        return "pre-segmentation rejected, to be drawn from scratch" if rejected else "missing"
    return "imported" if entry.get("label_sha256") else f"put into {file.parent.name} by hand"


def _second_reading(entry: Mapping[str, Any], file: Path, *, rejected: bool) -> str:
    if file.is_file() and entry.get("label_sha256"):
        return "second reading, imported"
    return f"second reading, {'rejected' if rejected else 'missing'} (the round does not wait for it)"

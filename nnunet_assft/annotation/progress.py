"""Which labels have been returned, by whom, and which structures are annotated least."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_assft.active.annotation import AnnotationRequest, counted_cases, missing_labels, queried_cases
from nnunet_assft.active.state import Experiment, finished_rounds
from nnunet_assft.annotation.records import load_readings
from nnunet_assft.runtime.text import count, some


def annotated_counts(experiment: Experiment) -> tuple[int, dict[str, int]]:
    """Return the number of labelled cases, and structure -> number of them in which it is annotated, the least first.

    Labelled are the cases of the finished rounds and those of the round in progress that have a label already.
    """
    dataset, done = experiment.raw_dataset(), finished_rounds(experiment)
    r = len(done)
    queried = counted_cases(experiment, r, queried_cases(experiment, r)) if r <= experiment.n_rounds else []
    cases = {*(done[-1].labelled if done else ()), *queried}.difference(missing_labels(dataset, queried))
    cases -= experiment.withdrawn
    counts = dataset.count_annotated(cases)
    return len(cases), dict(sorted(counts.items(), key=lambda item: item[1]))


def least_annotated(experiment: Experiment) -> str:
    """Return a sentence about the structures that some labelled cases lack, the rarest first; "" if there are none."""
    n_cases, counts = annotated_counts(experiment)
    lacking = [f"{name} in {n}" for name, n in counts.items() if n < n_cases]
    if not lacking:
        return ""
    return f"Of {count(n_cases, 'labelled case')}, not all have every structure annotated: {some(lacking, 10)}."


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
        readings = {entry["annotator"]: entry for entry in load_readings(experiment.paths.annotation_file(case))}
        first, *others = request.annotators[case] or (next(iter(readings), None),)
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

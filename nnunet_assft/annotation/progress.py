"""Which labels of the round in progress are in, and by whom."""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_assft.active.annotation import Request
from nnunet_assft.active.state import Experiment
from nnunet_assft.runtime.files import read_json
from nnunet_assft.volumes.raw_dataset import find_dataset


@dataclass(frozen=True)
class Progress:
    """One reading. minutes: None if nobody said. state: in words."""

    case: str
    annotator: str | None
    minutes: float | None
    state: str


def progress(experiment: Experiment, request: Request) -> list[Progress]:
    """One row per case and reader, in the order of the work list."""
    dataset = find_dataset(experiment.dataset)
    rows = []
    for case in request.cases:
        file = experiment.paths.annotation_file(case)
        readings = {entry["annotator"]: entry for entry in (read_json(file)["readings"] if file.is_file() else ())}
        for i, annotator in enumerate(request.readers[case] or (next(iter(readings), None),)):
            first = i == 0
            target = (
                dataset.label_file(case)
                if first
                else experiment.paths.second_reading(str(annotator), case, dataset.file_ending)
            )
            imported = target.is_file() and annotator in readings
            if imported:
                state = "imported" if first else "second reading, imported"
            elif target.is_file():
                state = "put into labelsTr by hand"
            else:
                state = "missing" if first else "second reading, missing (the round does not wait for it)"
            rows.append(Progress(case, annotator, readings[annotator]["minutes"] if imported else None, state))
    return rows

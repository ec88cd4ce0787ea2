"""Records of imported labels: one JSON file per case, which says who drew it, how long it took, and its volumes."""

from __future__ import annotations

import re
import reprlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from nnunet_assft.active.context import Context
from nnunet_assft.active.state import finished_rounds
from nnunet_assft.annotation.gate import LabelSummary, summarize
from nnunet_assft.annotation.minutes import REJECT
from nnunet_assft.annotation.returned import Returned
from nnunet_assft.errors import AssftError, DamagedFileError
from nnunet_assft.runtime.files import atomic_path, sha256_file
from nnunet_assft.runtime.sealed import read_sealed, write_sealed
from nnunet_assft.runtime.text import reason
from nnunet_assft.volumes.grid import itk_grid
from nnunet_assft.volumes.not_annotated import annotated
from nnunet_assft.volumes.segmentations import InFileAxes

SCHEMA_VERSION = 1
KEYS = ("schema_version", "case", "round", "second_look", "readings", "replaced")
REMEDY = "It records who drew the label of a case. Delete it, and import the label again to write it anew."
ENTRY: dict[str, Any] = {  # what is read of an entry -> its types
    "annotator": (str, type(None)),
    "minutes": (int, float, type(None)),
    "source_sha256": (str, type(None)),  # None if a pre-segmentation was rejected, and there is no label yet
    "label_sha256": (str, type(None)),
    "volumes_ml": dict,
    "left_mm": dict,
    "not_annotated": (list, type(None)),  # None in files of earlier versions: nothing is missing
}


def load_readings(file: Path) -> list[dict[str, Any]]:
    """Return one entry per imported label of a case. file: `ExperimentPaths.annotation_file`; no entry without it.

    Raises `DamagedFileError` if the file is damaged.
    """
    if not file.is_file():
        return []
    readings = read_sealed(file, KEYS, remedy=REMEDY).get("readings")
    if not isinstance(readings, list) or not all(map(_is_entry, readings)):
        raise DamagedFileError(f"{file} is damaged: its readings are {reprlib.repr(readings)}. {REMEDY}")
    return readings


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(name), kind) for name, kind in ENTRY.items())


def reading_of(readings: Sequence[dict[str, Any]], annotator: str | None) -> dict[str, Any]:
    """The entry of one annotator's label; empty if there is none."""
    return next((entry for entry in readings if entry["annotator"] == annotator), {})


def rejected_by(file: Path, r: int | None, *, second_look: bool = False) -> list[str | None]:
    """Return the annotators who have rejected the pre-segmentation that they were given in round r, or for a second
    look at its pseudo-label, and have not drawn a label since. file: see `load_readings`."""
    readings = load_readings(file) if _is_of(file, r, second_look=second_look) else []
    return [entry["annotator"] for entry in readings if entry.get("decision") == REJECT and not entry["label_sha256"]]


def _is_of(file: Path, r: int | None, *, second_look: bool) -> bool:
    """Whether the last entry of a record belongs to this request."""
    content = read_sealed(file, KEYS, remedy=REMEDY) if file.is_file() else {}
    return (content.get("round"), content.get("second_look", False)) == (r, second_look)


def annotation_minutes(annotations: Path) -> dict[str, float]:
    """Return case -> minutes of annotation, summed over its annotators. A case is left out unless all are known.

    annotations: `ExperimentPaths.annotations` of an experiment.
    """
    minutes: dict[str, float] = {}
    for file in sorted(annotations.glob("*.json")):
        told = [reading["minutes"] for reading in load_readings(file)]
        if told and None not in told:
            minutes[file.stem] = float(sum(told))
    return minutes


def save_record(context: Context, returned: Returned, entry: Mapping[str, Any]) -> None:
    """Save an entry, which replaces an earlier one by the same annotator. Entries of the case's other annotators
    remain, except for rejections of a pre-segmentation that another request has shown."""
    file, asked = context.paths.annotation_file(returned.case), returned.asked
    is_of = _is_of(file, asked.round, second_look=asked.second_look)
    others = [
        old
        for old in load_readings(file)
        if old["annotator"] in asked.annotators
        and old["annotator"] != entry["annotator"]
        and (is_of or old["label_sha256"])
    ]
    name = re.compile(rf"{re.escape(returned.case)}_[0-9a-f]{{8}}{re.escape(context.dataset.file_ending)}")
    content = {
        "schema_version": SCHEMA_VERSION,
        "case": returned.case,
        "round": asked.round,
        "second_look": asked.second_look,
        "readings": [*others, dict(entry)],
        # listed from the folder, so that the list is complete even if an import was interrupted before this line
        "replaced": sorted(file.name for file in _replaced(context).glob("*") if name.fullmatch(file.name)),
    }
    write_sealed(file, content)


def keep_aside(context: Context, case: str, label: Path) -> str:
    """Copy a label that will be replaced, and return the name of the copy, which contains a checksum of the label.

    Copying the same label twice therefore keeps one copy.
    """
    name = f"{case}_{sha256_file(label)[:8]}{context.dataset.file_ending}"
    with atomic_path(_replaced(context) / name) as partial:
        shutil.copyfile(label, partial)
    return name


def summaries_so_far(context: Context) -> dict[str, LabelSummary]:
    """Summarize the human labels of finished rounds. Those of the round in progress are left out, so that the result
    does not depend on the order in which they are returned."""
    done = finished_rounds(context.experiment)
    cases = [case for case in done[-1].labelled if case not in context.experiment.withdrawn] if done else []
    return {case: _summary_of(context, case) for case in cases if context.dataset.label_file(case).is_file()}


def _summary_of(context: Context, case: str) -> LabelSummary:
    """Take the summary from the record of a label, or measure the file if it was put into labelsTr by hand."""
    file, missing = context.dataset.label_file(case), context.dataset.not_annotated.get(case, ())
    digest = sha256_file(file)
    for entry in load_readings(context.paths.annotation_file(case)):
        if entry["label_sha256"] == digest:
            return LabelSummary(annotated(entry["volumes_ml"], missing), annotated(entry["left_mm"], missing))
    try:
        label = sitk.ReadImage(str(file))
        labels = annotated(context.dataset.labels, missing)
        return summarize(InFileAxes(sitk.GetArrayFromImage(label)), itk_grid(label), labels)
    except (RuntimeError, ValueError) as error:
        raise AssftError(
            f"The label of case {case} in labelsTr cannot be read ({file}): {reason(error)}. "
            "Replace it and run the same command again."
        ) from error


def _replaced(context: Context) -> Path:
    return context.paths.annotations / "replaced"

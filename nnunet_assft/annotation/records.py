"""Records of imported labels: one JSON file per case, which says who drew it, how long it took, and its volumes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from nnunet_assft.active.context import Context
from nnunet_assft.active.state import finished_rounds
from nnunet_assft.annotation.gate import LabelSummary, summarize
from nnunet_assft.annotation.minutes import read_annotation
from nnunet_assft.annotation.returned import Returned
from nnunet_assft.runtime.files import atomic_path, sha256_file
from nnunet_assft.runtime.sealed import write_sealed
from nnunet_assft.volumes.grid import itk_grid
from nnunet_assft.volumes.segmentations import InFileAxes

SCHEMA_VERSION = 1


def load_record(context: Context, case: str) -> dict[str, Any]:
    """Load the record of an imported case; empty if there is none."""
    file = context.paths.annotation_file(case)
    return read_annotation(file) if file.is_file() else {}


def reading_of(record: Mapping[str, Any], annotator: str | None) -> dict[str, Any]:
    """The entry of one annotator's label in the record of a case; empty if there is none."""
    return next((entry for entry in record.get("readings", ()) if entry["annotator"] == annotator), {})


def save_record(context: Context, returned: Returned, entry: Mapping[str, Any]) -> None:
    """Save an entry, which replaces an earlier one by the same annotator. Entries of the case's other annotators
    remain."""
    others = [
        old
        for old in load_record(context, returned.case).get("readings", ())
        if old["annotator"] in returned.asked.annotators and old["annotator"] != entry["annotator"]
    ]
    name = re.compile(rf"{re.escape(returned.case)}_[0-9a-f]{{8}}{re.escape(context.dataset.file_ending)}")
    content = {
        "schema_version": SCHEMA_VERSION,
        "case": returned.case,
        "round": returned.asked.round,
        "readings": [*others, dict(entry)],
        # listed from the folder, so that the list is complete even if an import was interrupted before this line
        "replaced": sorted(file.name for file in _replaced(context).glob("*") if name.fullmatch(file.name)),
    }
    write_sealed(context.paths.annotation_file(returned.case), content)


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
    cases = done[-1].labelled if done else ()
    return {case: _summary_of(context, case) for case in cases if context.dataset.label_file(case).is_file()}


def _summary_of(context: Context, case: str) -> LabelSummary:
    """Take the summary from the record of a label, or measure the file if it was put into labelsTr by hand."""
    file = context.dataset.label_file(case)
    digest = sha256_file(file)
    for entry in load_record(context, case).get("readings", ()):
        if entry["label_sha256"] == digest:
            return LabelSummary(entry["volumes_ml"], entry["left_mm"])
    label = sitk.ReadImage(str(file))
    return summarize(InFileAxes(sitk.GetArrayFromImage(label)), itk_grid(label), context.dataset.labels)


def _replaced(context: Context) -> Path:
    return context.paths.annotations / "replaced"

"""The text files of a work folder: label tables for 3D Slicer and ITK-SNAP, the work list, and the annotator's
README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnunet_assft.active.annotation import AnnotationRequest, least_annotated
from nnunet_assft.active.context import Context
from nnunet_assft.active.finished import read_provenance, restore_tables
from nnunet_assft.active.state import Experiment
from nnunet_assft.runtime.csv_files import read_csv
from nnunet_assft.runtime.text import count, printable
from nnunet_assft.volumes.structures import colour, structures

EXPORT_FILE = "export.json"  # says which request a work folder belongs to
PAGE = "worklist.html"
OF_DICOM = (
    "DICOM viewers: prelabels/CASE.dcm is the pre-segmentation as DICOM SEG, if there is one. Save yours as DICOM SEG "
    "in {where}, under any name. These files name the patients."
)
OF_TEST_CASES = (
    "The network will be measured by these labels, so there is no pre-segmentation. Do not look at what a model has "
    "made of these images."
)
DECIDE = (
    "Write a decision beside them, if you like:",
    "  accept: the pre-segmentation is right as it is and becomes the label. You need not save anything.",
    "  fix: you have corrected it and saved the result.",
    "  reject: it is no help. Draw the case from scratch; it is asked for until you do.",
)


def slicer_colours(labels: Mapping[str, int]) -> str:
    """Return a colour table of 3D Slicer (.ctbl). Each line has the number, the name, and R G B A from 0 to 255.

    Slicer splits lines at white space and has no quotes; underscores take the place of white space in a name.
    """
    rows = [
        f"{value} {printable('_'.join(name.split()))} {' '.join(map(str, rgb))} {0 if value == 0 else 255}"
        for name, value, rgb in _rows(labels)
    ]
    return "\n".join(["# Color table file", f"# {len(rows)} values", *rows, ""])


def itksnap_labels(labels: Mapping[str, int]) -> str:
    """Return a label description file of ITK-SNAP. Each line has the number, R G B, opacity, visibility, visibility in
    the mesh, and the name in double quotes; single ones take their place in a name, as the format has no escape."""
    lines = [
        "################################################",
        "# ITK-SnAP Label Description File",
        "# File format:",
        "# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL",
        "################################################",
    ]
    for name, value, (r, g, b) in _rows(labels):
        shown = 0 if value == 0 else 1
        quoted = f'"{printable(name).replace(chr(34), chr(39))}"'
        lines.append(f"{value:5d} {r:5d} {g:4d} {b:4d} {shown:8d} {shown:2d} {shown:2d}    {quoted}")
    return "\n".join([*lines, ""])


def _rows(labels: Mapping[str, int]) -> list[tuple[str, int, tuple[int, int, int]]]:
    rows = []
    for name, value in sorted(labels.items(), key=lambda item: item[1]):
        r, g, b = (0.5, 0.5, 0.5) if name == "ignore" else colour(value)
        rows.append((name, value, (round(255 * r), round(255 * g), round(255 * b))))
    return rows


def scores_of(experiment: Experiment, request: AnnotationRequest) -> dict[str, dict[str, float | str]]:
    """Return case -> the scores that it was chosen by: those of the strategy, or of a second look, those that its
    pseudo-label was selected by, with its rank among the selected ones. Empty for what is not known, and for test
    cases, which were not chosen."""
    if request.round is None:
        return {}
    if request.second_look:
        entries = read_provenance(experiment.paths.pseudo_label_folder(request.round))["cases"]
        names = {
            "selection_rank": "rank",
            "confidence": "confidence",
            "distance": "distance",
            "reliability": "reliability",
        }
        return {case: {name: entries[case][key] for name, key in names.items()} for case in request.cases}
    restore_tables(experiment.paths, request.round)  # a spreadsheet may have saved the scores in another form
    file = experiment.paths.scores_file(request.round)
    rows = {row.pop("case"): row for row in read_csv(file)} if file.is_file() else {}
    return {case: {k: v for k, v in row.items() if k != "query_rank"} for case, row in rows.items()}


def work_list(
    request: AnnotationRequest,
    scores: Mapping[str, Mapping[str, float | str]],
    previews: Mapping[str, Mapping[str, Any]],
    labels: Mapping[str, int],
    remarks: Mapping[str, Sequence[str]],
) -> list[dict[str, Any]]:
    """Return one row per case, in the order of the request.

    scores: see `scores_of`. previews: case -> `preview.describe`, empty in round 0. remarks: see `Export`.
    """
    rows = []
    for rank, case in enumerate(request.cases, 1):
        row: dict[str, Any] = {"case": case, "rank": rank}
        if any(request.annotators.values()):
            row["annotators"] = " ".join(request.annotators[case])
        row |= {name: _short(value) for name, value in scores.get(case, {}).items()}
        seen = previews.get(case)
        if seen:
            row |= {f"predicted_ml_{name}": round(seen["volumes_ml"][name], 3) for name in structures(labels)}
            row |= {"most_uncertain": seen["most_uncertain"] or "", "suggested_slice": seen["slice"]}
            row |= {"slice_axis": seen["slice_axis"], "slice_s_mm": round(seen["slice_s_mm"], 2)}
            row["remarks"] = "; ".join(remarks.get(case, ()))
        rows.append(row)
    return rows


def _short(value: float | str) -> str:
    """Return a number with four significant digits; the file of scores has all of them."""
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return str(value)


def readme(context: Context, request: AnnotationRequest, *, has_model: bool, prelabel: bool, dicom: bool) -> str:
    """Return the text of README.txt. prelabel: whether the annotators get the model's segmentation. dicom: whether it
    is also there as DICOM."""
    ending, labels = context.dataset.file_ending, sorted(context.dataset.labels.items(), key=lambda item: item[1])
    where = "annotations/YOUR_NAME/" if any(request.annotators.values()) else "annotations/"
    known = ", ".join(f"{value} {printable(name)}" for name, value in labels)
    lines = [
        f"{_what_it_is(request)}, in the order of worklist.csv.",
        f"Open {PAGE} in a browser to see them{'' if request.round is None else ', and why they were chosen'}.",
        "",
        f"images/CASE_0000{ending} is the image, as a copy.",
        *([OF_TEST_CASES] if request.round is None else _what_the_model_says(ending, has_model, prelabel)),
        f"Labels: {known}.",
        "",
        *_how_to_draw(ending, where, prelabel=has_model and prelabel),
        *([OF_DICOM.format(where=where)] if dicom else []),
        "Do not resample, crop or reorient anything. Save one file per case.",
        "Write the minutes that each case took into times.csv.",
        *([f"{rare} Draw above all what is rare."] if (rare := least_annotated(context.experiment)) else []),
        *(DECIDE if has_model and prelabel else ()),
        *_who_decides([case for case, names in request.annotators.items() if len(names) > 1]),
        "",
        "When you have finished one or more cases, run "
        + context.experiment.command("annotate import", "WORK_FOLDER", "--times", "WORK_FOLDER/times.csv"),
        "If you have not drawn a structure, add --not_annotated STRUCTURE. Otherwise it counts as absent.",
    ]
    return "\n".join([*lines, ""])


def _what_it_is(request: AnnotationRequest) -> str:
    if request.second_look:
        asked = count(len(request.cases), "pseudo-label")
        return f"A second look at {asked} of round {request.round}"
    if request.round is None:
        return f"{count(len(request.cases), 'test case')} to annotate"
    return f"Round {request.round}: {count(len(request.cases), 'case')} to annotate"


def _how_to_draw(ending: str, where: str, *, prelabel: bool) -> list[str]:
    in_slicer, in_snap = "make a segmentation with the colour table labels.ctbl, which names its segments.", ""
    if prelabel:
        in_slicer = (
            "load the pre-segmentation as Segmentation with the colour table labels.ctbl. Keep the segments' names."
        )
        in_snap = f"open prelabels/CASE{ending} as the segmentation, "
    return [
        f"3D Slicer: load the image, and {in_slicer}",
        f"  Save the segmentation as {where}CASE.seg.nrrd. Segments must not overlap (Segment Editor, Masking).",
        f"ITK-SNAP: open the image, load labels_itksnap.txt, {in_snap}and save the result as {where}CASE.nii.gz.",
        *(["  Use Save As: what is saved over the file in prelabels/ is not imported."] if prelabel else []),
    ]


def _what_the_model_says(ending: str, has_model: bool, prelabel: bool) -> list[str]:
    if not has_model:
        return ["There is no pre-segmentation, because no model has been trained yet."]
    overlays = "overlays/CASE.png shows where the model is uncertain, on the slice that worklist.csv suggests."
    if not prelabel:
        return ["There is no pre-segmentation, because the export was made with --no_prelabel.", overlays]
    return [f"prelabels/CASE{ending} is the segmentation by the model. Check all of it and correct it.", overlays]


def _who_decides(doubles: list[str]) -> list[str]:
    if not doubles:
        return []
    return [
        f"Two annotators draw these cases, independently of each other: {', '.join(doubles)}.",
        "The label of the annotator who is named first in worklist.csv is used for training.",
    ]

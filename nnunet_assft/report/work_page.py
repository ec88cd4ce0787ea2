"""The page of a work folder: what annotators do first, which cases they draw and why, with the pictures and the viewer
of the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from nnunet_assft.active.annotation import AnnotationRequest
from nnunet_assft.active.context import Context
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.annotation.export import Export
from nnunet_assft.annotation.work_folder import PAGE, scores_of
from nnunet_assft.report.images import MAX_VOXELS, QueriedCase, load_volume, why_no_images
from nnunet_assft.report.overlay import overlay_plot
from nnunet_assft.report.page import render
from nnunet_assft.report.plot import Plot
from nnunet_assft.report.sections.base import Section, SectionTable, grey_values, no_picture
from nnunet_assft.report.sections.cases import why_queried
from nnunet_assft.report.sections.head import Head
from nnunet_assft.report.sections.viewer import MAX_VIEWER_BYTES, viewer_cases
from nnunet_assft.runtime.files import write_text
from nnunet_assft.runtime.text import count
from nnunet_assft.volumes.display import window_of

MAX_PICTURES = 24  # cases with pictures, so that the page stays below about 30 MB


def write_work_page(context: Context, folder: Path, work: Export) -> Path:
    """Write worklist.html into a work folder, and return it.

    It holds the work list, and for the first cases why they were chosen and three planes with the pre-segmentation;
    then the viewer with as many cases as fit, see `viewer_cases`. It needs no other file.
    """
    request = work.request
    whys = {case: _why(context, request, scores) for case, scores in scores_of(context.experiment, request).items()}
    sections = [_first_steps(folder), _list(work, whys), *_pictures(context, folder, work, whys)]
    facts = {
        "Experiment": context.experiment.name,
        **_what_for(request),
        "Structures": ", ".join(f"{value} {name}" for name, value in context.dataset.structures.items()),
    }
    kind = "Second look at pseudo-labels" if request.second_look else "Annotation work list"
    page = render(Head(context.dataset.name, facts, kind=kind), sections, "", context.dataset)
    write_text(folder / PAGE, page)
    return folder / PAGE


def _what_for(request: AnnotationRequest) -> dict[str, str]:
    if request.round is None:
        return {"To do": count(len(request.cases), "test case")}
    order = "the most doubtful" if request.second_look else "best"
    return {"Round": str(request.round), "To do": f"{count(len(request.cases), 'case')}, {order} first"}


def _first_steps(folder: Path) -> Section:
    """The lines of README.txt that do not speak of this page."""
    lines = (folder / "README.txt").read_text(encoding="utf-8").splitlines()
    return Section("first", "What to do", tuple(line.strip() for line in lines if line and PAGE not in line))


def _why(context: Context, request: AnnotationRequest, scores: Mapping[str, Any]) -> str:
    """Return in words why a case was chosen."""
    if request.second_look:
        return (
            f"its pseudo-label was number {scores['selection_rank']} in the order of selection; confidence "
            f"{scores['confidence']:.4g}, distance {scores['distance']:.4g}, reliability {scores['reliability']:.4g}"
        )
    name = context.experiment.settings.strategy
    return why_queried(scores) or f"chosen by the strategy {name}: {STRATEGIES[name].description}"


def _list(work: Export, whys: Mapping[str, str]) -> Section:
    """The columns of worklist.csv that say what to do; its scores are told in words."""
    rows = []
    otherwise = "a test case" if work.request.round is None else "one of the first cases of the experiment"
    for row in work.rows:
        shown: dict[str, Any] = {name: row[name] for name in ("rank", "case", "annotators") if name in row}
        shown["why"] = whys.get(row["case"], otherwise)
        if "suggested_slice" in row:
            shown["begin with slice"] = f"{row['suggested_slice']} along {row['slice_axis']}"
            shown["most uncertain"] = row["most_uncertain"] or "nothing was found"
            shown["remarks"] = row["remarks"]
        rows.append(shown)
    return Section("list", "Work list", tables=(SectionTable("worklist", "Cases", pd.DataFrame(rows)),))


def _pictures(context: Context, folder: Path, work: Export, whys: Mapping[str, str]) -> list[Section]:
    """Return the sections with pictures and with the viewer."""
    dataset, window = context.dataset, window_of(context.dataset)
    if why_not := why_no_images(dataset):
        return [Section("cases", "Cases", missing=(why_not,))]
    cases = []
    for rank, case in enumerate(work.request.cases, 1):
        is_shown = work.prelabels and (folder / "prelabels" / f"{case}{dataset.file_ending}").is_file()
        own = {"pre-segmentation": work.prelabels.file(case)} if work.prelabels and is_shown else {}
        cases.append(QueriedCase(case, work.request.round or 0, rank, dataset.images_of(case)[0], own))
    plots: list[Plot] = []
    missing = []
    for shown in tqdm(cases[:MAX_PICTURES], desc="pictures", unit="case", leave=False):
        try:
            volume = load_volume(shown.image, shown.segmentations, MAX_VOXELS, window)
        except (RuntimeError, ValueError) as error:
            missing.append(no_picture(shown.case, error))
            continue
        told = [f"Rank {shown.rank}", whys.get(shown.case, ""), *work.remarks.get(shown.case, ())]
        caption = f"{'; '.join(part for part in told if part)}."
        plots.append(overlay_plot(f"case_{shown.rank:03d}", shown.case, caption, volume, dataset.structures))
    if len(cases) > MAX_PICTURES:
        missing.append(f"Only the first {MAX_PICTURES} of {len(cases)} cases have pictures.")
    text = (
        f"Three planes of each case, in radiological orientation. {grey_values(window)} Dashed contours: the "
        "pre-segmentation. The slices are those in which it is largest."
    )
    viewer = tuple(viewer_cases(cases, window))
    fits = f"The first {count(len(viewer), 'case')} on a coarse grid, at most {MAX_VIEWER_BYTES // 10**6} MB in total."
    return [
        Section("cases", "Cases", (text,), missing=tuple(missing), plots=tuple(plots)),
        Section("viewer", "Viewer", (f"{fits} It is not meant for diagnosis.",), viewer=viewer),
    ]

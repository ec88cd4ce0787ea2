"""A work folder for annotators: images, pre-segmentations, label tables, a work list, and pictures that say why."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from nnunet_assft.active.annotation import Request, missing_labels, open_request
from nnunet_assft.active.context import Context
from nnunet_assft.active.scoring.prediction import open_scorer
from nnunet_assft.active.scoring.records import request_of
from nnunet_assft.active.scoring.scorer import Scorer
from nnunet_assft.active.state import Experiment, Round, finished_rounds
from nnunet_assft.annotation.assignment import assign, check_annotators
from nnunet_assft.annotation.label_files import image_grid
from nnunet_assft.annotation.preview import Preview, describe, draw_overlay, preview
from nnunet_assft.annotation.work_folder import itksnap_labels, readme, slicer_colours, work_list
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import (
    atomic_path,
    link_or_copy,
    read_json,
    sha256_file,
    write_csv,
    write_json,
    write_text,
)
from nnunet_assft.volumes.placement import to_reader_axes
from nnunet_assft.volumes.segmentations import write_segmentation

EXPORT_FILE = "export.json"
READERS = ("SimpleITKIO", "NibabelIO", "NibabelIOWithReorient")  # of nnU-Net: one file per volume, in three dimensions


@dataclass(frozen=True)
class Export:
    """What an export did. kept: pre-segmentations in the work folder that somebody has changed; they were left alone."""

    request: Request
    has_model: bool
    kept: tuple[str, ...]


def export_work(
    context: Context,
    folder: Path,
    *,
    annotators: Sequence[str] = (),
    double_read: float = 0.0,
    prelabel: bool = True,
    uncertainty: bool = False,
) -> Export:
    """Writes, or completes, the work folder of the round in progress. What is there and matches is kept.

    annotators, double_read: see `readers.assign`; without names an earlier sharing out stays. prelabel: give the model's
    segmentation to the annotator. uncertainty: also write the entropy, in nats, as a NIfTI. Round 0 has no model.
    Raises `AssftError` if nothing is asked for, or if the folder belongs to something else.
    """
    experiment = context.experiment
    request = open_request(experiment)
    require_plain_volumes(context)
    for case in request.cases:
        image_grid(context.dataset.images[case][0])
    request = _shared_out(context, request, annotators, double_read)
    before = finished_rounds(experiment)[-1] if request.round else None
    _claim(folder, experiment, request, before, prelabel)
    for case in request.cases:
        for channel, source in enumerate(context.dataset.images[case]):
            _link(source, folder / "images" / f"{case}_{channel:04d}{context.dataset.file_ending}")
        for name in request.readers[case] or ("",):
            (folder / "annotations" / name).mkdir(parents=True, exist_ok=True)
    previews, kept = {}, []
    if before:
        previews = _previews(context, request, before, folder, contours=prelabel, uncertainty=uncertainty)
        if prelabel:
            kept = [
                case
                for case in request.cases
                if not _copied(prelabel_file(context, request.round, case), folder / "prelabels")
            ]
    labels = context.dataset.labels
    write_text(folder / "labels.ctbl", slicer_colours(labels))
    write_text(folder / "labels_itksnap.txt", itksnap_labels(labels))
    write_csv(
        folder / "worklist.csv", work_list(request, experiment.paths.scores_file(request.round), previews, labels)
    )
    import_command = experiment.command("annotate import", "WORK_FOLDER")
    ending = context.dataset.file_ending
    text = readme(
        request, labels, ending, model=bool(before), prelabel=bool(before) and prelabel, import_command=import_command
    )
    write_text(folder / "README.txt", text)
    return Export(request, before is not None, tuple(kept))


def prelabel_file(context: Context, r: int, case: str) -> Path:
    """Our own copy of a pre-segmentation, which no annotator touches."""
    return context.paths.previews(r) / f"{case}{context.dataset.file_ending}"


def require_plain_volumes(context: Context) -> None:
    """Raises `AssftError` for a dataset whose files an annotation program would show differently than nnU-Net reads them."""
    name = type(context.dataset.reader).__name__
    if name not in READERS:
        raise AssftError(
            f"{context.dataset.name} is read with nnU-Net's {name}; export and import work with {', '.join(READERS)} only. "
            "Annotate by hand and save the labels in labelsTr."
        )


# Who reads what --------------------------------------------------------------------------------------------------------


def _shared_out(context: Context, request: Request, annotators: Sequence[str], double_read: float) -> Request:
    """The request with its readers; they may be chosen anew until the first label is there."""
    file = context.paths.readers_file(request.round)
    if not annotators:
        if double_read:
            check_annotators((), double_read)
        return request
    check_annotators(annotators, double_read)
    readers = assign(request.cases, annotators, double_read)
    if readers != request.readers:
        begun = len(missing_labels(context.dataset, request.cases)) < len(request.cases)
        if file.is_file() and begun:
            raise AssftError(
                f"Round {request.round} was shared out differently, and labels have come in. Leave out --annotators and "
                f"--double_read, or type those of the first export (see {file})."
            )
        write_json(file, readers)
    return Request(request.round, request.cases, readers)


# The work folder -------------------------------------------------------------------------------------------------------


def _claim(folder: Path, experiment: Experiment, request: Request, before: Round | None, prelabel: bool) -> None:
    """Marks the folder as the export of this round, first of all. Raises `AssftError` if it holds something else."""
    file = folder / EXPORT_FILE
    mine = {
        "dataset": experiment.dataset,
        "experiment": experiment.name,
        "round": request.round,
        "cases": list(request.cases),
        "model": before.model.weights_sha256 if before else None,
        "prelabel": prelabel,  # overlays show it, too
    }
    if file.is_file():
        other = read_json(file)
        if other != mine:
            of = f"round {other.get('round')} of {other.get('dataset')}, experiment {other.get('experiment')!r}"
            raise AssftError(
                f"{folder} holds the export of {of}, made differently (model, cases, --no_prelabel). Give an empty folder with -o."
            )
        return
    if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise AssftError(f"{folder} is not empty and is no export of this package. Give an empty folder with -o.")
    write_json(file, mine)


def _link(source: Path, target: Path) -> None:
    if not (target.is_file() and (os.path.samefile(source, target) or sha256_file(source) == sha256_file(target))):
        link_or_copy(source, target)


def _copied(source: Path, folder: Path) -> bool:
    """Copies into the folder; False if another file of this name is there, which may be somebody's work."""
    target = folder / source.name
    if target.is_file():
        return sha256_file(source) == sha256_file(target)
    with atomic_path(target) as partial:
        shutil.copyfile(source, partial)
    return True


# The model's view ------------------------------------------------------------------------------------------------------


def _previews(
    context: Context,
    request: Request,
    before: Round,
    folder: Path,
    *,
    contours: bool,
    uncertainty: bool,
) -> dict[str, dict[str, Any]]:
    """case -> `annotation_preview.describe`; pre-segmentation, overlay and, if asked for, uncertainty map are on disk then."""
    r, dataset = request.round, context.dataset
    tau = request_of(context, r).tau
    made_from = {"model": before.model.weights_sha256, "tau": tau}
    found: dict[str, dict[str, Any]] = {}
    scorer: Scorer | None = None
    for case in tqdm(request.cases, desc=f"round {r}: work folder", unit="case", leave=False):
        record = context.paths.previews(r) / f"{case}.json"
        overlay, map_file = folder / "overlays" / f"{case}.png", folder / "uncertainty" / f"{case}.nii.gz"
        kept = read_json(record) if record.is_file() and prelabel_file(context, r, case).is_file() else {}
        if kept.get("made_from") == made_from and overlay.is_file() and (map_file.is_file() or not uncertainty):
            found[case] = kept
            continue
        scorer = scorer or open_scorer(context, before.model)
        properties = context.properties(case)
        image = sitk.ReadImage(str(dataset.images[case][0]))
        seen = preview(scorer, context.image(case), properties, tau)
        found[case] = {"made_from": made_from, **describe(seen, image, dataset.labels)}
        write_segmentation(
            context, to_reader_axes(seen.segmentation, properties), prelabel_file(context, r, case), properties
        )
        write_json(record, found[case])
        if uncertainty:
            _write_map(map_file, seen, image)
        draw_overlay(overlay, _title(case, request, found[case]), seen, image, dataset.labels, contours=contours)
    return found


def _title(case: str, request: Request, described: dict[str, Any]) -> str:
    unsure = described["most_uncertain"]
    why = (
        f"most uncertain: {unsure} (mean {described['entropies'][unsure]:.2f} nats)"
        if unsure
        else "the model found no structure"
    )
    return f"{case}, rank {request.cases.index(case) + 1} of {len(request.cases)}, slice {described['slice']}\n{why}"


def _write_map(file: Path, seen: Preview, image: sitk.Image) -> None:
    volume = sitk.GetImageFromArray(seen.entropy.astype(np.float32))
    volume.CopyInformation(image)
    with atomic_path(file) as partial:
        sitk.WriteImage(volume, str(partial), True)

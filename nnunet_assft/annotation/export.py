"""Write the work folder of the annotators: images, pre-segmentations, label tables, a work list and overlays."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunet_assft.active.annotation import AnnotationRequest, missing_labels, name_of, open_request
from nnunet_assft.active.context import Context
from nnunet_assft.active.scoring.prediction import open_scorer
from nnunet_assft.active.scoring.scorer import Scorer
from nnunet_assft.annotation.assignment import assign, check_annotators
from nnunet_assft.annotation.gate import unlike_labels
from nnunet_assft.annotation.label_files import image_grid
from nnunet_assft.annotation.overlay import Overlay
from nnunet_assft.annotation.preview import Prelabels, Preview, prelabels_of
from nnunet_assft.annotation.records import rejected_by, summaries_so_far
from nnunet_assft.annotation.work_folder import (
    EXPORT_FILE,
    itksnap_labels,
    readme,
    scores_of,
    slicer_colours,
    work_list,
)
from nnunet_assft.errors import AssftError, DamagedFileError
from nnunet_assft.runtime.cached import claim
from nnunet_assft.runtime.cases import Once, for_each_case
from nnunet_assft.runtime.csv_files import write_csv
from nnunet_assft.runtime.files import (
    atomic_path,
    sha256_file,
    write_text,
)
from nnunet_assft.runtime.sealed import read_sealed, write_sealed
from nnunet_assft.volumes.dicom.folder import series_of
from nnunet_assft.volumes.dicom.key_file import KeyFile
from nnunet_assft.volumes.dicom.writing import write_dicom_segmentation
from nnunet_assft.volumes.display import window_of
from nnunet_assft.volumes.images import read_image
from nnunet_assft.volumes.raw_dataset import RawDataset
from nnunet_assft.volumes.readers import PLAIN_READERS


@dataclass(frozen=True)
class ExportOptions:
    """What the annotators get.

    annotators, double_read: see `assignment.assign`; without names, an earlier assignment is kept. prelabel: whether
    the annotators get the model's segmentation. uncertainty: whether the entropy, in nats, is also written as a NIfTI
    file. keys: the key file of a dataset that came from DICOM, if the pre-segmentations are also wanted as DICOM SEG.
    """

    annotators: Sequence[str] = ()
    double_read: float = 0.0
    prelabel: bool = True
    uncertainty: bool = False
    keys: KeyFile | None = None


@dataclass(frozen=True)
class Export:
    """The result of an export.

    prelabels: None in round 0. kept: cases whose pre-segmentation in the work folder was edited and has been kept.
    rows: the work list. remarks: case -> what an annotator should know about its pre-segmentation.
    """

    request: AnnotationRequest
    prelabels: Prelabels | None
    kept: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    remarks: Mapping[str, Sequence[str]]


def export_work(
    context: Context, folder: Path, options: ExportOptions = ExportOptions(), request: AnnotationRequest | None = None
) -> Export:
    """Write or complete the work folder of a request. Files that exist and are up to date are kept.

    request: by default, that of the round in progress. Round 0 has no model and therefore no pre-segmentations, and for
    test cases none is asked. Raises `AssftError` if the experiment is not waiting for labels, or if the folder holds
    anything else than this export.
    """
    dataset = context.dataset
    request = request or open_request(context.experiment)
    require_plain_volumes(dataset)
    require_own_labels(dataset, request.cases)
    images = {case: dataset.images_of(case) for case in request.cases}
    executor = context.engine.images(context.paths.jobs, images)
    jobs = {case: (case, dataset.state_of(case)) for case in request.cases}
    for_each_case(partial(_require_usable, dataset), jobs, desc="checking images", executor=executor)
    request = _shared_out(context, request, options)
    prelabels = prelabels_of(context, request.round, second_look=request.second_look)
    _claim(context, folder, request, prelabels, options)
    if options.annotators or request.round is None:  # only now, because the folder may have been refused
        write_sealed(context.paths.annotators_file(request.round), request.annotators)
    for case in request.cases:
        for channel, source in enumerate(images[case]):
            _copy(source, folder / "images" / f"{case}_{channel:04d}{dataset.file_ending}")
        for name in request.annotators[case] or ("",):
            (folder / "annotations" / name).mkdir(parents=True, exist_ok=True)
    previews = _previews(context, request, prelabels, folder, options) if prelabels else {}
    rejected = [
        case
        for case in request.cases
        if rejected_by(context.paths.annotation_file(case), request.round, second_look=request.second_look)
    ]
    kept = []
    if prelabels and options.prelabel:
        shown = [case for case in request.cases if case not in rejected]
        kept = [case for case in shown if not _copied(prelabels.file(case), folder / "prelabels")]
        if options.keys:
            for case in [case for case in shown if case in options.keys.entries]:
                _write_dicom(prelabels.file(case), folder / "prelabels" / f"{case}.dcm", options.keys, dataset.labels)
    remarks = _remarks(context, previews, rejected) if options.prelabel else {}
    rows = work_list(request, scores_of(context.experiment, request), previews, dataset.labels, remarks)
    _write_texts(context, folder, request, rows, options)
    return Export(request, prelabels, tuple(kept), tuple(rows), remarks)


def _remarks(
    context: Context, previews: Mapping[str, Mapping[str, Any]], rejected: Collection[str]
) -> dict[str, list[str]]:
    """Return case -> remarks on its pre-segmentation, for the cases that have any."""
    earlier = list(summaries_so_far(context).values()) if previews else []
    found = {case: unlike_labels(seen["volumes_ml"], earlier) for case, seen in previews.items()}
    for case in rejected:
        found[case] = ["its pre-segmentation was rejected; draw it from scratch", *found.get(case, ())]
    return {case: remarks for case, remarks in found.items() if remarks}


def _write_texts(
    context: Context, folder: Path, request: AnnotationRequest, rows: list[dict[str, Any]], options: ExportOptions
) -> None:
    dataset, has_model = context.dataset, bool(request.round)
    write_csv(folder / "worklist.csv", rows)
    if not (folder / "times.csv").exists():  # which annotators fill in
        named = [(case, name) for case in request.cases for name in request.annotators[case] or ("",)]
        decision = {"decision": ""} if has_model and options.prelabel else {}
        lines = [{"case": case, "annotator": name, "minutes": "", **decision} for case, name in named]
        write_csv(folder / "times.csv", lines)
    write_text(folder / "labels.ctbl", slicer_colours(dataset.labels))
    write_text(folder / "labels_itksnap.txt", itksnap_labels(dataset.labels))
    about = readme(context, request, has_model=has_model, prelabel=options.prelabel, dicom=options.keys is not None)
    write_text(folder / "README.txt", about)


def _require_usable(dataset: RawDataset, job: tuple[str, object]) -> None:
    """Raise `AssftError` if nnU-Net cannot use the image of a case, or if annotation programs cannot open it.

    job: the case, and the state of its files.
    """
    case, _ = job
    try:
        read_image(dataset.images_of(case), dataset.reader)
    except AssftError as error:
        raise AssftError(f"The image of case {case} cannot be used: {error}. Replace it and export again.") from error
    image_grid(dataset.images_of(case)[0])


def require_plain_volumes(dataset: RawDataset) -> None:
    """Raise `AssftError` if an annotation program would show the files of a dataset differently from how nnU-Net reads
    them."""
    name = type(dataset.reader).__name__
    if name not in PLAIN_READERS:
        raise AssftError(
            f"{dataset.name} is read with nnU-Net's {name}; export and import work with {', '.join(PLAIN_READERS)} "
            "only. Annotate by hand and save the labels in labelsTr."
        )


def require_own_labels(dataset: RawDataset, cases: Sequence[str]) -> None:
    """Raise `AssftError` if dataset.json places a label outside of the dataset, where nothing is written."""
    for case in cases:
        dataset.label_to_write(case)


# Who annotates what ---------------------------------------------------------------------------------------------------


def _shared_out(context: Context, request: AnnotationRequest, options: ExportOptions) -> AnnotationRequest:
    """Return the request with its annotators, who can be changed until the first label has been returned."""
    file = context.paths.annotators_file(request.round)
    if not options.annotators:
        if options.double_read:
            check_annotators((), options.double_read)
        return request
    annotators = assign(request.cases, options.annotators, options.double_read)
    if annotators != request.annotators:
        begun = len(missing_labels(context.dataset, request.cases)) < len(request.cases)
        if file.is_file() and begun:
            raise AssftError(
                f"The cases ({name_of(request.round)}) were assigned to other annotators, who have already returned "
                f"labels. Leave out --annotators and --double_read, or repeat those of the first export (see {file})."
            )
    return replace(request, annotators=annotators)


# The work folder ------------------------------------------------------------------------------------------------------


def _claim(
    context: Context, folder: Path, request: AnnotationRequest, prelabels: Prelabels | None, options: ExportOptions
) -> None:
    """Mark the folder as the export of this request before anything else is written.

    Raises `AssftError` if the folder holds something else, or leads to another place.
    """
    if folder.exists() and not folder.is_dir():
        raise AssftError(f"{folder} is a file. Give a folder with -o.")
    for path in (*folder.glob("*"), *folder.glob("annotations/*")):
        if path.is_dir() and not path.resolve().is_relative_to(folder.resolve()):
            raise AssftError(
                f"{path} is a link that leads out of the work folder, to {path.resolve()}, where nothing is written. "
                "Remove the link, or give an empty folder with -o."
            )
    made_from = {
        "dataset": context.experiment.dataset,
        "experiment": context.experiment.name,
        "round": request.round,
        "cases": list(request.cases),
        "model": prelabels.model.weights_sha256 if prelabels else None,
        "prelabel": options.prelabel,  # the overlays depend on it, too
        **({"second_look": True} if request.second_look else {}),
    }
    claim(folder / EXPORT_FILE, made_from, displace=partial(_refuse, wanted=made_from))


def _refuse(folder: Path, *, wanted: Mapping[str, Any]) -> None:
    """Raise `AssftError` with what the folder holds. wanted: what the export to be written is made from."""
    file = folder / EXPORT_FILE
    if not file.is_file():
        raise AssftError(f"{folder} is not empty and is not a work folder. Give an empty folder with -o.")
    try:
        other = read_sealed(file)
    except DamagedFileError as error:
        raise AssftError(f"{error} Or give an empty folder with -o.") from error
    held, asked = _described(other), _described(wanted)
    why = f"not {asked}" if asked != held else "that was made with another model, other cases or another --no_prelabel"
    raise AssftError(f"{folder} holds {held}, {why}. Give an empty folder with -o.")


def _described(made_from: Mapping[str, Any]) -> str:
    kind = "a second look" if made_from.get("second_look") else "an export"
    experiment = f"{made_from.get('dataset')}, experiment {made_from.get('experiment')!r}"
    return f"{kind} of {name_of(made_from.get('round'))} of {experiment}"


def _copy(source: Path, target: Path) -> None:
    """Copy an image, so that a program that saves over it does not change the original."""
    if not (target.is_file() and sha256_file(source) == sha256_file(target)):
        with atomic_path(target) as partial_file:
            shutil.copyfile(source, partial_file)


def _copied(source: Path, folder: Path) -> bool:
    """Copy `source` into the folder. Return False if the folder has a different file of this name, which an annotator
    may have edited."""
    target = folder / source.name
    if target.is_file():
        return sha256_file(source) == sha256_file(target)
    with atomic_path(target) as partial_file:
        shutil.copyfile(source, partial_file)
    return True


def _write_dicom(prelabel: Path, target: Path, keys: KeyFile, labels: Mapping[str, int]) -> None:
    """Write a pre-segmentation as DICOM SEG for the series of its case, unless it is there."""
    case = target.stem
    if target.is_file():
        return
    try:
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(prelabel)))
        write_dicom_segmentation(target, series_of(keys, case), label, labels)
    except AssftError as error:
        raise AssftError(f"The pre-segmentation of case {case} cannot be written as DICOM: {error}") from error


# The model's view -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Previews:
    """What the model shows of each case: its pre-segmentation, an overlay and, if requested, an uncertainty map."""

    prelabels: Prelabels
    request: AnnotationRequest
    folder: Path
    options: ExportOptions
    scorer: Once[Scorer]  # the network is loaded only if a case is not done yet

    def overlay(self, case: str) -> Path:
        return self.folder / "overlays" / f"{case}.png"

    def map_file(self, case: str) -> Path:
        return self.folder / "uncertainty" / f"{case}.nii.gz"

    def done(self, case: str) -> dict[str, Any] | None:
        """Return the description of a case, see `preview.describe`, or None if a file is missing."""
        drawn = self.overlay(case).is_file() and (self.map_file(case).is_file() or not self.options.uncertainty)
        return self.prelabels.described(case) if drawn else None

    def make(self, case: str) -> dict[str, Any]:
        """Write the files of a case, and return its description."""
        dataset = self.prelabels.context.dataset
        seen, image, described = self.prelabels.write(case, self.scorer())
        if self.options.uncertainty:
            _write_map(self.map_file(case), seen, image)
        title, window = _title(case, self.request, described), window_of(dataset)
        Overlay(title, seen, image, dataset.labels, window, contours=self.options.prelabel).save(self.overlay(case))
        return described


def _previews(
    context: Context, request: AnnotationRequest, prelabels: Prelabels, folder: Path, options: ExportOptions
) -> dict[str, dict[str, Any]]:
    """Show every case as the model sees it, and return case -> its description."""
    scorer = Once(partial(open_scorer, context, prelabels.model))
    previews = _Previews(prelabels, request, folder.absolute(), options, scorer)  # parts work in other folders
    desc = f"round {request.round}: {'second look' if request.second_look else 'work folder'}"
    return for_each_case(previews.make, request.cases, desc=desc, done=previews.done, executor=context.cases)


def _title(case: str, request: AnnotationRequest, described: dict[str, Any]) -> str:
    unsure = described["most_uncertain"]
    why = (
        f"most uncertain: {unsure} (mean {described['entropies'][unsure]:.2f} nats)"
        if unsure
        else "the model found no structure"
    )
    return f"{case}, rank {request.cases.index(case) + 1} of {len(request.cases)}, slice {described['slice']}\n{why}"


def _write_map(file: Path, seen: Preview, image: sitk.Image) -> None:
    volume = sitk.GetImageFromArray(seen.entropy.array.astype(np.float32))
    volume.CopyInformation(image)
    with atomic_path(file) as partial_file:
        sitk.WriteImage(volume, str(partial_file), True)

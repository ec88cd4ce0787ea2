"""Check an nnU-Net raw dataset, converted by this package or not, without changing it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_assft.dataset_conversion.apply import duplicates
from nnunet_assft.dataset_conversion.case_conversion import (
    Conversion,
    absent_structures,
    convert_case,
    merged_findings,
)
from nnunet_assft.dataset_conversion.convert import id_clash
from nnunet_assft.dataset_conversion.datasets import CONVERTED_FROM, CT, MRI
from nnunet_assft.dataset_conversion.file_placement import processes_for
from nnunet_assft.dataset_conversion.findings import Finding, found, ordered
from nnunet_assft.dataset_conversion.headers import Tolerances
from nnunet_assft.dataset_conversion.labels import LabelMap
from nnunet_assft.dataset_conversion.manifest import Record
from nnunet_assft.dataset_conversion.report import Report
from nnunet_assft.dataset_conversion.scan import PlannedCase, Scanning, scan_cases
from nnunet_assft.dataset_conversion.source_cases import ENDINGS, POOL, TEST, SourceCase
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.cases import for_each_case, in_processes
from nnunet_assft.runtime.text import some
from nnunet_assft.volumes.dataset_json import read_dataset_json
from nnunet_assft.volumes.grid import read_grid, turns_to_ras
from nnunet_assft.volumes.image_files import ImageFiles, meant_instead
from nnunet_assft.volumes.names import shown
from nnunet_assft.volumes.not_annotated import NAME, read_not_annotated
from nnunet_assft.volumes.raw_dataset import RawDataset, channels_of, in_both, list_test_images, pool_images

REPORT = "check_report"


def check(folder: Path, tolerances: Tolerances, num_processes: int | None, *, voxels: bool) -> Report:
    """Check the names and headers of a raw dataset and, with `voxels`, read every file.

    Raises `AssftError`, as planning does, if dataset.json or not_annotated.json cannot be used or if there is no image.
    """
    content = read_dataset_json(folder)
    ending, channels = str(content["file_ending"]), tuple(map(_channel, channels_of(content)))
    if ending not in ENDINGS:
        raise AssftError(
            f"{folder.name} has files that end with {ending}; only NIfTI files can be checked ({', '.join(ENDINGS)})."
        )
    dataset, findings = _complete_images(folder, content)
    labelled, unlabelled, of_labels = _cases(dataset, annotated=CONVERTED_FROM not in content)
    findings += [*of_labels, *(id_clash(folder.name, folder.parent) if re.match(r"Dataset\d{3}_", folder.name) else [])]
    reorient = turns_to_ras(dataset.reader) if dataset.images else False
    by_itk = bool(dataset.images) and isinstance(dataset.reader, SimpleITKIO)
    scanning = Scanning(replace(tolerances, moves=False), channels[0], ending, reorient=reorient, by_itk=by_itk)
    parts = {case.name: case.part for case in labelled}
    planned, scanned = scan_cases(labelled, parts, scanning, num_processes)
    conversion = Conversion(folder, _identity(dataset.labels), (), channels, ending, by_id=False, mode=None)
    records = _read_all(planned, conversion, num_processes) if voxels else {}
    findings += [*_judged_by_reader(dataset, scanned), *merged_findings(list(records.values())), *duplicates(records)]
    findings += [*absent_structures(records.values(), dataset.structures), *_not_annotated(dataset, records)]
    waiting = sum(finding.code == "not_annotated" for finding in of_labels)
    n_pool = sum(case.part == POOL for case in labelled)
    counts = [
        ("training cases", content["numTraining"], n_pool + waiting),
        *([("  not annotated yet", None, waiting)] if waiting else []),
        ("labelled test cases", None, len(labelled) - n_pool),
        ("test images without label", None, len(unlabelled)),
    ]
    if content["numTraining"] != n_pool + waiting:
        text = f"numTraining is {content['numTraining']}, but {n_pool} training cases with image and label were found"
        findings.append(found("count_differs", "", text))
    return Report(f"Check of {folder.name}", counts, ordered(findings))


def _channel(name: str) -> str:
    """Return CT or MRI, as nnU-Net and the converted datasets spell them, for names that mean them, and other names
    unchanged."""
    return {"ct": CT, "mri": MRI, "mr": MRI}.get(str(name).lower(), str(name))


def _identity(labels: Mapping[str, int]) -> LabelMap:
    """Return the map that leaves every id unchanged."""
    ids = sorted(labels.values())
    return LabelMap(
        {value: value for value in ids},
        {value: str(value) for value in ids},
        {str(value): value for value in ids if value},
    )


def _complete_images(folder: Path, content: dict[str, Any]) -> tuple[RawDataset, list[Finding]]:
    """Return the dataset of the cases that have all channels, and findings on the other files."""
    pool, test = pool_images(folder, content), list_test_images(folder, content)
    findings: list[Finding] = []
    for images in (pool, test):
        findings += [found("bad_name", shown(name), f"it {problem}") for name, problem in images.misnamed.items()]
        findings += [found("missing_image", case, f"it {problem}") for case, problem in images.incomplete.items()]
        findings += [
            found("other_file_ending", "", f"{shown(name)} does not end with {images.file_ending}", "warning")
            for name in images.passed_over
            if name.lower().endswith(ENDINGS) or name in images.left_out
        ]
    both = in_both(pool, test)
    text = "it is among both the training and the test images; expected one of the two"
    findings += [found("case_in_two_splits", case, text) for case in both]
    tested = {case: files for case, files in test.cases.items() if case not in pool.cases}
    findings += _labels_without_image(folder / "labelsTr", pool) if "dataset" not in content else []
    findings += _labels_without_image(folder / "labelsTs", test)
    known = {case for images in (pool, test) for case in (*images.cases, *images.incomplete)}
    missing = read_not_annotated(folder, content["labels"], known)
    return RawDataset(folder.name, folder, content, pool.cases, tested, not_annotated=missing), findings


def _labels_without_image(folder: Path, images: ImageFiles) -> Iterator[Finding]:
    names = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
    known = {images.likely_case(name) for name in (*images.cases, *images.incomplete, *images.misnamed)}
    for name in names:
        if name.endswith(images.file_ending) and not name.startswith(".") and images.likely_case(name) not in known:
            text = f"there is the label {folder.name}/{shown(name)[1:-1]}, but no image"
            yield found("missing_image", shown(name.removesuffix(images.file_ending))[1:-1], text)


def _cases(dataset: RawDataset, *, annotated: bool) -> tuple[list[SourceCase], list[str], list[Finding]]:
    """Return the cases with a label, the names of test images without a label, and findings. annotated: whether every
    training image should have a label."""
    labelled: list[SourceCase] = []
    unlabelled: list[str] = []
    findings: list[Finding] = []
    for part, cases in ((POOL, dataset.images), (TEST, dataset.test_images)):
        for name, images in cases.items():
            label = dataset.label_file(name)
            if label.is_file():
                labelled.append(SourceCase(name, images, label, part=part))
                continue
            meant = meant_instead(label, dataset.file_ending)
            if part == TEST and not meant:
                unlabelled.append(name)
                findings.append(found("unlabelled_image", name, f"{images[0].name} has no label in labelsTs", "info"))
            elif not annotated and not meant:
                findings.append(found("not_annotated", name, f"{images[0].name} has no label in labelsTr yet"))
            else:
                advice = meant.removesuffix(".") or "Add it, or move the image out of imagesTr"
                text = f"there is the image {images[0].name}, but no label. {advice}"
                findings.append(found("missing_label", name, text))
    return labelled, unlabelled, findings


def _judged_by_reader(dataset: RawDataset, findings: list[Finding]) -> list[Finding]:
    """Make a finding on the axes of a case an error if the reader of the dataset, with which a round would read it,
    refuses its image or its label."""
    return [
        replace(finding, severity="error")
        if finding.code == "non_orthonormal" and not _opens(dataset, finding.case)
        else finding
        for finding in findings
    ]


def _not_annotated(dataset: RawDataset, records: Mapping[str, Record]) -> Iterator[Finding]:
    """Yield one finding per case in not_annotated.json. records: of the labels, if they were read."""
    for case, missing in dataset.not_annotated.items():
        present = records.get(case, {}).get("structures") or ()
        drawn = [name for name in missing if dataset.labels[name] in present]
        text = f"{some(missing, 20)}, as {NAME} says"
        if drawn:
            text += f"; nevertheless, its label has voxels of {some(drawn, 20)}, which are not used"
        yield found("structure_not_annotated", case, text, "warning" if drawn else "info")


def _opens(dataset: RawDataset, case: str) -> bool:
    try:
        for file in (*dataset.images_of(case), dataset.label_file(case)):
            read_grid(file, dataset.reader)
    except Exception:  # readers raise exceptions of many types
        return False
    return True


def _read_all(cases: list[PlannedCase], conversion: Conversion, num_processes: int | None) -> dict[str, Record]:
    return for_each_case(
        partial(convert_case, conversion=conversion),
        {case.name: case for case in cases},
        desc="Reading",
        executor=in_processes(processes_for(cases, num_processes)),
    )

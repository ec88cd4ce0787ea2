"""Check an nnU-Net raw dataset, converted by this package or not, without changing it."""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_assft.dataset_conversion.apply import duplicates
from nnunet_assft.dataset_conversion.case_conversion import Conversion, convert_case, merged_findings
from nnunet_assft.dataset_conversion.convert import id_clash
from nnunet_assft.dataset_conversion.datasets import CT, MRI, READER
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
from nnunet_assft.runtime.files import read_json

REPORT = "check_report"
ITK_READER = "SimpleITKIO"  # which nnU-Net uses for .nii.gz, unless dataset.json names another
REQUIRED = ("channel_names", "labels", "numTraining", "file_ending")


def check(folder: Path, tolerances: Tolerances, num_processes: int | None, *, voxels: bool) -> Report:
    """Check the names and headers of a raw dataset and, with `voxels`, read every file.

    Raises `AssftError` if the dataset has no usable dataset.json.
    """
    content = _dataset_json(folder)
    ending = str(content["file_ending"])
    channels = tuple(_channel(name) for _, name in sorted(content["channel_names"].items()))
    labelled, unlabelled, findings = _cases(folder, content)
    findings += id_clash(folder.name, folder.parent) if re.match(r"Dataset\d{3}_", folder.name) else []
    reorient = content.get("overwrite_image_reader_writer") == READER
    reader = content.get("overwrite_image_reader_writer", ITK_READER if ending == ".nii.gz" else "NibabelIO")
    by_itk = str(reader).startswith(ITK_READER)
    scanning = Scanning(replace(tolerances, moves=False), channels[0], ending, reorient=reorient, by_itk=by_itk)
    parts = {case.name: case.part for case in labelled}
    planned, scanned = scan_cases(labelled, parts, scanning, num_processes)
    conversion = Conversion(folder, _identity(content["labels"]), (), channels, ending, by_id=False, mode=None)
    records = _read_all(planned, conversion, num_processes) if voxels else {}
    findings += [*scanned, *merged_findings(list(records.values())), *duplicates(records)]
    n_pool = sum(case.part == POOL for case in labelled)
    counts = [
        ("training cases", content["numTraining"], n_pool),
        ("labelled test cases", None, len(labelled) - n_pool),
        ("test images without label", None, len(unlabelled)),
    ]
    if content["numTraining"] != n_pool:
        text = f"numTraining is {content['numTraining']}, but {n_pool} training cases with image and label were found"
        findings.append(found("count_differs", "", text))
    return Report(f"Check of {folder.name}", counts, ordered(findings))


def _dataset_json(folder: Path) -> dict[str, Any]:
    """Read dataset.json. Raises `AssftError` unless it has the keys and forms that nnU-Net expects."""
    try:
        content = read_json(folder / "dataset.json")
    except (OSError, ValueError) as error:
        raise AssftError(
            f"{folder / 'dataset.json'} cannot be read: {error}. Expected an nnU-Net raw dataset."
        ) from error
    missing = [key for key in REQUIRED if not isinstance(content, dict) or key not in content]
    if missing:
        raise AssftError(f"{folder / 'dataset.json'} lacks {', '.join(missing)}. See nnU-Net's dataset format.")
    if content["file_ending"] not in ENDINGS:
        raise AssftError(
            f"{folder.name} has files that end with {content['file_ending']}; only NIfTI files can be checked "
            f"({', '.join(ENDINGS)})."
        )
    for key, example, is_right in FORMS:
        if not is_right(content.get(key)):
            raise AssftError(
                f"{folder / 'dataset.json'} has {key} {reprlib.repr(content.get(key))}; expected for example "
                f"{example}. See nnU-Net's dataset format."
            )
    return content


def _is_channel_table(value: Any) -> bool:
    return isinstance(value, dict) and bool(value)


def _is_label_table(value: Any) -> bool:
    """Whether `value` is a table name -> id, or name -> the ids of a region, and not the inverse table."""
    return isinstance(value, dict) and all(
        isinstance(i, int) for ids in value.values() for i in (ids if isinstance(ids, list) else [ids])
    )


def _is_case_table(value: Any) -> bool:
    """Whether `value` lists the files of each case, or is None because the key is absent."""
    entries = value.values() if isinstance(value, dict) else [None]
    return value is None or all(
        isinstance(entry, dict) and isinstance(entry.get("images"), list) and isinstance(entry.get("label"), str)
        for entry in entries
    )


FORMS: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("channel_names", '{"0": "CT"}', _is_channel_table),
    ("labels", '{"background": 0, "liver": 1}', _is_label_table),
    ("numTraining", "12", lambda value: isinstance(value, int)),
    ("dataset", '{"case": {"images": ["a.nii.gz"], "label": "b.nii.gz"}}', _is_case_table),
)


def _channel(name: str) -> str:
    """Return CT or MRI, as nnU-Net and the converted datasets spell them, for names that mean them, and other names
    unchanged."""
    return {"ct": CT, "mri": MRI, "mr": MRI}.get(str(name).lower(), str(name))


def _identity(labels: dict[str, Any]) -> LabelMap:
    """Return the map that leaves every id unchanged."""
    lists = (values if isinstance(values, list) else [values] for values in labels.values())
    ids = {0, *(int(value) for values in lists for value in values)}
    return LabelMap(
        {value: value for value in ids},
        {value: str(value) for value in ids},
        {str(value): value for value in ids if value},
    )


def _cases(folder: Path, content: dict[str, Any]) -> tuple[list[SourceCase], list[str], list[Finding]]:
    """Return the cases with all channels and a label, the names of test images without a label, and findings."""
    n_channels, ending = len(content["channel_names"]), content["file_ending"]
    labelled: list[SourceCase] = []
    unlabelled: list[str] = []
    findings: list[Finding] = []
    pool = _listed(folder, content) if content.get("dataset") is not None else _in_folders(folder, "Tr", ending)
    test = _in_folders(folder, "Ts", ending)
    for part, cases in ((POOL, pool), (TEST, test)):
        for name, (images, label) in sorted(cases.items()):
            if part == TEST and name in pool:
                findings.append(
                    found(
                        "case_in_two_splits",
                        name,
                        "it is among both the training and the test images; expected one of the two",
                    )
                )
            elif len(images) != n_channels or not all(image.is_file() for image in images):
                text = f"{sum(image.is_file() for image in images)} of {n_channels} image channels were found"
                findings.append(found("missing_image", name, text))
            elif label is not None and label.is_file():
                labelled.append(SourceCase(name, images, label, part=part))
            elif part == TEST:
                unlabelled.append(name)
                findings.append(found("unlabelled_image", name, f"{images[0].name} has no label in labelsTs", "info"))
            else:
                findings.append(found("missing_label", name, f"there is the image {images[0].name}, but no label"))
    return labelled, unlabelled, findings


def _listed(folder: Path, content: dict[str, Any]) -> dict[str, tuple[tuple[Path, ...], Path | None]]:
    return {
        name: (
            tuple(folder / os.path.expandvars(file) for file in entry["images"]),
            folder / os.path.expandvars(entry["label"]),
        )
        for name, entry in content["dataset"].items()
    }


def _in_folders(folder: Path, part: str, ending: str) -> dict[str, tuple[tuple[Path, ...], Path | None]]:
    """Find cases by the names of images and labels. Returns name -> (images, label or None)."""
    images: dict[str, list[Path]] = {}
    for file in _files(folder / f"images{part}", ending):
        match = re.fullmatch(r"(.+)_\d{4}", file.name.removesuffix(ending))
        if match:
            images.setdefault(match[1], []).append(file)
    labels = {file.name.removesuffix(ending): file for file in _files(folder / f"labels{part}", ending)}
    return {name: (tuple(images.get(name, ())), labels.get(name)) for name in sorted({*images, *labels})}


def _files(folder: Path, ending: str) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(
            file for file in folder.iterdir() if file.name.endswith(ending) and not file.name.startswith(".")
        )


def _read_all(cases: list[PlannedCase], conversion: Conversion, num_processes: int | None) -> dict[str, Record]:
    return for_each_case(
        partial(convert_case, conversion=conversion),
        {case.name: case for case in cases},
        desc="Reading",
        executor=in_processes(processes_for(cases, num_processes)),
    )

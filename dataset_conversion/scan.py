"""First phase: plan a conversion from names and headers only. Nothing is written, and no voxel is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from nnunet_assft.dataset_conversion.datasets import MRI, DatasetRow
from nnunet_assft.dataset_conversion.findings import Finding, errors, found, ordered
from nnunet_assft.dataset_conversion.headers import (
    Tolerances,
    misfit,
    pair_findings,
    read_finding,
)
from nnunet_assft.dataset_conversion.labels import LabelMap
from nnunet_assft.dataset_conversion.source_cases import ENDINGS, POOL, TEST, UNLABELLED, SourceCase, Sources, ending_of
from nnunet_assft.dataset_conversion.splits import SPLITS
from nnunet_assft.runtime.cases import for_each_case, in_processes
from nnunet_assft.runtime.processes import number_of_processes
from nnunet_assft.volumes.headers import Header

AGAIN = "Download or unpack the dataset again"
COUNTED = ("labelled cases", "labelled cases with image", "labels without image", "images without public label")
BYTES_PER_HEADER = 400_000  # a header counts like this many bytes: a process is worth starting for 500 headers


@dataclass(frozen=True)
class PlannedCase:
    """A scanned case, with the findings on its names and headers.

    part: POOL or TEST. rewrite: why the label must be rewritten according to its header; "" if it need not be.
    image_bytes, label_bytes: sizes of the files. memory: bytes of the largest volume.
    """

    source: SourceCase
    part: str
    findings: tuple[Finding, ...] = ()
    rewrite: str = ""
    image_bytes: int = 0
    label_bytes: int = 0
    memory: int = 0

    @property
    def name(self) -> str:
        return self.source.name


@dataclass
class Plan:
    """What a conversion will do.

    cases: the cases to convert. counts: what was counted -> number. findings: all findings of the scan, including those
    of cases that are left out.
    """

    row: DatasetRow
    folder: Path
    label_map: LabelMap
    file_ending: str
    split: str
    tolerances: Tolerances
    cases: list[PlannedCase] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def part(self, part: str) -> list[PlannedCase]:
        return [case for case in self.cases if case.part == part]


@dataclass(frozen=True)
class Scanning:
    """How a case is scanned.

    reorient: whether grids are compared after reorientation to RAS, as by nnU-Net's reorienting reader. by_itk: whether
    the reader of the dataset is one of ITK.
    """

    tolerances: Tolerances
    channel: str
    file_ending: str
    reorient: bool = True
    by_itk: bool = False


def usable_cases(row: DatasetRow, sources: Sources) -> tuple[list[SourceCase], list[Finding], dict[str, int]]:
    """Return the cases to convert, findings for the others, and counts. The cases have an image and, unless the row has
    unlabelled ones, a label."""
    usable: list[SourceCase] = []
    findings: list[Finding] = []
    counts = dict.fromkeys((*COUNTED, *(["images not annotated yet"] if row.unlabelled else [])), 0)
    split_twice = {finding.case for finding in sources.findings if finding.code == "case_in_two_splits"}
    for case in sources.cases.values():
        counts["labelled cases"] += case.has_label
        if case.part == UNLABELLED:
            counts["images without public label"] += bool(case.images)
            if case.images:
                findings.append(found("unlabelled_image", case.name, f"{case.images[0].name} has no public label"))
        elif not case.images and row.labels_without_images:
            counts["labels without image"] += 1
            findings.append(found("label_without_image", case.name, "there is a label, but no image"))
        elif not case.images:
            counts["labels without image"] += case.has_label
            reason = "there is a label" if case.has_label else "dataset.json of the download lists it"
            findings.append(found("missing_image", case.name, f"{reason}, but the image was not found"))
        elif not case.has_label and not row.unlabelled:
            findings.append(found("missing_label", case.name, f"the image {case.images[0].name} has no label. {AGAIN}"))
        else:
            counts["labelled cases with image"] += case.has_label
            if not case.has_label:
                counts["images not annotated yet"] += 1
                findings.append(found("not_annotated", case.name, f"{case.images[0].name} has no label"))
            if case.name not in split_twice:
                usable.append(case)
    return usable, findings, counts


def split_cases(
    row: DatasetRow, cases: Sequence[SourceCase], split: str, lists: tuple[set[str], set[str]] | None
) -> tuple[dict[str, str], list[Finding]]:
    """Return case -> POOL or TEST, and findings for the cases that are in neither.

    split: a key of SPLITS. lists: the pool and the test cases of a split file, which replaces the split.
    """
    by_name = {case.name: case for case in cases}
    if lists is None:
        test = SPLITS[split][0](row, by_name)
        return {name: TEST if name in test else POOL for name in by_name}, []
    pool, test = lists
    findings = [
        found("case_in_two_splits", name, "the split file has it in pool and test; expected one of the two")
        for name in sorted(pool & test)
    ]
    findings += [
        found("missing_image", name, "the split file names it, but no image with a label was found")
        for name in sorted((pool | test) - set(by_name))
    ]
    findings += [
        found("not_in_split", name, "the split file does not name it") for name in sorted(set(by_name) - pool - test)
    ]
    parts = {name: TEST if name in test else POOL for name in by_name if name in pool ^ test}
    return parts, findings


def most_frequent_ending(cases: Sequence[SourceCase]) -> str:
    """Return `.nii.gz` or `.nii`. A dataset has one ending, and images are not rewritten to change theirs."""
    endings = Counter(ending_of(file) for case in cases for file in case.images)
    return max(ENDINGS, key=lambda ending: endings[ending])


def scan_cases(
    cases: Sequence[SourceCase], parts: Mapping[str, str], scanning: Scanning, num_processes: int | None
) -> tuple[list[PlannedCase], list[Finding]]:
    """Read the headers of all cases. Returns those without error, by name, and all findings."""
    chosen = [case for case in cases if case.name in parts]
    n_headers = sum(len(case.files) for case in chosen)
    scanned = for_each_case(
        partial(scan_case, scanning=scanning),
        {case.name: case for case in chosen},
        desc="Scanning",
        executor=in_processes(number_of_processes(num_processes, total_bytes=n_headers * BYTES_PER_HEADER)),
    )
    planned = [replace(case, part=parts[name]) for name, case in sorted(scanned.items())]
    findings = [finding for case in planned for finding in case.findings]
    return [case for case in planned if not errors(case.findings)], ordered(findings)


def scan_case(case: SourceCase, scanning: Scanning) -> PlannedCase:
    """Check the headers of one case: they can be read, have three axes, and image and label lie on the same grid."""
    findings: list[Finding] = []
    headers: dict[Path, Header] = {}
    for file in case.files:
        header, problems = read_finding(case.name, file, by_itk=scanning.by_itk)
        if header is None:
            findings += problems
            continue
        first = next(iter(headers.values()), None)
        headers[file] = header
        same = first is not None and np.array_equal(header.affine, first.affine)
        findings += [problem for problem in problems if not same or problem in errors([problem])]
    findings += _image_findings(case, headers, scanning)
    if errors(findings):
        return PlannedCase(case, "", tuple(ordered(findings)))
    image, *others = case.files
    of_channels = replace(scanning.tolerances, moves=False)  # channels stay where they are, and must fit exactly
    for file in others:
        is_channel = file in case.images
        tolerances, second = (of_channels, file.name) if is_channel else (scanning.tolerances, "label")
        findings += pair_findings(
            case.name, headers[image], headers[file], tolerances, reorient=scanning.reorient, second=second
        )
    return PlannedCase(
        case,
        "",
        tuple(ordered(findings)),
        _rewrite(case, headers, scanning),
        sum(file.stat().st_size for file in case.images),
        sum(file.stat().st_size for file in case.files if file not in case.images),
        max(header.volume_bytes for header in headers.values()),
    )


def _image_findings(case: SourceCase, headers: Mapping[Path, Header], scanning: Scanning) -> list[Finding]:
    findings = []
    for image in case.images:
        if ending_of(image) != scanning.file_ending:
            text = f"the image is {image.name}; the images of this dataset end with {scanning.file_ending}"
            findings.append(found("other_file_ending", case.name, text))
        if scanning.channel == MRI and image in headers and headers[image].stored == np.uint8:
            findings.append(
                found("uint8_mr", case.name, f"{image.name} is stored as uint8; expected more than 256 grey values")
            )
    return findings


def _rewrite(case: SourceCase, headers: Mapping[Path, Header], scanning: Scanning) -> str:
    """Return why the label must be rewritten, or "". The text is part of `Conversion.made_with`."""
    if case.label is None:
        return "merged from one mask per structure" if case.masks else ""
    label, image = headers[case.label], headers[case.images[0]]
    if label.scaled or np.issubdtype(label.stored, np.inexact):
        return "was stored as float"
    if misfit(image, label, reorient=scanning.reorient):  # within the tolerances, but labels in use must fit exactly
        return "position set to that of the image"
    image_spacing, label_spacing = (header.grid.reoriented().spacing for header in (image, label))
    if not np.allclose(label_spacing, image_spacing):  # nnU-Net's own check would report this as an error
        return "spacing set to that of the image"
    if ending_of(case.label) != scanning.file_ending:
        return f"now ends with {scanning.file_ending}"
    return ""

"""Read, check and write one case. This is the only module that reads voxels of a download."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_assft.dataset_conversion.file_placement import in_orientation_of, place, write_label
from nnunet_assft.dataset_conversion.findings import Finding, errors, found
from nnunet_assft.dataset_conversion.labels import LabelMap, canonical_name
from nnunet_assft.dataset_conversion.manifest import Record
from nnunet_assft.dataset_conversion.scan import PlannedCase
from nnunet_assft.dataset_conversion.source_cases import POOL, TEST
from nnunet_assft.dataset_conversion.voxels import (
    SourceVolume,
    Voxels,
    count_values,
    image_findings,
    label_findings,
    read_volume,
    renumbered,
)
from nnunet_assft.runtime.files import sha256_file, sha256_of
from nnunet_assft.runtime.text import count, reason, some

SUFFIX = {POOL: "Tr", TEST: "Ts"}


@dataclass(frozen=True)
class Conversion:
    """The settings that are the same for all cases.

    channels: names of the image channels. by_id: whether the modality follows from the case id. mode: how files are
    placed; None means that cases are only checked, and nothing is written.
    """

    folder: Path
    label_map: LabelMap
    label_names: tuple[str, ...]
    channels: tuple[str, ...]
    file_ending: str
    by_id: bool
    mode: str | None

    def made_with(self, case: PlannedCase) -> str:
        """Return the checksum of everything that determines the outputs of a case, apart from its files."""
        return sha256_of(
            [
                self.label_map.ids,
                sorted(self.label_map.dropped),
                self.channels,
                self.file_ending,
                self.mode,
                case.part,
                case.rewrite,
                *case.source.not_annotated,
            ]
        )

    def image_target(self, case: PlannedCase, channel: int) -> str:
        return f"images{SUFFIX[case.part]}/{case.name}_{channel:04d}{self.file_ending}"

    def label_target(self, case: PlannedCase) -> str:
        return f"labels{SUFFIX[case.part]}/{case.name}{self.file_ending}"

    def placing(self, case: PlannedCase) -> str:
        """Return the mode for this case. Test cases are linked if the mode is "reference", because dataset.json cannot
        name them."""
        return "link" if self.mode == "reference" and case.part == TEST else str(self.mode)

    def targets(self, case: PlannedCase) -> list[str]:
        """Return all files that the case has once it is labelled."""
        return [*(self.image_target(case, c) for c in range(len(case.source.images))), self.label_target(case)]


class _Unreadable(Exception):  # noqa: N818 - carries a finding out of nested reads
    def __init__(self, finding: Finding) -> None:
        super().__init__(finding)
        self.finding = finding


@dataclass(frozen=True)
class _NewLabel:
    """A label that has to be written, with the axes of its image. reason: why it is written."""

    array: Voxels
    reason: str


def convert_case(case: PlannedCase, conversion: Conversion) -> Record:
    """Read all files of a case once, and write the case unless it has an error. Returns its record.

    Raises OSError if the dataset folder cannot be written to.
    """
    findings: list[Finding] = []
    sources: list[dict[str, Any]] = []
    outputs: list[dict[str, Any]] = []
    content, structures, missing = "", None, []
    try:
        image, content = _read_images(case, conversion, findings, sources)
        label, structures = _read_label(case, conversion, image, findings, sources)
        missing = _not_annotated(case, conversion, structures or ())
        if missing:
            text = f"{count(len(missing), 'structure')} without a mask: {some(missing, 20)}"
            findings.append(found("structure_not_annotated", case.name, text))
        if conversion.mode is not None and not errors(findings):
            outputs = _write(case, conversion, image, label, sources)
    except _Unreadable as unreadable:
        findings.append(unreadable.finding)
        known = {source["path"] for source in sources}
        sources += [_state_of(file) for file in case.source.files if str(file) not in known]
    return {
        "part": case.part,
        "made_with": conversion.made_with(case),
        "sources": sources,
        "outputs": outputs,
        "content": content,
        "structures": structures,
        **({"not_annotated": missing} if missing else {}),
        "findings": [asdict(finding) for finding in findings],
    }


def _state_of(file: Path) -> dict[str, Any]:
    """Return the entry of a file that could not be read and may no longer exist."""
    state = file.stat() if file.exists() else None
    size, mtime_ns = (state.st_size, state.st_mtime_ns) if state else (-1, -1)
    return {"path": str(file), "size": size, "mtime_ns": mtime_ns, "sha256": ""}


def _read(case: PlannedCase, file: Path, sources: list[dict[str, Any]]) -> SourceVolume:
    try:
        volume = read_volume(file)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes gzip, zlib, nibabel and numpy raise almost anything
        raise _Unreadable(found("unreadable", case.name, f"{file}: {reason(error)}")) from error
    sources.append(volume.source)
    return volume


def _read_images(
    case: PlannedCase, conversion: Conversion, findings: list[Finding], sources: list[dict[str, Any]]
) -> tuple[SourceVolume, str]:
    """Return the first channel without its voxels, and the checksum of the voxels of all channels."""
    first: SourceVolume | None = None
    content = []
    for channel, file in zip(conversion.channels, case.source.images, strict=True):
        volume = _read(case, file, sources)
        n_channels = len(conversion.channels)
        findings += image_findings(
            case.name, file.name, volume.array, channel, by_id=conversion.by_id, n_channels=n_channels
        )
        content.append(volume.content_sha256())
        volume.array = np.empty(0)  # frees the memory, which may be gigabytes, before the label is read
        first = first or volume
    assert first is not None
    return first, sha256_of(content)


def _read_label(
    case: PlannedCase,
    conversion: Conversion,
    image: SourceVolume,
    findings: list[Finding],
    sources: list[dict[str, Any]],
) -> tuple[_NewLabel | None, list[int] | None]:
    """Return the label to write, or None if its file can be used as it is or has an error, or if there is none, and the
    ids of the structures in it, or None if it has an error or does not exist."""
    if not case.source.has_label:
        return None, None
    if case.source.label is None:
        merged = _merge(case, conversion, image, findings, sources)
        return (
            (None, None)
            if merged is None
            else (_NewLabel(merged, case.rewrite), np.unique(merged[merged > 0]).tolist())
        )
    volume = _read(case, case.source.label, sources)
    values = count_values(volume.array)
    is_float = bool(np.issubdtype(volume.array.dtype, np.inexact))
    findings += label_findings(case.name, case.source.label.name, values, is_float, conversion.label_map)
    if errors(findings):
        return None, None
    structures = sorted({conversion.label_map.ids[value] for value, n in values.voxels.items() if n} - {0})
    if conversion.mode is None:
        return None, structures
    renumber = any(conversion.label_map.ids[value] != value for value in values.voxels)
    reason = case.rewrite or ("ids renumbered" if renumber else "")
    if not reason:
        return None, structures
    array = in_orientation_of(renumbered(volume.array, conversion.label_map), volume, image)
    return _NewLabel(array, reason), structures


def _not_annotated(case: PlannedCase, conversion: Conversion, structures: Collection[int]) -> list[str]:
    """Return the structures that nobody drew in a label. structures: ids of those that have voxels in it, and that
    somebody must have drawn."""
    ids = {name: conversion.label_map.structures[canonical_name(name)] for name in conversion.label_names}
    undrawn = [name for name in conversion.label_names if canonical_name(name) in case.source.not_annotated]
    return [name for name in undrawn if ids[name] not in structures]


def _merge(
    case: PlannedCase,
    conversion: Conversion,
    image: SourceVolume,
    findings: list[Finding],
    sources: list[dict[str, Any]],
) -> Voxels | None:
    """Merge the masks of the structures that have one, in the order of the labels. Where masks overlap, the later
    structure is kept."""
    merged: Voxels | None = None
    overlaps = []
    for name in [name for name in conversion.label_names if canonical_name(name) in case.source.masks]:
        volume = _read(case, case.source.masks[canonical_name(name)], sources)
        problems = count_values(volume.array).findings(case.name, f"segmentations/{name}")
        findings += problems
        if errors(problems):
            continue
        mask = in_orientation_of((volume.array != 0).astype(np.uint8), volume, image).astype(bool)
        merged = np.zeros(mask.shape, conversion.label_map.kind, order="F") if merged is None else merged
        if n := int(np.count_nonzero(merged[mask])):
            overlaps.append(f"{name} ({n} voxels)")
        merged[mask] = conversion.label_map.structures[canonical_name(name)]
    if overlaps:
        findings.append(
            found("overlapping_masks", case.name, f"masks that cover an earlier structure: {', '.join(overlaps)}")
        )
    if merged is not None and not merged.any():
        findings.append(found("empty_label", case.name, "all masks are empty; expected at least one structure"))
    return merged


def _write(
    case: PlannedCase,
    conversion: Conversion,
    image: SourceVolume,
    label: _NewLabel | None,
    sources: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Place the images, and place or write the label if there is one. Returns one entry per file."""
    put = partial(_put, conversion.folder, mode=conversion.placing(case))
    outputs = [put(conversion.image_target(case, c), sources[c]) for c in range(len(case.source.images))]
    target = conversion.label_target(case)
    if not case.source.has_label:
        return outputs
    if label is None:
        return [*outputs, put(target, sources[-1])]
    write_label(conversion.folder / target, label.array, image)
    sha256 = sha256_file(conversion.folder / target)
    return [*outputs, _entry(conversion.folder, target, action="rewritten", reason=label.reason, sha256=sha256)]


def _put(folder: Path, target: str, source: dict[str, Any], *, mode: str) -> dict[str, Any]:
    if mode == "reference":
        return {"path": target, "action": mode, "source": source["path"], "sha256": source["sha256"]}
    place(Path(source["path"]), folder / target, mode)
    return _entry(folder, target, action=mode, source=source["path"], sha256=source["sha256"])


def _entry(folder: Path, target: str, **what: str) -> dict[str, Any]:
    state = (folder / target).stat()
    return {"path": target, **what, "size": state.st_size, "mtime_ns": state.st_mtime_ns}


def absent_structures(records: Iterable[Record], structures: Mapping[str, int]) -> list[Finding]:
    """Return a finding if there are structures that no label has. structures: name -> id.

    Labels with an error, and those that were converted by an earlier version, are not counted.
    """
    found_in = [set(record["structures"]) for record in records if record.get("structures") is not None]
    absent = [name for name, value in structures.items() if not any(value in present for present in found_in)]
    if not found_in or not absent:
        return []
    text = f"{len(absent)} of {len(structures)} structures occur in none of {count(len(found_in), 'label')}"
    return [found("absent_structure", "", f"{text}: {some(absent, 20)}")]


def merged_findings(records: Sequence[Record]) -> list[Finding]:
    return [Finding(**finding) for record in records for finding in record["findings"]]

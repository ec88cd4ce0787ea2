"""One case: read, check, write. The only place where voxels of a download are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_assft.dataset_conversion.findings import Finding, errors, found
from nnunet_assft.dataset_conversion.labels import LabelMap, canonical_name
from nnunet_assft.dataset_conversion.manifest import Record
from nnunet_assft.dataset_conversion.placing import in_orientation_of, place, write_label
from nnunet_assft.dataset_conversion.scan import PlannedCase, describe_error
from nnunet_assft.dataset_conversion.sources import POOL, TEST
from nnunet_assft.dataset_conversion.voxels import (
    Volume,
    count_values,
    image_findings,
    label_findings,
    read_volume,
    renumbered,
)
from nnunet_assft.runtime.files import sha256_file, sha256_of

SUFFIX = {POOL: "Tr", TEST: "Ts"}


@dataclass(frozen=True)
class Conversion:
    """What is the same for all cases. by_id: the modality follows from the case id; mode: None = check only, write nothing."""

    folder: Path
    label_map: LabelMap
    label_names: tuple[str, ...]
    channels: tuple[str, ...]
    file_ending: str
    by_id: bool
    mode: str | None

    def made_with(self, case: PlannedCase) -> str:
        """Checksum of everything but the files that decides the outputs of a case."""
        return sha256_of(
            [
                self.label_map.ids,
                sorted(self.label_map.dropped),
                self.channels,
                self.file_ending,
                self.mode,
                case.part,
                case.rewrite,
            ]
        )

    def image_target(self, case: PlannedCase, channel: int) -> str:
        return f"images{SUFFIX[case.part]}/{case.name}_{channel:04d}{self.file_ending}"

    def label_target(self, case: PlannedCase) -> str:
        return f"labels{SUFFIX[case.part]}/{case.name}{self.file_ending}"

    def placing(self, case: PlannedCase) -> str:
        """By reference only in the pool: dataset.json cannot name test cases."""
        return "link" if self.mode == "reference" and case.part == TEST else str(self.mode)

    def targets(self, case: PlannedCase) -> list[str]:
        """Every file that a conversion of the case may write."""
        return [*(self.image_target(case, c) for c in range(len(case.source.images))), self.label_target(case)]


class _Unreadable(Exception):  # noqa: N818 - a finding on its way out of nested reads
    def __init__(self, finding: Finding) -> None:
        super().__init__(finding)
        self.finding = finding


def convert_case(case: PlannedCase, conversion: Conversion) -> Record:
    """Read all files of a case once, and write it unless there is an error. Returns its record.

    Raises OSError if the dataset folder cannot be written to.
    """
    findings: list[Finding] = []
    sources: list[dict[str, Any]] = []
    outputs: list[dict[str, Any]] = []
    content = ""
    try:
        image, content = _read_images(case, conversion, findings, sources)
        array, reason = _read_label(case, conversion, image, findings, sources)
        if conversion.mode is not None and not errors(findings):
            outputs = _write(case, conversion, image, array, reason, sources)
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
        "findings": [asdict(finding) for finding in findings],
    }


def _state_of(file: Path) -> dict[str, Any]:
    """Of a file that could not be read; it may be gone."""
    state = file.stat() if file.exists() else None
    size, mtime_ns = (state.st_size, state.st_mtime_ns) if state else (-1, -1)
    return {"path": str(file), "size": size, "mtime_ns": mtime_ns, "sha256": ""}


def _read(case: PlannedCase, file: Path, sources: list[dict[str, Any]]) -> Volume:
    try:
        volume = read_volume(file)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes gzip, zlib, nibabel and numpy raise almost anything
        raise _Unreadable(found("unreadable", case.name, f"{file}: {describe_error(error)}")) from error
    sources.append(volume.source)
    return volume


def _read_images(
    case: PlannedCase, conversion: Conversion, findings: list[Finding], sources: list[dict[str, Any]]
) -> tuple[Volume, str]:
    """The first channel without its voxels, and the checksum of the voxels of all channels."""
    first: Volume | None = None
    content = []
    for channel, file in zip(conversion.channels, case.source.images, strict=True):
        volume = _read(case, file, sources)
        findings += image_findings(case.name, file.name, volume.array, channel, by_id=conversion.by_id)
        content.append(volume.content_sha256())
        volume.array = np.empty(0)  # an image may take gigabytes, and the label comes next
        first = first or volume
    assert first is not None
    return first, sha256_of(content)


def _read_label(
    case: PlannedCase, conversion: Conversion, image: Volume, findings: list[Finding], sources: list[dict[str, Any]]
) -> tuple[npt.NDArray[np.uint8] | None, str]:
    """The label to write and why, or None if the file can stay as it is."""
    if case.source.label is None:
        return _merge(case, conversion, image, findings, sources), case.rewrite
    volume = _read(case, case.source.label, sources)
    values = count_values(volume.array)
    is_float = bool(np.issubdtype(volume.array.dtype, np.inexact))
    findings += label_findings(case.name, case.source.label.name, values, is_float, conversion.label_map)
    if errors(findings) or conversion.mode is None:
        return None, ""
    renumber = any(conversion.label_map.ids[value] != value for value in values.voxels)
    reason = case.rewrite or ("ids renumbered" if renumber else "")
    if not reason:
        return None, ""
    return in_orientation_of(renumbered(volume.array, conversion.label_map), volume, image), reason


def _merge(
    case: PlannedCase, conversion: Conversion, image: Volume, findings: list[Finding], sources: list[dict[str, Any]]
) -> npt.NDArray[np.uint8] | None:
    """One label from a mask per structure, in label order: where masks overlap, the later structure stays."""
    merged: npt.NDArray[np.uint8] | None = None
    overlaps = []
    for name in conversion.label_names:
        volume = _read(case, case.source.masks[canonical_name(name)], sources)
        problems = count_values(volume.array).findings(case.name, f"segmentations/{name}")
        findings += problems
        if errors(problems):
            continue
        mask = in_orientation_of((volume.array != 0).astype(np.uint8), volume, image).astype(bool)
        merged = np.zeros(mask.shape, np.uint8, order="F") if merged is None else merged
        if n := int(np.count_nonzero(merged[mask])):
            overlaps.append(f"{name} ({n} voxels)")
        merged[mask] = conversion.label_map.structures[canonical_name(name)]
    if overlaps:
        findings.append(
            found("overlapping_masks", case.name, f"masks that cover an earlier structure: {', '.join(overlaps)}")
        )
    if merged is not None and not merged.any():
        findings.append(found("empty_label", case.name, "all masks are empty; expected some structure"))
    return merged


def _write(
    case: PlannedCase,
    conversion: Conversion,
    image: Volume,
    array: npt.NDArray[np.uint8] | None,
    reason: str,
    sources: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Places the image and places or writes the label. Returns one entry per file."""
    put = partial(_put, conversion.folder, mode=conversion.placing(case))
    outputs = [put(conversion.image_target(case, c), sources[c]) for c in range(len(case.source.images))]
    target = conversion.label_target(case)
    if array is None:
        return [*outputs, put(target, sources[-1])]
    write_label(conversion.folder / target, array, image)
    sha256 = sha256_file(conversion.folder / target)
    return [*outputs, _entry(conversion.folder, target, action="rewritten", reason=reason, sha256=sha256)]


def _put(folder: Path, target: str, source: dict[str, Any], *, mode: str) -> dict[str, Any]:
    if mode == "reference":
        return {"path": target, "action": mode, "source": source["path"], "sha256": source["sha256"]}
    place(Path(source["path"]), folder / target, mode)
    return _entry(folder, target, action=mode, source=source["path"], sha256=source["sha256"])


def _entry(folder: Path, target: str, **what: str) -> dict[str, Any]:
    state = (folder / target).stat()
    return {"path": target, **what, "size": state.st_size, "mtime_ns": state.st_mtime_ns}


def merged_findings(records: Sequence[Record]) -> list[Finding]:
    return [Finding(**finding) for record in records for finding in record["findings"]]

"""The segmentations of test cases. Beside CASE.nii.gz, CASE.json records what made it and its checksum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from nnunet_assft.runtime.cached import cached_or_none, is_result, keep


def keep_prediction(folder: Path, case: str, file_ending: str, made_from: Mapping[str, str]) -> None:
    """Record what the segmentation of a case, which is in the folder, was made from."""
    keep(folder / f"{case}.json", made_from, dict(made_from), [folder / f"{case}{file_ending}"])


def is_prediction(folder: Path, case: str, file_ending: str, made_from: Mapping[str, str]) -> bool:
    """Return whether the folder holds the segmentation of a case that was made from this, unchanged."""
    file = folder / f"{case}{file_ending}"
    return cached_or_none(folder / f"{case}.json", made_from, outputs=lambda _: [file]) is not None


def altered(folder: Path, cases: Iterable[str], file_ending: str, made_from: Mapping[str, str]) -> list[Path]:
    """Return the segmentations that are missing or do not match their records, and the records that are missing or
    damaged. A folder without any record is one of version 0.1.0, which wrote none."""
    files = {folder / f"{case}.json": folder / f"{case}{file_ending}" for case in cases}
    has_records = any(record.is_file() for record in files)
    found = []
    for record, segmentation in files.items():
        if not segmentation.is_file():
            found.append(segmentation)
        elif has_records and not is_prediction(folder, record.stem, file_ending, made_from):
            found.append(segmentation if is_result(record) else record)
    return found

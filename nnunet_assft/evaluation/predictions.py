"""The segmentations of test cases. Beside CASE.nii.gz, CASE.json records what made it and its checksum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from nnunet_assft.runtime.cached import cached_or_none, keep


def keep_prediction(folder: Path, case: str, file_ending: str, made_from: Mapping[str, str]) -> None:
    """Record what the segmentation of a case, which is in the folder, was made from."""
    keep(folder / f"{case}.json", made_from, dict(made_from), [folder / f"{case}{file_ending}"])


def is_prediction(folder: Path, case: str, file_ending: str, made_from: Mapping[str, str]) -> bool:
    """Return whether the folder holds the segmentation of a case that was made from this, unchanged."""
    file = folder / f"{case}{file_ending}"
    return cached_or_none(folder / f"{case}.json", made_from, outputs=lambda _: [file]) is not None


def altered(folder: Path, cases: Iterable[str], file_ending: str, made_from: Mapping[str, str]) -> list[str]:
    """Return the cases whose segmentation is missing or does not match its record. Version 0.1.0 wrote no records."""
    return [
        case
        for case in cases
        if not (folder / f"{case}{file_ending}").is_file()
        or ((folder / f"{case}.json").is_file() and not is_prediction(folder, case, file_ending, made_from))
    ]

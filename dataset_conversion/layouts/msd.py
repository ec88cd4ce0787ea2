"""A task of the Medical Segmentation Decathlon, which describes itself in its dataset.json."""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_assft.dataset_conversion.source_cases import Sources, stem_of
from nnunet_assft.errors import AssftError

if TYPE_CHECKING:
    from nnunet_assft.dataset_conversion.datasets import DatasetRow


def msd(row: DatasetRow, roots: list[Path]) -> Sources:
    """Use the training cases that dataset.json lists, and complete the row with what it states about the dataset.

    Raises `AssftError` if there is no dataset.json, or if it cannot be used.
    """
    root = next((folder for folder in [*roots, *_subfolders(roots)] if (folder / "dataset.json").is_file()), None)
    if root is None:
        raise AssftError(
            f"{roots[0]} has no dataset.json. Give the folder of one Decathlon task, such as Task04_Hippocampus."
        )
    file = root / "dataset.json"
    sources = Sources(row)
    sources.read_dataset_json(file)
    if sources.findings or not sources.labels:
        reasons = "; ".join(finding.message for finding in sources.findings) or "it names no labels"
        raise AssftError(f"{file} cannot be used: {reasons}. Unpack the task again.")
    entries = sources.dataset_json.get("training")
    for entry in entries if isinstance(entries, list) else [entries]:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("image", "label")):
            raise AssftError(
                f"{file} lists {reprlib.repr(entry)} under 'training'; expected an image and a label. Unpack the task "
                "again."
            )
        image, label = (Path(os.path.normpath(root / entry[key])) for key in ("image", "label"))
        case = sources.case(stem_of(image) or image.name)
        case.listed = True
        case.images = (image,) if image.is_file() else ()
        case.label = label if label.is_file() else None
    sources.row = _completed(row, sources, root)
    return sources


def _subfolders(roots: Iterable[Path]) -> Iterator[Path]:
    for root in roots:
        yield from sorted(
            path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__MACOSX"))
        )


def _completed(row: DatasetRow, sources: Sources, root: Path) -> DatasetRow:
    """Return the row with the id and name of the task's folder, and with what its dataset.json states."""
    content = sources.dataset_json
    modality = content.get("modality") or content.get("channel_names") or {}
    channels = list(modality.values()) if isinstance(modality, dict) else modality
    channels = channels if isinstance(channels, list) else [channels]
    if len(channels) != 1:
        raise AssftError(
            f"This task has {len(channels)} channels in 4D images, but images are never rewritten here. "
            "Use nnUNetv2_convert_MSD_dataset, then nnUNetv2_assft_convert check."
        )
    by_id = sorted((value, name) for name, value in (sources.labels or {}).items())
    n_training = content.get("numTraining")
    if n_training is not None and not isinstance(n_training, int):
        raise AssftError(f"numTraining of this task is {reprlib.repr(n_training)}; expected a number. Unpack it again.")
    if [value for value, _ in by_id] != list(range(len(by_id))):
        raise AssftError(f"The labels of this task are {sources.labels}; expected the ids 0, 1, 2, ... without gaps.")
    names = (re.fullmatch(r"Task(\d+)_(\w+)", part) for part in reversed(root.parts))
    task = next((match for match in names if match), None)
    return replace(
        row,
        id=int(task[1]) if task else 0,
        name=task[2] if task else re.sub(r"\W", "", str(content.get("name") or "")) or "Decathlon",
        channels=(str(channels[0]),),
        labels=tuple(name for value, name in by_id if value),
        description=str(content.get("description", "")),
        reference=str(content.get("reference", row.reference)),
        release=str(content.get("release", "")),
        licence=str(content.get("licence", row.licence)),
        expected_labels=n_training,
        expected_cases=n_training,
    )

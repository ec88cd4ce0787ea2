"""Images and labels in any folders, distinguished by the names of folders and files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_assft.dataset_conversion.source_cases import POOL, TEST, UNLABELLED, Sources, stem_of
from nnunet_assft.runtime.files import walk

if TYPE_CHECKING:
    from nnunet_assft.dataset_conversion.datasets import DatasetRow

PART_OF_ENDING = {"tr": POOL, "va": TEST, "ts": UNLABELLED}  # how a folder's name ends: imagesTr, labelsVa


def named_files(row: DatasetRow, roots: list[Path]) -> Sources:
    """Distinguish images and labels by their folder, or else by their name (`_0000`).

    Folders may be nested to any depth, and a file may be found more than once.
    """
    sources = Sources(row)
    for root in roots:
        for file in walk(root):
            if file.name == "dataset.json" and not sources.dataset_json:
                sources.read_dataset_json(file)
            stem = stem_of(file)
            if stem is None:
                continue
            kind, part = _images_or_labels(root, file)
            as_image, as_label = re.fullmatch(row.image, stem), re.fullmatch(row.label, stem)
            if as_image and (kind == "image" or (not kind and not (as_label and as_label["case"] == stem))):
                case = sources.case(as_image["case"])
                sources.add_image(case, file)
                if not re.fullmatch(row.label, case.name):  # no label can have this name
                    case.part = UNLABELLED
            elif as_label and kind != "image":
                case = sources.case(as_label["case"])
                sources.add_label(case, file)
            else:
                continue
            if row.split == "official" and part:
                sources.assign(case, part)
    return sources


def _images_or_labels(root: Path, file: Path) -> tuple[str, str]:
    """Return "image" or "label" and the part, by the name of the nearest folder that says so; ("", "") if none does."""
    for folder in reversed([root.name, *file.relative_to(root).parts[:-1]]):
        name = folder.lower()
        kind = "label" if re.search("label|mask|seg", name) else "image" if re.search("image|img", name) else ""
        if kind:
            return kind, PART_OF_ENDING.get(name[-2:], "")
    return "", ""

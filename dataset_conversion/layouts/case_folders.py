"""One folder per case, as in AbdomenAtlas."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_assft.dataset_conversion.labels import canonical_name
from nnunet_assft.dataset_conversion.source_cases import Sources, stem_of
from nnunet_assft.runtime.files import walk

if TYPE_CHECKING:
    from nnunet_assft.dataset_conversion.datasets import DatasetRow

IMAGE, LABEL, MASKS = "ct", "combined_labels", "segmentations"  # ct.nii.gz, combined_labels.nii.gz, segmentations/


def case_folders(row: DatasetRow, roots: list[Path]) -> Sources:
    """Treat each folder whose name matches `row.image` as a case. Its image and label may be below different roots.

    A label is one file with all structures or, if there is none, one mask for each structure. In a case with masks, a
    structure that has none is not annotated.
    """
    sources = Sources(row)
    wanted = {canonical_name(name) for name in row.labels}
    for root in roots:
        for file in walk(root):
            stem = stem_of(file)
            in_masks = file.parent.name == MASKS
            folder = file.parent.parent if in_masks else file.parent
            match = re.fullmatch(row.image, folder.name)
            if stem is None or match is None:
                continue
            case = sources.case(match["case"])
            if in_masks and canonical_name(stem) in wanted:
                case.masks.setdefault(canonical_name(stem), file)
            elif stem == IMAGE and not in_masks:
                sources.add_image(case, file)
            elif stem == LABEL and not in_masks:
                sources.add_label(case, file)
    for case in sources.cases.values():
        if case.masks:
            case.not_annotated = tuple(sorted(wanted - case.masks.keys()))
        if case.label:
            case.masks = {}
    return sources

"""The archive of AMOS 2022, which holds CT and MR images and lists its official split in dataset.json."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_assft.dataset_conversion.findings import found
from nnunet_assft.dataset_conversion.layouts.named_files import named_files
from nnunet_assft.dataset_conversion.source_cases import POOL, TEST, UNLABELLED, Sources

if TYPE_CHECKING:
    from nnunet_assft.dataset_conversion.datasets import DatasetRow


def amos(row: DatasetRow, roots: list[Path]) -> Sources:
    """Find the cases by their names, sort them by the lists in dataset.json, and leave out those of the other modality.

    The modality follows from the number of a case: `row.case_numbers` are the numbers of this dataset.
    """
    sources = named_files(row, roots)
    for key, part in (("training", POOL), ("validation", TEST), ("test", UNLABELLED)):
        for name in _listed(sources, key):
            case = sources.case(name)
            case.listed = True
            sources.assign(case, part)
    numbers = row.case_numbers
    if numbers is None:
        return sources
    other = {name for name in sources.cases if int(name[-4:]) not in numbers}
    sources.findings = [finding for finding in sources.findings if finding.case not in other]
    for name in sorted(other):
        if sources.cases.pop(name).part != UNLABELLED:
            expected = f"the ids of {row.channels[0]} images are {numbers.start} to {numbers.stop - 1}"
            sources.findings.append(found("other_modality", name, f"the case is not {row.channels[0]}; {expected}"))
    return sources


def _listed(sources: Sources, key: str) -> Iterator[str]:
    """Yield the case names in a list of dataset.json, which holds paths or objects with the key `image`."""
    entries = sources.dataset_json.get(key)
    for entry in entries if isinstance(entries, list) else ():
        path = entry.get("image") if isinstance(entry, dict) else entry
        match = re.search(r"(amos_\d{4})\.nii", str(path))
        if match:
            yield match[1]

"""Read the label of a case that came from DICOM, which an annotator has returned as a DICOM segmentation (SEG)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from nnunet_assft.annotation.label_files import ReturnedLabel
from nnunet_assft.annotation.segments import Segment, merge, structures_named
from nnunet_assft.errors import AssftError
from nnunet_assft.volumes.dicom.segmentation import read_segmentation
from nnunet_assft.volumes.grid import Grid


# five parameters: a file, what it belongs to, and what a person has accepted
def read_dicom_label(
    file: Path, labels: Mapping[str, int], image: Grid, slices: Sequence[str], overlap: str
) -> ReturnedLabel:
    """Read a SEG onto the grid of its image. labels: name -> number, as in dataset.json. slices: see
    `read_segmentation`. overlap: see `segments.merge`.

    A segment is identified by its label; its number does not matter. Raises `AssftError`, which says what was found,
    for a file that is no segmentation of this dataset and this image.
    """
    found = read_segmentation(file, image, slices)
    if not found.names:
        raise AssftError(f"it has no segments; expected {', '.join(labels)}.")
    structures = structures_named(list(found.names.values()), labels)
    if stray := found.numbers_without_a_name():
        raise AssftError(
            f"its pixels belong to segments {', '.join(map(str, sorted(stray)))}, which it does not describe. Save it "
            "again."
        )
    segments = [
        Segment(known, labels[known], partial(found.voxels, number))
        for number, known in zip(found.names, structures, strict=True)
    ]
    merged, overlapped = merge(segments, image.size[::-1], overlap)
    return ReturnedLabel(merged.transpose(2, 1, 0), image, overlapped=overlapped)

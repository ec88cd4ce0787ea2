"""DICOM segmentations as other programs write them, made with highdicom, and the places of their voxels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import FileDataset

from nnunet_assft.volumes.dicom.writing import EMPTY

highdicom = pytest.importorskip("highdicom.seg", reason="highdicom is not installed (extra dicom)")
HIGHDICOM = pytest.importorskip("highdicom", reason="highdicom is not installed (extra dicom)")
LIVER = HIGHDICOM.sr.CodedConcept("10200004", "SCT", "Liver")
ANATOMY = HIGHDICOM.sr.CodedConcept("91723000", "SCT", "Anatomical Structure")


def make_seg(made: list[FileDataset], segments: Mapping[str, np.ndarray], kind: str = "BINARY") -> FileDataset:
    """made: the slices of a series. segments: label -> (slice, row, column) bool, with the slices in the order of
    `made`. kind: BINARY, LABELMAP (of segments that do not overlap) or FRACTIONAL."""
    for data in made:
        for name in EMPTY:
            if name not in data:
                setattr(data, name, "")
        data.SliceThickness = "1"
    stack = np.stack(list(segments.values()), axis=-1)
    if kind == "LABELMAP":
        stack = (stack * np.arange(1, len(segments) + 1)).sum(-1)
    descriptions = [
        highdicom.SegmentDescription(number, name, ANATOMY, LIVER, highdicom.SegmentAlgorithmTypeValues.MANUAL)
        for number, name in enumerate(segments, start=1)
    ]
    pixels = stack.astype(np.float32 if kind == "FRACTIONAL" else np.uint8)
    return highdicom.Segmentation(
        *(made, pixels, kind, descriptions, HIGHDICOM.UID(), 1, HIGHDICOM.UID(), 1, "a", "b", "c", "d")
    )


def save_seg(file: Path, made: list[FileDataset], segments: Mapping[str, np.ndarray], kind: str = "BINARY") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    make_seg(made, segments, kind).save_as(file)


def places(label: np.ndarray, affine: np.ndarray) -> dict[tuple[float, ...], int]:
    """Place in mm, rounded -> number, of the voxels of a label (x, y, z) that are not background."""
    voxels = np.argwhere(label)
    found = voxels @ affine[:3, :3].T + affine[:3, 3]
    return {tuple(np.round(p, 2) + 0.0): int(label[tuple(v)]) for p, v in zip(found, voxels, strict=True)}

"""Segments, which have names and may overlap, become one label map. Files of 3D Slicer and DICOM SEG hold segments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.text import count, some
from nnunet_assft.volumes.names import simplified

# who gets a voxel of several segments; FIRST and LAST by their order in the file, SMALLER by the number of voxels
REFUSE, FIRST, LAST, SMALLER = "refuse", "first", "last", "smaller"
OVERLAPS = (REFUSE, FIRST, LAST, SMALLER)


@dataclass(frozen=True)
class Segment:
    """name, number: of a structure, as in dataset.json. voxels: returns (z, y, x) bool; only one segment is in memory
    at a time."""

    name: str
    number: int
    voxels: Callable[[], np.ndarray]


def structure_named(name: str, labels: Mapping[str, int]) -> str:
    """Return the structure whose `simplified` name is that of a segment; no two structures have the same."""
    known = next((known for known in labels if simplified(known) == simplified(name)), None)
    if known is not None:
        return known
    raise AssftError(
        f"segment {name!r} is not a structure of the dataset; expected {', '.join(labels)}. Rename it, or delete it if "
        "it was only a drawing aid."
    )


def structures_named(names: Sequence[str], labels: Mapping[str, int]) -> list[str]:
    """Return the structure of each segment. Raises `AssftError` if a name is unknown, or if two mean one structure."""
    found: dict[str, str] = {}
    structures = []
    for name in names:
        known = structure_named(name, labels)
        if known in found and labels[known]:  # several segments of the background do no harm
            raise AssftError(
                f"two segments are called {known!r} ({found[known]!r} and {name!r}). Merge them, or delete one."
            )
        found[known] = name
        structures.append(known)
    return structures


def merge(segments: Sequence[Segment], shape: tuple[int, ...], overlap: str) -> tuple[np.ndarray, str]:
    """Return one label map, (z, y, x) int64, and a sentence about the voxels that several segments had, or "".

    segments: in the order of the file; those of the background are left out. overlap: one of OVERLAPS; of two segments
    of the same size, SMALLER takes the later one. Raises `AssftError` if segments overlap and REFUSE is given.
    """
    order = [segment for segment in segments if segment.number]  # each is painted over those before
    if overlap == FIRST:
        order.reverse()
    elif overlap == SMALLER:
        order.sort(key=lambda segment: int(segment.voxels().sum()), reverse=True)
    names = {segment.number: segment.name for segment in order}
    merged = np.zeros(shape, np.int64)
    shared: list[tuple[str, str, int]] = []
    for segment in order:
        voxels = segment.voxels()
        before = np.bincount(merged[voxels & (merged > 0)])
        shared += [(names[int(n)], segment.name, int(before[n])) for n in np.flatnonzero(before)]
        np.copyto(merged, segment.number, where=voxels)
    if not shared:
        return merged, ""
    if overlap == REFUSE:
        pairs = some((f"{one!r} and {other!r} overlap in {count(n, 'voxel')}" for one, other, n in shared), 3)
        raise AssftError(
            f"the segments {pairs}; a voxel can have only one label. Remove the overlap (Masking in Slicer's Segment "
            "Editor) and save again, or give --overlap first, last or smaller, which decides who keeps these voxels."
        )
    taken = some((f"{winner!r} took {count(n, 'voxel')} of {loser!r}" for loser, winner, n in shared), len(shared))
    return merged, f"its segments overlapped, and --overlap {overlap} decided: {taken}"

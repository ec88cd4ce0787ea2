"""Checks that need the voxels. Each file is read once, to check it and to compute its checksum."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from nnunet_assft.dataset_conversion.datasets import CT, MRI
from nnunet_assft.dataset_conversion.findings import Finding, found
from nnunet_assft.dataset_conversion.labels import LabelMap
from nnunet_assft.runtime.files import sha256_file
from nnunet_assft.volumes.headers import Header, read_header
from nnunet_assft.volumes.images import LARGEST_VALUE
from nnunet_assft.volumes.whole_files import whole_file

Voxels = npt.NDArray[Any]

CT_AIR = -500  # HU; the minimum of a CT is below this, because there is air around the body
CT_LOWEST, CT_BONE, CT_HIGHEST = -10_000, 200, 40_000  # HU; padding and metal are within the outer two


@dataclass
class SourceVolume:
    """A file of a download in memory. array: values (x, y, z). source: path, size, mtime_ns and sha256 of the file."""

    array: Voxels
    header: Header
    nifti: nibabel.Nifti1Header
    source: dict[str, Any]

    def content_sha256(self) -> str:
        """Return the checksum of shape, type and voxels, regardless of the header and the compression."""
        digest = hashlib.sha256(f"{self.array.shape}{self.array.dtype.str}".encode())
        for slab in slabs(self.array):
            digest.update(np.asfortranarray(slab).tobytes(order="F"))
        return digest.hexdigest()


def read_volume(file: Path) -> SourceVolume:
    """Read a NIfTI file to its end, where gzip checks its length and checksum.

    Raises errors of many types if the file is damaged.
    """
    state = file.stat()
    source = {"path": str(file), "size": state.st_size, "mtime_ns": state.st_mtime_ns, "sha256": sha256_file(file)}
    with whole_file(file, finite=False) as whole:
        image: Any = nibabel.load(whole)
        array = np.array(image.dataobj, order="F")
    return SourceVolume(array, read_header(file), image.header, source)


def slabs(array: Voxels) -> Iterator[Voxels]:
    """Yield slices along the last axis, so that temporary arrays stay small."""
    for z in range(array.shape[-1]):
        yield array[..., z]


# case and name are for the findings, and what is expected of the values depends on the others
def image_findings(
    case: str, name: str, array: Voxels, channel: str, *, by_id: bool, n_channels: int = 1
) -> list[Finding]:
    """Return findings for values that planning would refuse, and for implausible intensities of an image.

    channel: a CT is expected to be in HU, and an MRI not to look like a CT; the intensities of others are not checked.
    by_id: whether the modality follows from the case id. n_channels: if there are others, one may be the same
    everywhere.
    """
    bad = 0
    low, high = np.inf, -np.inf
    for slab in slabs(array):
        finite = slab
        if np.issubdtype(array.dtype, np.inexact):
            mask = np.isfinite(slab)
            bad += int((~mask).sum())
            finite = slab[mask]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if bad:
        return [found("not_finite", case, f"{bad} voxels of {name} are NaN or infinite; expected none")]
    spans = f"{name} spans {low:g} to {high:g}"
    if max(-low, high) > LARGEST_VALUE:
        return [found("unusable_values", case, f"{spans}; expected values within {LARGEST_VALUE:g}")]
    if low == high and n_channels == 1:
        return [found("unusable_values", case, f"all voxels of {name} are {low:g}")]
    if channel == MRI and low <= CT_AIR:
        return [
            found(
                "modality_conflict",
                case,
                f"{spans}, as a CT does; expected an MR image{', by its id' if by_id else ''}",
            )
        ]
    if channel == CT and low > CT_AIR and by_id:
        return [found("modality_conflict", case, f"{spans}; its id says CT, whose minimum is at most {CT_AIR} HU")]
    if channel == CT and not (CT_LOWEST <= low <= CT_AIR and CT_BONE <= high <= CT_HIGHEST):
        expected = f"a minimum from {CT_LOWEST} to {CT_AIR} HU and a maximum from {CT_BONE} to {CT_HIGHEST} HU"
        return [found("ct_range", case, f"{spans}; expected {expected}")]
    return []


@dataclass
class Values:
    """The number of voxels per value of a label. fractions, infinite: numbers of voxels that are not integers, and not
    finite."""

    voxels: Counter[int]
    fractions: int = 0
    infinite: int = 0

    def findings(self, case: str, name: str) -> list[Finding]:
        if self.infinite:
            return [
                found("not_finite", case, f"{self.infinite} voxels of {name} are NaN or infinite; expected integers")
            ]
        if self.fractions:
            return [
                found(
                    "non_integral_labels", case, f"{self.fractions} voxels of {name} are fractions; expected integers"
                )
            ]
        return []


def count_values(array: Voxels) -> Values:
    """Count the voxels of each value."""
    values = Values(Counter())
    for slab in slabs(array):
        if np.issubdtype(array.dtype, np.inexact):
            finite = np.isfinite(slab)
            values.infinite += int((~finite).sum())
            rounded = np.rint(slab[finite])
            values.fractions += int((rounded != slab[finite]).sum())
            slab = rounded.astype(np.int64)
        if array.dtype == np.uint8:
            counted = np.bincount(slab.ravel(order="K"), minlength=256)
            values.voxels.update({int(v): int(counted[v]) for v in np.flatnonzero(counted)})
        else:
            found_values, n = np.unique(slab, return_counts=True)
            values.voxels.update(dict(zip(found_values.tolist(), n.tolist(), strict=True)))
    return values


def label_findings(case: str, name: str, values: Values, stored_as_float: bool, label_map: LabelMap) -> list[Finding]:
    """Return findings for the values of a label with all structures."""
    if findings := values.findings(case, name):
        return findings
    unexpected = {value: n for value, n in sorted(values.voxels.items()) if value not in label_map.ids}
    if unexpected:
        listed = ", ".join(f"{value} ({n} voxels)" for value, n in list(unexpected.items())[:10])
        return [
            found(
                "unexpected_labels",
                case,
                f"{name} holds {listed}; expected ids {min(label_map.ids)} to {max(label_map.ids)}",
            )
        ]
    if stored_as_float:
        findings.append(
            found("float_labels", case, f"{name} is stored as float, all values are integers; expected an integer type")
        )
    removed = {
        label_map.names[value]: values.voxels[value] for value in sorted(label_map.dropped) if values.voxels[value]
    }
    if removed:
        listed = ", ".join(f"{structure} ({n} voxels)" for structure, n in removed.items())
        findings.append(found("labels_removed", case, f"set to background: {listed}"))
    if not any(label_map.ids[value] for value, n in values.voxels.items() if n):
        findings.append(found("empty_label", case, f"{name} holds background only; expected at least one structure"))
    return findings


def renumbered(array: Voxels, label_map: LabelMap) -> Voxels:
    """Return the label with the ids of the dataset, in its `kind`. Every value must be in the map."""
    table = np.zeros(max(label_map.ids) + 1, label_map.kind)
    for old, new in label_map.ids.items():
        table[old] = new
    result = np.zeros(array.shape, table.dtype, order="F")
    for z, slab in enumerate(slabs(array)):
        result[..., z] = table[slab.astype(np.int64)]
    return result

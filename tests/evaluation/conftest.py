"""A dataset of which only the labels matter."""

from collections.abc import Collection, Mapping
from pathlib import Path

from nnunet_assft.volumes.raw_dataset import RawDataset


def dataset_with(
    folder: Path,
    labels: Mapping[str, int],
    *,
    ignore_label: int | None = None,
    not_annotated: Mapping[str, Collection[str]] | None = None,
) -> RawDataset:
    """A dataset whose labels will be in `folder`/labelsTr. labels: structure -> value, foreground only."""
    ignore = {} if ignore_label is None else {"ignore": ignore_label}
    content = {"labels": {"background": 0, **labels, **ignore}, "file_ending": ".nii.gz"}
    missing = {case: tuple(names) for case, names in (not_annotated or {}).items()}
    return RawDataset("Dataset901_Blobs", folder, content, {}, {}, reader_name="SimpleITKIO", not_annotated=missing)

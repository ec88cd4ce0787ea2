"""The check of every label that is about to be used: it lies on its image, and all its values are known."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.text import count, reason, some
from nnunet_assft.volumes.grid import read_grid, turns_to_ras
from nnunet_assft.volumes.image_files import meant_instead
from nnunet_assft.volumes.images import check_headers
from nnunet_assft.volumes.names import simplified
from nnunet_assft.volumes.nifti import forms_disagree
from nnunet_assft.volumes.placement import DoesNotFitError, require_same_voxels
from nnunet_assft.volumes.raw_dataset import RawDataset
from nnunet_assft.volumes.whole_files import whole_file


@dataclass(frozen=True)
class Misfit:
    """A label that does not lie on its image. reason: why. same_shape: whether its voxels can be taken as they are
    stored nevertheless."""

    reason: str
    same_shape: bool


def require_label(dataset: RawDataset, case: str, label_file: Path) -> None:
    """Raise `AssftError` if there is no label file, which is not opened."""
    if not label_file.exists():
        meant = f"{found} " if (found := meant_instead(label_file, dataset.file_ending)) else ""
        raise AssftError(
            f"The label of case {case} is missing: {label_file}. {meant}Put it there and run the same command again."
        )


def find_misfit(dataset: RawDataset, case: str, label_file: Path) -> Misfit | None:
    """Compare the position of a label with that of its image, from their headers. Returns None if it lies on its image.

    Raises `AssftError` if the label is missing or its header cannot be read.
    """
    require_label(dataset, case, label_file)
    errors = [problem.text for problem in check_headers([label_file], dataset.reader) if problem.is_error]
    if errors:
        raise _unusable(case, label_file, errors[0])
    image = read_grid(dataset.images_of(case)[0], dataset.reader)
    try:
        label = read_grid(label_file, dataset.reader)
    except Exception as error:  # readers raise exceptions of many types
        raise _unusable(case, label_file, f"cannot be read ({reason(error)})") from error
    turned = turns_to_ras(dataset.reader)
    try:
        require_same_voxels(label, image, turned_to_ras=turned)
    except DoesNotFitError as error:
        hint = "; its sform and its qform disagree" if forms_disagree(label_file) else ""
        return Misfit(f"{error}{hint}", label.size == image.size and (label.axes == image.axes or not turned))
    return None


def misplaced(case: str, label_file: Path, misfit: Misfit) -> AssftError:
    """Return the error for a label that does not lie on its image."""
    consent = (
        f" If only its header is wrong, --accept_geometry {case} takes its voxels as they are."
        if misfit.same_shape
        else ""
    )
    return AssftError(
        f"The label of case {case} does not lie on its image: {misfit.reason}. Fix {label_file} and run the same "
        f"command again.{consent}"
    )


def read_label(dataset: RawDataset, case: str, label_file: Path) -> np.ndarray:
    """Read a label as int16, (1, z, y, x) with the axes of the reader. Raises `AssftError` if it is damaged or holds
    values that are not labels of the dataset."""
    try:
        with whole_file(label_file) as whole:
            label, _ = dataset.reader.read_seg(str(whole))
    except Exception as error:  # readers raise exceptions of many types
        raise _unusable(case, label_file, f"cannot be read ({reason(error)})") from error
    _refuse_other_numbers(dataset, case, label_file)
    values, counts = np.unique(label, return_counts=True)
    known = sorted(dataset.labels.values())
    unknown = [
        f"{v:g} ({count(n, 'voxel')})" for v, n in zip(values, counts, strict=True) if v not in known
    ]  # NaN counts as unknown, because it does not equal any value
    if unknown:
        raise AssftError(
            f"The label of case {case} has values that dataset.json does not define: {some(unknown)}; "
            f"expected {known}. Fix {label_file} and run the same command again."
        )
    return np.asarray(label).astype(np.int16)


def _refuse_other_numbers(dataset: RawDataset, case: str, label_file: Path) -> None:
    """Raise `AssftError` if a label has the names of 3D Slicer's segments, with other numbers than in dataset.json.

    Slicer numbers segments in the order in which they were made.
    """
    if not label_file.name.lower().endswith(".nrrd"):
        return
    header = sitk.ImageFileReader()
    header.SetFileName(str(label_file))
    header.ReadImageInformation()
    keys = {key: header.GetMetaData(key).strip() for key in header.GetMetaDataKeys()}
    known = {simplified(name): number for name, number in dataset.labels.items()}
    for key, name in keys.items():
        value = keys.get(key.replace("_Name", "_LabelValue"))
        number = known.get(simplified(name)) if re.fullmatch(r"Segment\d+_Name", key) else None
        if number and value and value != str(number):
            raise AssftError(
                f"The label of case {case} was saved by 3D Slicer with other numbers: {name!r} is {value}; expected "
                f"{number}, as in dataset.json. Export {label_file} from Slicer as a label map with the colour table "
                "of the dataset."
            )


def _unusable(case: str, label_file: Path, problem: str) -> AssftError:
    return AssftError(
        f"The label of case {case}, {label_file}, cannot be used: {problem}. Replace it and run the same command again."
    )

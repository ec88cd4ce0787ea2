"""Prediction of a folder: of its images, or of the DICOM series below it, whose segmentations are also written as
DICOM."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from nnunet_assft.active.scoring.new_images import Prediction, is_predicted, predict_images
from nnunet_assft.cluster.engines import Engine
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.cases import for_each_case
from nnunet_assft.runtime.partial import private_path
from nnunet_assft.volumes.dicom.folder import ENDING, require_one_channel, series_below, write_image
from nnunet_assft.volumes.dicom.stack import Stack
from nnunet_assft.volumes.dicom.writing import require_highdicom, write_dicom_segmentation
from nnunet_assft.volumes.image_files import ImageFiles, list_images
from nnunet_assft.volumes.raw_dataset import channels_of


@dataclass(frozen=True)
class Part:
    """The inputs that a call predicts: every n-th one, beginning with number `index`, from 0.

    folder: of the segmentations. keep: whether those that are there are left as they are. probabilities: whether they
    are complete only with their softmax.
    """

    folder: Path
    n: int = 1
    index: int = 0
    keep: bool = False
    probabilities: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this call reports the inputs that nobody can predict."""
        return self.index == 0

    def of(self, names: list[str]) -> list[str]:
        return names[self.index :: self.n]

    def is_done(self, name: str, ending: str) -> bool:
        return self.keep and is_predicted(self.folder, name, ending, probabilities=self.probabilities)


@dataclass
class Inputs:
    """What a call is to predict.

    files: case -> its image files, which are there already. series: SeriesInstanceUID -> a series that becomes an image
    first, and whose segmentation is also written as DICOM. unusable: other inputs, and why they cannot be predicted.
    remarks: lines about files that are left out.
    """

    files: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    series: dict[str, Stack] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [*self.files, *self.series]


def image_inputs(folder: Path, dataset_json: dict[str, Any], part: Part) -> Inputs:
    """Return the images of a folder that a call is to predict. dataset_json: that of the model. Raises `AssftError` if
    the folder holds none."""
    images = _list_images(folder, dataset_json)
    ending = f"because it does not end with {dataset_json['file_ending']}"
    mine = part.of(list(images.cases))
    unusable = {name: f"it {problem}" for name, problem in {**images.misnamed, **images.incomplete}.items()}
    return Inputs(
        files={case: images.cases[case] for case in mine if not part.is_done(case, images.file_ending)},
        unusable=unusable if part.is_first else {},
        remarks=[f"{name} is left out, {ending}." for name in images.left_out] if part.is_first else [],
    )


def _list_images(folder: Path, dataset_json: dict[str, Any]) -> ImageFiles:
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise AssftError(f"-i {folder} {found}. Give a folder of images named CASE_0000{dataset_json['file_ending']}.")
    images = list_images(folder, dataset_json["file_ending"], channels_of(dataset_json), any_id=True)
    if images.is_empty:
        raise AssftError(
            f"{images.describe_emptiness()} 0000 is the channel. Link or copy the images under such names into a "
            "separate folder."
        )
    return images


def dicom_inputs(folder: Path, dataset_json: dict[str, Any], part: Part) -> Inputs:
    """Return the series below a folder that a call is to predict. dataset_json: that of the model. Raises `AssftError`
    if the model does not take such images."""
    require_highdicom()
    require_one_channel(dataset_json)
    if not folder.is_dir():
        raise AssftError(f"-i {folder} is not a folder. Give the folder of a DICOM export.")
    found = series_below(folder, dataset_json)

    def is_done(uid: str) -> bool:
        return (part.folder / f"{uid}.dcm").is_file() and part.is_done(uid, ENDING)

    return Inputs(
        series={uid: found.usable[uid] for uid in part.of(sorted(found.usable)) if not is_done(uid)},
        unusable=found.refused if part.is_first else {},
        remarks=[f"{uid} is left out: {why}." for uid, why in found.left_out.items()] if part.is_first else [],
    )


def predict_inputs(
    how: Prediction, engine: Engine, inputs: Inputs, dataset_json: dict[str, Any], say: Callable[[str], object]
) -> list[str]:
    """Predict what can be predicted, and return the names of what could not be.

    dataset_json: that of the model. say: is told a line about each input that is not predicted or left out.
    """
    refused: list[str] = []

    def refuse(case: str, error: AssftError) -> None:
        refused.append(case)
        old = how.folder / f"{case}{dataset_json['file_ending']}"
        earlier = f" {old} is from an earlier call." if old.is_file() else ""
        say(f"{case} is not predicted: {error}.{earlier}")

    for name, problem in inputs.unusable.items():
        refuse(name, AssftError(problem))
    for remark in inputs.remarks:
        say(remark)
    unreadable: dict[str, AssftError] = {}
    unwritable: dict[str, AssftError] = {}
    # beside the segmentations, where jobs of an engine find it
    beside = private_path(how.folder / "series") if inputs.series else nullcontext(how.folder)
    with beside as folder:

        def image(uid: str) -> tuple[Path]:
            return (write_image(folder, uid, inputs.series[uid]),)

        images = for_each_case(image, list(inputs.series), desc="reading series", failures=unreadable)
        for uid, error in unreadable.items():
            refuse(uid, error)
        if files := {**inputs.files, **images}:
            predict_images(how, files, refuse, engine)

    def dicom(uid: str) -> None:
        write_as_dicom(how.folder, uid, inputs.series[uid], dataset_json["labels"])

    for_each_case(dicom, [uid for uid in images if uid not in refused], desc="writing DICOM", failures=unwritable)
    for uid, error in unwritable.items():
        say(f"{uid} is predicted, but not as DICOM: {error}")
    return [*refused, *unwritable]


def write_as_dicom(folder: Path, uid: str, series: Stack, labels: dict[str, int]) -> None:
    """Write the segmentation of a series, which is in the folder, as UID.dcm beside it."""
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{uid}{ENDING}")))
    write_dicom_segmentation(folder / f"{uid}.dcm", series, label, labels)

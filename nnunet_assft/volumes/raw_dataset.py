"""An nnU-Net raw dataset: the images of the pool and of the test cases, and the names of the label files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.paths import nnUNet_raw
from nnunetv2.utilities.dataset_name_id_conversion import convert_id_to_dataset_name

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.environment import require_folders
from nnunet_assft.runtime.files import signature
from nnunet_assft.volumes.dataset_json import read_dataset_json
from nnunet_assft.volumes.image_files import ImageFiles, list_images
from nnunet_assft.volumes.names import DATASET, dataset_id, shown
from nnunet_assft.volumes.not_annotated import as_annotated, count_annotated, read_not_annotated
from nnunet_assft.volumes.readers import choose_reader, reader_named
from nnunet_assft.volumes.structures import structures


@dataclass(frozen=True)
class RawDataset:
    """A raw dataset.

    name: such as `Dataset218_NAME`. images, test_images: case id -> one file per channel, with ids in ascending order
    as strings. reader_name: nnU-Net's reader that the plans of an experiment record; None if it is to be chosen.
    left_out: files in the folders of images that may have been meant as images, see `ImageFiles.left_out`.
    not_annotated: case -> structures that nobody drew in its label, for the cases that lack some. No label is opened
    here; `label_file` only returns where the label of a case is expected.
    """

    name: str
    folder: Path
    dataset_json: dict[str, Any]
    images: dict[str, tuple[Path, ...]]
    test_images: dict[str, tuple[Path, ...]]
    reader_name: str | None = None
    left_out: tuple[str, ...] = ()
    not_annotated: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def file_ending(self) -> str:
        return str(self.dataset_json["file_ending"])

    @property
    def labels(self) -> dict[str, int]:
        return dict(self.dataset_json["labels"])

    @property
    def structures(self) -> dict[str, int]:
        """name -> value of every label except background and the ignore label."""
        return structures(self.labels)

    @property
    def ignore_label(self) -> int | None:
        """The value of voxels that nobody decided on; None if the dataset has none."""
        return self.labels.get("ignore")

    def as_annotated(self, case: str, segmentation: np.ndarray) -> np.ndarray:
        """Return a segmentation with the structures that are not annotated in the label of this case as background."""
        return as_annotated(segmentation, self.labels, self.not_annotated.get(case, ()))

    def not_annotated_of(self, cases: Iterable[str]) -> dict[str, Any]:
        """The entry for the inputs of a result that depends on the labels of these cases: none if nothing is missing in
        them, so that such a result is that of a dataset without not_annotated.json."""
        missing = {case: list(names) for case in sorted(cases) if (names := self.not_annotated.get(case))}
        return {"not_annotated": missing} if missing else {}

    def count_annotated(self, cases: Iterable[str]) -> dict[str, int]:
        """structure -> number of these labelled cases in which it is annotated."""
        return count_annotated(cases, self.labels, self.not_annotated)

    @property
    def foreground_labels(self) -> list[int]:
        return sorted(self.structures.values())

    def images_of(self, case: str) -> tuple[Path, ...]:
        """Return the image of a pool or test case, one file per channel."""
        return self.images[case] if case in self.images else self.test_images[case]

    def label_file(self, case: str) -> Path:
        if case in self.test_images:
            return self.folder / "labelsTs" / f"{case}{self.file_ending}"
        listed = self.dataset_json.get("dataset", {}).get(case, {}).get("label")
        return _resolved(self.folder, listed) if listed else self.folder / "labelsTr" / f"{case}{self.file_ending}"

    def state_of(self, case: str) -> list[list[int]]:
        """Return the sizes and modification times of the image and the label of a case, as far as they are there.

        A step gives them to its executor with the case, which tells by them what it found of files that were replaced
        since.
        """
        return signature(filter(Path.is_file, (*self.images_of(case), self.label_file(case))))

    def label_to_write(self, case: str) -> Path:
        """Return `label_file` for a case whose label is about to be written. Raises `AssftError` if it is not in the
        folder of the dataset, where alone labels are written."""
        file = self.label_file(case)
        if not Path(os.path.normpath(file)).is_relative_to(os.path.normpath(self.folder)):
            raise AssftError(
                f"dataset.json of {self.name} says that the label of case {case} is {file}, which is not in "
                f"{self.folder}. Labels by annotators are written to that folder only; change the path to "
                f"labelsTr/{case}{self.file_ending}."
            )
        return file

    @cached_property
    def reader(self) -> BaseReaderWriter:
        """nnU-Net's reader for these files, see `choose_reader`."""
        return reader_named(self.reader_name) if self.reader_name else choose_reader(self.dataset_json, self.images)

    def read_with(self, reader_name: str) -> RawDataset:
        """Return the dataset with the reader that an experiment was planned with."""
        return replace(self, reader_name=reader_name)


def find_dataset(name_or_id: str | int) -> RawDataset:
    """Read the raw dataset with this id or folder name. Raises `AssftError` with the reason if it cannot be used."""
    name = find_dataset_name(name_or_id)  # which says so if nnUNet_raw is not set
    return read_dataset(Path(str(nnUNet_raw), name))


def find_dataset_name(name_or_id: str | int) -> str:
    """Return the folder name of the raw dataset with this id or folder name, such as Dataset218_AMOS, without reading
    it. Raises `AssftError` if there is none."""
    require_folders()
    wanted = str(name_or_id)
    number = dataset_id(wanted)
    try:
        name = wanted if number is None else str(convert_id_to_dataset_name(number))
        if not re.match("Dataset[0-9]{3}_", name):
            raise ValueError(f"{name} is not the name of a dataset")
    except (RuntimeError, ValueError) as error:
        wrong = "belongs to more than one dataset name" if "More than one" in str(error) else "was not found"
        present = sorted(p.name for p in Path(str(nnUNet_raw)).glob("Dataset*") if p.is_dir())
        raise AssftError(
            f"Dataset {wanted or shown(wanted)} {wrong} in {nnUNet_raw}; existing datasets: "
            f"{', '.join(present) or 'none'}."
        ) from error
    DATASET.check(name)
    return name


def refuse_folders_of_datasets(folder: Path, option: str) -> None:
    """Raise `AssftError` if the option names a folder in which a raw dataset has its images or labels, where
    segmentations would replace labels by people, or count as such."""
    require_folders()
    place = os.path.realpath(folder)
    for dataset in Path(str(nnUNet_raw)).glob("Dataset*"):
        for name in ("imagesTr", "imagesTs", "labelsTr", "labelsTs"):
            if place == os.path.realpath(dataset / name):
                raise AssftError(
                    f"{option} {folder} is {name} of {dataset.name}, which holds its scans and the labels by people. "
                    "Choose another folder."
                )


def read_dataset(folder: Path) -> RawDataset:
    """Read the raw dataset in `folder`, and check everything that can be checked without opening an image.

    Raises `AssftError` if the dataset cannot be used.
    """
    dataset_json = read_dataset_json(folder)
    pool, test = pool_images(folder, dataset_json), list_test_images(folder, dataset_json)
    pool.require_sound()
    test.require_sound()
    both = in_both(pool, test)
    if both:
        raise AssftError(
            f"{folder.name}: case {both[0]} is in imagesTr and in imagesTs. Pool and test must be disjoint; "
            "remove it from one of them."
        )
    left_out = tuple(f"{images.folder.name}/{name}" for images in (pool, test) for name in images.left_out)
    not_annotated = read_not_annotated(folder, dataset_json["labels"], {*pool.cases, *test.cases})
    dataset = RawDataset(
        folder.name,
        folder,
        dataset_json,
        pool.cases,
        test.cases,
        left_out=left_out,
        not_annotated=not_annotated,
    )
    if "dataset" in dataset_json:  # otherwise, the names of the files follow from the case
        _refuse_shared_files(dataset)
    return dataset


def _refuse_shared_files(dataset: RawDataset) -> None:
    """Raise `AssftError` if dataset.json gives two cases one label, a test image to the pool, or an image as a label.

    A label would then be taken, or written, for a case that it does not belong to. Paths are compared as they are
    written, and links are not followed.
    """

    def owners(cases: Iterable[str], files_of: Callable[[str], Iterable[Path]]) -> dict[str, str]:
        return {os.path.abspath(file): case for case in cases for file in files_of(case)}

    where = f"{dataset.name}/dataset.json: the"
    of_test = owners(dataset.test_images, dataset.images_of)
    images = of_test | owners(dataset.images, dataset.images_of)
    labels = owners(dataset.test_images, lambda case: [dataset.label_file(case)])
    for case, files in dataset.images.items():
        label = os.path.abspath(dataset.label_file(case))
        other = labels.setdefault(label, case)
        shared = next((of_test[file] for file in map(os.path.abspath, files) if file in of_test), None)
        if shared is not None:
            raise AssftError(f"{where} image of case {case} is that of test case {shared}. Remove it from one of them.")
        if label in images:
            raise AssftError(f"{where} label of case {case} is the image {label}. Correct the path.")
        if other != case:
            raise AssftError(f"{where} label of case {case} is also that of case {other}, {label}. Correct the paths.")


def in_both(pool: ImageFiles, test: ImageFiles) -> list[str]:
    """Return the test cases that are in the pool as well, with the id there if it is written in another case."""
    same = {case: pool.same_case(case) for case in test.cases}
    return sorted(case if case == other else f"{case} ({other})" for case, other in same.items() if other)


def channels_of(dataset_json: Mapping[str, Any]) -> list[str]:
    """Return the names of the image channels in order."""
    return [dataset_json["channel_names"][str(channel)] for channel in range(len(dataset_json["channel_names"]))]


def pool_images(folder: Path, dataset_json: Mapping[str, Any]) -> ImageFiles:
    """List the images of the pool: those that the key `dataset` of dataset.json names, which may be anywhere, or those
    in imagesTr. Raises `AssftError` if there is none."""
    ending, channels = dataset_json["file_ending"], channels_of(dataset_json)
    if "dataset" not in dataset_json:
        found = list_images(folder / "imagesTr", ending, channels)
        if found.is_empty:
            raise AssftError(
                f"{found.describe_emptiness()} The pool is empty. Add images, or correct file_ending in dataset.json."
            )
        return found
    found = ImageFiles(folder / "dataset.json", ending)
    for case, entry in sorted(dataset_json["dataset"].items()):
        found.add(case, tuple(_resolved(folder, file) for file in entry["images"]), channels)
    return found


def list_test_images(folder: Path, dataset_json: Mapping[str, Any]) -> ImageFiles:
    """List the images in imagesTs, which may be empty or missing."""
    return list_images(folder / "imagesTs", dataset_json["file_ending"], channels_of(dataset_json))


def _resolved(folder: Path, file: str) -> Path:
    return folder / os.path.expandvars(file)  # an absolute path stays as it is

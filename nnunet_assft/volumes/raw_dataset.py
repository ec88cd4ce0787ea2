"""An nnU-Net raw dataset: the images of the pool and of the test cases, and the names of the label files."""

from __future__ import annotations

import os
import re
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw, nnUNet_results
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import read_json
from nnunet_assft.volumes.structures import structures
from nnunet_assft.volumes.whole_files import require_readable

# nnU-Net's readers of files with one channel, three dimensions and a position in space
PLAIN_READERS = ("SimpleITKIO", "NibabelIO", "NibabelIOWithReorient")


@dataclass(frozen=True)
class RawDataset:
    """A raw dataset.

    name: such as `Dataset218_NAME`. images, test_images: case id -> one file per channel, with ids in ascending order
    as strings. No label is opened here; `label_file` only returns where the label of a case is expected.
    """

    name: str
    folder: Path
    dataset_json: dict[str, Any]
    images: dict[str, tuple[Path, ...]]
    test_images: dict[str, tuple[Path, ...]]

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

    @cached_property
    def reader(self) -> BaseReaderWriter:
        """nnU-Net's reader for these files, chosen by nnU-Net with the first image that can be read."""
        for files in list(self.images.values())[:3]:
            try:
                require_readable(files[0])  # a header may claim more voxels than the memory can hold
                with redirect_stderr(StringIO()):  # nnU-Net prints a traceback for each reader that fails
                    return determine_reader_writer_from_dataset_json(self.dataset_json, str(files[0]), verbose=False)()
            except Exception:  # noqa: PERF203 - at most three files; a damaged one may raise any exception
                continue  # the file is damaged, which is reported when all images are checked
        try:
            return determine_reader_writer_from_dataset_json(self.dataset_json, verbose=False)()
        except RuntimeError as error:
            raise AssftError(
                f"nnU-Net has no reader for files that end with {self.file_ending}. See its dataset format."
            ) from error


def require_nnunet_paths() -> None:
    """Raise an `AssftError` unless nnU-Net's three environment variables are set and its raw folder exists."""
    for variable in (nnUNet_raw, nnUNet_preprocessed, nnUNet_results):
        if not variable.is_set():
            raise AssftError(
                f"The environment variable {variable.env_var_name} is not set. Set nnU-Net's three folders: "
                "export nnUNet_raw=... nnUNet_preprocessed=... nnUNet_results=..."
            )
    if not Path(str(nnUNet_raw)).is_dir():
        raise AssftError(
            f"nnUNet_raw is {nnUNet_raw}, which is not a folder. Point it to the folder that holds Dataset###_NAME."
        )


def find_dataset(name_or_id: str | int) -> RawDataset:
    """Read the raw dataset with this id or folder name. Raises `AssftError` with the reason if it cannot be used."""
    require_nnunet_paths()
    try:
        name = maybe_convert_to_dataset_name(name_or_id)
    except (RuntimeError, ValueError) as error:
        present = sorted(p.name for p in Path(str(nnUNet_raw)).glob("Dataset*") if p.is_dir())
        wrong = "belongs to more than one dataset name" if "More than one" in str(error) else "was not found"
        raise AssftError(
            f"Dataset {name_or_id} {wrong} in {nnUNet_raw}; existing datasets: {', '.join(present) or 'none'}."
        ) from error
    folder = Path(str(nnUNet_raw)) / name
    if not (folder / "dataset.json").is_file():
        raise AssftError(
            f"{folder} has no dataset.json. Expected an nnU-Net raw dataset (imagesTr, labelsTr, dataset.json)."
        )
    return read_dataset(folder)


def read_dataset(folder: Path) -> RawDataset:
    """Read the raw dataset in `folder`, and check everything that can be checked without opening an image.

    Raises `AssftError` if the dataset cannot be used.
    """
    try:
        dataset_json = read_json(folder / "dataset.json")
    except ValueError as error:
        raise AssftError(f"{folder / 'dataset.json'} is not valid JSON: {error}. Fix or rewrite it.") from error
    missing = [key for key in ("labels", "channel_names", "file_ending") if key not in dataset_json]
    if missing:
        raise AssftError(f"{folder / 'dataset.json'} lacks {', '.join(missing)}. See nnU-Net's dataset format.")
    _check_labels(folder, dataset_json["labels"])
    n_channels = len(dataset_json["channel_names"])
    if "dataset" in dataset_json:
        images = {
            case: tuple(_resolved(folder, file) for file in entry["images"])
            for case, entry in sorted(dataset_json["dataset"].items())
        }
    else:
        images = _images_in(folder / "imagesTr", dataset_json["file_ending"])
    test_images = _images_in(folder / "imagesTs", dataset_json["file_ending"])
    for case, files in {**images, **test_images}.items():
        absent = [file.name for file in files if not file.is_file()]
        if len(files) != n_channels or absent:
            raise AssftError(
                f"{folder.name}: case {case} has {len(files) - len(absent)} of {n_channels} image channels "
                f"({', '.join(dataset_json['channel_names'].values())}). Add the missing files "
                f"{case}_0000{dataset_json['file_ending']} ... or remove the case."
            )
    if not images:
        raise AssftError(
            f"{folder / 'imagesTr'} holds no image named CASE_0000{dataset_json['file_ending']}. "
            "The pool is empty; convert the dataset first."
        )
    both = sorted(set(images) & set(test_images))
    if both:
        raise AssftError(
            f"{folder.name}: case {both[0]} is in imagesTr and in imagesTs. Pool and test must be disjoint; "
            "remove it from one of them."
        )
    return RawDataset(folder.name, folder, dataset_json, images, test_images)


def _check_labels(folder: Path, labels: dict[str, Any]) -> None:
    regions = [name for name, value in labels.items() if not isinstance(value, int)]
    if regions:
        raise AssftError(
            f"{folder.name} is a region-based dataset (label {regions[0]!r} is {labels[regions[0]]}). ASSFT needs a "
            "softmax over exclusive labels. Give each label one integer in dataset.json."
        )
    values = sorted(labels.values())
    if labels.get("background") != 0 or values != list(range(len(values))) or len(labels) < 2 + ("ignore" in labels):
        raise AssftError(f"{folder.name}: the labels are {labels}. Expected background 0, then 1, 2, ... without gaps.")
    if "ignore" in labels and labels["ignore"] != values[-1]:
        raise AssftError(
            f"{folder.name}: the ignore label is {labels['ignore']}; nnU-Net needs it to be the highest, {values[-1]}."
        )


def _images_in(folder: Path, file_ending: str) -> dict[str, tuple[Path, ...]]:
    pattern = re.compile(rf"(.+)_(\d{{4}}){re.escape(file_ending)}")
    channels: dict[str, dict[int, Path]] = {}
    for file in sorted(folder.glob(f"*{file_ending}")) if folder.is_dir() else []:
        match = pattern.fullmatch(file.name)
        if match and not file.name.startswith("."):
            channels.setdefault(match[1], {})[int(match[2])] = file
    return {
        case: tuple(files.get(c, folder / f"{case}_{c:04d}{file_ending}") for c in range(max(files) + 1))
        for case, files in sorted(channels.items())
    }


def _resolved(folder: Path, file: str) -> Path:
    return folder / os.path.expandvars(file)  # an absolute path stays as it is

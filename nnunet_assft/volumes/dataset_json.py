"""The check of dataset.json, the same for every command that reads one. No other file is opened."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping
from inspect import isabstract
from pathlib import Path
from typing import Any

from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES, recursive_find_reader_writer_by_name
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import read_json
from nnunet_assft.runtime.text import some
from nnunet_assft.volumes.names import CASE_ID, STRUCTURE, shown, simplified

BACKGROUND, IGNORE = "background", "ignore"
REQUIRED = ("channel_names", "labels", "numTraining", "file_ending")
OLD_FORMAT = (
    "This is the format of nnU-Net v1 and of the Medical Segmentation Decathlon. Convert the dataset with "
    "nnUNetv2_convert_old_nnUNet_dataset or nnUNetv2_convert_MSD_dataset"
)


def read_dataset_json(folder: Path) -> dict[str, Any]:
    """Return the content of dataset.json of a raw dataset, which has everything that nnU-Net and this package need.

    Raises `AssftError` that says what is wrong and what is expected.
    """
    file = folder / "dataset.json"
    if not file.is_file():
        raise AssftError(
            f"{folder} has no dataset.json. Expected an nnU-Net raw dataset (imagesTr, labelsTr, dataset.json)."
        )
    try:
        content = read_json(file, unique_keys=True)
    except (OSError, ValueError) as error:
        raise AssftError(f"{file} cannot be read: {error}. Expected a JSON object.") from error
    check_dataset_json(content, f"{folder.name}/dataset.json")
    return dict(content)


def check_dataset_json(content: Any, where: str) -> None:
    """Raise `AssftError` unless this is the content of a usable dataset.json. where: the beginning of the message."""
    if not isinstance(content, dict):
        raise _wrong(where, "the content", content, '{"channel_names": ..., "labels": ..., ...}')
    missing = [key for key in REQUIRED if key not in content]
    if "channel_names" in missing and "modality" in content:
        raise AssftError(f"{where} has modality in place of channel_names. {OLD_FORMAT}.")
    if missing:
        raise AssftError(f"{where} lacks {', '.join(missing)}. See nnU-Net's dataset format.")
    check_channel_names(content["channel_names"], where)
    check_labels(content["labels"], where)
    if not _is_number(content["numTraining"]) or content["numTraining"] < 1:
        raise _wrong(where, "numTraining", content["numTraining"], "the number of training cases, such as 12")
    _check_reader(content, where)
    if "dataset" in content:
        _check_cases(content["dataset"], where)


def check_channel_names(channels: Any, where: str) -> None:
    """Raise `AssftError` unless the channels are {"0": name, "1": name, ...}."""
    example = '{"0": "CT"}'
    if not isinstance(channels, dict) or not channels:
        raise _wrong(where, "channel_names", channels, f"for example {example}")
    if not any(map(str.isdigit, channels)) and all(str(value).isdigit() for value in channels.values()):
        raise AssftError(
            f"{where}: names and numbers are exchanged in channel_names, {reprlib.repr(channels)}. "
            f"Expected for example {example}."
        )
    if sorted(channels) != sorted(str(i) for i in range(len(channels))):
        raise _wrong(where, "channel_names", channels, f'{example}, with the numbers "0", "1", ... without gaps')
    for channel, name in channels.items():
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise _wrong(where, f"the name of channel {channel}", name, 'a text such as "CT"')


def check_labels(labels: Any, where: str) -> None:
    """Raise `AssftError` unless the labels are {"background": 0, name: 1, ...} without gaps, with `ignore` the highest.

    Names that a program of annotators may confuse are refused as well.
    """
    if not isinstance(labels, dict) or not labels:
        raise _wrong(where, "labels", labels, 'for example {"background": 0, "liver": 1}')
    if all(name.isdigit() and isinstance(value, str) for name, value in labels.items()):
        raise AssftError(
            f"{where}: names and numbers are exchanged in labels, {reprlib.repr(labels)}, as in nnU-Net v1. Expected "
            'for example {"background": 0, "liver": 1}.'
        )
    for name, value in labels.items():
        STRUCTURE.check(name, where)
        if isinstance(value, list | tuple):
            raise AssftError(
                f"{where} describes a region-based dataset (label {shown(name)} is {reprlib.repr(value)}). ASSFT needs "
                "a softmax over exclusive labels. Give each label one number."
            )
        if not _is_number(value):
            hint = _number_meant(value)
            raise AssftError(
                f"{where}: the label {shown(name)} has the value {reprlib.repr(value)}; expected a whole number"
                f"{f', {hint} without quotes or decimal point' if hint is not None else ''}."
            )
    _check_special_labels(labels, where)
    values = sorted(labels.values())
    if values != list(range(len(values))) or len(labels) < 2 + (IGNORE in labels):
        raise AssftError(
            f"{where}: the labels are {_table(labels)}. Expected {BACKGROUND} 0, then 1, 2, ... without gaps."
        )
    if labels.get(IGNORE, values[-1]) != values[-1]:
        raise AssftError(
            f"{where}: the ignore label is {labels[IGNORE]}; nnU-Net needs it to be the highest, {values[-1]}."
        )
    _refuse_similar(labels, where)


def _check_special_labels(labels: Mapping[str, int], where: str) -> None:
    for special in (BACKGROUND, IGNORE):
        other = next((name for name in labels if name != special and simplified(name) == special), None)
        if other and special not in labels:
            raise AssftError(f"{where}: there is a label {shown(other)}; nnU-Net spells it {special!r}. Rename it.")
    if labels.get(BACKGROUND) != 0:
        raise AssftError(f'{where}: the labels are {_table(labels)}. Expected "{BACKGROUND}": 0 among them.')


def _refuse_similar(labels: Mapping[str, int], where: str) -> None:
    known: dict[str, str] = {}
    for name in labels:
        other = known.setdefault(simplified(name), name)
        if other != name:
            raise AssftError(
                f"{where}: the labels {shown(other)} and {shown(name)} differ only in case, blanks or punctuation, "
                "which programs for annotation change. Give them names that differ more."
            )


def _check_reader(content: Mapping[str, Any], where: str) -> None:
    known = sorted({ending for reader in LIST_OF_IO_CLASSES for ending in reader.supported_file_endings})
    ending, name = content["file_ending"], content.get("overwrite_image_reader_writer", "None")
    if not isinstance(ending, str) or not ending.startswith(".") or len(ending) < 2:
        raise _wrong(where, "file_ending", ending, 'a text that starts with a dot, such as ".nii.gz"')
    if ending not in known and ending.lower() in known:
        raise AssftError(f"{where}: file_ending is {ending!r}; expected {ending.lower()!r}. Rename the files likewise.")
    if name != "None":  # nnU-Net's word for no choice
        try:
            reader: type[BaseReaderWriter] | None = recursive_find_reader_writer_by_name(name)
        except (RuntimeError, TypeError):
            reader = None
        if not isinstance(reader, type) or not issubclass(reader, BaseReaderWriter) or isabstract(reader):
            readers = ", ".join(reader.__name__ for reader in LIST_OF_IO_CLASSES)
            raise _wrong(where, "overwrite_image_reader_writer", name, f"a reader of nnU-Net, such as {readers}")
        if ending in known and ending not in reader.supported_file_endings and not issubclass(reader, SimpleITKIO):
            raise AssftError(
                f"{where}: overwrite_image_reader_writer is {name}, which does not read files that end with {ending}. "
                "Leave it out, or name another reader."
            )
    elif ending not in known:
        raise AssftError(
            f"{where}: nnU-Net has no reader for files that end with {ending!r}; expected one of {', '.join(known)}."
        )


def _check_cases(cases: Any, where: str) -> None:
    example = '{"case": {"images": ["a.nii.gz"], "label": "b.nii.gz"}}'
    if not isinstance(cases, dict) or not cases:
        raise _wrong(where, "dataset", cases, f"for example {example}")
    for case, entry in cases.items():
        CASE_ID.check(case, where)
        images = entry.get("images") if isinstance(entry, dict) else None
        files = [*images, entry.get("label")] if isinstance(images, list) and images else [None]
        if not all(isinstance(file, str) and file and file.isprintable() and _is_path(file) for file in files):
            raise _wrong(where, f"the entry of case {case} in dataset", entry, f"for example {example}")


def _is_path(file: str) -> bool:
    """Whether a disk can hold a file of this name."""
    return len(os.fsencode(file)) < 4096 and all(len(os.fsencode(part)) < 256 for part in file.split("/"))


def is_copy(file: Path, content: Mapping[str, Any]) -> bool:
    """Whether a file that nnU-Net's commands read says the same about images and labels as dataset.json."""
    try:
        copy = read_json(file)
        return all(copy[key] == content[key] for key in ("channel_names", "labels", "file_ending"))
    except (OSError, ValueError, TypeError, KeyError):
        return False


def _wrong(where: str, what: str, found: Any, expected: str) -> AssftError:
    return AssftError(f"{where}: {what} is {reprlib.repr(found)}; expected {expected}. See nnU-Net's dataset format.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number_meant(value: Any) -> int | None:
    try:
        return int(value) if float(value) == int(value) and not isinstance(value, bool) else None
    except (TypeError, ValueError, OverflowError):
        return None


def _table(labels: Mapping[str, int]) -> str:
    return some((f"{name} {reprlib.repr(value)}" for name, value in labels.items()), 10)

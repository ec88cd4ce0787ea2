"""dataset.json as people write it: every form that cannot be used has one line of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nnunet_assft.dataset_conversion.check import check
from nnunet_assft.dataset_conversion.headers import Tolerances
from nnunet_assft.errors import AssftError
from nnunet_assft.volumes.dataset_json import check_dataset_json, read_dataset_json

GOOD: dict[str, Any] = {
    "channel_names": {"0": "T1", "1": "T2"},
    "labels": {"background": 0, "x": 1, "y": 2},
    "numTraining": 4,
    "file_ending": ".nii.gz",
}
V1 = {
    "modality": {"0": "CT"},
    "labels": {"0": "background", "1": "x"},
    "numTraining": 4,
    "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
}
LISTED = {"images": ["imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz"], "label": "labelsTr/a.nii.gz"}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"labels": {"ignore": 2, "x": 1, "background": 0}},
        {"labels": {"background": 0, "lesion+": 1, "lesion-": 2}},
        {"channel_names": {str(i): f"T{i}" for i in range(11)}},
        {"overwrite_image_reader_writer": "None"},
        {"overwrite_image_reader_writer": "NibabelIOWithReorient"},
        {"overwrite_image_reader_writer": "SimpleITKIO", "file_ending": ".mhd"},
        {"file_ending": ".tif"},
        {"dataset": {"a": LISTED}},
        {"training": V1["training"], "name": 7, "licence": None},  # keys that nobody reads
    ],
)
def test_what_can_be_used(change: dict[str, Any]):
    check_dataset_json({**GOOD, **change}, "dataset.json")


LEAVE_OUT = object()
WRONG_KEYS: list[tuple[dict[str, Any], list[str]]] = [
    ({"overwrite_image_reader_writer": "BaseReaderWriter"}, ["'BaseReaderWriter'; expected a reader of nnU-Net"]),
    ({"overwrite_image_reader_writer": "Tiff3DIO"}, ["Tiff3DIO, which does not read files that end with .nii.gz"]),
    ({"dataset": {"a": {**LISTED, "label": f"labelsTr/{'x' * 300}.nii.gz"}}}, ["the entry of case a in dataset is"]),
    ({"labels": LEAVE_OUT}, ["lacks labels"]),
    ({"numTraining": LEAVE_OUT, "file_ending": LEAVE_OUT}, ["lacks numTraining, file_ending"]),
    # labels
    ({"labels": None}, ["labels is None", '{"background": 0']),
    ({"labels": {}}, ["labels is {}"]),
    ({"labels": ["background", "x"]}, ["labels is ['background', 'x']"]),
    ({"labels": V1["labels"]}, ["names and numbers are exchanged in labels", "v1"]),
    ({"labels": {"background": 0, "x": "1"}}, ["label 'x' has the value '1'", "1 without quotes"]),
    ({"labels": {"background": 0, "x": 1.0}}, ["label 'x' has the value 1.0", "1 without quotes or decimal point"]),
    ({"labels": {"background": 0, "x": 1.5}}, ["label 'x' has the value 1.5", "expected a whole number."]),
    ({"labels": {"background": 0, "x": True}}, ["label 'x' has the value True"]),
    ({"labels": {"background": 0, "x": None}}, ["label 'x' has the value None"]),
    ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, ["region-based", "'whole'", "[1, 2]", "one number"]),
    ({"labels": {"background": 0, "x": 1, "y": 3}}, ["background 0, x 1, y 3", "without gaps"]),
    ({"labels": {"background": 0, "x": 1, "y": 1}}, ["without gaps"]),
    ({"labels": {"background": 0, "x": -1}}, ["without gaps"]),
    ({"labels": {"background": 0, "x": 10**30}}, ["without gaps"]),
    ({"labels": {"x": 1, "y": 2}}, ['Expected "background": 0']),
    ({"labels": {"background": 1, "x": 0}}, ['Expected "background": 0']),
    ({"labels": {"Background": 0, "x": 1}}, ["a label 'Background'", "spells it 'background'"]),
    ({"labels": {"background": 0, "x": 1, "Ignore": 2}}, ["a label 'Ignore'", "spells it 'ignore'"]),
    ({"labels": {"background": 0}}, ["Expected background 0, then 1"]),
    ({"labels": {"background": 0, "ignore": 1}}, ["Expected background 0, then 1"]),
    ({"labels": {"background": 0, "ignore": 1, "x": 2}}, ["the ignore label is 1", "the highest, 2"]),
    ({"labels": {"background": 0, "=cmd()": 1}}, ["label name '=cmd()' starts with ="]),
    ({"labels": {"background": 0, "a\nb": 1}}, ["label name 'a\\nb' contains U+000A"]),
    (
        {"labels": {"background": 0, "Left Kidney": 1, "left_kidney": 2}},
        ["'Left Kidney' and 'left_kidney' differ only"],
    ),
    # channels
    ({"channel_names": None}, ["channel_names is None"]),
    ({"channel_names": {}}, ["channel_names is {}"]),
    ({"channel_names": ["CT"]}, ["channel_names is ['CT']"]),
    ({"channel_names": "CT"}, ["channel_names is 'CT'"]),
    ({"channel_names": {"CT": "0"}}, ["names and numbers are exchanged in channel_names"]),
    ({"channel_names": {"CT": 0}}, ["names and numbers are exchanged in channel_names"]),
    ({"channel_names": {"1": "CT"}}, ["without gaps"]),
    ({"channel_names": {"0": 0}}, ["the name of channel 0 is 0"]),
    ({"channel_names": {"0": ""}}, ["the name of channel 0 is ''"]),
    # number of cases
    ({"numTraining": "4"}, ["numTraining is '4'"]),
    ({"numTraining": 4.0}, ["numTraining is 4.0"]),
    ({"numTraining": 0}, ["numTraining is 0"]),
    ({"numTraining": True}, ["numTraining is True"]),
    # files and readers
    ({"file_ending": None}, ["file_ending is None"]),
    ({"file_ending": 7}, ["file_ending is 7"]),
    ({"file_ending": "nii.gz"}, ["file_ending is 'nii.gz'", "starts with a dot"]),
    ({"file_ending": ".NII.GZ"}, ["file_ending is '.NII.GZ'; expected '.nii.gz'", "Rename the files"]),
    ({"file_ending": ".dcm"}, ["no reader for files that end with '.dcm'", ".nii.gz"]),
    ({"overwrite_image_reader_writer": "MyReader"}, ["is 'MyReader'", "SimpleITKIO"]),
    ({"overwrite_image_reader_writer": "np"}, ["is 'np'", "SimpleITKIO"]),
    ({"overwrite_image_reader_writer": None}, ["is None", "SimpleITKIO"]),
    # listed cases
    ({"dataset": None}, ["dataset is None"]),
    ({"dataset": {}}, ["dataset is {}"]),
    ({"dataset": [LISTED]}, ["dataset is [{"]),
    ({"dataset": {"a": "imagesTr/a"}}, ["the entry of case a in dataset is 'imagesTr/a'"]),
    ({"dataset": {"a": {"image": "a.nii.gz", "label": "b.nii.gz"}}}, ["the entry of case a"]),
    ({"dataset": {"a": {**LISTED, "images": "a.nii.gz"}}}, ["the entry of case a"]),
    ({"dataset": {"a": {**LISTED, "images": []}}}, ["the entry of case a"]),
    ({"dataset": {"a": {**LISTED, "images": [7]}}}, ["the entry of case a"]),
    ({"dataset": {"a": {"images": LISTED["images"]}}}, ["the entry of case a"]),
    ({"dataset": {"a": {**LISTED, "label": "a\0.nii.gz"}}}, ["the entry of case a"]),
    ({"dataset": {"../../evil": LISTED}}, ["the case id '../../evil' contains / (U+002F)"]),
    ({"dataset": {"a b": LISTED}}, ["the case id 'a b' contains a blank"]),
]
WRONG_FILES: list[tuple[bytes | None, list[str]]] = [
    (None, ["has no dataset.json"]),
    (b"", ["cannot be read: it is empty"]),
    (b" \n", ["cannot be read: it is empty"]),
    (b'{"labels": ', ["cannot be read: "]),
    (b"\xff\xfe\x00", ["byte order mark"]),
    ("\ufeff{}".encode(), ["byte order mark"]),
    (b'{"labels": "\xff"}', ["not a text in UTF-8"]),
    (b"[" * 100_000, ["nested too deeply"]),
    (b"[]", ["the content is []"]),
    (b'{"labels": {"background": 0, "x": 1, "y": 2, "x": 2, "y": 1}}', ["it has the key 'x' twice; remove one"]),
    (b"null", ["the content is None"]),
    (b"7", ["the content is 7"]),
    (b"{}", ["lacks channel_names, labels, numTraining, file_ending"]),
    (json.dumps(V1).encode(), ["modality in place of channel_names", "nnUNetv2_convert_old_nnUNet_dataset"]),
]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        *WRONG_FILES,
        *(
            (json.dumps({key: v for key, v in {**GOOD, **change}.items() if v is not LEAVE_OUT}).encode(), words)
            for change, words in WRONG_KEYS
        ),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line_by_planning_and_by_the_check(
    tmp_path: Path, content: bytes | None, words: list[str]
):
    folder = tmp_path / "Dataset902_Touch"
    folder.mkdir()
    if content is not None:
        (folder / "dataset.json").write_bytes(content)
    texts = []
    for read in (lambda: read_dataset_json(folder), lambda: check(folder, Tolerances(), 1, voxels=False)):
        with pytest.raises(AssftError) as caught:
            read()
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    assert "\n" not in texts[0]
    assert len(texts[0]) < 500
    assert [word for word in ("Dataset902_Touch", *words) if word not in texts[0]] == []

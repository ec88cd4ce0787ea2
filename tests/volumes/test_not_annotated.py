"""not_annotated.json: what is read, what is refused and how it is changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_assft.errors import AssftError
from nnunet_assft.volumes.not_annotated import (
    NAME,
    as_annotated,
    count_annotated,
    read_not_annotated,
    save_not_annotated,
)
from nnunet_assft.volumes.raw_dataset import find_dataset

LABELS = {"background": 0, "liver": 1, "spleen": 2, "kidney": 3, "ignore": 4}
CASES = ("case_01", "case_02", "case_03")


def read(folder: Path, content: Any) -> dict[str, tuple[str, ...]]:
    (folder / NAME).write_text(content if isinstance(content, str) else json.dumps(content))
    return read_not_annotated(folder, LABELS, CASES)


def test_a_dataset_without_the_file_lacks_nothing(tmp_path: Path):
    assert read_not_annotated(tmp_path, LABELS, CASES) == {}


def test_structures_are_in_the_order_of_the_labels_and_complete_cases_are_left_out(tmp_path: Path):
    content = {"case_02": ["kidney", "liver"], "case_01": [], "case_03": ["spleen", "spleen"]}
    assert read(tmp_path, content) == {"case_02": ("liver", "kidney"), "case_03": ("spleen",)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"case_1": ["liver"]}, "'case_1': the dataset has no such case"),
        ({"case_01": ["Liver"]}, "'case_01': 'Liver' is not a structure; expected liver, spleen, kidney"),
        ({"case_01": ["background"]}, "'background' is not a structure"),
        ({"case_01": ["ignore"]}, "'ignore' is not a structure"),
        ({"case_01": [1]}, "1 is not a structure"),
        ({"case_01": "liver"}, "found 'liver'; expected a list of structures"),
        ({"case_01": ["liver", "spleen", "kidney"]}, "it names every structure, so nothing is annotated"),
        (["case_01"], r"holds \['case_01'\]; expected for example"),
        ("{", "cannot be read: .* Expected for example"),
        ({"case_09": ["liver"], "case_01": ["lver"]}, "'case_09': .*; 'case_01': 'lver' is not"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, content: Any, words: str):
    with pytest.raises(AssftError, match=words) as caught:
        read(tmp_path, content)
    assert f"{tmp_path.name}/{NAME}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_raw_dataset_has_it_and_refuses_a_wrong_one(blobs: Path):
    (blobs / NAME).write_text('{"case_01": ["ball"], "case_08": ["box"]}')  # case_08 is a test case
    dataset = find_dataset(901)
    assert dataset.not_annotated == {"case_01": ("ball",), "case_08": ("box",)}
    assert dataset.not_annotated_of(["case_08", "case_00"]) == {"not_annotated": {"case_08": ["box"]}}
    assert dataset.not_annotated_of(["case_00"]) == {}
    assert dataset.count_annotated(["case_00", "case_01"]) == {"ball": 1, "box": 2}
    (blobs / NAME).write_text('{"case_77": ["ball"]}')
    with pytest.raises(AssftError, match="'case_77': the dataset has no such case"):
        find_dataset(901)


def test_saving_replaces_the_entries_of_its_cases_only(tmp_path: Path):
    save_not_annotated(tmp_path, {"case_01": ()})
    assert not (tmp_path / NAME).exists()
    save_not_annotated(tmp_path, {"case_02": ("liver",), "case_01": ("kidney",)})
    save_not_annotated(tmp_path, {"case_02": ("spleen",), "case_03": ("liver", "kidney")})
    save_not_annotated(tmp_path, {"case_01": ()})
    assert json.loads((tmp_path / NAME).read_text()) == {"case_02": ["spleen"], "case_03": ["liver", "kidney"]}


def test_numbers_of_annotated_cases():
    missing = {"case_01": ("liver",), "case_02": ("liver", "spleen"), "case_09": ("kidney",)}
    assert count_annotated(CASES, LABELS, missing) == {"liver": 1, "spleen": 2, "kidney": 3}


def test_what_nobody_drew_becomes_background():
    array = np.array([[0, 1, 2], [3, 4, 1]], np.int16)
    assert as_annotated(array, LABELS, ()) is array
    found = as_annotated(array, LABELS, ("liver", "kidney"))
    np.testing.assert_array_equal(found, [[0, 0, 2], [0, 4, 0]])
    assert found.dtype == np.int16

"""What was made from the same inputs, and is still there, is not made again; anything else is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nnunet_assft.active.metrics import VoxelSums
from nnunet_assft.active.scoring.case_record import RECORDS, CaseRecord
from nnunet_assft.errors import DamagedFileError
from nnunet_assft.runtime.cached import (
    cached,
    cached_or_none,
    claim,
    is_claimed,
    is_result,
    kept_result,
    remove,
    set_aside,
)
from nnunet_assft.runtime.files import read_json

INPUTS = {"model": "a", "pool": ["x", "y"]}


class Counted:
    """A computation that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, int]:
        self.calls += 1
        return {"call": self.calls}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "steps" / "round_01_query.json"


# One file per result --------------------------------------------------------------------------------------------------


def test_the_same_inputs_are_not_computed_again(file: Path) -> None:
    compute = Counted()
    assert cached(file, INPUTS, compute) == {"call": 1}
    assert cached(file, {"pool": ["x", "y"], "model": "a"}, compute) == {"call": 1}  # the order of keys says nothing
    assert cached(file, {"pool": ("x", "y"), "model": "a"}, compute) == {"call": 1}  # JSON has no tuples
    assert compute.calls == 1


@pytest.mark.parametrize(
    "other", [{"model": "b", "pool": ["x", "y"]}, {"model": "a", "pool": ["y", "x"]}, {"model": "a"}]
)
def test_other_inputs_are_computed_and_only_the_latest_result_is_kept(file: Path, other: dict) -> None:
    compute = Counted()
    cached(file, INPUTS, compute)
    assert cached_or_none(file, other) is None
    assert cached(file, other, compute) == cached(file, other, compute) == {"call": 2}
    assert cached(file, INPUTS, compute) == {"call": 3}


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[1:],
        lambda whole: b"\xff\xfe\x00",
        lambda whole: b"null",
        lambda whole: b"[1, 2]",
        lambda whole: b"{}",
        lambda whole: json.dumps({"result": {"call": 9}}).encode(),
        lambda whole: json.dumps({"inputs_sha256": json.loads(whole)["inputs_sha256"]}).encode(),
    ],
    ids=["empty", "truncated", "no JSON", "no text", "null", "a list", "no keys", "no inputs", "no result"],
)
def test_a_damaged_file_is_computed_again(file: Path, damage: Callable[[bytes], bytes]) -> None:
    compute = Counted()
    cached(file, INPUTS, compute)
    file.write_bytes(damage(file.read_bytes()))
    assert cached_or_none(file, INPUTS) is None
    assert cached(file, INPUTS, compute) == cached(file, INPUTS, compute) == {"call": 2}


def test_a_failure_leaves_the_earlier_result(file: Path) -> None:
    def fail() -> dict[str, int]:
        raise OSError("the disk is gone")

    cached(file, INPUTS, Counted())
    with pytest.raises(OSError, match="the disk is gone"):
        cached(file, {"model": "b"}, fail)
    assert cached_or_none(file, INPUTS) == {"call": 1}
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_result_whose_outputs_are_gone_is_computed_again(file: Path) -> None:
    made = [file.parent / "a.csv", file.parent / "b.csv"]
    compute = Counted()

    def write_both() -> dict[str, int]:
        for path in made:
            path.parent.mkdir(exist_ok=True)
            path.write_text("x")
        return compute()

    def run() -> dict[str, int]:
        return cached(file, INPUTS, write_both, outputs=lambda result: made)

    assert run() == run() == {"call": 1}
    for calls, path in enumerate(made, start=2):
        path.unlink()
        assert cached_or_none(file, INPUTS, outputs=lambda result: made) is None
        assert run() == run() == {"call": calls}
    made[0].unlink()
    made[0].mkdir()  # a folder in the place of an output is none
    assert cached_or_none(file, INPUTS, outputs=lambda result: made) is None


def test_an_output_that_was_altered_is_made_again(file: Path) -> None:
    table, compute = file.with_name("a.csv"), Counted()

    def write() -> dict[str, int]:
        table.parent.mkdir(exist_ok=True)
        table.write_text("case,dice\n")
        return compute()

    def run() -> dict[str, int]:
        return cached(file, INPUTS, write, outputs=lambda result: [table])

    assert run() == run() == {"call": 1}
    table.write_text("case,dicf\n")
    assert run() == run() == {"call": 2}
    assert table.read_text() == "case,dice\n"


def test_outputs_may_depend_on_the_result(file: Path) -> None:
    checkpoint = file.with_name("checkpoint.pth")

    def train() -> dict[str, str]:
        checkpoint.parent.mkdir(exist_ok=True)
        checkpoint.write_text("weights")
        return {"checkpoint": checkpoint.name}

    def outputs(model: dict[str, str]) -> list[Path]:
        return [file.parent / model["checkpoint"]]

    assert cached(file, INPUTS, train, outputs=outputs) == {"checkpoint": "checkpoint.pth"}
    assert cached_or_none(file, INPUTS, outputs=outputs) == {"checkpoint": "checkpoint.pth"}
    checkpoint.unlink()
    assert cached_or_none(file, INPUTS, outputs=outputs) is None


def test_the_file_tells_how_long_the_result_took(file: Path) -> None:
    cached(file, INPUTS, Counted())
    content = read_json(file)
    assert sorted(content) == ["file", "inputs_sha256", "result", "seconds", "sha256"]
    assert 0 <= content["seconds"] < 1


def test_a_copy_of_another_result_is_damage(file: Path) -> None:
    cached(file, INPUTS, Counted())
    copy = file.with_name("round_02_query.json")
    shutil.copy(file, copy)
    assert is_result(file)
    assert not is_result(copy)
    assert cached_or_none(copy, INPUTS) is None
    with pytest.raises(DamagedFileError, match=r"round_02_query\.json is damaged \(it is a copy of"):
        kept_result(copy, "Run it again.")


# Records of cases -----------------------------------------------------------------------------------------------------


RECORD = CaseRecord(
    "case_07",
    np.array([0.1, -2.5, 3.0]),
    VoxelSums(
        class_voxels=(5, 3),
        **{
            name: 0.1 * i
            for i, name in enumerate(sorted(set(VoxelSums.__dataclass_fields__) - {"class_voxels"}), start=1)
        },
    ),
    {"entropy": np.array([[0.5]])},
)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "case_07.npz"
    calls = Counted()

    def compute() -> CaseRecord:
        calls()
        return RECORD

    for found in (cached(file, INPUTS, compute, store=RECORDS), cached(file, INPUTS, compute, store=RECORDS)):
        assert (found.case, found.sums) == (RECORD.case, RECORD.sums)
        np.testing.assert_array_equal(found.embedding, RECORD.embedding)
        np.testing.assert_array_equal(found.statistics["entropy"], RECORD.statistics["entropy"])
    assert calls.calls == 1
    assert cached_or_none(file, {"model": "b"}, store=RECORDS) is None


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99])
def test_a_truncated_record_is_computed_again(tmp_path: Path, keep: float) -> None:
    file = tmp_path / "case_07.npz"
    cached(file, INPUTS, lambda: RECORD, store=RECORDS)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep * len(whole))])
    assert cached_or_none(file, INPUTS, store=RECORDS) is None
    cached(file, INPUTS, lambda: RECORD, store=RECORDS)
    assert file.read_bytes() == whole  # equal records give equal bytes


# Folders --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def stamp(tmp_path: Path) -> Path:
    """Of a folder fold_3 that was claimed for `INPUTS` and holds one file."""
    stamp = tmp_path / "fold_3" / "stage.json"
    claim(stamp, INPUTS, displace=remove)
    (stamp.parent / "made.txt").write_text("took hours")
    return stamp


def contents(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def refuse(folder: Path) -> None:
    raise AssertionError(f"{folder} must not be displaced")


def test_a_folder_of_the_same_inputs_is_kept(stamp: Path) -> None:
    assert is_claimed(stamp, INPUTS)
    claim(stamp, {**INPUTS, "pool": ("x", "y")}, displace=refuse)
    assert contents(stamp.parent) == {"stage.json", "made.txt"}


def test_a_folder_of_other_inputs_is_removed_or_set_aside(stamp: Path, tmp_path: Path) -> None:
    claim(stamp, {"model": "b"}, displace=set_aside)
    assert contents(tmp_path) == {"fold_3/stage.json", "outdated_fold_3_1/stage.json", "outdated_fold_3_1/made.txt"}
    assert is_claimed(tmp_path / "outdated_fold_3_1/stage.json", INPUTS)
    claim(stamp, {"model": "c"}, displace=set_aside)  # the next number, nothing is overwritten
    assert contents(tmp_path) >= {"outdated_fold_3_2/stage.json", "outdated_fold_3_1/made.txt"}
    claim(stamp, {"model": "d"}, displace=remove)
    assert contents(stamp.parent) == {"stage.json"}
    assert is_claimed(stamp, {"model": "d"})
    assert not is_claimed(stamp, {"model": "c"})


def test_a_folder_may_be_refused(stamp: Path) -> None:
    with pytest.raises(AssertionError, match="must not be displaced"):
        claim(stamp, {"model": "b"}, displace=refuse)
    assert is_claimed(stamp, INPUTS)
    assert contents(stamp.parent) == {"stage.json", "made.txt"}


@pytest.mark.parametrize("damage", [lambda stamp: stamp.unlink(), lambda stamp: stamp.write_text("{")])
def test_a_folder_whose_stamp_is_missing_or_damaged_is_displaced(stamp: Path, damage: Callable[[Path], object]) -> None:
    damage(stamp)
    assert not is_claimed(stamp, INPUTS)
    claim(stamp, INPUTS, displace=remove)
    assert contents(stamp.parent) == {"stage.json"}


@pytest.mark.parametrize("content", [[], [".partial_made.txt"]])
def test_a_folder_with_nothing_but_hidden_files_is_claimed(tmp_path: Path, content: list[str]) -> None:
    stamp = tmp_path / "fold_3" / "stage.json"
    stamp.parent.mkdir()
    for name in content:
        (stamp.parent / name).write_text("left by a process that was killed")
    claim(stamp, INPUTS, displace=refuse)
    assert is_claimed(stamp, INPUTS)

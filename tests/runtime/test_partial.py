"""Places for incomplete files: one per process, and nothing stays behind of processes that have ended."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nnunet_assft.runtime import partial
from nnunet_assft.runtime.files import write_text
from nnunet_assft.runtime.partial import private_path
from tests.kills import ended_process, forget_folders, private_folder_of


def test_the_name_is_the_same_and_the_folder_belongs_to_this_process(tmp_path: Path) -> None:
    with private_path(tmp_path / "folder" / "x.nii.gz") as path:
        assert path == private_folder_of(os.getpid(), tmp_path / "folder") / "x.nii.gz"
        assert path.parent != private_folder_of(os.getppid(), tmp_path / "folder")
        assert path.parent.name.startswith(".partial_")
        assert os.listdir(path.parent) == []
        path.write_text("half")
    assert os.listdir(tmp_path / "folder") == []


def test_two_may_be_open_at_once_and_hold_folders(tmp_path: Path) -> None:
    with private_path(tmp_path / "a") as outer:
        with private_path(tmp_path / "b") as inner:
            inner.mkdir()
            (inner / "file").touch()
        outer.write_text("whole")
        os.replace(outer, tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]


def test_what_ended_processes_left_is_removed_by_the_next_command(tmp_path: Path) -> None:
    ended, running = (private_folder_of(pid, tmp_path) for pid in (ended_process(), os.getppid()))
    recent, old = (tmp_path / f".partial_1_{machine}" for machine in ("00000000", "00000001"))
    everything = [ended, running, recent, old, tmp_path / ".partial_round_00_supervised_0123abcd"]
    for folder in everything:
        folder.mkdir()
        (folder / "x.json").touch()
    week_ago = recent.stat().st_mtime - partial.ABANDONED - 60
    os.utime(old, (week_ago, week_ago))
    forget_folders()
    write_text(tmp_path / "x.json", "done")
    assert {folder for folder in everything if folder.exists()} == set(everything) - {ended, old}
    assert (tmp_path / "x.json").read_text() == "done"


@pytest.mark.parametrize("name", ["x" * 255, "a b", "é"])
def test_every_name_that_a_disk_can_hold(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "whole")
    assert os.listdir(tmp_path) == [name]

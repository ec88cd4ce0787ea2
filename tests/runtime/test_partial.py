"""Names of incomplete files: one per process, and nothing stays behind of processes that have ended."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nnunet_assft.runtime import partial
from nnunet_assft.runtime.files import write_text
from nnunet_assft.runtime.partial import private_name, scratch_folder
from tests.kills import ended_process, forget_folders, private_name_of


def test_the_name_keeps_the_ending_and_belongs_to_this_process(tmp_path: Path) -> None:
    name = private_name(tmp_path / "folder" / "x.nii.gz")
    assert name.parent == tmp_path / "folder"
    assert name == private_name_of(os.getpid(), tmp_path / "folder" / "x.nii.gz")
    assert name.name.startswith(".partial_")
    assert name.name.endswith("_x.nii.gz")
    assert name != private_name_of(os.getppid(), tmp_path / "folder" / "x.nii.gz")


def test_a_scratch_folder_is_empty_and_does_not_stay(tmp_path: Path) -> None:
    for _ in range(2):
        with scratch_folder(tmp_path / "pool") as folder:
            assert list(folder.iterdir()) == []
            (folder / "case").touch()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_ended_processes_left_is_removed_by_the_next_command(tmp_path: Path, is_folder: bool) -> None:
    target = tmp_path / "x.json"
    ended, running = (private_name_of(pid, target) for pid in (ended_process(), os.getppid()))
    recent, old = (tmp_path / f".partial_1_{machine}_x.json" for machine in ("00000000", "00000001"))
    everything = [ended, running, recent, old, tmp_path / ".partial_round_00_supervised_0123abcd"]
    for file in everything:
        file.mkdir() if is_folder else file.touch()
    week_ago = recent.stat().st_mtime - partial.ABANDONED - 60
    os.utime(old, (week_ago, week_ago))
    forget_folders()
    write_text(target, "done")
    assert {file for file in everything if file.exists()} == set(everything) - {ended, old}
    assert target.read_text() == "done"

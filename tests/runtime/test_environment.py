"""nnU-Net's environment variables: what is wrong with them is one line, before anything is written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime import environment, files
from nnunet_assft.runtime.environment import FOLDERS, require_folders, require_space, require_values
from nnunet_assft.runtime.partial import _checksum_of_machine

DATASET = "Dataset901_Blobs"


def wrong_folders(root: Path) -> dict[str, tuple[str, str]]:
    """kind -> (value of a variable, what is said about it)"""
    (root / "file").touch()
    (root / "loop").symlink_to("loop")
    (root / "nowhere").symlink_to("gone")
    return {
        "empty": ("", "is empty. Set nnU-Net's three folders"),
        "blank": (" ", "is empty. Set nnU-Net's three folders"),
        "file": (str(root / "file"), "is a file; expected a folder"),
        "below a file": (str(root / "file" / "x"), "(Not a directory)"),
        "loop": (str(root / "loop"), "(Too many levels of symbolic links)"),
        "dangling": (str(root / "nowhere"), "is a symbolic link to gone, which does not exist"),
        "quotes": (f'"{root}"', 'begins with ", which the shell did not interpret'),
        "home": ("~/nnUNet", "begins with ~, which the shell did not interpret"),
        "too long": (str(root / ("x" * 300)), "(File name too long)"),
    }


@pytest.mark.parametrize("variable", FOLDERS)
def test_unset(nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.delenv(variable)
    with pytest.raises(AssftError, match=f"^The environment variable {variable} is not set\\. Set nnU-Net's three"):
        require_folders()


@pytest.mark.parametrize("variable", FOLDERS)
def test_wrong_folders(nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    root = nnunet_folders / "wrong"
    root.mkdir()
    monkeypatch.chdir(root)
    for value, expected in wrong_folders(root).values():
        monkeypatch.setenv(variable, value)
        with pytest.raises(AssftError) as refused:
            require_folders()
        assert variable in str(refused.value)
        assert expected in str(refused.value)
        assert "\n" not in str(refused.value)
    assert sorted(os.listdir(root)) == ["file", "loop", "nowhere"]


def test_the_raw_folder_has_to_exist_and_the_others_are_made(
    nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in FOLDERS[1:]:
        (nnunet_folders / variable).rmdir()
    require_folders()
    assert os.listdir(nnunet_folders) == ["nnUNet_raw"]
    require_space(DATASET)
    for variable in FOLDERS[1:]:
        assert os.listdir(nnunet_folders / variable) == [DATASET]
        assert os.listdir(nnunet_folders / variable / DATASET) == []
    assert os.listdir(nnunet_folders / "nnUNet_raw") == []
    (nnunet_folders / "nnUNet_raw").rmdir()
    with pytest.raises(AssftError, match=r"^nnUNet_raw is .*/nnUNet_raw, which does not exist"):
        require_folders()


@pytest.mark.parametrize("variable", FOLDERS[1:])
def test_a_folder_that_cannot_be_written_to(
    nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "/proc/x")
    with pytest.raises(AssftError, match=f"^{variable} /proc/x cannot be written to"):
        require_space(DATASET)


@pytest.mark.parametrize("text", ["", "x", "1.5", "-1", "٣", "1 2", "9" * 100])
@pytest.mark.parametrize("variable", ["nnUNet_n_proc_DA", "nnUNet_def_n_proc"])
def test_numbers(monkeypatch: pytest.MonkeyPatch, variable: str, text: str) -> None:
    require_values()
    monkeypatch.setenv(variable, text)
    with pytest.raises(AssftError, match=f"^The environment variable {variable} is .*; expected a whole number of at"):
        require_values()


def test_no_worker_is_a_number_for_the_augmentation_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    require_values()
    monkeypatch.setenv("nnUNet_def_n_proc", "0")
    with pytest.raises(AssftError, match="at least 1"):
        require_values()


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [("nnUNet_assft_autocast", "float16", "fp16 or bf16 or off"), ("nnUNet_assft_channels_last", "yes", "0 or 1")],
)
def test_choices(monkeypatch: pytest.MonkeyPatch, variable: str, text: str, expected: str) -> None:
    require_values()
    monkeypatch.setenv(variable, text)
    with pytest.raises(AssftError, match=f"^The environment variable {variable} is '{text}'; expected {expected}\\."):
        require_values()


# Space ----------------------------------------------------------------------------------------------------------------


class Disk(NamedTuple):
    free: int


@pytest.fixture
def disk(nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int | None], None]:
    """Pretend that the disk has so many bytes and files left."""

    def set_to(n_bytes: int, n_files: int | None) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(n_bytes))
        monkeypatch.setattr(environment, "_free_files", lambda _: n_files)
        environment._warn_once.cache_clear()

    return set_to


@pytest.mark.parametrize(
    ("n_bytes", "n_files", "expected"),
    [
        (10**9, 10_000, ""),
        (10**9, None, ""),
        (10**9 - 1, 10_000, "is nearly full; 1 GB and names for 10000 files are free."),
        (10**9, 9_999, "is nearly full; 1 GB and names for 9999 files are free."),
        (5 * 10**8, None, "is nearly full; 0.5 GB are free."),
    ],
)
def test_little_space_is_said_once(
    disk: Any, capsys: pytest.CaptureFixture[str], n_bytes: int, n_files: int | None, expected: str
) -> None:
    disk(n_bytes, n_files)
    for _ in range(2):
        require_space(DATASET)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (2 if expected else 0)  # one per folder
    for variable, line in zip(FOLDERS[1:], lines, strict=False):
        assert line.startswith(f"warning: the disk of {variable} (")
        assert line.endswith(expected)


@pytest.mark.parametrize(("n_bytes", "n_files"), [(2**24 - 1, None), (10**12, 99), (0, 0)])
def test_no_space_is_an_error(disk: Any, n_bytes: int, n_files: int | None) -> None:
    disk(n_bytes, n_files)
    with pytest.raises(AssftError, match=r"^The disk of nnUNet_preprocessed \(.*\) is full: .* are free\. Free some"):
        require_space(DATASET)


@pytest.mark.parametrize(
    ("broken", "expected"),
    [((), ""), (("link",), "symbolic links are used instead"), (("link", "symlink"), "copies are used instead")],
)
def test_missing_links_are_said(
    nnunet_folders: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: tuple[str, ...],
    expected: str,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("not supported by this file system")

    for name in broken:
        monkeypatch.setattr(files.os, name, refuse)
    if "symlink" in broken:
        monkeypatch.setattr(Path, "symlink_to", refuse)
    environment._warn_once.cache_clear()
    tried = []  # the folder in which it is tried, whose name tells another command whose it is

    def link(source: Path, target: Path) -> None:
        tried.append(target.parents[1])
        files.link_or_copy(source, target)

    monkeypatch.setattr(environment, "link_or_copy", link)
    require_space(DATASET)
    said = f"warning: the disk of {nnunet_folders / 'nnUNet_preprocessed' / DATASET} has no hard links; {expected}.\n"
    assert capsys.readouterr().err == (said if broken else "")
    assert {path.name for path in tried} == {f".partial_{os.getpid():x}_{_checksum_of_machine()}"}

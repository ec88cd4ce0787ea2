"""Whether a folder or file can be written is known before the work starts, in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.writable import is_writable, readable_folder, require_apart, require_file, require_folder


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """A folder, a file, a link to nowhere and a loop of links."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to("gone")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


WRONG = [
    ("nowhere", "is a symbolic link to gone, which does not exist"),
    ("nowhere/x", "cannot be written to"),
    ("loop", "cannot be used (Too many levels of symbolic links)"),
    ("loop/x", "cannot be used (Too many levels of symbolic links)"),
    ("file/x", "cannot be used (Not a directory)"),
    ("x" * 300, "cannot be used (File name too long)"),
    ("a\0b", "is no valid name"),
    ("/proc/x", "cannot be written to (no file or folder can be made in /proc)"),
]


@pytest.mark.parametrize(("name", "expected"), [*WRONG, ("file", "is a file; expected a folder")])
def test_folders(places: Path, name: str, expected: str) -> None:
    with pytest.raises(AssftError) as refused:
        require_folder(places / name, "-o")
    assert str(refused.value).startswith(f"-o {places / name} {expected}")
    assert sorted(os.listdir(places)) == ["file", "folder", "loop", "nowhere"]


@pytest.mark.parametrize(("name", "expected"), [*WRONG, ("folder", "is a folder; expected the name of a file")])
def test_files(places: Path, name: str, expected: str) -> None:
    with pytest.raises(AssftError) as refused:
        require_file(places / name, "-o")
    assert str(refused.value).startswith(f"-o {places / name}")
    assert expected in str(refused.value) or "the folder" in str(refused.value)
    assert sorted(os.listdir(places)) == ["file", "folder", "loop", "nowhere"]


def test_what_can_be_written_is_made_and_left_empty(places: Path) -> None:
    require_folder(places / "a" / "b", "-o")
    require_file(places / "c" / "scores.csv", "-o")
    require_file(places / "file", "-o")
    assert os.listdir(places / "a" / "b") == os.listdir(places / "c") == []
    assert is_writable(places)
    assert not is_writable(Path("/proc"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("folder", None),
        ("file", "is a file; expected a folder"),
        ("gone", "does not exist"),
        ("nowhere", "is a symbolic link to gone, which does not exist"),
        ("loop", "cannot be used (Too many levels of symbolic links)"),
    ],
)
def test_folders_that_are_read(places: Path, name: str, expected: str | None) -> None:
    assert readable_folder(places / name) == expected


def test_two_files_of_a_command_are_apart(places: Path) -> None:
    (places / "link").symlink_to("file")
    for name, words in (
        ("file", "are the same file"),
        ("folder/../file", "are the same file"),
        ("link", "are the same file"),
        ("file/x", "cannot lie in each other"),
    ):
        with pytest.raises(AssftError, match=words):
            require_apart(places / name, "--onnx", places / "file", "-o")
        with pytest.raises(AssftError, match=words):
            require_apart(places / "file", "-o", places / name, "--onnx")
    require_apart(places / "file_2", "--onnx", places / "file", "-o")
    require_apart(places / "loop", "--onnx", places / "file", "-o")
    require_apart(places / "folder/file", "--onnx", places / "file", "-o")

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import (
    LARGEST_JSON,
    atomic_path,
    link_or_copy,
    read_json,
    sha256_file,
    sha256_of,
    walk,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_atomic_path_creates_the_folder_and_keeps_the_ending(tmp_path: Path):
    target = tmp_path / "new" / "x.nii.gz"
    with atomic_path(target) as partial:
        assert partial.parent.parent == target.parent
        assert partial.name == "x.nii.gz"
        partial.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert names(target.parent) == ["x.nii.gz"]


def write_half_and_stop(file: Path) -> None:
    with atomic_path(file) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt


@pytest.mark.parametrize("before", [None, "old"])
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path, before: str | None):
    file = tmp_path / "state.json"
    if before is not None:
        file.write_text(before)
    with pytest.raises(KeyboardInterrupt):
        write_half_and_stop(file)
    assert {f.name: f.read_text() for f in tmp_path.iterdir()} == ({} if before is None else {"state.json": before})


def test_a_writer_that_wrote_nothing_does_not_go_unnoticed(tmp_path: Path):
    write_text(tmp_path / "a", "old")
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        pass
    assert (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_json_with_a_number_that_json_does_not_have_is_refused(tmp_path: Path, number: float):
    file = tmp_path / "a.json"
    write_json(file, {"dice": 0.5})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(file, {"dice": [number]})
    assert read_json(file) == {"dice": 0.5}
    assert names(tmp_path) == ["a.json"]


def test_json_as_written_on_disk(tmp_path: Path):
    write_json(tmp_path / "a.json", {"b": [1, 2.5], "a": "ü"})
    assert (tmp_path / "a.json").read_text(
        encoding="utf-8"
    ) == '{\n  "b": [\n    1,\n    2.5\n  ],\n  "a": "\\u00fc"\n}\n'
    assert read_json(tmp_path / "a.json") == {"b": [1, 2.5], "a": "ü"}


def test_what_is_in_place_of_json_is_named(tmp_path: Path):
    (tmp_path / "a.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    with pytest.raises(ValueError, match="it is a pointer of Git LFS"):
        read_json(tmp_path / "a.json")


def test_json_that_would_fill_the_memory_is_not_read(tmp_path: Path):
    with open(tmp_path / "a.json", "wb") as file:
        file.truncate(LARGEST_JSON + 1)
    with pytest.raises(ValueError, match=r"it has 268,435,457 bytes; expected at most 268,435,456"):
        read_json(tmp_path / "a.json")


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path):
    (tmp_path / "a.json").mkdir()
    (tmp_path / "source").touch()
    for write in (
        lambda: write_json(tmp_path / "a.json", {}),
        lambda: link_or_copy(tmp_path / "source", tmp_path / "a.json"),
    ):
        with pytest.raises(AssftError, match=r"a\.json is a folder; a file of this name has to be written\. Move"):
            write()
    assert names(tmp_path) == ["a.json", "source"]


def refuse(*_: object, **__: object) -> None:
    raise OSError("not supported by this file system")


@pytest.mark.parametrize(
    ("broken", "kind"), [([], "hard link"), (["link"], "symbolic link"), (["link", "symlink"], "copy")], ids=str
)
def test_link_or_copy_takes_what_the_file_system_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: list[str], kind: str
):
    source, target = tmp_path / "source", tmp_path / "folder" / "target"
    source.write_text("content")
    target.parent.mkdir()
    target.write_text("what was there before")
    for name in broken:
        monkeypatch.setattr(os, name, refuse)
    if "symlink" in broken:
        monkeypatch.setattr(Path, "symlink_to", refuse)

    link_or_copy(source, target)

    assert target.read_text() == "content"
    assert names(target.parent) == ["target"]
    found = "symbolic link" if target.is_symlink() else "hard link" if target.samefile(source) else "copy"
    assert found == kind


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_source_that_is_a_relative_symbolic_link_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool
):
    (tmp_path / "raw").mkdir()
    (tmp_path / "file").write_text("content")
    (tmp_path / "raw/link").symlink_to("../file")
    if not hard_links:
        monkeypatch.setattr(os, "link", refuse)
    link_or_copy(tmp_path / "raw/link", tmp_path / "work/images/target")
    assert (tmp_path / "work/images/target").read_text() == "content"
    assert (tmp_path / "work/images/target").is_symlink() != hard_links


def test_a_symbolic_link_survives_a_move_of_both_its_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "root/pool").mkdir(parents=True)
    (tmp_path / "root/pool/image").write_text("content")
    (tmp_path / "other_name").symlink_to("root")  # of the same folder
    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(tmp_path / "root/pool/image", tmp_path / "other_name/assft/round/image")
    (tmp_path / "root").rename(tmp_path / "moved")
    link = tmp_path / "moved/assft/round/image"
    assert os.readlink(link) == "../../pool/image"
    assert link.read_text() == "content"


def test_linking_a_second_time_changes_nothing(tmp_path: Path):
    """POSIX: renaming one hard link of a file to another one succeeds and leaves both."""
    source, target = tmp_path / "source", tmp_path / "folder" / "target"
    source.write_text("content")
    for _ in range(2):
        link_or_copy(source, target)
        assert names(target.parent) == ["target"]
        assert target.samefile(source)


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_source_that_is_not_there_is_an_error_and_no_dangling_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool
):
    if not hard_links:
        monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(FileNotFoundError):
        link_or_copy(tmp_path / "nowhere", tmp_path / "target")
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The tests may run as root, who can read every folder, so the error is made here."""
    for name in ("a", "Meier", "lost+found"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "slice").touch()
    scandir = os.scandir

    def refuse(path: str) -> object:
        if Path(path).name in ("Meier", "lost+found"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(AssftError, match=rf"A folder in {tmp_path} cannot be read \(Permission denied\)") as error:
        list(walk(tmp_path))
    assert "Meier" not in str(error.value)
    (tmp_path / "Meier").rename(tmp_path / "b")
    assert list(walk(tmp_path)) == [tmp_path / "a/slice", tmp_path / "b/slice"]


def test_checksums(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256_file(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of({"a": 1, "b": [2]}) == sha256_of({"b": [2], "a": 1})
    assert sha256_of({"a": 1}) != sha256_of({"a": 2})
    assert sha256_of("x") == hashlib.sha256(b'"x"').hexdigest()

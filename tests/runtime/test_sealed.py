"""A sealed file is read as it was written, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_assft.errors import DamagedFileError
from nnunet_assft.runtime.files import read_json, write_json
from nnunet_assft.runtime.sealed import read_sealed, understanding, write_sealed

CONTENT = {"round": 1, "labelled": ("case_01", "Müller"), "dice": {"mean": 0.1}, "by_number": {2: "b", 10: "a"}}
KEYS = tuple(CONTENT)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_sealed(tmp_path / "round_01.json", CONTENT)
    return tmp_path / "round_01.json"


def test_what_is_written_is_read(file: Path) -> None:
    expected = json.loads(json.dumps(CONTENT))  # JSON has neither tuples nor keys that are numbers
    assert read_sealed(file) == read_sealed(file, KEYS) == expected
    assert sorted(read_json(file)) == sorted([*KEYS, "sha256"])


def test_any_bit_that_changes_the_content_is_noticed(file: Path) -> None:
    whole, expected = file.read_bytes(), read_sealed(file, KEYS)
    noticed = harmless = 0
    for i in range(len(whole)):
        for bit in range(8):
            file.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << bit)]) + whole[i + 1 :])
            try:
                found = read_sealed(file, KEYS)
            except DamagedFileError:
                noticed += 1
            else:
                assert found == expected  # a blank that became a newline, for example
                harmless += 1
    assert noticed + harmless == 8 * len(whole)
    assert harmless < 0.05 * noticed


def test_any_truncation_is_noticed(file: Path) -> None:
    whole = file.read_bytes().rstrip()
    for n in range(len(whole)):
        file.write_bytes(whole[:n])
        with pytest.raises(DamagedFileError, match=r"is damaged \(.+\)\. Restore it from a backup\."):
            read_sealed(file, KEYS)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("[1, 2]", "holds a list; expected a JSON object"),
        ("null", "holds a NoneType"),
        ("[" * 100_000, "nested too deeply"),
        ('{"sha256": "0"}', "does not match its checksum"),
        ('{"round": 1, "new": 2}', "unknown key 'new'; expected by_number, dice, labelled, round"),
    ],
)
def test_what_is_wrong_is_said(file: Path, content: str, found: str) -> None:
    file.write_text(content)
    with pytest.raises(DamagedFileError, match=found) as error:
        read_sealed(file, KEYS, remedy="Run the round again.")
    assert str(error.value).endswith(" Run the round again.")


def test_a_file_that_is_no_text_or_not_there_is_damaged(file: Path) -> None:
    file.write_bytes(b"\x80\x00")
    with pytest.raises(DamagedFileError, match="is not a text in UTF-8"):
        read_sealed(file)
    file.unlink()
    with pytest.raises(DamagedFileError, match="No such file"):
        read_sealed(file)


def test_a_file_without_a_checksum_is_accepted_if_its_keys_are_known(file: Path) -> None:
    """Version 0.1.0 wrote no checksums."""
    write_json(file, {"round": 1})
    assert read_sealed(file, KEYS) == {"round": 1}
    with pytest.raises(DamagedFileError, match="it has no checksum"):
        read_sealed(file)


@pytest.mark.parametrize(
    ("use", "found"),
    [
        (lambda content: content["dice"], r"'dice' is missing"),
        (lambda content: content["round"][0], r"not subscriptable"),
        (lambda content: content["round"].items(), r"no attribute 'items'"),
        (lambda content: int(content["labelled"]), r"invalid literal"),
    ],
)
def test_content_that_cannot_be_used_is_damage(file: Path, use: Callable[[dict], object], found: str) -> None:
    content = {"round": 1, "labelled": "x"}
    words = rf"{file.name} is damaged \(.*{found}.*\)\. Run it again\."
    with pytest.raises(DamagedFileError, match=words), understanding(file, "Run it again."):
        use(content)

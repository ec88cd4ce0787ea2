"""A sealed file is read as it was written, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

import pytest

from nnunet_assft.errors import DamagedFileError
from nnunet_assft.runtime.files import read_json, write_json
from nnunet_assft.runtime.sealed import read_sealed, rebuilt, understanding, write_sealed

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


# Types ----------------------------------------------------------------------------------------------------------------


class Scores(TypedDict):
    mean: float | None
    per_case: dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Part:
    name: str
    sizes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    scores: Scores
    flag: bool = False


WHOLE = Whole((Part("a", (1, 2)), Part("b")), {"mean": 1, "per_case": {"x": {"ball": None, "box": 0.5}}})


def test_what_json_has_made_of_a_data_class_is_turned_back() -> None:
    assert rebuilt(Whole, json.loads(json.dumps(asdict(WHOLE)))) == WHOLE
    assert rebuilt(Whole, {"parts": [], "scores": {"mean": None, "per_case": {}}}).flag is False  # the default


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("parts", 3, "parts is 3; expected a list"),
        ("parts", [3], r"parts\[0\] is 3; expected an object with keys"),
        ("parts", [{"name": 3}], "name is 3; expected a text"),
        ("parts", [{}], r"parts\[0\] has no 'name'"),
        ("parts", [{"name": "a", "size": 1}], r"parts\[0\] has the unknown key 'size'"),
        ("parts", [{"name": "a", "sizes": [1.5]}], r"sizes\[0\] is 1.5; expected a whole number"),
        ("parts", [{"name": "a", "sizes": [True]}], "is True; expected a whole number"),
        ("parts", None, "parts is None; expected a list"),
        ("scores", {"mean": float("nan"), "per_case": {}}, "mean is nan; expected a number"),
        ("scores", {"mean": 1}, "scores has no 'per_case'"),
        (
            "scores",
            {"mean": 1, "per_case": {"x": {"ball": "1"}}},
            r"per_case\['x'\]\['ball'\] is '1'; expected a number",
        ),
        ("flag", 1, "flag is 1; expected true or false"),
    ],
)
def test_a_value_of_another_type_is_named(key: str, value: object, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        rebuilt(Whole, {**json.loads(json.dumps(asdict(WHOLE))), key: value})

"""Tables with rows of other packages, by entry points that exist in this process only."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from nnunet_assft.active.selection import SELECTIONS
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.dataset_conversion.datasets import DATASETS
from nnunet_assft.errors import AssftError
from nnunet_assft.network import ENCODERS, PRESETS
from nnunet_assft.planning.domains import DOMAINS
from nnunet_assft.runtime import tables
from nnunet_assft.runtime.tables import Table

GROUP = "nnunet_assft.numbers"
Build = Callable[..., Table[int]]


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Build:
    """A table of the numbers one and two, with entry points (name, value). `theirs` can be imported, `broken` not."""
    (tmp_path / "theirs.py").write_text('THREE, FOUR, TEXT = 3, 4, "five"\n')
    (tmp_path / "broken.py").write_text('raise RuntimeError("no licence")\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("theirs", "broken"):
        monkeypatch.delitem(sys.modules, module, raising=False)

    def make(*points: tuple[str, str]) -> Table[int]:
        def entry_points(group: str) -> list[EntryPoint]:
            assert group == GROUP
            return [EntryPoint(name, value, group) for name, value in points]

        monkeypatch.setattr(tables, "entry_points", entry_points)
        return Table(GROUP, int, {"two": 2, "one": 1})

    return make


def test_own_rows_in_their_order_then_those_of_others_by_name(build: Build) -> None:
    table = build(("three", "theirs:THREE"), ("four", "theirs:FOUR"))
    assert dict(table) == {"two": 2, "one": 1, "four": 4, "three": 3}
    assert list(table) == ["two", "one", "four", "three"]
    assert len(table) == 4
    assert "three" in table
    assert "five" not in table
    assert table.get("five") is None
    with pytest.raises(KeyError):
        table["five"]


def test_names_are_known_without_importing_the_other_package(build: Build) -> None:
    table = build(("three", "theirs:THREE"))
    assert list(table) == ["two", "one", "three"]
    assert "three" in table
    assert table["one"] == 1
    assert "theirs" not in sys.modules
    assert table["three"] == 3
    assert "theirs" in sys.modules


def test_a_module_of_a_row_may_use_the_table(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = build(("three", "user:THREE"))
    monkeypatch.setattr(tables, "the_table", table, raising=False)
    (tmp_path / "user.py").write_text("from nnunet_assft.runtime import tables\nTHREE = 1 + tables.the_table['two']\n")
    assert table["three"] == 3


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("bad", "missing_module:ROW", r"cannot be imported \(ModuleNotFoundError: No module named 'missing_module'\)"),
        ("bad", "theirs:FIVE", r"cannot be imported \(AttributeError: .*FIVE"),
        ("bad", "broken:ROW", r"cannot be imported \(RuntimeError: no licence\)"),
        ("bad", "theirs:TEXT", "is of type str; expected an instance of int"),
    ],
)
def test_a_row_that_cannot_be_used_is_an_error_for_those_who_use_it(
    build: Build, name: str, value: str, found: str
) -> None:
    table = build((name, value), ("three", "theirs:THREE"))
    assert (table["one"], table["three"]) == (1, 3)
    said = (
        rf"The entry point {name} = {value} of an unknown package in the group {GROUP} {found}.*uninstall the package"
    )
    with pytest.raises(AssftError, match=said):
        table[name]


@pytest.mark.parametrize("points", [(("one", "theirs:THREE"),), (("three", "theirs:THREE"), ("three", "theirs:FOUR"))])
def test_two_rows_of_one_name_are_an_error_wherever_the_table_is_used(
    build: Build, points: tuple[tuple[str, str], ...]
) -> None:
    table = build(*points)
    for use in (list, len, dict, lambda table: table["one"], lambda table: "one" in table):
        with pytest.raises(AssftError, match="has the same name as an existing row"):
            use(table)


def test_the_six_tables_have_a_group_each() -> None:
    groups = [table.group for table in (STRATEGIES, SELECTIONS, PRESETS, ENCODERS, DATASETS, DOMAINS)]
    names = ("strategies", "selections", "presets", "encoders", "datasets", "domains")
    assert groups == [f"nnunet_assft.{name}" for name in names]

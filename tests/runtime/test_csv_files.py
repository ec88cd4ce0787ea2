"""What a spreadsheet would take for a formula is a text, numbers are numbers, and all is read back as it was."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest

from nnunet_assft.runtime.csv_files import bare, bare_table, guarded, read_csv, write_csv, write_csv_table

FORMULAS = [
    "=1+1",
    '=HYPERLINK("http://x","y")',
    "+cmd|' /C calc'!A0",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(A1)",
    "\t=1",
    " =1",
    "\n=1",
    "-liver",
    "'=1",
    "''=1",
]
PLAIN = [
    "case_01",
    "",
    "'tis",
    "''",
    "a=b",
    "1-2",
    "-",
    "-0.5",
    "+1",
    "-1e-05",
    "-inf",
    "+0.012 (-0.004, 0.028)",
    "- 5 %",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_becomes_a_text(text: str) -> None:
    assert guarded(text) == f"'{text}"
    assert bare(guarded(text)) == text


def test_a_carriage_return_ends_no_line(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [{"case": "a\r=1"}, {"case": "\r=1"}])
    write_csv_table(tmp_path / "b.csv", pd.DataFrame({"case": ["a\r=1", "\r=1"]}))
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes() == b"case\na =1\n' =1\n"


@pytest.mark.parametrize("cell", [*PLAIN, -0.5, 3, None, True])
def test_everything_else_stays_as_it_is(cell: object) -> None:
    assert guarded(cell) == cell
    assert type(guarded(cell)) is type(cell)
    assert bare(cell) == cell


def test_rows_on_disk_and_back(tmp_path: Path) -> None:
    rows = [{"case": text, "=x": -0.5, "n": 3, "quoted": 'a,"b"\nc'} for text in [*FORMULAS, *PLAIN]]
    write_csv(tmp_path / "a.csv", rows)
    with open(tmp_path / "a.csv", encoding="utf-8", newline="") as file:
        raw = list(csv.reader(file))
    assert raw[0] == ["case", "'=x", "n", "quoted"]
    assert raw[1] == ["'=1+1", "-0.5", "3", 'a,"b"\nc']
    assert not any(cell.lstrip()[:1] in ("=", "@") for line in raw for cell in line)
    assert read_csv(tmp_path / "a.csv") == [{name: str(value) for name, value in row.items()} for row in rows]


def test_a_table_on_disk_and_back(tmp_path: Path) -> None:
    """Missing numbers, whole numbers and truth values are written as pandas writes them."""
    table = pd.DataFrame({"case": FORMULAS, "+dice": -0.5, "n": 3, "missing": None, "selected": True})
    write_csv_table(tmp_path / "a.csv", table)
    assert (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()[:2] == [
        "case,'+dice,n,missing,selected",
        "'=1+1,-0.5,3,,True",
    ]
    read = bare_table(pd.read_csv(tmp_path / "a.csv", dtype={"case": str}))
    assert list(read["case"]) == FORMULAS
    assert list(read.columns) == list(table.columns)
    assert (read["+dice"] == -0.5).all()


@pytest.mark.parametrize("table", [pd.DataFrame(), pd.DataFrame({"a": []}), pd.DataFrame({"a": ["x"], "b": [1]})])
def test_a_table_without_formulas_is_written_as_pandas_writes_it(tmp_path: Path, table: pd.DataFrame) -> None:
    write_csv_table(tmp_path / "a.csv", table)
    assert (tmp_path / "a.csv").read_text() == table.to_csv(index=False)

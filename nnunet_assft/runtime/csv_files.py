"""CSV files that people open in a spreadsheet and that this package reads again.

A spreadsheet takes a cell that begins with = + - @ for a formula, which can read files and run programs. A text of this
kind, such as a case or a structure that is called `=x`, gets an apostrophe before it, which readers here take away.
Numbers remain numbers.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_assft.runtime.files import write_text

if TYPE_CHECKING:
    import pandas as pd

FORMULA = re.compile(r"'*(\s*[=+\-@]|\t)")
NUMBERS = re.compile(r"[+-][\d\s.,;%±()+-]*")  # such as "+0.012 (-0.004, 0.028)", and "-" for nothing


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, see `csv_text`."""
    write_text(path, csv_text(rows))


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV, with floats in full precision. The header consists of the keys of the first row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(rows[0])
    writer.writerow([guarded(name) for name in names])
    writer.writerows([guarded(row[name]) for name in names] for row in rows)
    return text.getvalue()


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a file of `write_csv`, with all cells as texts."""
    with open(path, encoding="utf-8", newline="") as file:
        return [{bare(name): bare(cell) for name, cell in row.items()} for row in csv.DictReader(file)]


def write_csv_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as `DataFrame.to_csv` does, without its index. `bare_table` takes the apostrophes away."""
    write_text(path, table_text(table))


def table_text(table: pd.DataFrame) -> str:
    """Return the content of a file of `write_csv_table`."""
    return str(_mapped(table, guarded).to_csv(index=False, lineterminator="\n"))


def bare_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table that pandas has read from a file of this module, with its texts as they were."""
    return _mapped(table, bare)


def guarded(cell: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula: a text that could be one gets an apostrophe.

    A carriage return becomes a blank, because Python's csv and pandas write it without quotes, as the end of a line.
    """
    if not isinstance(cell, str):
        return cell
    text = cell.replace("\r", " ")
    return f"'{text}" if FORMULA.match(text) and not _is_number(text) else text


def bare(cell: Any) -> Any:
    """Return a cell without the apostrophe of `guarded`."""
    return cell[1:] if isinstance(cell, str) and cell.startswith("'") and FORMULA.match(cell) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return NUMBERS.fullmatch(text) is not None
    return text == text.strip()


def _mapped(table: pd.DataFrame, function: Callable[[Any], Any]) -> pd.DataFrame:
    import pandas as pd

    mapped = table.rename(columns=function)
    for i in range(table.shape[1]):
        column = table.iloc[:, i]
        if any(isinstance(cell, str) and function(cell) != cell for cell in column):
            mapped.isetitem(i, pd.Series([function(cell) for cell in column], index=table.index, dtype=object))
    return mapped

"""Who annotated a case, how long it took, and what was decided about its pre-segmentation, from the command line or
from a table."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.csv_files import bare
from nnunet_assft.runtime.files import refuse_endless
from nnunet_assft.runtime.ranges import RANGES
from nnunet_assft.runtime.text import reason, some

ACCEPT, FIX, REJECT = "accept", "fix", "reject"  # what an annotator decides about a pre-segmentation
DECISIONS = (ACCEPT, FIX, REJECT)
COLUMNS = "case, annotator, minutes, decision"


@dataclass(frozen=True)
class Times:
    """Annotators, minutes and decisions as given on the command line.

    annotator, minutes: those of every label of an import. rows: (case, annotator) -> minutes from a table, where the
    annotator is "" if it is not given; they take precedence over `minutes`. decisions: the same keys -> one of
    DECISIONS, as far as one was made.
    """

    annotator: str | None = None
    minutes: float | None = None
    rows: Mapping[tuple[str, str], float | None] = field(default_factory=dict)
    decisions: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @property
    def cases(self) -> set[str]:
        return {case for case, _ in self.rows}

    def annotator_of(self, case: str) -> str | None:
        """Who annotated this case; None if it is not given, or if the table names several annotators."""
        named = {name for row, name in self.rows if row == case and name}
        return self.annotator or (named.pop() if len(named) == 1 else None)

    def of(self, case: str, annotator: str | None, recorded: float | None = None) -> float | None:
        """Minutes from the table, then as recorded at an earlier import, then the default; None if unknown."""
        for key in ((case, annotator or ""), (case, "")):
            if self.rows.get(key) is not None:
                return self.rows[key]
        return self.minutes if recorded is None else recorded

    def decision_of(self, case: str, annotator: str | None) -> str | None:
        """The decision about the pre-segmentation of a case; None if there is none in the table."""
        return self.decisions.get((case, annotator or "")) or self.decisions.get((case, ""))

    @classmethod
    def read(cls, file: Path, annotator: str | None = None, minutes: float | None = None) -> Times:
        """Read a CSV file with the columns case, annotator, minutes and decision, of which all but the first may be
        empty, and only case and minutes must be there. Cells are separated by commas, or by semicolons as European
        spreadsheets write them, with decimal commas then.

        Raises `AssftError` if the file cannot be read or holds anything else.
        """
        lines, semicolons = _lines(file)
        rows: dict[tuple[str, str], float | None] = {}
        decisions: dict[tuple[str, str], str] = {}
        for where, line in lines:
            case, text = line.get("case", ""), line.get("minutes", "")
            key = (case, line.get("annotator", ""))
            if not case or key in rows:
                wrong = f"{case} is listed twice" if case else "no case is named"
                raise AssftError(f"{where}: {wrong}. Expected one line per case and annotator.")
            text = text.replace(",", ".") if semicolons else text
            rows[key] = checked_minutes(text, where) if text else None
            if decided := line.get("decision", ""):
                decisions[key] = _checked_decision(decided, where)
        return cls(annotator, minutes, rows, decisions)


def _lines(file: Path) -> tuple[list[tuple[str, dict[str, str]]], bool]:
    """Return the lines of a table that are not empty, each with the beginning of an error message about it, and whether
    semicolons separate their cells."""
    try:
        refuse_endless(file)
        with open(file, encoding="utf-8-sig", newline="") as stream:  # Excel writes a byte order mark
            text = stream.read()
        semicolons = ";" in text.partition("\n")[0]  # of a spreadsheet whose decimal sign is the comma
        table = csv.reader(text.splitlines(keepends=True), delimiter=";" if semicolons else ",")
        header, *rows = [[bare(cell) for cell in row] for row in table] or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise AssftError(
            f"--times {file} cannot be read: {reason(error)}. Expected a CSV with the columns {COLUMNS}."
        ) from error
    columns = [name.strip() for name in header]
    if not {"case", "minutes"} <= set(columns) or len(set(columns)) < len(columns):
        found = some(map(repr, columns)) if columns else "no columns"
        raise AssftError(
            f"--times {file} has {found}; expected the columns {COLUMNS}, separated by commas or semicolons."
        )
    lines = []
    for number, cells in enumerate(rows, 2):
        where = f"--times {file}, line {number}"
        if len(cells) > len(columns):
            raise AssftError(
                f"{where}: {len(cells)} cells; expected {len(columns)}, as in the first line. Write minutes with a "
                "point: 12.5."
            )
        line = {name: cell.strip() for name, cell in zip(columns, cells, strict=False)}
        if any(line.values()):  # spreadsheets write empty lines
            lines.append((where, line))
    return lines, semicolons


def _checked_decision(text: str, where: str) -> str:
    if text.lower() not in DECISIONS:
        raise AssftError(f"{where}: decision {text!r}; expected {', '.join(DECISIONS)} or nothing.")
    return text.lower()


def checked_minutes(text: str, where: str) -> float:
    """Return the number of minutes in `text`. Raises `AssftError` unless it is a finite number of at least 0.

    where: the beginning of the error message.
    """
    try:
        return RANGES["minutes"].parse(text)
    except ValueError:
        raise AssftError(f"{where}: minutes {text!r}; expected a number such as 25 or 12.5.") from None

"""Who annotated a case and how many minutes it took, from the command line or from a table."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.ranges import RANGES
from nnunet_assft.runtime.sealed import read_sealed

KEYS = ("schema_version", "case", "round", "readings", "replaced")  # of the record of an imported label


@dataclass(frozen=True)
class Times:
    """Annotators and minutes as given on the command line.

    annotator, minutes: those of every label of an import. rows: (case, annotator) -> minutes from a table, where the
    annotator is "" if it is not given; they take precedence over `minutes`.
    """

    annotator: str | None = None
    minutes: float | None = None
    rows: Mapping[tuple[str, str], float | None] = field(default_factory=dict)

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

    @classmethod
    def read(cls, file: Path, annotator: str | None = None, minutes: float | None = None) -> Times:
        """Read a CSV file with the columns case, annotator and minutes, of which the last two may be empty.

        Raises `AssftError` if the file cannot be read or holds anything else.
        """
        try:
            with open(file, encoding="utf-8-sig", newline="") as stream:  # Excel writes a byte order mark
                table = csv.DictReader(stream)
                columns, lines = table.fieldnames or [], list(table)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise AssftError(
                f"--times {file} cannot be read: {error}. Expected a CSV with the columns case, annotator, minutes."
            ) from error
        if not {"case", "minutes"} <= set(columns):
            raise AssftError(
                f"--times {file} has the columns {', '.join(columns) or 'none'}; expected case, annotator, minutes."
            )
        rows: dict[tuple[str, str], float | None] = {}
        for number, line in enumerate(lines, 2):
            key = ((line["case"] or "").strip(), (line.get("annotator") or "").strip())
            if key in rows:
                raise AssftError(
                    f"--times {file}, line {number}: {key[0]} is listed twice. Keep one line per case and annotator."
                )
            text = (line["minutes"] or "").strip()
            rows[key] = checked_minutes(text, f"--times {file}, line {number}") if text else None
        return cls(annotator, minutes, rows)


def read_annotation(file: Path) -> dict[str, Any]:
    """Return the record of an imported label, see `records.save_record`. Raises `DamagedFileError`."""
    return read_sealed(file, KEYS, remedy="Restore it, or remove it and import the label of this case again.")


def annotation_minutes(annotations: Path) -> dict[str, float]:
    """Return case -> minutes of annotation, summed over its annotators. A case is left out unless all are known.

    annotations: `ExperimentPaths.annotations` of an experiment.
    """
    minutes: dict[str, float] = {}
    for file in sorted(annotations.glob("*.json")):
        content = read_annotation(file)
        told = [reading["minutes"] for reading in content["readings"]]
        if told and None not in told:
            minutes[str(content["case"])] = float(sum(told))
    return minutes


def checked_minutes(text: str, where: str) -> float:
    """Return the number of minutes in `text`. Raises `AssftError` unless it is a finite number of at least 0.

    where: the beginning of the error message.
    """
    try:
        return RANGES["minutes"].parse(text)
    except ValueError:
        raise AssftError(f"{where}: minutes {text!r}; expected a number such as 25 or 12.5.") from None

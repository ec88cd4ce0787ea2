"""Who annotated a case, and for how long: from the command line, or from a table."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import read_json


@dataclass(frozen=True)
class Times:
    """annotator, minutes: of every label. rows: (case, annotator; "" for nobody) -> minutes; they go before
    `minutes`."""

    annotator: str | None = None
    minutes: float | None = None
    rows: Mapping[tuple[str, str], float | None] = field(default_factory=dict)

    @property
    def cases(self) -> set[str]:
        return {case for case, _ in self.rows}

    def annotator_of(self, case: str) -> str | None:
        """Who annotated this case, as far as it is said and clear."""
        named = {name for row, name in self.rows if row == case and name}
        return self.annotator or (named.pop() if len(named) == 1 else None)

    def of(self, case: str, annotator: str | None, recorded: float | None = None) -> float | None:
        """Minutes: of the table, else as recorded for a label that is in already, else those of every label; None:
        nobody said."""
        for key in ((case, annotator or ""), (case, "")):
            if self.rows.get(key) is not None:
                return self.rows[key]
        return self.minutes if recorded is None else recorded

    @classmethod
    def read(cls, file: Path, annotator: str | None = None, minutes: float | None = None) -> Times:
        """From a CSV with the columns case, annotator, minutes; the last two may be empty. Raises `AssftError`."""
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
                    f"--times {file}, line {number}: {key[0]} is there twice. Keep one line per case and annotator."
                )
            text = (line["minutes"] or "").strip()
            rows[key] = checked_minutes(text, f"--times {file}, line {number}") if text else None
        return cls(annotator, minutes, rows)


def annotation_minutes(annotations: Path) -> dict[str, float]:
    """Minutes of each imported label, summed over its readers; a case for which one of them did not say is left out.

    annotations: the folder of an experiment, `ExperimentPaths.annotations`.
    """
    minutes: dict[str, float] = {}
    for file in sorted(annotations.glob("*.json")):
        content = read_json(file)
        told = [reading["minutes"] for reading in content["readings"]]
        if told and None not in told:
            minutes[str(content["case"])] = float(sum(told))
    return minutes


def checked_minutes(text: str, where: str) -> float:
    """A number of minutes. Raises `AssftError`."""
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 <= minutes < math.inf:
        raise AssftError(f"{where}: minutes {text!r}; expected a number such as 25 or 12.5.")
    return minutes

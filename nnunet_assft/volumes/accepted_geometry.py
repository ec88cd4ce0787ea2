"""Consent to labels whose header places them elsewhere than their image, as in some published benchmarks.

This package never decides that a header is wrong: people name the cases with `--accept_geometry`. The voxels of such a
label are then taken as they are stored.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.sealed import read_sealed, write_sealed
from nnunet_assft.runtime.text import some

ALL = "all"
REMEDY = "Restore it, or remove it and give --accept_geometry again for the cases that need it."


@dataclass(frozen=True)
class AcceptedGeometry:
    """The recorded consent. cases: case ids, or ALL for every case. found: case -> how its header places the label, for
    labels that have been used."""

    cases: tuple[str, ...] = ()
    found: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, file: Path) -> AcceptedGeometry:
        """Load the consent that is recorded in this file; empty if there is no file."""
        if not file.is_file():
            return cls()
        content = read_sealed(file, ("cases", "found"), remedy=REMEDY)
        return cls(tuple(content["cases"]), dict(content["found"]))

    def save(self, file: Path) -> None:
        write_sealed(file, asdict(self))

    def lines(self) -> list[str]:
        """Return lines to print: the accepted cases, and the labels that were used because of it."""
        if not self.cases:
            return []
        named = f"geometry accepted (--accept_geometry): {', '.join(self.cases)}"
        return [named, *(f"  {case}: {reason}" for case, reason in sorted(self.found.items()))]

    def covers(self, case: str) -> bool:
        return case in self.cases or ALL in self.cases


def accept_geometry(file: Path, cases: Collection[str], known: Collection[str]) -> None:
    """Record the consent for this command and all later commands of the experiment.

    known: the cases of the experiment. Raises `AssftError` for any other case.
    """
    check_accepted(cases, known)
    before = AcceptedGeometry.load(file)
    if set(cases) - set(before.cases):
        replace(before, cases=tuple(sorted({*before.cases, *cases}))).save(file)


def check_accepted(cases: Collection[str], known: Collection[str]) -> None:
    """Raise `AssftError` if a name after --accept_geometry is neither a case nor ALL."""
    unknown = sorted(set(cases) - set(known) - {ALL})
    if unknown:
        raise AssftError(
            f"--accept_geometry names {some(unknown)}; the experiment has no such case. Expected case ids "
            f"such as {next(iter(known))}, or {ALL}."
        )


def is_accepted(file: Path, case: str, reason: str) -> bool:
    """Return whether the label of this case is accepted. If so, record `reason`, which says what is wrong with its
    header."""
    accepted = AcceptedGeometry.load(file)
    if not accepted.covers(case):
        return False
    if accepted.found.get(case) != reason:
        replace(accepted, found={**accepted.found, case: reason}).save(file)
    return True

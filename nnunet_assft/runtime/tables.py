"""Tables that other packages can add rows to: strategies, selections, presets, encoders, datasets, domains.

An installed package adds a row with an entry point, as nnU-Net's ecosystem does elsewhere. In its pyproject.toml:

    [project.entry-points."nnunet_assft.strategies"]
    my_strategy = "my_package.queries:MY_STRATEGY"      # an instance of Strategy
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from nnunet_assft.errors import AssftError

Row = TypeVar("Row")


class Table(MutableMapping[str, Row]):
    """name -> row: those of this package in their order, then those of installed packages by name.

    Entry points are loaded when the table is first looked at, never on import, so that the module of a row can itself
    import the table's module. Looking at it raises `AssftError` if a row of another package cannot be used.
    """

    def __init__(self, group: str, row_type: type[Row], rows: Mapping[str, Row]) -> None:
        self.group = group
        self.row_type = row_type
        self.own = dict(rows)

    @cached_property
    def _rows(self) -> dict[str, Row]:
        rows = dict(self.own)
        for point in sorted(entry_points(group=self.group), key=lambda point: point.name):
            if point.name in rows:
                raise AssftError(
                    f"{_named(point)} is already the name of a row. Rename one of the two, or uninstall it."
                )
            rows[point.name] = self._load(point)
        return rows

    def _load(self, point: EntryPoint) -> Row:
        try:
            row = point.load()
        except Exception as error:  # importing a foreign package may raise anything
            raise AssftError(
                f"{_named(point)} cannot be imported ({type(error).__name__}: {error}). Fix or uninstall that package."
            ) from error
        if not isinstance(row, self.row_type):
            raise AssftError(
                f"{_named(point)} is of type {type(row).__name__}; expected an instance of {self.row_type.__name__}."
            )
        return row

    def __getitem__(self, name: str) -> Row:
        return self._rows[name]

    def __setitem__(self, name: str, row: Row) -> None:
        self._rows[name] = row

    def __delitem__(self, name: str) -> None:
        del self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def _named(point: EntryPoint) -> str:
    package = point.dist.name if point.dist else "an unknown package"
    return f"The entry point {point.name} = {point.value} in {point.group} of {package}"

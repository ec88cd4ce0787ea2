"""Tables to which installed packages can add rows: strategies, selections, presets, encoders, datasets and domains.

A package adds a row by an entry point in its pyproject.toml:

    [project.entry-points."nnunet_assft.strategies"]
    my_strategy = "my_package.queries:MY_STRATEGY"      # an instance of Strategy
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from nnunet_assft.errors import AssftError

Row = TypeVar("Row")


class Table(Mapping[str, Row]):
    """A mapping of name -> row: the rows of this package in their order, then those of installed packages by name.

    The names are known without importing the other packages. One of their rows is imported only when it is looked up,
    so that its module can import the module of the table, and a broken package affects only users of its rows. Looking
    up a row raises `AssftError` if it cannot be imported or has another type. Any use of the table raises `AssftError`
    if two rows have the same name.

    group: group of the entry points. row_type: class of the rows. rows: the rows of this package.
    """

    def __init__(self, group: str, row_type: type[Row], rows: Mapping[str, Row]) -> None:
        self.group = group
        self.row_type = row_type
        self._own = dict(rows)
        self._loaded: dict[str, Row] = {}

    def __getitem__(self, name: str) -> Row:
        if name not in self._entry_points:
            return self._own[name]
        if name not in self._loaded:
            self._loaded[name] = self._load(self._entry_points[name])
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter([*self._own, *self._entry_points])

    def __len__(self) -> int:
        return len(self._own) + len(self._entry_points)

    def __contains__(self, name: object) -> bool:
        return name in self._entry_points or name in self._own

    @cached_property
    def _entry_points(self) -> dict[str, EntryPoint]:
        points: dict[str, EntryPoint] = {}
        for point in sorted(entry_points(group=self.group), key=lambda point: point.name):
            if point.name in self._own or point.name in points:
                raise AssftError(
                    f"{_described(point)} has the same name as an existing row. "
                    "Rename it, or uninstall one of the two packages."
                )
            points[point.name] = point
        return points

    def _load(self, point: EntryPoint) -> Row:
        try:
            row = point.load()
        except Exception as error:  # importing another package may raise anything
            raise AssftError(
                f"{_described(point)} cannot be imported ({type(error).__name__}: {error}). "
                "Fix or uninstall the package."
            ) from error
        if not isinstance(row, self.row_type):
            raise AssftError(
                f"{_described(point)} is of type {type(row).__name__}; expected an instance of "
                f"{self.row_type.__name__}. Fix or uninstall the package."
            )
        return row


def _described(point: EntryPoint) -> str:
    package = point.dist.name if point.dist else "an unknown package"
    return f"The entry point {point.name} = {point.value} of {package} in the group {point.group}"

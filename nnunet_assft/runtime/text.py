"""Small pieces of the sentences that commands print."""

from __future__ import annotations

from collections.abc import Iterable


def some(items: Iterable[object], n: int = 5) -> str:
    """The first n items by name, and how many more there are: "a, b, c, d, e and 2 more"."""
    names = [str(item) for item in items]
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")


def named(kind: str, items: Iterable[object], n: int = 5) -> str:
    """What the items are, then `some` of them: "seed 1", "cases a, b". Empty if there is none."""
    items = list(items)
    return f"{kind}{'' if len(items) == 1 else 's'} {some(items, n)}" if items else ""


def count(n: int, kind: str) -> str:
    """ "1 seed", "3 seeds"."""
    return f"{n} {kind}{'' if n == 1 else 's'}"

"""Sharing cases out: balanced, the same every time, spread evenly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_assft.annotation.assignment import assign, readings
from nnunet_assft.errors import AssftError

CASES = [f"case_{i}" for i in range(6)]


def test_in_turn() -> None:
    assert list(assign(CASES[:5], ["A", "B"]).values()) == [("A",), ("B",), ("A",), ("B",), ("A",)]


def test_two_readers_worked_by_hand() -> None:
    """A third of six is two cases: those in the middle of each half. C has fewest when the second one comes."""
    shared = assign(CASES, ["A", "B", "C"], 1 / 3)
    assert list(shared.values()) == [("A",), ("B", "C"), ("A",), ("B",), ("A", "C"), ("B",)]
    assert readings(shared) == {"A": 3, "B": 3, "C": 2}


def test_the_first_reader_is_the_one_named_first() -> None:
    assert set(assign(CASES, ["B", "A"], 1.0).values()) == {("B", "A")}


@given(n=st.integers(1, 60), k=st.integers(2, 6), fraction=st.floats(0, 1))
def test_balanced_and_complete(n: int, k: int, fraction: float) -> None:
    cases, names = [f"c{i}" for i in range(n)], [f"R{i}" for i in range(k)]
    shared = assign(cases, names, fraction)
    assert list(shared) == cases
    assert shared == assign(cases, names, fraction)
    double = sum(len(readers) == 2 for readers in shared.values())
    assert abs(double - fraction * n) <= 0.5 + 1e-9 or (fraction > 0 and double == 1)
    load = readings(shared)
    assert max(load.values()) - min(load.get(name, 0) for name in names) <= 1
    assert all(readers == tuple(sorted(set(readers), key=names.index)) for readers in shared.values())


@pytest.mark.parametrize(
    ("names", "fraction", "message"),
    [
        (["A", "a"], 0.0, "names that differ"),
        (["../A"], 0.0, r"--annotators: .* contains \. \(U\+002E\)"),
        (["A"], 0.5, "--double_read needs at least two names"),
        ([], 0.5, "--double_read needs at least two names"),
        (["A", "B"], 1.5, "double_read"),
    ],
)
def test_what_cannot_be_shared_out(names: list[str], fraction: float, message: str) -> None:
    with pytest.raises(AssftError, match=message):
        assign(CASES, names, fraction)

"""Assign cases to annotators, evenly and always in the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.ranges import check
from nnunet_assft.volumes.names import ANNOTATOR


def assign(cases: Sequence[str], annotators: Sequence[str], double_read: float = 0.0) -> dict[str, tuple[str, ...]]:
    """Return case -> its annotators, in the order of `annotators`; the first one draws the label that is trained on.

    Each case goes to the annotator who has the fewest cases so far, so that the numbers of readings differ by at most
    one. double_read: the fraction of the cases that two annotators read, rounded half up, and at least one case if the
    fraction is above 0; these cases are spread evenly over the list. Raises `AssftError`, see `check_annotators`.
    """
    check_annotators(annotators, double_read)
    n = len(cases)
    n_double = max(1, int(Fraction(str(double_read)) * n + Fraction(1, 2))) if double_read else 0
    double = {(2 * i + 1) * n // (2 * n_double) for i in range(n_double)}
    load = dict.fromkeys(annotators, 0)
    shared: dict[str, tuple[str, ...]] = {}
    for i, case in enumerate(cases):
        chosen = sorted(annotators, key=lambda name: load[name])[
            : 2 if i in double else 1
        ]  # a stable sort: ties keep the order of `annotators`
        for name in chosen:
            load[name] += 1
        shared[case] = tuple(name for name in annotators if name in chosen)
    return shared


def check_annotators(annotators: Sequence[str], double_read: float) -> None:
    """Raise `AssftError` for names that cannot be folders, and for double reading by a single annotator."""
    check("double_read", double_read)
    if double_read and len(annotators) < 2:
        raise AssftError("--double_read needs at least two names after --annotators.")
    for name in annotators:
        ANNOTATOR.check(name, "--annotators")
    if not annotators or len({name.lower() for name in annotators}) < len(annotators):
        raise AssftError(
            f"--annotators {' '.join(annotators)}: expected names that differ in more than upper and lower case."
        )


def readings(annotators: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return annotator -> number of cases to read. annotators: as `assign` returns them."""
    load: dict[str, int] = {}
    for names in annotators.values():
        for name in names:
            load[name] = load.get(name, 0) + 1
    return load

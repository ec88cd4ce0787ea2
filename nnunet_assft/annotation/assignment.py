"""Who annotates which case: balanced, the same at every call."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction

from nnunet_assft.errors import AssftError


def assign(cases: Sequence[str], annotators: Sequence[str], double_read: float = 0.0) -> dict[str, tuple[str, ...]]:
    """case -> its annotators, in the order of `annotators`; the first one's label is the label.

    double_read: fraction of the cases, rounded half up, at least one case if above 0, that two of them read; these are
    spread evenly over the list. Each case goes to whoever has fewest, so that numbers of readings differ by at most
    one.
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
        ]  # stable: ties by their order
        for name in chosen:
            load[name] += 1
        shared[case] = tuple(name for name in annotators if name in chosen)
    return shared


def check_annotators(annotators: Sequence[str], double_read: float) -> None:
    """Raises `AssftError` for names that cannot be folders, and for a double reading by one."""
    if not 0 <= double_read <= 1:
        raise AssftError(f"--double_read {double_read:g}: expected a fraction between 0 and 1.")
    if double_read and len(annotators) < 2:
        raise AssftError("--double_read needs two names after --annotators.")
    bad = [name for name in annotators if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name)]
    if bad:
        raise AssftError(f"--annotators {bad[0]!r}: a name is made of letters, digits, _ and -; it becomes a folder.")
    if not annotators or len({name.lower() for name in annotators}) < len(annotators):
        raise AssftError(
            f"--annotators {' '.join(annotators)}: expected names that differ, also on disks that ignore case."
        )


def readings(annotators: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """annotator -> number of cases to read."""
    load: dict[str, int] = {}
    for names in annotators.values():
        for name in names:
            load[name] = load.get(name, 0) + 1
    return load

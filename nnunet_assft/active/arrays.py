"""Array helpers shared by the equations and the query strategies: input checks, blocks, unit vectors and tie-breaking.

Every check raises ValueError for an input that cannot be used; the message says what was found, what was expected and
what to do. The checks that return something return the input in a form that can be computed with.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence

import numpy as np

BLOCK = 2**22  # number of float64 values held at a time: 32 MiB


# Cosine distance ---------------------------------------------------------------------------------------------------


def unit_vectors(rows: np.ndarray) -> np.ndarray:
    """Return the rows scaled to length 1, in float64; a zero vector stays zero.

    Each row is divided by its largest value first, so that no square overflows or underflows.
    """
    rows = rows.astype(np.float64)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    rows /= np.where(largest > 0, largest, 1.0)
    rows /= np.where(largest > 0, np.linalg.norm(rows, axis=1, keepdims=True), 1.0)
    return rows


def cosine_distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the cosine distance between row i of u and row i of v, in [0, 2]. u, v: (N, d) unit or zero vectors.

    It is computed as 0.5 |u - v|^2, which avoids cancellation near 0. The distance to a zero vector is 1.
    """
    difference = u - v
    distance = 0.5 * np.einsum("nd,nd->n", difference, difference)
    distance[~(u.any(axis=1) & v.any(axis=1))] = 1.0
    return np.minimum(distance, 2.0)


# Blocks ------------------------------------------------------------------------------------------------------------


def row_blocks(rows: np.ndarray, width: int | None = None) -> Iterator[slice]:
    """Yield slices of successive rows with at most BLOCK values each. width: values per row, by default its columns."""
    step = max(1, BLOCK // (width or rows.shape[1]))
    for start in range(0, len(rows), step):
        yield slice(start, min(start + step, len(rows)))


def voxel_blocks(probs: np.ndarray) -> Iterator[np.ndarray]:
    """Yield float64 copies, (C, n), of successive blocks of voxels of probs, (C, ...).

    An array that is not contiguous is split along its first spatial axis, so that it is never copied as a whole.
    """
    if probs.flags.c_contiguous:
        probs = probs.reshape(probs.shape[0], -1)
    step = max(1, BLOCK * probs.shape[1] // probs.size)
    for start in range(0, probs.shape[1], step):
        yield probs[:, start : start + step].astype(np.float64, order="C").reshape(probs.shape[0], -1)


# Checks ------------------------------------------------------------------------------------------------------------


def check_softmax(probs: np.ndarray) -> np.ndarray:
    """Check the shape and dtype of (C, ...) probabilities with C >= 2. `check_probabilities` checks their values."""
    probs = np.asarray(probs)
    if probs.ndim < 2 or probs.shape[0] < 2 or probs.size == 0:
        raise ValueError(f"probs has shape {probs.shape}; expected (C, Z, Y, X) with C >= 2, channel 0 background.")
    if not np.issubdtype(probs.dtype, np.floating):
        raise ValueError(
            f"probs is {probs.dtype}; expected float softmax output. Give probabilities, not labels or logits."
        )
    return probs


def check_probabilities(p: np.ndarray, tolerance: float) -> None:
    """Check that no value of p, (C, n), is negative and that each column sums to 1 within the tolerance."""
    if not np.isfinite(p).all():
        raise ValueError("probs contains NaN or inf; expected softmax output. Check the weights and the image.")
    error = float(np.abs(p.sum(axis=0) - 1).max())
    if error > tolerance:
        found = f"sums to 1 over axis 0 only within {error:.2g}"
    elif p.min() < 0:
        found = f"has negative values ({p.min():.2g})"
    else:
        return
    raise ValueError(
        f"probs {found}; expected probabilities with sum 1 within {tolerance:g}. Apply softmax to logits first."
    )


def check_embeddings(rows: np.ndarray, name: str) -> np.ndarray:
    """Return the (N, d) embeddings in their own precision, after checking that N >= 1 and that all are finite."""
    rows = np.asarray(rows)
    if rows.ndim != 2 or rows.size == 0:
        raise ValueError(f"{name} has shape {rows.shape}; expected (N, d), one row per case, at least one case.")
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise ValueError(f"{name} contains NaN or inf in row {int(finite.argmin())}; embed that case again.")
    return rows


def check_vector(values: np.ndarray, name: str, length: int | None = None) -> np.ndarray:
    """Return the (N,) values in float64, after checking that N >= 1 and that all are finite. length: N, if known."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or (length is not None and len(values) != length):
        expected = "(N,), at least one case" if length is None else f"({length},), one value per case"
        raise ValueError(f"{name} has shape {values.shape}; expected {expected}.")
    finite = np.isfinite(values)
    if not finite.all():
        raise ValueError(f"{name} contains NaN or inf in row {int(finite.argmin())}; score that case again.")
    return values


def check_confidence(values: np.ndarray, length: int | None = None) -> np.ndarray:
    """Return the (N,) confidences in float64, after checking that they are finite and not negative."""
    values = check_vector(values, "confidence", length)
    if values.min() < 0:
        raise ValueError(f"confidence contains {values.min():g}; expected values >= 0, as confidence() returns.")
    return values


def check_count(value: int, name: str) -> int:
    """Return a number of cases as an int, after checking that it is at least 1. Raises TypeError for a non-integer."""
    value = operator.index(value)
    if value < 1:
        raise ValueError(f"{name} is {value}; expected a number of cases, at least 1.")
    return value


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Check that the value of an argument is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}.")


# Ranks and means ---------------------------------------------------------------------------------------------------


def id_rank(ids: Sequence[str] | None, n: int) -> np.ndarray:
    """Return the (n,) position of each case in ascending order of its id, compared as a string; this decides ties.

    Without ids it is the row number. Raises ValueError unless there is one id per case and no id occurs twice.
    """
    rank = np.arange(n)
    if ids is None:
        return rank
    names = [str(case) for case in ids]
    if len(names) != n or len(set(names)) != n:
        raise ValueError(
            f"{len(names)} ids, {len(set(names))} of them distinct, for {n} cases; expected one id per case."
        )
    rank[sorted(range(n), key=names.__getitem__)] = np.arange(n)
    return rank


def mean_or_zero(total: float, count: int) -> float:
    """Return the mean of `count` values that sum to `total`, or 0 if there is none."""
    return total / count if count else 0.0

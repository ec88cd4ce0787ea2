"""The input of a query strategy, `QueryPool`, and its result, `Query`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

import numpy as np

from nnunet_assft.active.metrics import VoxelSums
from nnunet_assft.active.options import Options

# array of QueryPool with one row per case -> its number of axes
PER_CASE = {
    "embeddings": 2,
    "pretrained_embeddings": 2,
    "gradients": 3,
    "class_entropies": 2,
    "committee_spread": 1,
    "peak_entropy": 1,
}


@dataclass(frozen=True)
class QueryPool:
    """The cases that a query strategy may choose from, with everything that it may know about them.

    The ids are ascending and the arrays are in the order of the ids; `create` sorts both. A field that the strategy
    does not need may be None (see `strategies.Strategy.needs`). `create` and the constructor raise ValueError for an
    array that does not have one row per id, and for NaN and inf; the message names the case.
    """

    ids: tuple[str, ...]
    sums: tuple[VoxelSums, ...] | None = None  # latest network, at the temperature of this round
    embeddings: np.ndarray | None = None  # (N, d) latest encoder
    pretrained_embeddings: np.ndarray | None = None  # (N, d) pre-trained encoder
    gradients: np.ndarray | None = None  # (N, C, F) mean loss gradient at the last layer, label: argmax
    class_entropies: np.ndarray | None = None  # (N, C) mean over voxels of H_v p_cv
    committee_spread: np.ndarray | None = None  # (N,) mean over voxels and classes of the SD over a committee
    peak_entropy: np.ndarray | None = None  # (N,) mean entropy above the first peak of its histogram, in bits
    labelled_embeddings: np.ndarray | None = None  # (L, d) latest encoder, labelled cases
    permutation: tuple[str, ...] | None = None  # random order of the whole pool, stored with the experiment
    round: int = 1
    n_rounds: int = 1
    seed: int = 0
    options: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        if not self.ids:
            raise ValueError(
                "the query pool is empty; expected at least one unlabelled case. There is nothing left to query."
            )
        if any(first >= second for first, second in zip(self.ids, self.ids[1:], strict=False)):
            raise ValueError(
                "the ids of the query pool are not ascending and distinct; create the pool with QueryPool.create."
            )
        if not 1 <= self.round <= self.n_rounds:
            raise ValueError(f"round {self.round} of {self.n_rounds}; expected a round from 1 to the number of rounds.")
        if self.sums is not None:
            self._check_finite("sums", [[x for x in astuple(s) if not isinstance(x, tuple)] for s in self.sums], 2)
        for name, n_axes in PER_CASE.items():
            if getattr(self, name) is not None:
                self._check_finite(name, getattr(self, name), n_axes)
        if self.labelled_embeddings is not None and not np.isfinite(self.labelled_embeddings).all():
            raise ValueError("labelled_embeddings contains NaN or inf; embed the labelled cases again.")
        if self.embeddings is not None and self.labelled_embeddings is not None:
            shape, d = np.shape(self.labelled_embeddings), np.shape(self.embeddings)[1]
            if len(shape) != 2 or shape[1] != d:
                raise ValueError(
                    f"labelled_embeddings has shape {shape}; expected (L, {d}), from the encoder of embeddings."
                )
        if self.permutation is not None and not set(self.ids) <= set(self.permutation):
            missing = sorted(set(self.ids) - set(self.permutation))
            raise ValueError(
                f"cases {missing[:5]} are not in the random permutation; expected a permutation of the whole pool."
            )

    def _check_finite(self, name: str, rows: Any, n_axes: int) -> None:
        rows = np.asarray(rows)
        if rows.ndim != n_axes or len(rows) != len(self.ids):
            raise ValueError(f"{name} has shape {rows.shape}; expected one row for each of the {len(self.ids)} cases.")
        finite = np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
        if not finite.all():
            raise ValueError(f"{name} of case {self.ids[finite.argmin()]} contains NaN or inf; score that case again.")

    @classmethod
    def create(cls, ids: Sequence[str], *, sums: Sequence[VoxelSums] | None = None, **other: Any) -> QueryPool:
        """Return a pool of cases given in any order. sums and the fields of PER_CASE are in the order of ids.

        All other fields are passed on to the constructor.
        """
        order = sorted(range(len(ids)), key=ids.__getitem__)
        for name in ("sums", *PER_CASE):
            rows = sums if name == "sums" else other.get(name)
            if rows is not None and len(rows) != len(ids):
                raise ValueError(f"{name} has {len(rows)} rows; expected one for each of the {len(ids)} cases.")
        for name in PER_CASE.keys() & other.keys():
            other[name] = None if other[name] is None else np.asarray(other[name])[order]
        return cls(
            ids=tuple(ids[i] for i in order), sums=None if sums is None else tuple(sums[i] for i in order), **other
        )


@dataclass(frozen=True)
class Query:
    """The result of a query.

    ids: the cases to annotate, best first. scores: columns of the score table, one value per case of `QueryPool.ids`.
    """

    ids: tuple[str, ...]
    scores: Mapping[str, tuple[float, ...]]

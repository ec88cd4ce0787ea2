"""The table of query strategies: which unlabelled cases to annotate next.

A strategy is one pure function on a QueryPool and one row in STRATEGIES. Its contract:

* It returns the ids of min(n_query, len(pool.ids)) different cases, best first, and the scores that decided it.
* It depends on nothing but the pool: no files, no clock, no random state other than one seeded by (pool.seed, pool.round).
* Equal scores are decided by the case id, ascending. The inputs are not modified.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

import numpy as np

from nnunet_assft.active import metrics
from nnunet_assft.active.metrics import VoxelSums


@dataclass(frozen=True)
class QueryOptions:
    """Named variants of the metrics; the defaults are those of the method."""

    asd_reduction: str = "foreground_mean"
    pd_first: str = "one"
    pd_weights: str = "literal"
    ranks: str = "exact"


@dataclass(frozen=True)
class QueryPool:
    """What a strategy may look at. Arrays follow ids, and ids ascend: make it with `create`, which sorts.

    What a strategy does not need may be None (see Strategy.needs). `create` and the constructor raise ValueError, with
    the case id, for arrays that do not fit the ids, for NaN and for inf.
    """

    ids: tuple[str, ...]
    sums: tuple[VoxelSums, ...] | None = None  # latest network, at the temperature of this round
    embeddings: np.ndarray | None = None  # (N, d) latest encoder
    pretrained_embeddings: np.ndarray | None = None  # (N, d) pre-trained encoder
    labelled_embeddings: np.ndarray | None = None  # (L, d) latest encoder, labelled cases
    permutation: tuple[str, ...] | None = None  # stored random order of the whole pool of the experiment
    round: int = 1
    n_rounds: int = 1
    seed: int = 0
    options: QueryOptions = field(default_factory=QueryOptions)

    def __post_init__(self) -> None:
        if not self.ids:
            raise ValueError("the query pool is empty; expected at least one unlabelled case. Nothing is left to query.")
        if any(first >= second for first, second in zip(self.ids, self.ids[1:], strict=False)):
            raise ValueError("ids of the query pool are not ascending and distinct; make the pool with QueryPool.create.")
        if not 1 <= self.round <= self.n_rounds:
            raise ValueError(f"round {self.round} of {self.n_rounds}; expected a round from 1 to the number of rounds.")
        if self.sums is not None:
            self._check_finite("sums", [[x for x in astuple(s) if not isinstance(x, tuple)] for s in self.sums])
        for name in ("embeddings", "pretrained_embeddings"):
            if getattr(self, name) is not None:
                self._check_finite(name, getattr(self, name))
        if self.labelled_embeddings is not None and not np.isfinite(self.labelled_embeddings).all():
            raise ValueError("labelled_embeddings contains NaN or inf; embed the labelled cases again.")
        if self.permutation is not None and not set(self.ids) <= set(self.permutation):
            missing = sorted(set(self.ids) - set(self.permutation))
            raise ValueError(f"cases {missing[:5]} are not in the random permutation; expected one of the whole pool.")

    def _check_finite(self, name: str, rows: Any) -> None:
        rows = np.asarray(rows)
        if rows.ndim != 2 or len(rows) != len(self.ids):
            raise ValueError(f"{name} has shape {rows.shape}; expected one row for each of the {len(self.ids)} cases.")
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            raise ValueError(f"{name} of case {self.ids[finite.argmin()]} contains NaN or inf; score that case again.")

    @classmethod
    def create(
        cls,
        ids: Sequence[str],
        *,
        sums: Sequence[VoxelSums] | None = None,
        embeddings: np.ndarray | None = None,
        pretrained_embeddings: np.ndarray | None = None,
        **other: Any,
    ) -> QueryPool:
        """A pool from cases in any order; sums and embeddings are in the order of ids. Other fields are passed on."""
        order = sorted(range(len(ids)), key=ids.__getitem__)
        for name, rows in (("sums", sums), ("embeddings", embeddings), ("pretrained_embeddings", pretrained_embeddings)):
            if rows is not None and len(rows) != len(ids):
                raise ValueError(f"{name} has {len(rows)} rows; expected one for each of the {len(ids)} cases.")
        return cls(
            ids=tuple(ids[i] for i in order),
            sums=None if sums is None else tuple(sums[i] for i in order),
            embeddings=None if embeddings is None else np.asarray(embeddings)[order],
            pretrained_embeddings=None if pretrained_embeddings is None else np.asarray(pretrained_embeddings)[order],
            **other,
        )


@dataclass(frozen=True)
class Query:
    """The cases to annotate, best first, and the columns of the score table in the order of QueryPool.ids."""

    ids: tuple[str, ...]
    scores: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Strategy:
    """One row of the table. `query` is the entry point: it checks, then calls `function`."""

    function: Callable[[QueryPool, int], Query]
    needs: frozenset[str]  # fields of QueryPool that must not be None
    source: str  # where the rule comes from
    description: str
    semi_supervised: bool = False  # adds pseudo-labelled cases and the second stage of a round
    excludes_pseudo_labelled: bool = False  # cases pseudo-labelled in the last round are not in the query pool

    def query(self, pool: QueryPool, n_query: int) -> Query:
        """Choose n_query cases of the pool, or all if there are fewer. Raises ValueError if something needed is missing."""
        n_query = operator.index(n_query)
        if n_query < 1:
            raise ValueError(f"n_query is {n_query}; expected at least one case to query.")
        missing = sorted(name for name in self.needs if getattr(pool, name) is None)
        if missing:
            raise ValueError(f"the query pool lacks {', '.join(missing)}; this strategy needs {', '.join(sorted(self.needs))}.")
        return self.function(pool, min(n_query, len(pool.ids)))


def random_permutation(ids: Sequence[str], seed: int) -> tuple[str, ...]:
    """Random order of the sorted ids. Draw it once per experiment and store it: numpy may change its stream one day."""
    ordered = sorted(ids)
    return tuple(ordered[i] for i in np.random.default_rng(seed).permutation(len(ordered)))


def query_random(pool: QueryPool, n_query: int) -> Query:
    """The next cases of the stored permutation, so that the queries of successive rounds are nested."""
    assert pool.permutation is not None
    position = {case: i for i, case in enumerate(pool.permutation)}
    return Query(
        ids=tuple(sorted(pool.ids, key=position.__getitem__)[:n_query]),
        scores={"position": tuple(float(position[case]) for case in pool.ids)},
    )


def query_dkd_asd(pool: QueryPool, n_query: int) -> Query:
    """The cases with the largest Q (Eqs. 1-16), ties by DKD, then by id."""
    assert pool.sums is not None
    assert pool.embeddings is not None
    assert pool.pretrained_embeddings is not None
    options = pool.options
    pakd = metrics.pakd(pool.pretrained_embeddings, pool.embeddings)
    pd = metrics.pairwise_dissimilarity(pool.embeddings, pakd, pool.ids, pd_first=options.pd_first, pd_weights=options.pd_weights)
    dkd = pakd * pd  # Eq. 5
    asd = np.array([metrics.asd_from_sums(sums, options.asd_reduction) for sums in pool.sums])
    chosen = metrics.select_query(dkd, asd, n_query, pool.ids, ranks=options.ranks)
    columns = {
        "pakd": pakd,
        "pd": pd,
        "dkd": dkd,
        "asd": asd,
        "dkd_minmax": metrics.minmax(dkd),
        "asd_minmax": metrics.minmax(asd),
        "dkd_rank": metrics.rank01(dkd),
        "asd_rank": metrics.rank01(asd),
        "q": metrics.query_score(dkd, asd, ranks=options.ranks),
    }
    return Query(
        ids=tuple(pool.ids[i] for i in chosen),
        scores={name: tuple(column.tolist()) for name, column in columns.items()},
    )


_DKD_ASD_NEEDS = frozenset({"sums", "embeddings", "pretrained_embeddings"})

STRATEGIES: dict[str, Strategy] = {
    "random": Strategy(
        function=query_random,
        needs=frozenset({"permutation"}),
        source="ASSFT paper, baseline RAND",
        description="cases at random, one permutation per seed",
    ),
    "dkd_asd": Strategy(
        function=query_dkd_asd,
        needs=_DKD_ASD_NEEDS,
        source="ASSFT paper, Eqs. 1-16",
        description="largest Q: knowledge divergence and segmentation difficulty; supervised fine-tuning only",
    ),
    "assft": Strategy(
        function=query_dkd_asd,
        needs=_DKD_ASD_NEEDS,
        source="ASSFT paper, Algorithm 1",
        description="largest Q, then selective semi-supervised fine-tuning on trusted pseudo-labels",
        semi_supervised=True,
        excludes_pseudo_labelled=True,
    ),
}

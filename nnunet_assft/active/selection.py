"""The table of selection strategies: which unlabelled cases get a pseudo-label.

A selection strategy is one pure function and one row of SELECTIONS. Its contract is that of the query strategies: it
returns distinct cases, best first, depends on its input alone, and breaks ties in favour of the smaller case id.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nnunet_assft.active import metrics
from nnunet_assft.active.metrics import Selection
from nnunet_assft.runtime.tables import Table


@dataclass(frozen=True)
class SelectionPool:
    """The input of a selection strategy: every case that is unlabelled after the query, ids ascending.

    The embeddings and anchors come from the network of the supervised stage. Raises ValueError if an array does not
    have one row per id or contains NaN or inf; the message names the case.
    """

    ids: tuple[str, ...]
    confidence: np.ndarray  # (N,) C of Eqs. 20-22
    embeddings: np.ndarray  # (N, d)
    anchors: np.ndarray  # (L, d) embeddings of all labelled cases
    tau_c: float = 2.0  # Eq. 24: a larger value gives more candidates
    scale: str = "max"  # scaling of C in Eqs. 23-24
    round: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.ids or any(first >= second for first, second in zip(self.ids, self.ids[1:], strict=False)):
            raise ValueError(f"{len(self.ids)} ids; expected at least one, ascending and distinct.")
        for name, rows in (("confidence", self.confidence), ("embeddings", self.embeddings)):
            if len(rows) != len(self.ids):
                raise ValueError(f"{name} has {len(rows)} rows; expected one for each of the {len(self.ids)} cases.")
            finite = np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
            if not finite.all():
                raise ValueError(
                    f"{name} of case {self.ids[int(finite.argmin())]} contains NaN or inf; score that case again."
                )


@dataclass(frozen=True)
class SelectionStrategy:
    """One row of the table. `function` takes the pool and N_SU, the number of cases to select."""

    function: Callable[[SelectionPool, int], Selection]
    source: str
    description: str


def select_reliable(pool: SelectionPool, n_select: int) -> Selection:
    """Select the N_SU cases with the largest R among the K most confident cases (Eqs. 23-26)."""
    return metrics.rank_reliable(
        pool.confidence, pool.embeddings, pool.anchors, n_select, pool.tau_c, pool.scale, pool.ids
    )


def select_confident(pool: SelectionPool, n_select: int) -> Selection:
    """Select the N_SU cases with the largest C (Eq. 22)."""
    return _of_all(pool, np.argsort(-pool.confidence, kind="stable")[:n_select])


def select_near(pool: SelectionPool, n_select: int) -> Selection:
    """Select the N_SU cases with the smallest D (Eq. 25), which are those nearest to a labelled case."""
    distance = metrics.semantic_distance(pool.embeddings, pool.anchors)
    return _of_all(pool, np.argsort(distance, kind="stable")[:n_select])


def select_random(pool: SelectionPool, n_select: int) -> Selection:
    """Select N_SU cases at random, seeded by (seed, round)."""
    rng = np.random.default_rng(np.random.SeedSequence([pool.seed, pool.round]))
    return _of_all(pool, rng.permutation(len(pool.ids))[:n_select])


def select_all(pool: SelectionPool, n_select: int) -> Selection:
    """Select every unlabelled case regardless of N_SU, the most reliable first."""
    return metrics.rank_reliable(
        pool.confidence, pool.embeddings, pool.anchors, len(pool.ids), pool.tau_c, pool.scale, pool.ids
    )


def _of_all(pool: SelectionPool, indices: np.ndarray) -> Selection:
    """Return a selection in which every case is a candidate, so that D and R of all cases are known."""
    distance = metrics.semantic_distance(pool.embeddings, pool.anchors)
    return Selection(indices, np.arange(len(pool.ids)), distance, pool.confidence * (1 - distance))


SELECTIONS: Table[SelectionStrategy] = Table(
    "nnunet_assft.selections",
    SelectionStrategy,
    {
        "reliable": SelectionStrategy(
            function=select_reliable,
            source="ASSFT paper, Eqs. 17-26",
            description="the cases with the largest C (1 - D) among the K most confident ones",
        ),
        "confidence_only": SelectionStrategy(
            function=select_confident,
            source="ablation of Eq. 26",
            description="largest confidence C",
        ),
        "distance_only": SelectionStrategy(
            function=select_near,
            source="ablation of Eq. 26",
            description="smallest distance D to a labelled case",
        ),
        "random": SelectionStrategy(
            function=select_random,
            source="ablation",
            description="cases at random, seeded by the seed and the round",
        ),
        "all": SelectionStrategy(
            function=select_all,
            source="ablation; plain self-training",
            description="every unlabelled case, regardless of their number",
        ),
    },
)

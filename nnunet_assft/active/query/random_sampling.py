"""Queries at random: plain, and among the cases that show each structure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnunet_assft.active.query.pool import Query, QueryPool
from nnunet_assft.active.query.shared import make_query, seed_sequence


def random_permutation(ids: Sequence[str], seed: int) -> tuple[str, ...]:
    """Return the sorted ids in random order. Draw it once per experiment and store it: numpy may change its stream."""
    ordered = sorted(ids)
    return tuple(ordered[i] for i in np.random.default_rng(seed).permutation(len(ordered)))


def query_random(pool: QueryPool, n_query: int) -> Query:
    """Query the next cases of the stored permutation, so that the queries of successive rounds are nested."""
    assert pool.permutation is not None
    position = {case: i for i, case in enumerate(pool.permutation)}
    return Query(
        ids=tuple(sorted(pool.ids, key=position.__getitem__)[:n_query]),
        scores={"position": tuple(float(position[case]) for case in pool.ids)},
    )


def query_random_foreground(pool: QueryPool, n_query: int) -> Query:
    """For each pick, draw a predicted structure, then a case in proportion to its predicted voxels of that structure.

    All structures are equally likely. A structure can be drawn while a case that is not picked yet has voxels of it;
    once there is no such structure, all cases that are left are equally likely.
    """
    assert pool.sums is not None
    voxels = np.array([sums.class_voxels[1:] for sums in pool.sums], dtype=np.int64)  # (N, structures)
    left = voxels.copy()
    unpicked = np.ones(len(voxels), dtype=np.int64)
    drawn_class = np.zeros(len(voxels), dtype=np.int64)  # 0: not drawn for its voxels
    rng = np.random.default_rng(seed_sequence(pool))
    chosen: list[int] = []
    for _ in range(n_query):
        classes = np.flatnonzero(left.any(axis=0))
        c = int(classes[rng.integers(len(classes))]) if len(classes) else None
        up_to = np.cumsum(unpicked if c is None else left[:, c])
        i = int(np.searchsorted(up_to, rng.integers(up_to[-1]), side="right"))
        chosen.append(i)
        drawn_class[i] = 0 if c is None else c + 1
        left[i], unpicked[i] = 0, 0
    return make_query(pool, chosen, {"foreground_voxels": voxels.sum(axis=1), "drawn_class": drawn_class})

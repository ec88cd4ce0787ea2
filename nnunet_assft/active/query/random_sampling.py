"""Random queries: uniform, and stratified by predicted structure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from nnunet_assft.active.query.pool import Query, QueryPool
from nnunet_assft.active.query.shared import make_query, seed_sequence


def random_permutation(ids: Sequence[str], seed: int) -> tuple[str, ...]:
    """Return the sorted ids in random order. Store the result, because another numpy version may draw another order."""
    ordered = sorted(ids)
    return tuple(ordered[i] for i in np.random.default_rng(seed).permutation(len(ordered)))


def spread(
    permutation: Sequence[str], fixed: Collection[str], added: Sequence[str], seed: Sequence[int]
) -> tuple[str, ...]:
    """Return a random order of the cases of a permutation and the added ones, in which the next case is equally likely
    to be any that is left.

    The fixed cases come first, in their old order. The others keep their order among themselves, and the added ones
    take places among them that are drawn at random.
    """
    first = [case for case in permutation if case in fixed]
    others = iter([case for case in permutation if case not in fixed])
    ordered, rng = sorted(added), np.random.default_rng(np.random.SeedSequence(seed))
    new = iter([ordered[i] for i in rng.permutation(len(ordered))])
    n = len(permutation) - len(first) + len(added)
    places = set(rng.choice(n, len(added), replace=False).tolist())
    return (*first, *(next(new) if place in places else next(others) for place in range(n)))


def query_random(pool: QueryPool, n_query: int) -> Query:
    """Query the next cases of the stored permutation, so that the queries of successive rounds are nested."""
    assert pool.permutation is not None
    position = {case: i for i, case in enumerate(pool.permutation)}
    return Query(
        ids=tuple(sorted(pool.ids, key=position.__getitem__)[:n_query]),
        scores={"position": tuple(float(position[case]) for case in pool.ids)},
    )


def query_random_foreground(pool: QueryPool, n_query: int) -> Query:
    """Query cases by drawing a predicted structure, then a case in proportion to its voxels of that structure.

    All structures that are predicted in a remaining case are equally likely. Once there is none, all remaining cases
    are equally likely.
    """
    assert pool.sums is not None
    voxels = np.array([sums.class_voxels[1:] for sums in pool.sums], dtype=np.int64)  # (N, structures)
    left = voxels.copy()
    unpicked = np.ones(len(voxels), dtype=np.int64)
    drawn_class = np.zeros(len(voxels), dtype=np.int64)  # 0: not drawn for a structure
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

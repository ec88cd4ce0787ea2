"""Query pools for the tests of the strategies."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from nnunet_assft.active.metrics import VoxelSums
from nnunet_assft.active.options import Options
from nnunet_assft.active.query.pool import PER_CASE, Query, QueryPool
from nnunet_assft.active.query.random_sampling import random_permutation

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 9)
budgets = st.integers(1, 12)


def sums_of(entropy: float, inside: int = 10) -> VoxelSums:
    """A case of 100 voxels with this ASD (mean over the mask)."""
    return VoxelSums(
        voxels=100,
        entropy_sum=entropy * inside + 1.0,
        top1_sum=90.0,
        margin_sum=80.0,
        masked_entropy_sum=entropy * inside,
        mask_voxels=inside,
        masked_entropy_sum_tau1=entropy,
        mask_voxels_tau1=1,
        foreground_margin_sum=5.0,
        foreground_voxels=inside,
        class_voxels=(100 - inside, inside),
    )


def make_pool(n: int, *, seed: int = 0, order: np.ndarray | None = None, duplicates: bool = False) -> QueryPool:
    """A pool with everything any strategy may need; `order` shuffles the cases before they are handed over."""
    rng = np.random.default_rng(seed)
    ids = [f"case_{i:03d}" for i in range(n)]
    arrays = {
        "embeddings": rng.normal(size=(n, 6)),
        "pretrained_embeddings": rng.normal(size=(n, 6)),
        "gradients": rng.normal(size=(n, 3, 4)),
        "class_entropies": rng.random((n, 3)),
        "committee_spread": rng.random(n),
        "peak_entropy": rng.random(n),
    }
    assert arrays.keys() == PER_CASE.keys()
    entropy, inside = rng.random(n), rng.integers(1, 50, size=n)
    if duplicates:
        for array in (*arrays.values(), entropy, inside):
            array[:] = array[0]
    order = np.arange(n) if order is None else order
    return QueryPool.create(
        [ids[i] for i in order],
        sums=[sums_of(float(entropy[i]), int(inside[i])) for i in order],
        **{name: array[order] for name, array in arrays.items()},
        labelled_embeddings=rng.normal(size=(2, 6)),
        permutation=random_permutation(ids, seed),
        round=2,
        n_rounds=3,
        seed=seed,
    )


def check_query(query: Query, pool: QueryPool, n_query: int) -> None:
    assert len(query.ids) == len(set(query.ids)) == min(n_query, len(pool.ids))
    assert set(query.ids) <= set(pool.ids)
    for column in query.scores.values():
        assert len(column) == len(pool.ids)
        assert np.isfinite(column).all()


def coarse_pool(seed: int, n: int, **options: object) -> QueryPool:
    """Few values each: many ties, cases that are alike, zero vectors, cases without foreground; any round of 1 or 3."""
    rng, pool = np.random.default_rng(seed), make_pool(n, seed=seed)
    n_rounds = int(rng.choice([1, 3]))
    return replace(
        pool,
        sums=tuple(sums_of(float(entropy), int(inside)) for entropy, inside in rng.integers(3, size=(n, 2))),
        **{name: np.round(getattr(pool, name)) for name in (*PER_CASE, "labelled_embeddings")},
        round=int(rng.integers(1, n_rounds + 1)),
        n_rounds=n_rounds,
        options=Options(**options),  # type: ignore[arg-type]
    )


def shuffled(pool: QueryPool, seed: int) -> QueryPool:
    """The same cases handed over in another order, the labelled ones too."""
    assert pool.sums is not None
    assert pool.labelled_embeddings is not None
    order = np.random.default_rng(seed).permutation(len(pool.ids))
    rows = {name: getattr(pool, name)[order] for name in PER_CASE}
    others = {
        name: value
        for name, value in vars(pool).items()
        if name not in ("ids", "sums", "labelled_embeddings", *PER_CASE)
    }
    labelled = pool.labelled_embeddings[::-1]
    return QueryPool.create(
        [pool.ids[i] for i in order], sums=[pool.sums[i] for i in order], labelled_embeddings=labelled, **rows, **others
    )


def best(scores: Sequence[float] | np.ndarray, among: Sequence[int]) -> list[int]:
    """Rows, largest score first, ties by id."""
    return sorted(among, key=lambda i: (-scores[i], i))


def shares(picks: Sequence[object], among: Sequence[object]) -> list[float]:
    """How often each was picked."""
    count = Counter(picks)
    assert count.keys() <= set(among)
    return [count[x] / len(picks) for x in among]

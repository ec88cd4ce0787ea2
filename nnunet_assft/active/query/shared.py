"""Functions shared by several query strategies: the seed, scores per case, k-means, and building the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.spatial.distance import cdist

from nnunet_assft.active.metrics import VoxelSums
from nnunet_assft.active.query.pool import Query, QueryPool


def seed_sequence(pool: QueryPool) -> np.random.SeedSequence:
    """Return the seed for all random draws of a query, which follows from the experiment seed and the round."""
    return np.random.SeedSequence([pool.seed, pool.round])


def score_per_case(pool: QueryPool, score: Callable[[VoxelSums], float]) -> np.ndarray:
    """Return the (N,) scores of the cases from their voxel sums."""
    assert pool.sums is not None
    return np.array([score(sums) for sums in pool.sums])


def mean_entropy(pool: QueryPool) -> np.ndarray:
    """Return the (N,) mean entropies over all voxels of each case, in nats."""
    return score_per_case(pool, lambda sums: sums.entropy_sum / sums.voxels)


def best_first(scores: np.ndarray, *, largest: bool) -> np.ndarray:
    """Return the indices, best first. Equal scores keep their order, so that in a pool the smaller id comes first."""
    return np.argsort(-scores if largest else scores, kind="stable")


def distances_to(centre: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the (N,) Euclidean distances of the rows, (N, d), to a centre, (d,)."""
    return cdist(rows, centre[None])[:, 0]


def k_means(points: np.ndarray, n_clusters: int, seed: np.random.SeedSequence) -> np.ndarray:
    """Return the (N,) cluster of each point. Clusters are numbered in the order of their first points.

    points: (N, d). If points coincide, there may be fewer clusters than n_clusters.
    """
    from sklearn.cluster import KMeans  # slow to import
    from threadpoolctl import threadpool_limits

    n_clusters = min(n_clusters, len(np.unique(points.round(9), axis=0)))
    estimator = KMeans(n_clusters, n_init=10, random_state=int(seed.generate_state(1)[0]))
    with threadpool_limits(limits=1):  # with several threads, the order of summation is not fixed
        labels = estimator.fit_predict(points)
    _, first, label = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[label]


def is_among(indices: np.ndarray, n: int) -> np.ndarray:
    """Return an (n,) column of the score table: 1 for the cases with these indices and 0 for all others."""
    return np.isin(np.arange(n), indices).astype(int)


def make_query(pool: QueryPool, chosen: Sequence[int] | np.ndarray, columns: Mapping[str, np.ndarray]) -> Query:
    """Return the query of the cases with these indices, best first. columns: name -> (N,) column of the score table."""
    return Query(
        ids=tuple(pool.ids[i] for i in chosen),
        scores={name: tuple(column.tolist()) for name, column in columns.items()},
    )

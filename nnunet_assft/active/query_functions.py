"""The rules of the query strategies: pure functions of a QueryPool. The table in strategies.py names them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.spatial.distance import cdist

from nnunet_assft.active import metrics
from nnunet_assft.active.metrics import VoxelSums
from nnunet_assft.active.query_pool import Query, QueryPool

NEIGHBOURS = 20  # typiclust: at most so many neighbours decide how typical a case is


# The method ------------------------------------------------------------------------------------------------------------


def query_dkd_asd(pool: QueryPool, n_query: int) -> Query:
    """The cases with the largest Q (Eqs. 1-16), ties by DKD, then by id."""
    columns = _dkd_columns(pool)
    dkd, asd = columns["dkd"], _asd(pool)
    chosen = metrics.select_query(dkd, asd, n_query, pool.ids, ranks=pool.options.ranks)
    columns |= {
        "asd": asd,
        "dkd_minmax": metrics.minmax(dkd),
        "asd_minmax": metrics.minmax(asd),
        "dkd_rank": metrics.rank01(dkd),
        "asd_rank": metrics.rank01(asd),
        "q": metrics.query_score(dkd, asd, ranks=pool.options.ranks),
    }
    return _query(pool, chosen, columns)


def dkd_first(*, largest: bool) -> Callable[[QueryPool, int], Query]:
    """Ablation: DKD alone (Eq. 5)."""

    def query(pool: QueryPool, n_query: int) -> Query:
        columns = _dkd_columns(pool)
        return _query(pool, _best_first(columns["dkd"], largest)[:n_query], columns)

    return query


def asd_first(*, largest: bool, tau1: bool = False) -> Callable[[QueryPool, int], Query]:
    """Ablation: ASD alone (Eqs. 6-11), with the mask of the round or, tau1, that of Eq. 19."""

    def query(pool: QueryPool, n_query: int) -> Query:
        asd = _asd(pool, tau1=tau1)
        zeros = int((asd == 0).sum())
        if zeros > 1 and not largest:
            message = f"ASD is 0 for {zeros} of {len(asd)} cases, as it is without foreground; their ids decide among them."
            warnings.warn(message, stacklevel=2)
        return _query(pool, _best_first(asd, largest)[:n_query], {"asd": asd})

    return query


def _dkd_columns(pool: QueryPool) -> dict[str, np.ndarray]:
    assert pool.embeddings is not None
    assert pool.pretrained_embeddings is not None
    pakd = metrics.pakd(pool.pretrained_embeddings, pool.embeddings)
    options = pool.options
    pd = metrics.pairwise_dissimilarity(pool.embeddings, pakd, pool.ids, pd_first=options.pd_first, pd_weights=options.pd_weights)
    return {"pakd": pakd, "pd": pd, "dkd": pakd * pd}  # Eq. 5


def _asd(pool: QueryPool, *, tau1: bool = False) -> np.ndarray:
    return _per_case(pool, lambda sums: metrics.asd_from_sums(sums, pool.options.asd_reduction, tau1=tau1))


# Random ----------------------------------------------------------------------------------------------------------------


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


def query_random_foreground(pool: QueryPool, n_query: int) -> Query:
    """For each pick a predicted structure, all alike, then a case in proportion to its predicted voxels of that structure.

    A structure counts while a case that is not picked yet has voxels of it. Once there is none, all cases are alike.
    """
    assert pool.sums is not None
    voxels = np.array([sums.class_voxels[1:] for sums in pool.sums], dtype=np.int64)  # (N, structures)
    left = voxels.copy()
    unpicked = np.ones(len(voxels), dtype=np.int64)
    drawn_class = np.zeros(len(voxels), dtype=np.int64)  # 0: not drawn for its voxels
    rng = np.random.default_rng(_seed_sequence(pool))
    chosen: list[int] = []
    for _ in range(n_query):
        classes = np.flatnonzero(left.any(axis=0))
        c = int(classes[rng.integers(len(classes))]) if len(classes) else None
        up_to = np.cumsum(unpicked if c is None else left[:, c])
        i = int(np.searchsorted(up_to, rng.integers(up_to[-1]), side="right"))
        chosen.append(i)
        drawn_class[i] = 0 if c is None else c + 1
        left[i], unpicked[i] = 0, 0
    return _query(pool, chosen, {"foreground_voxels": voxels.sum(axis=1), "drawn_class": drawn_class})


def _seed_sequence(pool: QueryPool) -> np.random.SeedSequence:
    return np.random.SeedSequence([pool.seed, pool.round])


# Uncertainty -----------------------------------------------------------------------------------------------------------


def query_entropy(pool: QueryPool, n_query: int) -> Query:
    """Largest mean entropy over all voxels, in nats."""
    entropy = _mean_entropy(pool)
    return _query(pool, _best_first(entropy, largest=True)[:n_query], {"entropy": entropy})


def query_least_confidence(pool: QueryPool, n_query: int) -> Query:
    """Largest 1 - mean p_(1) over all voxels."""
    least_confidence = _per_case(pool, lambda sums: 1 - sums.top1_sum / sums.voxels)
    return _query(pool, _best_first(least_confidence, largest=True)[:n_query], {"least_confidence": least_confidence})


def query_margin(pool: QueryPool, n_query: int) -> Query:
    """Smallest mean p_(1) - p_(2) over all voxels."""
    margin = _per_case(pool, lambda sums: sums.margin_sum / sums.voxels)
    return _query(pool, _best_first(margin, largest=False)[:n_query], {"margin": margin})


def cup(*, uncertain_first: bool) -> Callable[[QueryPool, int], Query]:
    """2b cases by their mean entropy, of these the b with the most foreground; ties by entropy again, then by id."""

    def query(pool: QueryPool, n_query: int) -> Query:
        entropy = _mean_entropy(pool)
        foreground = _per_case(pool, lambda sums: sums.foreground_voxels)
        candidates = _best_first(entropy, largest=uncertain_first)[: 2 * n_query]
        chosen = candidates[_best_first(foreground[candidates], largest=True)][:n_query]
        is_candidate = np.isin(np.arange(len(entropy)), candidates).astype(int)
        return _query(pool, chosen, {"entropy": entropy, "candidate": is_candidate, "foreground_voxels": foreground})

    return query


def _mean_entropy(pool: QueryPool) -> np.ndarray:
    return _per_case(pool, lambda sums: sums.entropy_sum / sums.voxels)


# Coverage --------------------------------------------------------------------------------------------------------------


def query_coreset(pool: QueryPool, n_query: int) -> Query:
    """Greedy k-centre: again and again the case farthest from all labelled and picked ones; no labelled case: from the mean.

    Holds one minimum distance per case, never all pairs. The column is the distance when the case was picked, or at the end.
    """
    assert pool.embeddings is not None
    assert pool.labelled_embeddings is not None
    embeddings = np.asarray(pool.embeddings, dtype=np.float64)
    labelled = np.asarray(pool.labelled_embeddings, dtype=np.float64)
    nearest = np.full(len(embeddings), np.inf)
    for centre in labelled if len(labelled) else embeddings.mean(axis=0, keepdims=True):
        np.minimum(nearest, _distance(embeddings, centre), out=nearest)
    at_pick: dict[int, float] = {}
    while len(at_pick) < n_query:
        i = int(nearest.argmax())  # the first of equals: ids ascend
        at_pick[i] = float(nearest[i])
        if len(at_pick) == 1 and not len(labelled):
            nearest[:] = np.inf  # the mean is no centre
        np.minimum(nearest, _distance(embeddings, embeddings[i]), out=nearest)
        nearest[list(at_pick)] = -np.inf  # a duplicate may be picked, the same case never again
    chosen = list(at_pick)
    nearest[chosen] = list(at_pick.values())
    return _query(pool, chosen, {"distance": nearest})


def query_typiclust(pool: QueryPool, n_query: int) -> Query:
    """The most typical case of each of the largest clusters without a labelled case; L + b clusters of unit embeddings.

    Typical: smallest mean distance to the nearest neighbours in the cluster. Should there be fewer such clusters than
    picks, which takes equal embeddings, the clusters with the fewest labelled and picked cases follow.
    """
    assert pool.embeddings is not None
    assert pool.labelled_embeddings is not None
    labelled = np.asarray(pool.labelled_embeddings, dtype=np.float64)
    labelled = labelled[np.lexsort(labelled.T)]  # so that their order plays no role
    points = np.concatenate([pool.embeddings, labelled])
    norm = np.linalg.norm(points, axis=1, keepdims=True)
    points = points / np.where(norm > 0, norm, 1.0)
    n = len(pool.ids)
    cluster = _k_means(points, len(labelled) + n_query, _seed_sequence(pool))
    covered = np.bincount(cluster[n:], minlength=cluster.max() + 1)  # labelled and picked cases of each cluster
    distance = np.empty(n)
    for i in range(n):
        members = np.sort(_distance(points[cluster == cluster[i]], points[i]))  # the case itself first
        distance[i] = round(float(members[1 : NEIGHBOURS + 1].mean()), 9) if len(members) > 1 else 0.0
    size = np.bincount(cluster)[cluster[:n]]
    cluster = cluster[:n]
    columns = {"cluster": cluster, "cluster_size": size, "cluster_labelled": covered[cluster], "neighbour_distance": distance}
    left = np.ones(n, dtype=bool)
    chosen: list[int] = []
    while len(chosen) < n_query:
        order = np.lexsort((np.arange(n), distance, cluster, -size, covered[cluster], ~left))
        i = int(order[0])
        chosen.append(i)
        left[i] = False
        covered[cluster[i]] += 1
    return _query(pool, chosen, columns)


def _k_means(points: np.ndarray, n_clusters: int, seed: np.random.SeedSequence) -> np.ndarray:
    """(N,) cluster of each point, numbered from 0 in the order of their first points; fewer if points coincide."""
    from sklearn.cluster import KMeans  # slow to import
    from threadpoolctl import threadpool_limits

    n_clusters = min(n_clusters, len(np.unique(points.round(9), axis=0)))
    k_means = KMeans(n_clusters, n_init=10, random_state=int(seed.generate_state(1)[0]))
    with threadpool_limits(limits=1):  # threads add up in no fixed order
        labels = k_means.fit_predict(points)
    _, first, label = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[label]


def _distance(rows: np.ndarray, centre: np.ndarray) -> np.ndarray:
    return cdist(rows, centre[None])[:, 0]


# Shared pieces ---------------------------------------------------------------------------------------------------------


def _per_case(pool: QueryPool, score: Callable[[VoxelSums], float]) -> np.ndarray:
    assert pool.sums is not None
    return np.array([score(sums) for sums in pool.sums])


def _best_first(scores: np.ndarray, largest: bool) -> np.ndarray:
    """Indices, best first; equal scores stay in the order they are in."""
    return np.argsort(-scores if largest else scores, kind="stable")


def _query(pool: QueryPool, chosen: Sequence[int] | np.ndarray, columns: Mapping[str, np.ndarray]) -> Query:
    return Query(
        ids=tuple(pool.ids[i] for i in chosen),
        scores={name: tuple(column.tolist()) for name, column in columns.items()},
    )

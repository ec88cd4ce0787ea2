"""The rules of the query strategies: pure functions of a QueryPool. The table in strategies.py names them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.spatial.distance import cdist

from nnunet_assft.active import metrics
from nnunet_assft.active.metrics import VoxelSums
from nnunet_assft.active.query.pool import Query, QueryPool

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
            message = (
                f"ASD is 0 for {zeros} of {len(asd)} cases, as it is without foreground; their ids decide among them."
            )
            warnings.warn(message, stacklevel=2)
        return _query(pool, _best_first(asd, largest)[:n_query], {"asd": asd})

    return query


def _dkd_columns(pool: QueryPool) -> dict[str, np.ndarray]:
    assert pool.embeddings is not None
    assert pool.pretrained_embeddings is not None
    pakd = metrics.pakd(pool.pretrained_embeddings, pool.embeddings)
    options = pool.options
    pd = metrics.pairwise_dissimilarity(
        pool.embeddings,
        pakd,
        pool.ids,
        pd_first=options.pd_first,
        pd_weights=options.pd_weights,
        e_labelled=pool.labelled_embeddings if options.pd_labelled else None,
    )
    return {"pakd": pakd, "pd": pd, "dkd": pakd * pd}  # Eq. 5


def _asd(pool: QueryPool, *, tau1: bool = False) -> np.ndarray:
    tau1 = tau1 or pool.options.tau == "one"
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


def query_clasp_pe(pool: QueryPool, n_query: int) -> Query:
    """66 % of the budget by the entropy of each structure, the rest by the entropy of all, with noise that fades.

    Scores are log(score) + Gumbel(0, 1 / beta), beta from 1 in round 1 to 100 in round R. The structures come in random
    order and share alike; those that come first take the remainder. A picked case is out for all others.
    """
    assert pool.class_entropies is not None
    entropies = np.asarray(pool.class_entropies, dtype=np.float64)
    if entropies.shape[1] < 2:
        raise ValueError(
            f"class_entropies has shape {entropies.shape}; expected (N, C) with C >= 2, channel 0 background."
        )
    n, n_structures = len(entropies), entropies.shape[1] - 1
    scores = np.column_stack([entropies.sum(axis=1), entropies[:, 1:]])  # column 0: all classes
    beta = 100.0 ** ((pool.round - 1) / max(1, pool.n_rounds - 1))
    rng = np.random.default_rng(_seed_sequence(pool))
    noise = rng.gumbel(0.0, 1.0 / beta, size=(n_structures + 1, n)).T
    with np.errstate(divide="ignore"):
        noisy = np.where(scores > 0, np.log(scores) + noise, -np.inf)
    n_by_structure = 66 * n_query // 100
    share, remainder = divmod(n_by_structure, n_structures)
    shares = [(int(c) + 1, share + (k < remainder)) for k, c in enumerate(rng.permutation(n_structures))]
    chosen: list[int] = []
    drawn_class = np.full(n, -1)
    for c, size in [*shares, (0, n_query - n_by_structure)]:
        best_first = _best_first(noisy[:, c], largest=True)
        picked = best_first[drawn_class[best_first] < 0][:size]
        chosen += picked.tolist()
        drawn_class[picked] = c
    return _query(pool, chosen, {"entropy": scores[:, 0], "drawn_class": drawn_class})


def query_ugtst(pool: QueryPool, n_query: int) -> Query:
    """The most uncertain 2b cases, then of each of b clusters of their embeddings the case nearest to its centre.

    Should there be fewer clusters than picks, which takes equal embeddings, the next most uncertain cases follow.
    """
    assert pool.peak_entropy is not None
    assert pool.embeddings is not None
    uncertainty = np.asarray(pool.peak_entropy, dtype=np.float64)
    by_uncertainty = _best_first(uncertainty, largest=True)
    candidates = np.sort(by_uncertainty[: pool.options.ugtst_multiple * n_query])
    points = np.asarray(pool.embeddings, dtype=np.float64)[candidates]
    cluster = _k_means(points, n_query, _seed_sequence(pool))
    nearest: set[int] = set()
    for c in range(cluster.max() + 1):
        members = np.flatnonzero(cluster == c)
        distance = _distance(points[members], points[members].mean(axis=0)).round(9)
        nearest.add(int(candidates[members[distance.argmin()]]))
    chosen = [int(i) for i in by_uncertainty if i in nearest]
    chosen += [int(i) for i in by_uncertainty if i not in nearest][: n_query - len(chosen)]
    is_candidate = np.isin(np.arange(len(uncertainty)), candidates).astype(int)
    return _query(pool, chosen, {"peak_entropy": uncertainty, "candidate": is_candidate})


def sann(spread: str) -> Callable[[QueryPool, int], Query]:
    """The 2b cases with the largest spread, of these greedily the b that together are most similar to all cases.

    spread: field of the pool. F(S) = sum over all cases of the largest cosine to a case of S, starting at -1.
    """

    def query(pool: QueryPool, n_query: int) -> Query:
        assert pool.embeddings is not None
        uncertainty = np.asarray(getattr(pool, spread), dtype=np.float64)
        candidates = np.sort(_best_first(uncertainty, largest=True)[: 2 * n_query])
        unit = metrics.unit_vectors(pool.embeddings)
        similarity = unit[candidates] @ unit.T
        cover = np.full(len(unit), -1.0)
        gain, fresh = np.full(len(candidates), np.inf), np.zeros(len(candidates), dtype=bool)
        value = np.zeros(len(unit))  # F when the case was picked
        chosen: list[int] = []
        while (
            len(chosen) < n_query
        ):  # a gain only falls as S grows: the largest one that is not outdated is the largest
            k = int(gain.argmax())
            if not fresh[k]:
                gain[k], fresh[k] = round(float(np.maximum(similarity[k] - cover, 0).sum()), 9), True
                continue
            np.maximum(cover, similarity[k], out=cover)
            gain[k], fresh[:] = -np.inf, False
            chosen.append(int(candidates[k]))
            value[chosen[-1]] = cover.sum()
        is_candidate = np.isin(np.arange(len(unit)), candidates).astype(int)
        return _query(pool, chosen, {spread: uncertainty, "candidate": is_candidate, "cover": value})

    return query


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


def query_badge(pool: QueryPool, n_query: int) -> Query:
    """k-means++ sampling of loss gradients: the largest one first, then by the squared distance to the nearest picked one."""
    assert pool.gradients is not None
    gradients = np.asarray(pool.gradients, dtype=np.float64).reshape(len(pool.ids), -1)
    uniforms = np.random.default_rng(_seed_sequence(pool)).random(n_query)[1:]
    chosen, distance = d2_sampling(gradients, uniforms)
    return _query(pool, chosen, {"gradient_norm": np.linalg.norm(gradients, axis=1), "squared_distance": distance})


def d2_sampling(rows: np.ndarray, uniforms: np.ndarray) -> tuple[list[int], np.ndarray]:
    """(picked rows in order, squared distance of each row to the nearest picked one: at its pick, or at the end).

    The first pick is the longest row, its distance the squared length. uniforms: one in [0, 1) for each further pick, which
    inverts the cumulative sum of the squared distances; once all are 0 the first row that is left is taken.
    """
    at_pick: dict[int, float] = {}
    nearest = np.einsum("nd,nd->n", rows, rows)
    for u in (None, *uniforms):
        if u is None:
            i = int(nearest.argmax())
        elif nearest.any():  # 0 where a case is picked
            up_to = np.cumsum(nearest)
            i = int(min(np.searchsorted(up_to, u * up_to[-1], side="right"), np.flatnonzero(nearest)[-1]))
        else:
            i = next(i for i in range(len(rows)) if i not in at_pick)
        to_pick = cdist(rows, rows[i][None], "sqeuclidean")[:, 0]
        at_pick[i] = float(nearest[i])
        nearest = to_pick if u is None else np.minimum(nearest, to_pick)
    nearest[list(at_pick)] = list(at_pick.values())
    return list(at_pick), nearest


def query_typiclust(pool: QueryPool, n_query: int) -> Query:
    """The most typical case of each of the largest clusters without a labelled case; L + b clusters of unit embeddings.

    Typical: smallest mean distance to the nearest neighbours in the cluster. Should there be fewer such clusters than
    picks, which takes equal embeddings, the clusters with the fewest labelled and picked cases follow.
    """
    assert pool.embeddings is not None
    assert pool.labelled_embeddings is not None
    labelled = np.empty((0, np.shape(pool.embeddings)[1]))
    if len(pool.labelled_embeddings):
        labelled = metrics.unit_vectors(np.asarray(pool.labelled_embeddings))
    labelled = labelled[np.lexsort(labelled.T)]  # so that their order plays no role
    points = np.concatenate([metrics.unit_vectors(np.asarray(pool.embeddings)), labelled])
    n = len(pool.ids)
    cluster = _k_means(points, len(labelled) + n_query, _seed_sequence(pool))
    covered = np.bincount(cluster[n:], minlength=cluster.max() + 1)  # labelled and picked cases of each cluster
    distance = np.empty(n)
    for i in range(n):
        members = np.sort(_distance(points[cluster == cluster[i]], points[i]))  # the case itself first
        distance[i] = round(float(members[1 : NEIGHBOURS + 1].mean()), 9) if len(members) > 1 else 0.0
    size = np.bincount(cluster)[cluster[:n]]
    cluster = cluster[:n]
    columns = {
        "cluster": cluster,
        "cluster_size": size,
        "cluster_labelled": covered[cluster],
        "neighbour_distance": distance,
    }
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

"""Diversity queries: cases that differ from each other and from the labelled cases in embedding or gradient."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from nnunet_assft.active.arrays import unit_vectors
from nnunet_assft.active.query.pool import Query, QueryPool
from nnunet_assft.active.query.shared import distances_to, k_means, make_query, seed_sequence


def query_coreset(pool: QueryPool, n_query: int) -> Query:
    """Query repeatedly the case that is farthest from all labelled and already picked cases (greedy k-centre).

    Without a labelled case, the first pick is the case farthest from the mean. Only one minimum distance per case is
    stored, never a matrix of all pairs. The score is the distance at the time a case was picked, or the final distance
    if it was not.
    """
    assert pool.embeddings is not None
    assert pool.labelled_embeddings is not None
    embeddings = np.asarray(pool.embeddings, dtype=np.float64)
    labelled = np.asarray(pool.labelled_embeddings, dtype=np.float64)
    nearest = np.full(len(embeddings), np.inf)
    for centre in labelled if len(labelled) else embeddings.mean(axis=0, keepdims=True):
        np.minimum(nearest, distances_to(centre, embeddings), out=nearest)
    at_pick: dict[int, float] = {}
    while len(at_pick) < n_query:
        i = int(nearest.argmax())  # a tie goes to the smaller id, because ids ascend
        at_pick[i] = float(nearest[i])
        if len(at_pick) == 1 and not len(labelled):
            nearest[:] = np.inf  # the mean is not a centre
        np.minimum(nearest, distances_to(embeddings[i], embeddings), out=nearest)
        nearest[list(at_pick)] = -np.inf  # a duplicate of a picked case may be picked, but no case twice
    chosen = list(at_pick)
    nearest[chosen] = list(at_pick.values())
    return make_query(pool, chosen, {"distance": nearest})


def query_badge(pool: QueryPool, n_query: int) -> Query:
    """Query by k-means++ sampling of the loss gradients, which are means over voxels.

    The case with the largest gradient is picked first. Each further case is drawn with probability proportional to the
    squared distance of its gradient to the nearest picked one. A factor that all gradients share changes no pick.
    """
    assert pool.gradients is not None
    gradients = np.asarray(pool.gradients, dtype=np.float64).reshape(len(pool.ids), -1)
    uniforms = np.random.default_rng(seed_sequence(pool)).random(n_query)[1:]
    chosen, distance = d2_sampling(gradients, uniforms)
    columns = {"gradient_norm": np.linalg.norm(gradients, axis=1), "squared_distance": distance}
    return make_query(pool, chosen, columns)


def d2_sampling(rows: np.ndarray, uniforms: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Pick the longest row, then draw rows in proportion to their squared distance to the nearest picked row.

    rows: (N, d). uniforms: numbers in [0, 1), one per further pick, at which the cumulative sum of the squared
    distances is inverted. Once all distances are 0, the first remaining row is picked. Returns the indices of the
    picked rows in order, and the (N,) squared distance of each row to the nearest picked one: at the time it was picked
    (for the first pick its squared length), or the final one.
    """
    at_pick: dict[int, float] = {}
    nearest = np.einsum("nd,nd->n", rows, rows)
    for u in (None, *uniforms):
        if u is None:
            i = int(nearest.argmax())
        elif nearest.any():  # picked cases have distance 0
            up_to = np.cumsum(nearest)
            i = int(min(np.searchsorted(up_to, u * up_to[-1], side="right"), np.flatnonzero(nearest)[-1]))
        else:
            i = next(i for i in range(len(rows)) if i not in at_pick)
        to_pick = cdist(rows, rows[i][None], "sqeuclidean")[:, 0]
        at_pick[i] = float(nearest[i])
        nearest = to_pick if u is None else np.minimum(nearest, to_pick)
    nearest[list(at_pick)] = list(at_pick.values())
    return list(at_pick), nearest


def query_typiclust(pool: QueryPool, n_query: int, *, neighbours: int) -> Query:
    """Query the most typical case of each of the largest clusters that have no labelled case.

    The unit embeddings of the labelled cases and of the pool form L + n_query clusters. The most typical case of a
    cluster has the smallest mean distance to its nearest neighbours in the cluster, of which at most `neighbours`
    count. If there are fewer such clusters than picks, which happens only if embeddings are equal, the clusters with
    the fewest labelled and picked cases follow.
    """
    assert pool.embeddings is not None
    assert pool.labelled_embeddings is not None
    n = len(pool.ids)
    labelled = np.empty((0, np.shape(pool.embeddings)[1]))
    if len(pool.labelled_embeddings):
        labelled = unit_vectors(np.asarray(pool.labelled_embeddings))
    labelled = labelled[np.lexsort(labelled.T)]  # so that their order does not matter
    points = np.concatenate([unit_vectors(np.asarray(pool.embeddings)), labelled])
    of_all = k_means(points, len(labelled) + n_query, seed_sequence(pool))
    covered = np.bincount(of_all[n:], minlength=of_all.max() + 1)  # labelled and picked cases of each cluster
    distance = np.empty(n)
    for i in range(n):
        to_members = np.sort(distances_to(points[i], points[of_all == of_all[i]]))  # the first one is the case itself
        nearest = to_members[1 : neighbours + 1]
        distance[i] = round(float(nearest.mean()), 9) if len(nearest) else 0.0
    cluster, size = of_all[:n], np.bincount(of_all)[of_all[:n]]
    columns = {
        "cluster": cluster,
        "cluster_size": size,
        "cluster_labelled": covered[cluster],
        "neighbour_distance": distance,
    }
    is_picked = np.zeros(n, dtype=bool)
    chosen: list[int] = []
    while len(chosen) < n_query:
        order = np.lexsort((np.arange(n), distance, cluster, -size, covered[cluster], is_picked))
        i = int(order[0])
        chosen.append(i)
        is_picked[i] = True
        covered[cluster[i]] += 1
    return make_query(pool, chosen, columns)

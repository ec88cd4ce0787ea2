"""Queries in two steps: the most uncertain cases are candidates, and a representative set of them is queried."""

from __future__ import annotations

import numpy as np

from nnunet_assft.active.arrays import unit_vectors
from nnunet_assft.active.query.pool import Query, QueryPool
from nnunet_assft.active.query.shared import (
    best_first,
    distances_to,
    is_among,
    k_means,
    make_query,
    seed_sequence,
)


def query_ugtst(pool: QueryPool, n_query: int, *, candidates_per_case: int) -> Query:
    """Query the case nearest to the centre of each of n_query clusters of the most uncertain cases.

    The candidates are the candidates_per_case * n_query cases with the largest uncertainty, which is the mean entropy
    above the first peak of its histogram. If there are fewer clusters than picks, which happens only if embeddings are
    equal, the next most uncertain cases follow.

    This is the query of UGTST as in the release HiLab-git/UGTST, which takes four candidates per pick. The two of our
    table, and the entropy of the mean prediction, are those of HiLab-git/UMDM-SFADA (3D_selection.py).
    """
    assert pool.peak_entropy is not None
    assert pool.embeddings is not None
    uncertainty = np.asarray(pool.peak_entropy, dtype=np.float64)
    by_uncertainty = best_first(uncertainty, largest=True)
    candidates = np.sort(by_uncertainty[: candidates_per_case * n_query])
    points = np.asarray(pool.embeddings, dtype=np.float64)[candidates]
    cluster = k_means(points, n_query, seed_sequence(pool))
    nearest: set[int] = set()
    for c in range(cluster.max() + 1):
        members = np.flatnonzero(cluster == c)
        distance = distances_to(points[members].mean(axis=0), points[members]).round(9)
        nearest.add(int(candidates[members[distance.argmin()]]))
    chosen = [int(i) for i in by_uncertainty if i in nearest]
    chosen += [int(i) for i in by_uncertainty if i not in nearest][: n_query - len(chosen)]
    return make_query(pool, chosen, {"peak_entropy": uncertainty, "candidate": is_among(candidates, len(uncertainty))})


def query_sann(pool: QueryPool, n_query: int, *, candidates_per_case: int) -> Query:
    """Query greedily the set of cases most similar to the pool, among the cases on which a committee disagrees most.

    The similarity of a set S to the pool is F(S), the sum over all cases of the largest cosine to a case of S; each
    term is -1 for the empty set. The candidates are the candidates_per_case * n_query cases with the largest spread.
    """
    assert pool.embeddings is not None
    uncertainty = np.asarray(pool.committee_spread, dtype=np.float64)
    candidates = np.sort(best_first(uncertainty, largest=True)[: candidates_per_case * n_query])
    unit = unit_vectors(pool.embeddings)
    chosen, value_at_pick = greedy_cover(unit[candidates] @ unit.T, n_query)
    cover = np.zeros(len(unit))
    cover[candidates[chosen]] = value_at_pick
    columns = {
        "committee_spread": uncertainty,
        "candidate": is_among(candidates, len(unit)),
        "cover": cover,
    }
    return make_query(pool, candidates[chosen], columns)


def greedy_cover(similarity: np.ndarray, n_picks: int) -> tuple[list[int], list[float]]:
    """Pick rows one by one, each time the row that increases F most; a tie goes to the first row.

    similarity: (K, N), of each candidate to each case, K >= n_picks. F is the sum over the cases of the largest
    similarity to a picked candidate, -1 before any pick. Returns the picked rows and F after each pick.

    A gain can only fall as rows are picked. A gain that is up to date and still the largest is therefore the maximum,
    and few gains have to be recomputed after a pick (lazy greedy).
    """
    covered = np.full(similarity.shape[1], -1.0)
    gain, is_current = np.full(len(similarity), np.inf), np.zeros(len(similarity), dtype=bool)
    picked: list[int] = []
    values: list[float] = []
    while len(picked) < n_picks:
        k = int(gain.argmax())
        if not is_current[k]:
            gain[k], is_current[k] = round(float(np.maximum(similarity[k] - covered, 0).sum()), 9), True
            continue
        np.maximum(covered, similarity[k], out=covered)
        gain[k], is_current[:] = -np.inf, False
        picked.append(k)
        values.append(float(covered.sum()))
    return picked, values

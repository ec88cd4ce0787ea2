"""Uncertainty queries: the cases about which the network is least certain."""

from __future__ import annotations

import numpy as np

from nnunet_assft.active.query.pool import Query, QueryPool
from nnunet_assft.active.query.shared import (
    best_first,
    is_among,
    make_query,
    mean_entropy,
    score_per_case,
    seed_sequence,
)


def query_entropy(pool: QueryPool, n_query: int) -> Query:
    """Query the cases with the largest mean entropy over all voxels, in nats."""
    entropy = mean_entropy(pool)
    return make_query(pool, best_first(entropy, largest=True)[:n_query], {"entropy": entropy})


def query_least_confidence(pool: QueryPool, n_query: int) -> Query:
    """Query the cases with the largest 1 - mean p_(1) over all voxels; p_(1) is the largest probability of a voxel."""
    least_confidence = score_per_case(pool, lambda sums: 1 - sums.top1_sum / sums.voxels)
    chosen = best_first(least_confidence, largest=True)[:n_query]
    return make_query(pool, chosen, {"least_confidence": least_confidence})


def query_margin(pool: QueryPool, n_query: int) -> Query:
    """Query the cases with the smallest mean difference between the two largest probabilities of a voxel."""
    margin = score_per_case(pool, lambda sums: sums.margin_sum / sums.voxels)
    return make_query(pool, best_first(margin, largest=False)[:n_query], {"margin": margin})


def query_cup(pool: QueryPool, n_query: int, *, candidates_per_case: int) -> Query:
    """Query the cases with the most predicted foreground among those with the largest mean entropy.

    There are candidates_per_case * n_query candidates. Candidates with equal foreground are ordered by their entropy,
    then by their ids.
    """
    entropy = mean_entropy(pool)
    foreground = score_per_case(pool, lambda sums: sums.foreground_voxels)
    candidates = best_first(entropy, largest=True)[: candidates_per_case * n_query]
    chosen = candidates[best_first(foreground[candidates], largest=True)][:n_query]
    columns = {
        "entropy": entropy,
        "candidate": is_among(candidates, len(entropy)),
        "foreground_voxels": foreground,
    }
    return make_query(pool, chosen, columns)


def query_clasp_pe(pool: QueryPool, n_query: int) -> Query:
    """Query 66 % of the cases by the entropy of one structure each and the rest by the entropy of all classes.

    Cases are ordered by log(score) + Gumbel(0, 1 / beta). beta grows from 1 in round 1 to 100 in round R, so that the
    noise fades. The structures take turns in random order with equal shares; the first ones take the remainder. A case
    that was picked for one structure is not available to the others.
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
    rng = np.random.default_rng(seed_sequence(pool))
    noise = rng.gumbel(0.0, 1.0 / beta, size=(n_structures + 1, n)).T
    with np.errstate(divide="ignore"):
        noisy = np.where(scores > 0, np.log(scores) + noise, -np.inf)
    n_by_structure = 66 * n_query // 100
    share, remainder = divmod(n_by_structure, n_structures)
    shares = [(int(c) + 1, share + (k < remainder)) for k, c in enumerate(rng.permutation(n_structures))]
    chosen: list[int] = []
    drawn_class = np.full(n, -1)
    for c, size in [*shares, (0, n_query - n_by_structure)]:
        order = best_first(noisy[:, c], largest=True)
        picked = order[drawn_class[order] < 0][:size]
        chosen += picked.tolist()
        drawn_class[picked] = c
    return make_query(pool, chosen, {"entropy": scores[:, 0], "drawn_class": drawn_class})

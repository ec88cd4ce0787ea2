"""Queries in two steps: worked by hand, the worked examples, and literal loops."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_assft.active.query.hybrid import query_ugtst
from nnunet_assft.active.query.pool import QueryPool
from nnunet_assft.active.strategies import STRATEGIES
from tests.active.query.pools import best, budgets, coarse_pool, few, make_pool, seeds
from tests.worked_examples import worked_example

pytestmark = pytest.mark.filterwarnings("error")


def sann_pool(embeddings: Sequence[Sequence[float]], spread: Sequence[float]) -> QueryPool:
    ids = list("abcdefgh")[: len(spread)]
    return QueryPool.create(ids, embeddings=np.array(embeddings), committee_spread=np.array(spread))


def test_sann_worked_by_hand():
    """c is certain, so no candidate. a covers a, b, c fully and d not: F = 2. Then d and e both add 2: smaller id."""
    pool = sann_pool([[1, 0], [2, 0], [3, 0], [0, 1], [-1, 0]], [0.5, 0.4, 0.3, 0.9, 0.8])
    query = STRATEGIES["sann"].query(pool, 2)
    assert query.ids == ("a", "d")
    assert query.scores == {
        "committee_spread": (0.5, 0.4, 0.3, 0.9, 0.8),
        "candidate": (1, 1, 0, 1, 1),
        "cover": (2.0, 0.0, 0.0, 4.0, 0.0),
    }


def test_sann_covers_all_cases_not_the_candidates():
    pool = sann_pool([[-1, 0], [-1, 0], [-1, 0], [0, 1], [-1, 0]], [0.1, 0.1, 0.1, 0.9, 0.8])
    assert STRATEGIES["sann"].query(pool, 1).ids == ("e",)


def test_example_sann():
    example = worked_example("sann")
    query = STRATEGIES["sann"].query(
        sann_pool(example["inputs"]["embeddings"], example["inputs"]["uncertainty"]), example["inputs"]["budget"]
    )
    picked = ["abcdef".index(case) for case in query.ids]
    assert picked == example["expected"]["selected"]
    assert [i for i, candidate in enumerate(query.scores["candidate"]) if candidate] == sorted(
        example["expected"]["candidates"]
    )
    assert [query.scores["cover"][i] for i in picked] == pytest.approx(example["expected"]["cover_value"])


@pytest.mark.parametrize("coarse", [False, True])
@few
@given(seeds, st.integers(1, 14), budgets)
def test_sann_is_the_greedy_double_loop(coarse: bool, seed: int, n: int, n_query: int):
    pool = coarse_pool(seed, n) if coarse else make_pool(n, seed=seed)
    assert pool.embeddings is not None
    rows = [[x / math.hypot(*e) if any(e) else 0.0 for x in e] for e in pool.embeddings.tolist()]
    cosine = [[sum(x * y for x, y in zip(a, b, strict=True)) for b in rows] for a in rows]

    def cover(chosen: Sequence[int]) -> float:
        return round(sum(max((cosine[i][j] for i in chosen), default=-1.0) for j in range(n)), 9)

    candidates = best(pool.committee_spread, range(n))[: 2 * n_query]
    chosen: list[int] = []
    while len(chosen) < min(n_query, n):
        values = {i: cover([*chosen, i]) for i in candidates if i not in chosen}
        chosen.append(min(i for i in values if values[i] >= max(values.values()) - 1e-8))
    query = STRATEGIES["sann"].query(pool, n_query)
    assert query.ids == tuple(pool.ids[i] for i in chosen)
    assert query.scores["candidate"] == tuple(int(i in candidates) for i in range(n))
    for k, i in enumerate(chosen):
        assert query.scores["cover"][i] == pytest.approx(cover(chosen[: k + 1]), abs=1e-8)


# UGTST -------------------------------------------------------------------------------------------------------------


def ugtst_pool(embeddings: Sequence[float], uncertainty: Sequence[float]) -> QueryPool:
    ids = list("abcdef")[: len(uncertainty)]
    points = np.array(embeddings, dtype=float)[:, None]
    return QueryPool.create(ids, embeddings=points, peak_entropy=np.array(uncertainty))


def test_ugtst_worked_by_hand():
    """b, c, d, e are uncertain; b, c, d form a cluster with its centre at 0.47."""
    embeddings, uncertainty = [100, 0.0, 1.0, 0.4, 10, -100], [0.1, 0.9, 0.8, 0.7, 0.6, 0.2]
    query = STRATEGIES["ugtst"].query(ugtst_pool(embeddings, uncertainty), 2)
    assert query.ids == ("d", "e")
    assert query.scores == {"peak_entropy": tuple(uncertainty), "candidate": (0, 1, 1, 1, 1, 0)}
    pool = ugtst_pool(embeddings, uncertainty)
    assert query_ugtst(pool, 2, candidates_per_case=1).ids == ("b", "c")
    assert query_ugtst(pool, 2, candidates_per_case=3).ids == ("e", "f")  # f, and the centre at 22


def test_ugtst_fills_up_with_the_most_uncertain():
    uncertainty = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert STRATEGIES["ugtst"].query(ugtst_pool([0, 1, 0, 1, 0, 1], uncertainty), 3).ids == (
        "b",
        "a",
        "f",
    )  # two clusters
    assert STRATEGIES["ugtst"].query(ugtst_pool([7] * 6, uncertainty), 2).ids == (
        "c",
        "f",
    )  # one: its first, then the most uncertain


@few
@given(seeds, st.integers(1, 5), st.integers(2, 3))
def test_ugtst_takes_the_middle_of_each_cluster(seed: int, n_query: int, multiple: int):
    """As many clusters as picks, far apart, and three certain cases that are no candidates.

    Of two cases in a cluster both are equally near to its centre.
    """
    rng, n = np.random.default_rng(seed), multiple * n_query + 3
    cluster = rng.permutation([*range(n_query), *rng.integers(n_query, size=n - n_query)])
    candidates = rng.permutation(n)[: multiple * n_query].tolist()
    cluster[candidates[:n_query]] = range(n_query)
    uncertainty = np.isin(np.arange(n), candidates) + rng.random(n)
    points = 100 * np.eye(6)[cluster] + rng.normal(size=(n, 6))
    pool = replace(make_pool(n), embeddings=points, peak_entropy=uncertainty, seed=seed % 1000)
    nearest = []
    for c in range(n_query):
        members = sorted(i for i in candidates if cluster[i] == c)
        centre = [math.fsum(points[members, axis]) / len(members) for axis in range(6)]
        nearest.append(min(members, key=lambda i: round(math.dist(points[i], centre), 6)))
    query = query_ugtst(pool, n_query, candidates_per_case=multiple)
    assert query.ids == tuple(pool.ids[i] for i in best(uncertainty, nearest))
    assert query.scores["candidate"] == tuple(int(i in candidates) for i in range(n))

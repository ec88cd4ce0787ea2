"""Queries by uncertainty: worked by hand, the worked examples, literal sorts, and the noise of ClaSP PE."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_assft.active.metrics import VoxelSums, voxel_sums
from nnunet_assft.active.query.pool import QueryPool
from nnunet_assft.active.strategies import STRATEGIES
from tests.active.query.pools import best, budgets, coarse_pool, few, make_pool, seeds, shares, sizes, sums_of
from tests.worked_examples import worked_example

pytestmark = pytest.mark.filterwarnings("error")


def test_uncertainty_worked_by_hand():
    """Two voxels per case, three classes; c is certain background."""
    cases = {
        "a": [(0.5, 0.5, 0.0), (1.0, 0.0, 0.0)],
        "b": [(0.8, 0.1, 0.1), (0.8, 0.1, 0.1)],
        "c": [(1.0, 0.0, 0.0), (1.0, 0.0, 0.0)],
    }
    pool = QueryPool.create(list(cases), sums=[voxel_sums(np.array(voxels).T, 1.5) for voxels in cases.values()])
    entropy_b = -(0.8 * math.log(0.8) + 0.2 * math.log(0.1))
    for name, column, ids in (
        ("entropy", (math.log(2) / 2, entropy_b, 0.0), ("b", "a", "c")),
        ("least_confidence", (0.25, 0.2, 0.0), ("a", "b", "c")),
        ("margin", (0.5, 0.7, 1.0), ("a", "b", "c")),
    ):
        query = STRATEGIES[name].query(pool, 3)
        assert query.scores[name] == pytest.approx(column, abs=1e-12)
        assert query.ids == ids
    assert STRATEGIES["entropy"].query(pool, 1).scores["entropy"] == pytest.approx(
        (0.346573590280, 0.639031859650, 0.0), abs=1e-12
    )


def test_example_uncertainty_scalars():
    example = worked_example("uncertainty_scalars")
    softmax = example["inputs"]["softmax"]
    pool = QueryPool.create(list(softmax), sums=[voxel_sums(np.array(probs), 1.0) for probs in softmax.values()])
    for name, short in (("entropy", "enpy"), ("least_confidence", "lcon"), ("margin", "mmar")):
        query = STRATEGIES[name].query(pool, len(softmax))
        assert list(query.ids) == example["expected"][f"query_order_{short}"]
        expected = [example["expected"]["per_case"][case][short] for case in pool.ids]
        assert query.scores[name] == pytest.approx(expected, abs=1e-9)


@few
@given(seeds, sizes, budgets)
def test_uncertainty_is_sorted_means(seed: int, n: int, n_query: int):
    rng = np.random.default_rng(seed)
    numbers = rng.integers(1, 4, (n, 3)).tolist()
    sums = [replace(sums_of(0.1), entropy_sum=e, top1_sum=float(t), margin_sum=float(m)) for e, t, m in numbers]
    pool = QueryPool(ids=tuple(str(i) for i in range(n)), sums=tuple(sums))
    entropy, top1, margin = np.transpose(numbers)
    for name, scores in (("entropy", entropy), ("least_confidence", -top1), ("margin", -margin)):
        assert STRATEGIES[name].query(pool, n_query).ids == tuple(str(i) for i in best(scores, range(n))[:n_query])


# CUP ---------------------------------------------------------------------------------------------------------------


def cup_pool(entropy: Sequence[float], foreground: Sequence[int]) -> QueryPool:
    sums = [
        replace(VoxelSums.zero(2), voxels=1000, entropy_sum=1000 * u, foreground_voxels=n, class_voxels=(1000 - n, n))
        for u, n in zip(entropy, foreground, strict=True)
    ]
    return QueryPool.create([str(i) for i in range(len(sums))], sums=sums)


def test_cup_worked_by_hand():
    pool = cup_pool([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [10, 300, 50, 0, 900, 100])
    query = STRATEGIES["cup"].query(pool, 2)
    assert query.ids == ("1", "2")  # 4 has the most foreground, but is not uncertain
    assert query.scores["candidate"] == (1, 1, 1, 1, 0, 0)
    assert query.scores["foreground_voxels"] == (10, 300, 50, 0, 900, 100)
    assert STRATEGIES["cup"].query(pool, 4).ids == ("4", "1", "5", "2")  # 2b > N: all are candidates


def test_cup_without_foreground_goes_by_entropy_then_id():
    pool = cup_pool([0.2, 0.9, 0.5, 0.9], [0, 0, 0, 0])
    assert STRATEGIES["cup"].query(pool, 3).ids == ("1", "3", "2")


def test_example_cup():
    example = worked_example("cup")
    pool = cup_pool(example["inputs"]["uncertainty"], example["inputs"]["foreground_voxels"])
    query = STRATEGIES["cup"].query(pool, example["inputs"]["budget"])
    assert [int(case) for case in query.ids] == example["expected"]["cup"]
    candidates = [i for i, candidate in enumerate(query.scores["candidate"]) if candidate]
    assert candidates == sorted(example["expected"]["stage1_cup"])


@few
@given(seeds, sizes, budgets)
def test_cup_is_two_sorts(seed: int, n: int, n_query: int):
    pool = coarse_pool(seed, n)
    assert pool.sums is not None
    entropy = [s.entropy_sum / s.voxels for s in pool.sums]
    foreground = [s.foreground_voxels for s in pool.sums]
    candidates = sorted(range(n), key=lambda i: (-entropy[i], i))[: 2 * n_query]
    chosen = sorted(candidates, key=lambda i: (-foreground[i], -entropy[i], i))[:n_query]
    assert STRATEGIES["cup"].query(pool, n_query).ids == tuple(pool.ids[i] for i in chosen)


# ClaSP PE ----------------------------------------------------------------------------------------------------------


def clasp_pool(*entropies: Sequence[float], seed: int = 0, r: int = 1, n_rounds: int = 1) -> QueryPool:
    """One row per case: background, then the structures."""
    ids = [f"{i:03d}" for i in range(len(entropies))]
    return QueryPool.create(ids, class_entropies=np.array(entropies), seed=seed, round=r, n_rounds=n_rounds)


@pytest.mark.parametrize(("r", "n_rounds", "beta"), [(1, 1, 1), (1, 3, 1), (2, 3, 10), (3, 3, 100)])
@pytest.mark.parametrize(("n_query", "column"), [(1, "all"), (2, "structure")])
def test_clasp_pe_picks_with_a_chance_of_score_to_the_power_of_beta(
    r: int, n_rounds: int, beta: int, n_query: int, column: str
):
    """The largest of log s + Gumbel / beta; scores to the power of beta are as 1 to 2 to 5.

    A budget of one case goes to the overall score.
    """
    scores = [w ** (1 / beta) for w in (1, 2, 5)]
    rows = [(s, 0.0) if column == "all" else (9.0, s) for s in scores]
    queries = [
        STRATEGIES["clasp_pe"].query(clasp_pool(*rows, seed=seed, r=r, n_rounds=n_rounds), n_query)
        for seed in range(800)
    ]
    assert shares([query.ids[0] for query in queries], ["000", "001", "002"]) == pytest.approx(
        [1 / 8, 2 / 8, 5 / 8], abs=0.05
    )
    assert {query.scores["drawn_class"][int(query.ids[0])] for query in queries} == {0 if column == "all" else 1}


@pytest.mark.parametrize(
    ("n_query", "by_all", "by_structure"),
    [
        (1, 1, [0, 0, 0, 0]),
        (3, 2, [0, 0, 0, 1]),
        (5, 2, [0, 1, 1, 1]),
        (7, 3, [1, 1, 1, 1]),
        (15, 6, [2, 2, 2, 3]),
        (100, 34, [16, 16, 17, 17]),
    ],
)
def test_clasp_pe_shares(n_query: int, by_all: int, by_structure: list[int]):
    """66 % rounded down, in equal shares; the structures that come first have one more, any of them alike."""
    rows, more = np.random.default_rng(0).random((120, 5)), Counter[int]()
    for seed in range(200):
        drawn = STRATEGIES["clasp_pe"].query(clasp_pool(*rows, seed=seed), n_query).scores["drawn_class"]
        sizes = {c: drawn.count(c) for c in range(1, 5)}
        assert (drawn.count(0), sorted(sizes.values())) == (by_all, by_structure)
        more.update(c for c, size in sizes.items() if size == max(by_structure))
    assert [more[c] / 200 for c in range(1, 5)] == pytest.approx(
        [by_structure.count(max(by_structure)) / 4] * 4, abs=0.1
    )


def test_clasp_pe_worked_by_hand():
    """Round 3 of 3: hardly any noise. Both structures want a, so one takes b; of all entropy f and e have most."""
    rows = [(0, 8, 8), (0, 4, 4), (0, 2, 2), (8, 1, 1), (40, 0.5, 0.5), (80, 0.25, 0.25)]
    taken = set()
    for seed in range(20):
        query = STRATEGIES["clasp_pe"].query(clasp_pool(*rows, seed=seed, r=3, n_rounds=3), 4)
        assert query.ids == ("000", "001", "005", "004")
        assert query.scores["entropy"] == (16, 8, 4, 10, 41, 80.5)
        assert query.scores["drawn_class"][2:] == (-1, -1, 0, 0)
        taken.add(query.scores["drawn_class"][:2])
    assert taken == {(1, 2), (2, 1)}  # either structure may come first


def test_clasp_pe_takes_a_score_of_0_last_and_by_id():
    absent = [(1.0, s, 0.0) for s in (1, 2, 4, 8)]  # structure 2 is nowhere
    some = [(0.0, 0.0), (0.0, 1e-300), (0.0, 0.0), (0.0, 0.3), (0.0, 1.0)]
    for seed in range(100):
        query = STRATEGIES["clasp_pe"].query(clasp_pool(*absent, seed=seed, r=2, n_rounds=2), 4)
        assert query.scores["drawn_class"].count(2) == 1
        assert query.scores["drawn_class"].index(2) == 0
        assert STRATEGIES["clasp_pe"].query(clasp_pool(*some, seed=seed), 4).ids[3] == "000"
        assert STRATEGIES["clasp_pe"].query(clasp_pool(*[(0.0, 0.0, 0.0)] * 5, seed=seed), 3).ids == (
            "000",
            "001",
            "002",
        )


def test_clasp_pe_depends_on_seed_and_round():
    rows = np.random.default_rng(0).random((12, 3))
    ids = [
        STRATEGIES["clasp_pe"].query(clasp_pool(*rows, seed=s, r=r, n_rounds=9), 12).ids
        for s in range(4)
        for r in range(1, 5)
    ]
    assert len(set(ids)) == 16


@few
@given(seeds, st.integers(1, 20), st.integers(1, 20), st.integers(1, 4))
def test_clasp_pe_in_the_last_round_takes_the_largest_of_each_structure(
    seed: int, n: int, n_query: int, n_structures: int
):
    """Scores are apart by a factor of 2, the noise of the last round by far less."""
    rng = np.random.default_rng(seed)
    entropies = np.stack([2.0 ** rng.permutation(n) for _ in range(n_structures + 1)], axis=1)
    entropies[:, 0] = 2.0 ** rng.permutation(n) * 2**25  # decides the sum
    pool = replace(make_pool(n, seed=seed), class_entropies=entropies, round=3, n_rounds=3)
    query = STRATEGIES["clasp_pe"].query(pool, n_query)
    picked = [pool.ids.index(case) for case in query.ids]
    drawn = [int(query.scores["drawn_class"][i]) for i in picked]
    n_query = min(n_query, n)
    by_structure = math.floor(0.66 * n_query + 1e-9)
    order = list(dict.fromkeys(drawn[:by_structure]))
    assert [drawn.count(c) for c in order] == [
        by_structure // n_structures + (k < by_structure % n_structures) for k in range(len(order))
    ]
    assert 0 not in order
    assert drawn == [c for c in (*order, 0) for _ in range(drawn.count(c))]
    for k, (i, c) in enumerate(zip(picked, drawn, strict=True)):
        scores = entropies[:, c] if c else entropies.sum(axis=1)
        assert i == best(scores, [j for j in range(n) if j not in picked[:k]])[0]

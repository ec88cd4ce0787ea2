"""Queries at random: the nested permutation, and statistics of what is drawn among the cases that show a structure."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given

from nnunet_assft.active.metrics import VoxelSums
from nnunet_assft.active.query.pool import QueryPool
from nnunet_assft.active.query.random_sampling import random_permutation, spread
from nnunet_assft.active.strategies import STRATEGIES
from tests.active.query.pools import budgets, coarse_pool, few, seeds, sizes
from tests.worked_examples import worked_example

pytestmark = pytest.mark.filterwarnings("error")


def test_random_is_nested_and_skips_labelled_cases():
    ids = [str(i) for i in range(10)]
    permutation = random_permutation(ids[::-1], seed=0)
    assert permutation[:3] == ("4", "6", "2")  # numpy's default_rng(0)
    left = [case for case in ids if case not in ("4", "2")]
    first = STRATEGIES["random"].query(QueryPool.create(left, permutation=permutation), 1)
    second = STRATEGIES["random"].query(QueryPool.create(left, permutation=permutation), 4)
    assert first.ids == ("6",)
    assert second.ids == tuple(case for case in permutation if case in left)[:4]
    assert second.scores["position"][left.index("6")] == 1.0


def test_example_random():
    example = worked_example("random")
    ids = [str(i) for i in range(example["inputs"]["n"])]
    pool = QueryPool.create(ids, permutation=random_permutation(ids, example["inputs"]["rng_seed"]))
    query = STRATEGIES["random"].query(pool, example["inputs"]["budget"])
    assert [int(case) for case in query.ids] == example["expected"]["selected"]


# Random foreground -------------------------------------------------------------------------------------------------


def foreground_pool(*class_voxels: tuple[int, ...], seed: int = 0, r: int = 1) -> QueryPool:
    """Cases a, b, ... with these voxels of each structure."""
    sums = [replace(VoxelSums.zero(len(v) + 1), voxels=1000, class_voxels=(1000 - sum(v), *v)) for v in class_voxels]
    return QueryPool.create(list("abcdefgh")[: len(sums)], sums=sums, round=r, n_rounds=99, seed=seed)


def test_random_foreground_draws_a_structure_then_a_case():
    """Structure 1 is in a and b as 1 to 3, structure 2 in c only: 1/8, 3/8 and 1/2 for the first pick."""
    first: Counter[str] = Counter()
    for seed in range(800):
        query = STRATEGIES["random_foreground"].query(
            foreground_pool((10, 0, 0), (30, 0, 0), (0, 1, 0), (0, 0, 0), seed=seed), 4
        )
        first[query.ids[0]] += 1
        assert query.ids[3] == "d"  # without foreground: when no other is left
        assert query.scores == {"foreground_voxels": (10, 30, 1, 0), "drawn_class": (1, 1, 2, 0)}
    assert [first[case] / 800 for case in "abcd"] == pytest.approx([0.125, 0.375, 0.5, 0.0], abs=0.05)


def test_random_foreground_without_foreground_is_plain_random():
    first: Counter[str] = Counter()
    for seed in range(600):
        query = STRATEGIES["random_foreground"].query(foreground_pool((0, 0), (0, 0), (0, 0), seed=seed), 2)
        assert query.scores["drawn_class"] == (0, 0, 0)
        first[query.ids[0]] += 1
    assert [first[case] / 600 for case in "abc"] == pytest.approx([1 / 3] * 3, abs=0.06)


def test_random_foreground_depends_on_seed_and_round():
    cases = [(5, i) for i in range(8)]
    queries = [
        STRATEGIES["random_foreground"].query(foreground_pool(*cases, seed=s, r=r), 8).ids
        for s in range(4)
        for r in range(1, 5)
    ]
    assert len(set(queries)) == 16


@few
@given(seeds, sizes, budgets)
def test_random_foreground_draws_cases_for_what_they_show(seed: int, n: int, n_query: int):
    pool = coarse_pool(seed, n)
    assert pool.sums is not None
    query = STRATEGIES["random_foreground"].query(pool, n_query)
    with_foreground = {case for case, s in zip(pool.ids, pool.sums, strict=True) if s.class_voxels[1]}
    first = query.ids[: len(with_foreground)]
    assert set(first) <= with_foreground  # a case without only once the others are gone
    assert dict(zip(pool.ids, query.scores["drawn_class"], strict=True)) == {
        case: int(case in first) for case in pool.ids
    }


# Cases that join later ------------------------------------------------------------------------------------------------


def test_cases_that_join_take_random_places_behind_the_fixed_ones() -> None:
    order = spread("dbca", {"d", "b"}, ["f", "e"], [0, 0])
    assert sorted(order) == list("abcdef")
    assert order[:2] == ("d", "b")
    assert [case for case in order if case in "ca"] == ["c", "a"]  # as before
    assert order == spread("dbca", {"d", "b"}, ["e", "f"], [0, 0])


def test_every_place_is_equally_likely() -> None:
    orders = [spread("xcab", {"x"}, ["n", "m"], [seed, 1]) for seed in range(1000)]
    firsts = Counter(order[1] for order in orders)
    # the next case: each new one in a fifth of the orders; of the old ones it can only be c, in three fifths
    assert set(firsts) == {"c", "n", "m"}
    assert firsts["c"] == pytest.approx(600, abs=60)  # four standard deviations
    assert firsts["n"] == pytest.approx(200, abs=51)

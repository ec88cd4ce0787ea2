"""Queries that cover the pool: worked by hand, the worked examples, literal loops, and statistics of what is drawn."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_assft.active.query.coverage import d2_sampling
from nnunet_assft.active.query.pool import QueryPool
from nnunet_assft.active.strategies import STRATEGIES
from tests.active.query.pools import best, budgets, coarse_pool, few, seeds, shares, sizes
from tests.worked_examples import worked_example

pytestmark = pytest.mark.filterwarnings("error")


def coreset(embeddings: np.ndarray, labelled: np.ndarray, n_query: int) -> tuple[list[int], list[float]]:
    """(picked rows in order, distance at each pick)"""
    ids = [f"{i:03d}" for i in range(len(embeddings))]
    query = STRATEGIES["coreset"].query(
        QueryPool.create(ids, embeddings=embeddings, labelled_embeddings=labelled), n_query
    )
    picked = [int(case) for case in query.ids]
    return picked, [query.scores["distance"][i] for i in picked]


def test_coreset_worked_by_hand():
    embeddings = np.array([[1.0, 0.0], [0.0, 2.0], [4.0, 0.0], [4.0, 3.0], [5.5, 0.0]])
    picked, distance = coreset(embeddings, np.zeros((1, 2)), 3)
    assert picked == [4, 3, 1]
    assert distance == pytest.approx([5.5, math.sqrt(1.5**2 + 3**2), 2.0])
    query = STRATEGIES["coreset"].query(
        QueryPool.create(list("abcde"), embeddings=embeddings, labelled_embeddings=np.zeros((1, 2))), 3
    )
    assert query.scores["distance"][::2] == pytest.approx(
        (1.0, 1.5, 5.5)
    )  # a and c: to the nearest of what is covered now


def test_example_core_set():
    example = worked_example("core_set")
    embeddings, first = np.array(example["inputs"]["embeddings"]), example["inputs"]["labelled"]
    left = [i for i in range(len(embeddings)) if i not in first]
    picked, distance = coreset(embeddings[left], embeddings[first], example["inputs"]["budget"])
    assert [left[i] for i in picked] == example["expected"]["selected"]
    assert distance == pytest.approx(example["expected"]["distance_at_pick"], abs=1e-9)


def test_coreset_without_labelled_cases_starts_farthest_from_the_mean():
    picked, distance = coreset(np.array([[0.0], [1.0], [10.0]]), np.empty((0, 1)), 3)
    assert picked == [2, 0, 1]
    assert distance == pytest.approx([10 - 11 / 3, 10.0, 1.0])


def test_coreset_picks_no_case_twice():
    embeddings = np.array([[0.0, 1.0]] * 3 + [[0.0, 2.0]])
    assert coreset(embeddings, embeddings[:1], 4) == ([3, 0, 1, 2], [1.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize("n_labelled", [0, 1, 4])
def test_coreset_against_a_literal_loop(n_labelled: int):
    rng = np.random.default_rng(n_labelled)
    embeddings, labelled = rng.normal(size=(30, 5)).astype(np.float32), rng.normal(size=(n_labelled, 5))
    rows = [[float(x) for x in row] for row in embeddings]
    centres = [[float(x) for x in row] for row in labelled]
    expected: list[int] = []
    for _ in range(12):
        to = centres or [[sum(column) / len(rows) for column in zip(*rows, strict=True)]]
        nearest = {i: min(math.dist(row, centre) for centre in to) for i, row in enumerate(rows) if i not in expected}
        expected.append(max(nearest, key=lambda i: (nearest[i], -i)))
        centres.append(rows[expected[-1]])
    assert coreset(embeddings, labelled, 12)[0] == expected


# BADGE -------------------------------------------------------------------------------------------------------------


def badge_pool(*numbers: float, seed: int = 0, r: int = 1) -> QueryPool:
    """Cases a, b, ... with gradients of two equal and opposite rows, which doubles the squared distances."""
    gradients = np.array([[[x], [-x]] for x in numbers])
    return QueryPool.create(list("abcdefgh")[: len(numbers)], gradients=gradients, round=r, n_rounds=99, seed=seed)


def test_badge_starts_at_the_largest_gradient_and_draws_by_squared_distance():
    """From d: a, b, c are 3, 2 and 5 away, then each from the nearest of the two picked: D^2 in the ratio below."""
    ids = [STRATEGIES["badge"].query(badge_pool(0.0, 1.0, -2.0, 3.0, seed=seed), 3).ids for seed in range(1500)]
    assert {case for case, _, _ in ids} == {"d"}
    pairs = {
        "ab": 9 / 38 * 1 / 5,
        "ac": 9 / 38 * 4 / 5,
        "ba": 4 / 38 * 1 / 10,
        "bc": 4 / 38 * 9 / 10,
        "ca": 25 / 38 / 2,
        "cb": 25 / 38 / 2,
    }
    assert shares([second + third for _, second, third in ids], list(pairs)) == pytest.approx(
        list(pairs.values()), abs=0.04
    )


def test_badge_columns_worked_by_hand():
    query = STRATEGIES["badge"].query(badge_pool(0.0, 0.0, 4.0, 1.0), 1)
    assert query.ids == ("c",)
    assert query.scores["gradient_norm"] == pytest.approx((0.0, 0.0, math.sqrt(32), math.sqrt(2)))
    assert query.scores["squared_distance"] == pytest.approx(
        (32.0, 32.0, 32.0, 18.0)
    )  # c: its squared length, when it was picked


def test_badge_picks_a_duplicate_only_when_nothing_else_is_left():
    for seed in range(50):
        assert STRATEGIES["badge"].query(badge_pool(5.0, 1.0, 5.0, 5.0, 1.0, seed=seed), 5).ids[2:] in {
            ("c", "d", "e"),
            ("b", "c", "d"),
        }
    assert STRATEGIES["badge"].query(badge_pool(0.0, 0.0, 0.0), 2).ids == ("a", "b")  # no gradient at all


def test_badge_depends_on_seed_and_round():
    numbers = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 20.0]
    queries = [
        STRATEGIES["badge"].query(badge_pool(*numbers, seed=s, r=r), 8).ids for s in range(4) for r in range(1, 5)
    ]
    assert len(set(queries)) == 16


@few
@given(seeds, sizes, budgets)
def test_badge_column_is_the_squared_distance_of_whole_matrices(seed: int, n: int, n_query: int):
    pool = coarse_pool(seed, n)
    assert pool.gradients is not None
    query, rows = STRATEGIES["badge"].query(pool, n_query), [g.ravel().tolist() for g in pool.gradients]
    picked = [pool.ids.index(case) for case in query.ids]
    norms = [math.hypot(*row) for row in rows]
    assert query.scores["gradient_norm"] == pytest.approx(norms)
    assert picked[0] == best([round(norm, 9) for norm in norms], range(n))[0]
    for i in range(n):
        before = picked[: picked.index(i)] if i in picked else picked
        expected = min((math.dist(rows[i], rows[j]) ** 2 for j in before), default=norms[i] ** 2)
        assert query.scores["squared_distance"][i] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("u", "second"), [(0.0, 2), (0.2, 2), (0.25, 3), (0.49, 3), (0.5, 4), (float(np.nextafter(1, 0)), 4)]
)
def test_a_draw_takes_the_first_row_whose_sum_exceeds_it(u: float, second: int):
    """Squared distances 0, 0, 1, 1, 2, 0: the sums are 0, 0, 1, 2, 4, 4."""
    rows = np.array([[9.0, 0.0], [9.0, 0.0], [8.0, 0.0], [8.0, 0.0], [8.0, 1.0], [9.0, 0.0]])
    assert d2_sampling(rows, np.array([u]))[0] == [0, second]
    assert d2_sampling(np.array([[1e-162], [3e-162], [1e-162]]), np.array([0.99]))[0] == [
        1,
        2,
    ]  # a sum that 0.99 rounds up to


def test_example_badge_seeding():
    example = worked_example("badge")["seeding"]
    rows, uniforms = (np.array(example["inputs"][name]) for name in ("gradients", "uniforms"))
    for n, d2 in ((0, "d2_after_first"), (1, "d2_after_second")):
        chosen, distance = d2_sampling(rows, uniforms[:n])
        left = [i for i in range(len(rows)) if i not in chosen]
        assert distance[left] == pytest.approx(np.array(example["expected"][d2])[left])
    assert d2_sampling(rows, uniforms)[0] == example["expected"]["selected"]


@few
@given(st.data(), st.integers(1, 7), st.integers(1, 3))
def test_d2_sampling_is_the_inverted_sum_of_squared_distances(data: st.DataObject, n: int, d: int):
    """Whole numbers and binary fractions: every sum is exact."""
    whole = st.integers(-3, 3)
    rows = data.draw(st.lists(st.lists(whole, min_size=d, max_size=d), min_size=n, max_size=n))
    almost_1 = float(np.nextafter(1, 0))
    uniforms = data.draw(st.lists(st.integers(0, 63).map(lambda k: k / 64) | st.just(almost_1), max_size=n - 1))
    squared = [[sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) for b in rows] for a in rows]
    lengths = [sum(x * x for x in row) for row in rows]
    expected = [best(lengths, range(n))[0]]
    at_pick = {expected[0]: lengths[expected[0]]}
    for u in uniforms:
        d2 = [min(squared[i][j] for j in expected) for i in range(n)]
        if not any(d2):
            i = min(set(range(n)) - set(expected))
        elif u == almost_1:
            i = max(i for i in range(n) if d2[i])
        else:
            i = next(i for i in range(n) if sum(d2[: i + 1]) > u * sum(d2))
        at_pick[i] = d2[i]
        expected.append(i)
    chosen, distance = d2_sampling(np.array(rows, dtype=float), np.array(uniforms))
    assert chosen == expected
    assert distance.tolist() == [at_pick.get(i, min(squared[i][j] for j in expected)) for i in range(n)]


# TypiClust ---------------------------------------------------------------------------------------------------------


def on_circle(*degrees: float) -> np.ndarray:
    """Vectors of these directions and different lengths."""
    angle = np.deg2rad(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1) * np.arange(1, len(degrees) + 1)[:, None]


def test_typiclust_worked_by_hand():
    """Three clusters for one labelled case and two picks: around 90 degrees, 180 degrees and the labelled case."""
    pool = QueryPool.create(
        list("abcdef"), embeddings=on_circle(88, 182, 90, 179, 93, 1), labelled_embeddings=on_circle(0)
    )
    query = STRATEGIES["typiclust"].query(pool, 2)
    assert query.ids == ("c", "b")  # 90: 2.5 degrees from its neighbours on average; 182 and 179 tie
    assert query.scores["cluster"] == (0, 1, 0, 1, 0, 2)
    assert query.scores["cluster_size"] == (3, 2, 3, 2, 3, 2)
    assert query.scores["cluster_labelled"] == (0, 0, 0, 0, 0, 1)
    chord = [2 * math.sin(math.radians(degrees) / 2) for degrees in (2, 3)]
    assert query.scores["neighbour_distance"][2] == pytest.approx(sum(chord) / 2, abs=1e-9)


def test_typiclust_takes_neighbours_in_the_cluster_up_to_its_limit():
    rng = np.random.default_rng(0)
    pool = QueryPool.create(
        [f"{i:02d}" for i in range(80)],
        embeddings=rng.normal(size=(80, 2)),
        labelled_embeddings=rng.normal(size=(1, 2)),
    )
    scores = STRATEGIES["typiclust"].query(pool, 1).scores
    assert pool.embeddings is not None
    assert pool.labelled_embeddings is not None
    unit = [row / math.hypot(*row) for row in (*pool.embeddings, *pool.labelled_embeddings)]
    clusters = [*scores["cluster"], scores["cluster"][scores["cluster_labelled"].index(1)]]
    sizes = Counter(clusters)
    assert max(sizes.values()) > 20 + 1
    assert scores["cluster_size"] == tuple(sizes[cluster] for cluster in scores["cluster"])
    for i in range(80):
        near = sorted(math.dist(unit[i], unit[j]) for j in range(81) if j != i and clusters[j] == clusters[i])[:20]
        assert scores["neighbour_distance"][i] == pytest.approx(sum(near) / len(near), abs=1e-8)


def test_typiclust_with_fewer_directions_than_picks():
    pool = QueryPool.create(list("abcd"), embeddings=on_circle(0, 0, 0, 90), labelled_embeddings=on_circle(0, 0))
    assert STRATEGIES["typiclust"].query(pool, 3).ids == (
        "d",
        "a",
        "b",
    )  # d alone is in a cluster without a labelled case
    zero = QueryPool.create(list("ab"), embeddings=np.zeros((2, 3)), labelled_embeddings=np.zeros((0, 3)))
    assert STRATEGIES["typiclust"].query(zero, 5).ids == ("a", "b")

"""Properties of the query strategies on random pools: slow literal loops, and what must not change a query."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_assft.active.options import Options
from nnunet_assft.active.query.functions import d2_sampling
from nnunet_assft.active.query.pool import PER_CASE, QueryPool
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.active.training.committee import bootstrap_sample
from tests.active.test_strategies import check_query, make_pool, sums_of

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.filterwarnings("ignore:PAKD is 0", "ignore:ASD is 0")]

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 9)
budgets = st.integers(1, 12)


def coarse_pool(seed: int, n: int, **options: object) -> QueryPool:
    """Few values each: many ties, cases that are alike, zero vectors, cases without foreground; round 1 to 3 of 3, or 1 of 1."""
    rng, pool = np.random.default_rng(seed), make_pool(n, seed=seed)
    n_rounds = int(rng.choice([1, 3]))
    return replace(
        pool,
        sums=tuple(sums_of(float(entropy), int(inside)) for entropy, inside in rng.integers(3, size=(n, 2))),
        **{name: np.round(getattr(pool, name)) for name in (*PER_CASE, "labelled_embeddings")},
        round=int(rng.integers(1, n_rounds + 1)),
        n_rounds=n_rounds,
        options=Options(**options),  # type: ignore[arg-type]
    )


def shuffled(pool: QueryPool, seed: int) -> QueryPool:
    """The same cases handed over in another order, the labelled ones too."""
    assert pool.sums is not None
    assert pool.labelled_embeddings is not None
    order = np.random.default_rng(seed).permutation(len(pool.ids))
    rows = {name: getattr(pool, name)[order] for name in PER_CASE}
    others = {
        name: value
        for name, value in vars(pool).items()
        if name not in ("ids", "sums", "labelled_embeddings", *PER_CASE)
    }
    labelled = pool.labelled_embeddings[::-1]
    return QueryPool.create(
        [pool.ids[i] for i in order], sums=[pool.sums[i] for i in order], labelled_embeddings=labelled, **rows, **others
    )


def best(scores: Sequence[float] | np.ndarray, among: Sequence[int]) -> list[int]:
    """Rows, largest score first, ties by id."""
    return sorted(among, key=lambda i: (-scores[i], i))


# Every row ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRATEGIES)
@few
@given(seeds, sizes, budgets, st.booleans())
def test_a_query_depends_on_the_pool_and_not_on_its_order(
    name: str, seed: int, n: int, n_query: int, pd_labelled: bool
):
    pool = coarse_pool(seed, n, pd_labelled=pd_labelled)
    query = STRATEGIES[name].query(pool, n_query)
    check_query(query, pool, n_query)
    assert STRATEGIES[name].query(shuffled(pool, seed), n_query) == query


@pytest.mark.parametrize("name", ["sann", "sann_tta", "typiclust", "dkd_asd", "assft", "dkd_high", "dkd_low"])
@few
@given(seeds, sizes, budgets)
def test_the_length_of_an_embedding_plays_no_role(name: str, seed: int, n: int, n_query: int):
    pool, rng = coarse_pool(seed, n), np.random.default_rng(seed)
    scaled = {
        field: getattr(pool, field) * 2.0 ** rng.integers(-20, 20, (n, 1))
        for field in ("embeddings", "pretrained_embeddings")
    }
    assert pool.labelled_embeddings is not None
    scaled["labelled_embeddings"] = (
        pool.labelled_embeddings * 2.0 ** np.arange(len(pool.labelled_embeddings))[::-1, None]
    )
    assert STRATEGIES[name].query(replace(pool, **scaled), n_query) == STRATEGIES[name].query(pool, n_query)


@few
@given(seeds, sizes, budgets, st.sampled_from([1e-6, 0.1, 3.0, 1e6]))
def test_the_scale_of_the_gradients_plays_no_role(seed: int, n: int, n_query: int, scale: float):
    pool = make_pool(n, seed=seed)
    assert pool.gradients is not None
    scaled = replace(pool, gradients=pool.gradients * scale)
    assert STRATEGIES["badge"].query(scaled, n_query).ids == STRATEGIES["badge"].query(pool, n_query).ids


# Literal loops, written from the specification ---------------------------------------------------------------------


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


@pytest.mark.parametrize(("name", "sign"), [("cup", 1), ("cup_low", -1)])
@few
@given(seeds, sizes, budgets)
def test_cup_is_two_sorts(name: str, sign: int, seed: int, n: int, n_query: int):
    pool = coarse_pool(seed, n)
    assert pool.sums is not None
    entropy = [sign * s.entropy_sum / s.voxels for s in pool.sums]
    candidates = sorted(range(n), key=lambda i: (-entropy[i], i))[: 2 * n_query]
    chosen = sorted(candidates, key=lambda i: (-pool.sums[i].foreground_voxels, -entropy[i], i))[:n_query]  # type: ignore[index]
    assert STRATEGIES[name].query(pool, n_query).ids == tuple(pool.ids[i] for i in chosen)


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


@pytest.mark.parametrize(("name", "field"), [("sann", "committee_spread"), ("sann_tta", "mirror_spread")])
@pytest.mark.parametrize("coarse", [False, True])
@few
@given(seeds, st.integers(1, 14), budgets)
def test_sann_is_the_greedy_double_loop(name: str, field: str, coarse: bool, seed: int, n: int, n_query: int):
    pool = coarse_pool(seed, n) if coarse else make_pool(n, seed=seed)
    assert pool.embeddings is not None
    rows = [[x / math.hypot(*e) if any(e) else 0.0 for x in e] for e in pool.embeddings.tolist()]
    cosine = [[sum(x * y for x, y in zip(a, b, strict=True)) for b in rows] for a in rows]

    def cover(chosen: Sequence[int]) -> float:
        return round(sum(max((cosine[i][j] for i in chosen), default=-1.0) for j in range(n)), 9)

    candidates = best(getattr(pool, field), range(n))[: 2 * n_query]
    chosen: list[int] = []
    while len(chosen) < min(n_query, n):
        values = {i: cover([*chosen, i]) for i in candidates if i not in chosen}
        chosen.append(min(i for i in values if values[i] >= max(values.values()) - 1e-8))
    query = STRATEGIES[name].query(pool, n_query)
    assert query.ids == tuple(pool.ids[i] for i in chosen)
    assert query.scores["candidate"] == tuple(int(i in candidates) for i in range(n))
    for k, i in enumerate(chosen):
        assert query.scores["cover"][i] == pytest.approx(cover(chosen[: k + 1]), abs=1e-8)


@few
@given(seeds, st.integers(1, 5), st.integers(2, 3))
def test_ugtst_takes_the_middle_of_each_cluster(seed: int, n_query: int, multiple: int):
    """As many clusters as picks, far apart, and three certain cases that are no candidates; of two in a cluster both are as near."""
    rng, n = np.random.default_rng(seed), multiple * n_query + 3
    cluster = rng.permutation([*range(n_query), *rng.integers(n_query, size=n - n_query)])
    candidates = rng.permutation(n)[: multiple * n_query].tolist()
    cluster[candidates[:n_query]] = range(n_query)
    uncertainty = np.isin(np.arange(n), candidates) + rng.random(n)
    points = 100 * np.eye(6)[cluster] + rng.normal(size=(n, 6))
    options = Options(ugtst_multiple=multiple)
    pool = replace(make_pool(n), embeddings=points, peak_entropy=uncertainty, options=options, seed=seed % 1000)
    nearest = []
    for c in range(n_query):
        members = sorted(i for i in candidates if cluster[i] == c)
        centre = [math.fsum(points[members, axis]) / len(members) for axis in range(6)]
        nearest.append(min(members, key=lambda i: round(math.dist(points[i], centre), 6)))
    query = STRATEGIES["ugtst"].query(pool, n_query)
    assert query.ids == tuple(pool.ids[i] for i in best(uncertainty, nearest))
    assert query.scores["candidate"] == tuple(int(i in candidates) for i in range(n))


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


# The committee -----------------------------------------------------------------------------------------------------


@few
@given(
    st.sets(st.text("ab12", min_size=1, max_size=3), min_size=1, max_size=12),
    st.lists(st.integers(0, 99), min_size=1, max_size=3),
)
def test_a_bootstrap_sample_keeps_the_size(cases: set[str], seed: list[int]):
    copies = bootstrap_sample(dict.fromkeys(sorted(cases)), seed)
    assert sum(copies.values()) == len(cases)
    assert copies.keys() <= cases
    assert min(copies.values()) >= 1
    assert list(copies) == sorted(copies)
    assert bootstrap_sample(dict.fromkeys(sorted(cases, reverse=True)), seed) == copies


def test_a_bootstrap_sample_is_drawn_with_replacement():
    """Each of 3 cases once on average; a case is left out with chance 8 / 27."""
    samples = [bootstrap_sample(dict.fromkeys("abc"), [7, 1, member]) for member in range(1500)]
    assert [sum(s.get(case, 0) for s in samples) / 1500 for case in "abc"] == pytest.approx([1.0] * 3, abs=0.07)
    assert [sum(case not in s for s in samples) / 1500 for case in "abc"] == pytest.approx([8 / 27] * 3, abs=0.04)
    assert Counter(len(s) for s in samples)[3] / 1500 == pytest.approx(6 / 27, abs=0.04)
    assert bootstrap_sample({"only": 1}, [0, 1, 1]) == {"only": 1}


def test_members_seeds_and_rounds_have_samples_of_their_own():
    cases = dict.fromkeys(f"{i:02d}" for i in range(20))
    samples = {
        tuple(bootstrap_sample(cases, [seed, r, k]).items())
        for seed in range(3)
        for r in range(1, 4)
        for k in range(1, 5)
    }
    assert len(samples) == 36

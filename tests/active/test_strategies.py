"""One contract for every row of the table of query strategies, and the behaviour of each row on a small pool."""

import copy
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nnunet_assft.active import metrics
from nnunet_assft.active.metrics import VoxelSums, voxel_sums
from nnunet_assft.active.query_functions import NEIGHBOURS, random_permutation
from nnunet_assft.active.query_pool import Query, QueryOptions, QueryPool
from nnunet_assft.active.strategies import STRATEGIES, Strategy

WORKED_EXAMPLES = Path(__file__).parents[3] / "shared" / "examples" / "worked_examples.json"


def sums_of(entropy: float, inside: int = 10) -> VoxelSums:
    """A case of 100 voxels with this ASD (mean over the mask)."""
    return VoxelSums(
        voxels=100,
        entropy_sum=entropy * inside + 1.0,
        top1_sum=90.0,
        margin_sum=80.0,
        masked_entropy_sum=entropy * inside,
        mask_voxels=inside,
        masked_entropy_sum_tau1=entropy,
        mask_voxels_tau1=1,
        foreground_margin_sum=5.0,
        foreground_voxels=inside,
        class_voxels=(100 - inside, inside),
    )


def make_pool(n: int, *, seed: int = 0, order: np.ndarray | None = None, duplicates: bool = False) -> QueryPool:
    """A pool with everything any strategy may need; `order` shuffles the cases before they are handed over."""
    rng = np.random.default_rng(seed)
    ids = [f"case_{i:03d}" for i in range(n)]
    pretrained, latest = rng.normal(size=(n, 6)), rng.normal(size=(n, 6))
    entropy, inside = rng.random(n), rng.integers(1, 50, size=n)
    if duplicates:
        pretrained[:], latest[:], entropy[:], inside[:] = pretrained[0], latest[0], entropy[0], inside[0]
    order = np.arange(n) if order is None else order
    return QueryPool.create(
        [ids[i] for i in order],
        sums=[sums_of(float(entropy[i]), int(inside[i])) for i in order],
        embeddings=latest[order],
        pretrained_embeddings=pretrained[order],
        labelled_embeddings=rng.normal(size=(2, 6)),
        permutation=random_permutation(ids, seed),
        round=2,
        n_rounds=3,
        seed=seed,
    )


# The contract ---------------------------------------------------------------------------------------------------------

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)


def check_query(query: Query, pool: QueryPool, n_query: int) -> None:
    assert len(query.ids) == len(set(query.ids)) == min(n_query, len(pool.ids))
    assert set(query.ids) <= set(pool.ids)
    for column in query.scores.values():
        assert len(column) == len(pool.ids)
        assert np.isfinite(column).all()


@every_strategy
@pytest.mark.parametrize(("n", "n_query"), [(1, 1), (1, 5), (2, 15), (7, 3), (7, 7), (7, 99)])
def test_number_of_cases(strategy: Strategy, n: int, n_query: int):
    pool = make_pool(n)
    check_query(strategy.query(pool, n_query), pool, n_query)


@every_strategy
def test_same_pool_same_query(strategy: Strategy):
    assert strategy.query(make_pool(12), 4) == strategy.query(make_pool(12), 4)


@every_strategy
@pytest.mark.parametrize("duplicates", [False, True])
def test_the_order_of_the_cases_does_not_matter(strategy: Strategy, duplicates: bool):
    expected = strategy.query(make_pool(12, duplicates=duplicates), 5)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(12)
        assert strategy.query(make_pool(12, order=order, duplicates=duplicates), 5) == expected


WITHOUT_TIES = {
    "random": "a permutation has no ties",
    "random_foreground": "draws among equal cases",
    "dkd_low": "of equal embeddings the first in rank has PD 1 and the others 0, so they do not tie",
}


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in WITHOUT_TIES])
def test_ties_are_decided_by_id(name: str):
    strategy, pool = STRATEGIES[name], make_pool(9, duplicates=True)
    check_query(strategy.query(pool, 4), pool, 4)
    assert strategy.query(pool, 4).ids == pool.ids[:4]


@every_strategy
def test_inputs_are_left_alone(strategy: Strategy):
    pool = make_pool(8)
    before = copy.deepcopy(pool)
    for name in ("embeddings", "pretrained_embeddings", "labelled_embeddings"):
        getattr(pool, name).flags.writeable = False
    strategy.query(pool, 3)
    for name in ("embeddings", "pretrained_embeddings", "labelled_embeddings"):
        np.testing.assert_array_equal(getattr(pool, name), getattr(before, name))
    assert (pool.ids, pool.sums, pool.permutation) == (before.ids, before.sums, before.permutation)


@every_strategy
def test_what_is_needed_and_what_is_not(strategy: Strategy):
    optional = {"sums", "embeddings", "pretrained_embeddings", "labelled_embeddings", "permutation"}
    assert strategy.needs <= optional
    pool = make_pool(6)
    fields = {name: getattr(pool, name) for name in strategy.needs}
    common = {"ids": pool.ids, "round": pool.round, "n_rounds": pool.n_rounds, "seed": pool.seed}
    assert strategy.query(QueryPool(**common, **fields), 2) == strategy.query(pool, 2)
    for name in strategy.needs:
        with pytest.raises(ValueError, match=f"lacks {name}"):
            strategy.query(QueryPool(**common, **{**fields, name: None}), 2)


@every_strategy
def test_a_query_of_nothing_is_refused(strategy: Strategy):
    with pytest.raises(ValueError, match="at least one case"):
        strategy.query(make_pool(3), 0)


@every_strategy
def test_a_row_says_where_it_comes_from(strategy: Strategy):
    assert strategy.source
    assert strategy.description
    assert strategy.semi_supervised or not strategy.excludes_pseudo_labelled


# The pool -------------------------------------------------------------------------------------------------------------


def test_pools_that_are_refused():
    e = np.ones((2, 3))
    broken = np.array([[1.0, 1.0], [np.nan, 1.0]])
    sums = [sums_of(0.1), sums_of(float("nan"))]
    for make, message in (
        (lambda: QueryPool(ids=()), "pool is empty"),
        (lambda: QueryPool(ids=("b", "a")), "not ascending"),
        (lambda: QueryPool.create(["a", "a"]), "distinct"),
        (lambda: QueryPool(ids=("a",), round=2), "round 2 of 1"),
        (lambda: QueryPool.create(["a"], embeddings=e), "embeddings has 2 rows"),
        (lambda: QueryPool(ids=("a",), pretrained_embeddings=e), "one row for each of the 1 cases"),
        (lambda: QueryPool.create(["b", "a"], embeddings=broken), "embeddings of case a contains NaN"),
        (lambda: QueryPool.create(["a", "b"], pretrained_embeddings=broken), "pretrained_embeddings of case b contains NaN"),
        (lambda: QueryPool.create(["a", "b"], sums=sums), "sums of case b contains NaN"),
        (lambda: QueryPool(ids=("a",), labelled_embeddings=broken), "labelled_embeddings contains NaN"),
        (lambda: QueryPool(ids=("a", "b"), embeddings=e, labelled_embeddings=e[:, :2]), r"has shape \(2, 2\); expected \(L, 3\)"),
        (lambda: QueryPool(ids=("a", "b"), permutation=("a", "c")), r"cases \['b'\] are not in the random permutation"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


# Each row -------------------------------------------------------------------------------------------------------------


def test_table():
    assert list(STRATEGIES)[:3] == ["random", "dkd_asd", "assft"]
    assert len(STRATEGIES) == 17
    assert [name for name, row in STRATEGIES.items() if row.semi_supervised] == ["assft"]
    assert [name for name, row in STRATEGIES.items() if row.excludes_pseudo_labelled] == ["assft"]


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


def worked_example(name: str) -> dict:
    if not WORKED_EXAMPLES.is_file():
        pytest.skip("the worked examples are not beside this repository")
    return json.loads(WORKED_EXAMPLES.read_text())["examples"][name]


def test_example_random():
    given = worked_example("random")
    ids = [str(i) for i in range(given["inputs"]["n"])]
    pool = QueryPool.create(ids, permutation=random_permutation(ids, given["inputs"]["rng_seed"]))
    query = STRATEGIES["random"].query(pool, given["inputs"]["budget"])
    assert [int(case) for case in query.ids] == given["expected"]["selected"]


@pytest.mark.parametrize("name", ["dkd_asd", "assft"])
def test_largest_q_worked_by_hand(name: str):
    """PAKD 1, 0.4, 0.29, 0 for b, d, a, c; DKD ranks the same. ASD ranks c, d, a, b from largest."""
    pool = QueryPool.create(
        list("abcd"),
        sums=[sums_of(entropy) for entropy in (0.2, 0.1, 0.9, 0.5)],
        embeddings=np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [3.0, 4.0]]),
        pretrained_embeddings=np.tile([1.0, 0.0], (4, 1)),
    )
    query = STRATEGIES[name].query(pool, 3)
    assert query.scores["dkd"] == pytest.approx((0.058172200135, 1.0, 0.0, 0.08), abs=1e-9)
    assert query.scores["dkd_rank"] == pytest.approx((1 / 3, 1.0, 0.0, 2 / 3))
    assert query.scores["asd"] == pytest.approx((0.2, 0.1, 0.9, 0.5))
    assert query.scores["q"] == pytest.approx((2 / 3, 1.0, 1.0, 4 / 3), abs=1e-9)
    assert query.ids == ("d", "b", "c")  # b and c tie at Q = 1: the larger DKD first


def test_options_reach_the_metrics():
    pool = make_pool(10)
    assert pool.sums is not None
    other = QueryPool(**{**vars(pool), "options": QueryOptions(asd_reduction="mean", pd_first="max", pd_weights="reversed")})
    plain, varied = (STRATEGIES["dkd_asd"].query(p, 10).scores for p in (pool, other))
    assert varied["asd"] == tuple(metrics.asd_from_sums(sums, "mean") for sums in pool.sums)
    assert varied["pd"] != plain["pd"]
    with pytest.raises(ValueError, match="asd_reduction is 'median'"):
        STRATEGIES["dkd_asd"].query(QueryPool(**{**vars(pool), "options": QueryOptions(asd_reduction="median")}), 1)


# Ablations: one metric alone ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["dkd", "asd", "asd_tau1"])
def test_high_and_low_are_opposite_ends_of_one_metric(metric: str):
    pool = make_pool(10)
    column, _, tau1 = metric.partition("_")
    high, low = (STRATEGIES["_".join(filter(None, (column, end, tau1)))].query(pool, 10) for end in ("high", "low"))
    assert high.scores == low.scores
    assert high.ids == low.ids[::-1]
    assert high.ids == tuple(sorted(pool.ids, key=lambda case: -high.scores[column][pool.ids.index(case)]))


def test_ablations_use_the_metrics_of_the_method():
    pool = make_pool(10)
    q = STRATEGIES["dkd_asd"].query(pool, 10)
    for column in ("pakd", "pd", "dkd"):
        assert STRATEGIES["dkd_high"].query(pool, 1).scores[column] == q.scores[column]
    assert STRATEGIES["asd_high"].query(pool, 1).scores["asd"] == q.scores["asd"]
    other = QueryPool(**{**vars(pool), "options": QueryOptions(asd_reduction="sum", pd_first="max")})
    assert STRATEGIES["asd_low"].query(other, 1).scores != STRATEGIES["asd_low"].query(pool, 1).scores
    assert STRATEGIES["dkd_low"].query(other, 1).scores != STRATEGIES["dkd_low"].query(pool, 1).scores


def test_tau_of_the_round_and_tau_1_may_disagree():
    a, b = (replace(sums_of(0.5), masked_entropy_sum_tau1=entropy, masked_entropy_sum=10 - entropy) for entropy in (3.0, 2.0))
    pool = QueryPool.create(["a", "b"], sums=[a, b])
    first = {name: STRATEGIES[name].query(pool, 1).ids for name in ("asd_high", "asd_low", "asd_high_tau1", "asd_low_tau1")}
    assert first == {"asd_high": ("b",), "asd_low": ("a",), "asd_high_tau1": ("a",), "asd_low_tau1": ("b",)}
    assert STRATEGIES["asd_high"].query(pool, 1).scores["asd"] == pytest.approx((0.7, 0.8))
    assert STRATEGIES["asd_high_tau1"].query(pool, 1).scores["asd"] == (3.0, 2.0)


@pytest.mark.parametrize("name", ["asd_low", "asd_low_tau1"])
def test_cases_without_foreground_come_first_by_id_and_are_counted(name: str):
    pool = QueryPool.create(list("dcba"), sums=[sums_of(0.0), sums_of(0.2), sums_of(0.0), sums_of(0.1)])
    with pytest.warns(UserWarning, match="ASD is 0 for 2 of 4 cases"):
        assert STRATEGIES[name].query(pool, 3).ids == ("b", "d", "a")


# Uncertainty ----------------------------------------------------------------------------------------------------------


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
    assert STRATEGIES["entropy"].query(pool, 1).scores["entropy"] == pytest.approx((0.346573590280, 0.639031859650, 0.0), abs=1e-12)


def test_example_uncertainty_scalars():
    given = worked_example("uncertainty_scalars")
    softmax = given["inputs"]["softmax"]
    pool = QueryPool.create(list(softmax), sums=[voxel_sums(np.array(probs), 1.0) for probs in softmax.values()])
    for name, short in (("entropy", "enpy"), ("least_confidence", "lcon"), ("margin", "mmar")):
        query = STRATEGIES[name].query(pool, len(softmax))
        assert list(query.ids) == given["expected"][f"query_order_{short}"]
        expected = [given["expected"]["per_case"][case][short] for case in pool.ids]
        assert query.scores[name] == pytest.approx(expected, abs=1e-9)


def cup_pool(entropy: Sequence[float], foreground: Sequence[int]) -> QueryPool:
    sums = [
        replace(VoxelSums.zero(2), voxels=1000, entropy_sum=1000 * u, foreground_voxels=n, class_voxels=(1000 - n, n))
        for u, n in zip(entropy, foreground, strict=True)
    ]
    return QueryPool.create([str(i) for i in range(len(sums))], sums=sums)


def test_cup_worked_by_hand():
    pool = cup_pool([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [10, 300, 50, 0, 900, 100])
    uncertain, certain = (STRATEGIES[name].query(pool, 2) for name in ("cup", "cup_low"))
    assert (uncertain.ids, certain.ids) == (("1", "2"), ("4", "5"))  # 4 has the most foreground, and is not uncertain
    assert uncertain.scores["candidate"] == (1, 1, 1, 1, 0, 0)
    assert certain.scores["candidate"] == (0, 0, 1, 1, 1, 1)
    assert uncertain.scores["foreground_voxels"] == (10, 300, 50, 0, 900, 100)
    assert STRATEGIES["cup"].query(pool, 4).ids == ("4", "1", "5", "2")  # 2b > N: all are candidates


def test_cup_without_foreground_goes_by_entropy_then_id():
    pool = cup_pool([0.2, 0.9, 0.5, 0.9], [0, 0, 0, 0])
    assert STRATEGIES["cup"].query(pool, 3).ids == ("1", "3", "2")
    assert STRATEGIES["cup_low"].query(pool, 3).ids == ("0", "2", "1")


def test_example_cup():
    given = worked_example("cup")
    pool = cup_pool(given["inputs"]["uncertainty"], given["inputs"]["foreground_voxels"])
    for name in ("cup", "cup_low"):
        query = STRATEGIES[name].query(pool, given["inputs"]["budget"])
        assert [int(case) for case in query.ids] == given["expected"][name]
        candidates = [i for i, candidate in enumerate(query.scores["candidate"]) if candidate]
        assert candidates == sorted(given["expected"][f"stage1_{name}"])


# Coverage -------------------------------------------------------------------------------------------------------------


def coreset(embeddings: np.ndarray, labelled: np.ndarray, n_query: int) -> tuple[list[int], list[float]]:
    """(picked rows in order, distance at each pick)"""
    ids = [f"{i:03d}" for i in range(len(embeddings))]
    query = STRATEGIES["coreset"].query(QueryPool.create(ids, embeddings=embeddings, labelled_embeddings=labelled), n_query)
    picked = [int(case) for case in query.ids]
    return picked, [query.scores["distance"][i] for i in picked]


def test_coreset_worked_by_hand():
    embeddings = np.array([[1.0, 0.0], [0.0, 2.0], [4.0, 0.0], [4.0, 3.0], [5.5, 0.0]])
    picked, distance = coreset(embeddings, np.zeros((1, 2)), 3)
    assert picked == [4, 3, 1]
    assert distance == pytest.approx([5.5, math.sqrt(1.5**2 + 3**2), 2.0])
    query = STRATEGIES["coreset"].query(QueryPool.create(list("abcde"), embeddings=embeddings, labelled_embeddings=np.zeros((1, 2))), 3)
    assert query.scores["distance"][::2] == pytest.approx((1.0, 1.5, 5.5))  # a and c: to the nearest of what is covered now


def test_example_core_set():
    given = worked_example("core_set")
    embeddings, first = np.array(given["inputs"]["embeddings"]), given["inputs"]["labelled"]
    left = [i for i in range(len(embeddings)) if i not in first]
    picked, distance = coreset(embeddings[left], embeddings[first], given["inputs"]["budget"])
    assert [left[i] for i in picked] == given["expected"]["selected"]
    assert distance == pytest.approx(given["expected"]["distance_at_pick"], abs=1e-9)


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


def on_circle(*degrees: float) -> np.ndarray:
    """Vectors of these directions and different lengths."""
    angle = np.deg2rad(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1) * np.arange(1, len(degrees) + 1)[:, None]


def test_typiclust_worked_by_hand():
    """Three clusters for one labelled case and two picks: around 90 degrees, around 180, and around the labelled case."""
    pool = QueryPool.create(list("abcdef"), embeddings=on_circle(88, 182, 90, 179, 93, 1), labelled_embeddings=on_circle(0))
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
        [f"{i:02d}" for i in range(80)], embeddings=rng.normal(size=(80, 2)), labelled_embeddings=rng.normal(size=(1, 2))
    )
    scores = STRATEGIES["typiclust"].query(pool, 1).scores
    assert pool.embeddings is not None
    assert pool.labelled_embeddings is not None
    unit = [row / math.hypot(*row) for row in (*pool.embeddings, *pool.labelled_embeddings)]
    clusters = [*scores["cluster"], scores["cluster"][scores["cluster_labelled"].index(1)]]
    sizes = Counter(clusters)
    assert max(sizes.values()) > NEIGHBOURS + 1
    assert scores["cluster_size"] == tuple(sizes[cluster] for cluster in scores["cluster"])
    for i in range(80):
        near = sorted(math.dist(unit[i], unit[j]) for j in range(81) if j != i and clusters[j] == clusters[i])[:NEIGHBOURS]
        assert scores["neighbour_distance"][i] == pytest.approx(sum(near) / len(near), abs=1e-8)


def test_typiclust_with_fewer_directions_than_picks():
    pool = QueryPool.create(list("abcd"), embeddings=on_circle(0, 0, 0, 90), labelled_embeddings=on_circle(0, 0))
    assert STRATEGIES["typiclust"].query(pool, 3).ids == ("d", "a", "b")  # d alone is in a cluster without a labelled case
    zero = QueryPool.create(list("ab"), embeddings=np.zeros((2, 3)), labelled_embeddings=np.zeros((0, 3)))
    assert STRATEGIES["typiclust"].query(zero, 5).ids == ("a", "b")


@pytest.mark.parametrize("name", ["coreset", "typiclust"])
def test_the_order_of_the_labelled_cases_does_not_matter(name: str):
    pool = make_pool(15)
    assert pool.labelled_embeddings is not None
    other = QueryPool(**{**vars(pool), "labelled_embeddings": pool.labelled_embeddings[::-1]})
    assert STRATEGIES[name].query(pool, 6) == STRATEGIES[name].query(other, 6)


# Random foreground ----------------------------------------------------------------------------------------------------


def foreground_pool(*class_voxels: tuple[int, ...], seed: int = 0, r: int = 1) -> QueryPool:
    """Cases a, b, ... with these voxels of each structure."""
    sums = [replace(VoxelSums.zero(len(v) + 1), voxels=1000, class_voxels=(1000 - sum(v), *v)) for v in class_voxels]
    return QueryPool.create(list("abcdefgh")[: len(sums)], sums=sums, round=r, n_rounds=99, seed=seed)


def test_random_foreground_draws_a_structure_then_a_case():
    """Structure 1 in a and b as 1 to 3, structure 2 in c only, structure 3 nowhere: 1/8, 3/8 and 1/2 for the first pick."""
    first: Counter[str] = Counter()
    for seed in range(800):
        query = STRATEGIES["random_foreground"].query(foreground_pool((10, 0, 0), (30, 0, 0), (0, 1, 0), (0, 0, 0), seed=seed), 4)
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
    queries = [STRATEGIES["random_foreground"].query(foreground_pool(*cases, seed=s, r=r), 8).ids for s in range(4) for r in range(1, 5)]
    assert len(set(queries)) == 16

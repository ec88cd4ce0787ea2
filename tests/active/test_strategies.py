"""One contract for every row of the table of query strategies, and the behaviour of each row on a small pool."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from nnunet_assft.active import metrics
from nnunet_assft.active.metrics import VoxelSums
from nnunet_assft.active.strategies import STRATEGIES, Query, QueryOptions, QueryPool, Strategy, random_permutation

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
    entropy = rng.random(n)
    if duplicates:
        pretrained[:], latest[:], entropy[:] = pretrained[0], latest[0], entropy[0]
    order = np.arange(n) if order is None else order
    return QueryPool.create(
        [ids[i] for i in order],
        sums=[sums_of(float(entropy[i])) for i in order],
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
@pytest.mark.parametrize(("n", "n_query"), [(1, 1), (1, 5), (7, 3), (7, 7), (7, 99)])
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


@pytest.mark.parametrize("strategy", [row for name, row in STRATEGIES.items() if name != "random"])  # a permutation has no ties
def test_ties_are_decided_by_id(strategy: Strategy):
    pool = make_pool(9, duplicates=True)
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
        (lambda: QueryPool(ids=("a", "b"), permutation=("a", "c")), r"cases \['b'\] are not in the random permutation"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


# Each row -------------------------------------------------------------------------------------------------------------


def test_table():
    assert list(STRATEGIES)[:3] == ["random", "dkd_asd", "assft"]
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


def test_example_random():
    if not WORKED_EXAMPLES.is_file():
        pytest.skip("the worked examples are not beside this repository")
    given = json.loads(WORKED_EXAMPLES.read_text())["examples"]["random"]
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

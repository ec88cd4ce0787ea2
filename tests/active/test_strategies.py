"""One contract for every row of the table of query strategies; what their pool refuses; the options of the method."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest

from nnunet_assft.active import metrics
from nnunet_assft.active.metrics import VoxelSums
from nnunet_assft.active.options import Options
from nnunet_assft.active.query.functions import random_permutation
from nnunet_assft.active.query.pool import PER_CASE, Query, QueryPool
from nnunet_assft.active.strategies import STRATEGIES, Strategy


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
    arrays = {
        "embeddings": rng.normal(size=(n, 6)),
        "pretrained_embeddings": rng.normal(size=(n, 6)),
        "gradients": rng.normal(size=(n, 3, 4)),
        "class_entropies": rng.random((n, 3)),
        "mirror_spread": rng.random(n),
        "committee_spread": rng.random(n),
        "peak_entropy": rng.random(n),
    }
    assert arrays.keys() == PER_CASE.keys()
    entropy, inside = rng.random(n), rng.integers(1, 50, size=n)
    if duplicates:
        for array in (*arrays.values(), entropy, inside):
            array[:] = array[0]
    order = np.arange(n) if order is None else order
    return QueryPool.create(
        [ids[i] for i in order],
        sums=[sums_of(float(entropy[i]), int(inside[i])) for i in order],
        **{name: array[order] for name, array in arrays.items()},
        labelled_embeddings=rng.normal(size=(2, 6)),
        permutation=random_permutation(ids, seed),
        round=2,
        n_rounds=3,
        seed=seed,
    )


# The contract ------------------------------------------------------------------------------------------------------

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)


def check_query(query: Query, pool: QueryPool, n_query: int) -> None:
    assert len(query.ids) == len(set(query.ids)) == min(n_query, len(pool.ids))
    assert set(query.ids) <= set(pool.ids)
    for column in query.scores.values():
        assert len(column) == len(pool.ids)
        assert np.isfinite(column).all()


@every_strategy
@pytest.mark.parametrize("duplicates", [False, True])
@pytest.mark.parametrize(("n", "n_query"), [(1, 1), (1, 5), (2, 15), (7, 3), (7, 7), (7, 99)])
def test_number_of_cases(strategy: Strategy, n: int, n_query: int, duplicates: bool):
    pool = make_pool(n, duplicates=duplicates)
    check_query(strategy.query(pool, n_query), pool, n_query)


@every_strategy
@pytest.mark.filterwarnings("ignore:PAKD is 0", "ignore:ASD is 0", "error:Number of distinct clusters")
def test_pools_without_information(strategy: Strategy):
    pool = make_pool(9)
    nothing = {name: np.zeros_like(getattr(pool, name)) for name in (*PER_CASE, "labelled_embeddings")}
    equal = {
        name: np.full_like(getattr(pool, name), 0.3)
        for name in ("embeddings", "pretrained_embeddings", "labelled_embeddings")
    }
    background = (replace(VoxelSums.zero(2), voxels=10, top1_sum=10.0, margin_sum=10.0, class_voxels=(10, 0)),) * 9
    for changes in (nothing, equal, {"sums": background}, {**nothing, "sums": background}):
        check_query(strategy.query(replace(pool, **changes), 4), pool, 4)


@every_strategy
def test_one_round_is_round_1_of_1(strategy: Strategy):
    pool = replace(make_pool(9), round=1, n_rounds=1)
    query = strategy.query(pool, 4)
    check_query(query, pool, 4)
    assert query == strategy.query(replace(pool, n_rounds=5), 4)  # sums already hold tau, which alone differs


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
    "clasp_pe": "adds noise to equal scores",
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
    for name in (*PER_CASE, "labelled_embeddings"):
        getattr(pool, name).flags.writeable = False
    strategy.query(pool, 3)
    for name in (*PER_CASE, "labelled_embeddings"):
        np.testing.assert_array_equal(getattr(pool, name), getattr(before, name))
    assert (pool.ids, pool.sums, pool.permutation) == (before.ids, before.sums, before.permutation)


@every_strategy
def test_any_float_type_gives_the_same_query(strategy: Strategy):
    pool = make_pool(30)
    names = (*PER_CASE, "labelled_embeddings")
    half, single, double = (
        replace(pool, **{name: getattr(pool, name).astype(np.float16).astype(dtype) for name in names})
        for dtype in (np.float16, np.float32, np.float64)
    )
    assert strategy.query(half, 6) == strategy.query(single, 6) == strategy.query(double, 6)


@every_strategy
def test_arrays_that_are_not_contiguous(strategy: Strategy):
    pool = make_pool(10)
    expected = strategy.query(pool, 4)
    for view in (np.asfortranarray, lambda a: np.repeat(a, 2, axis=0)[::2], lambda a: a[::-1].copy()[::-1]):
        query = strategy.query(
            replace(pool, **{name: view(getattr(pool, name)) for name in (*PER_CASE, "labelled_embeddings")}), 4
        )
        assert query.ids == expected.ids
        for name, column in expected.scores.items():
            assert query.scores[name] == pytest.approx(column, abs=1e-12)


@every_strategy
def test_what_is_needed_and_what_is_not(strategy: Strategy):
    optional = {"sums", *PER_CASE, "labelled_embeddings", "permutation"}
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


# The pool ----------------------------------------------------------------------------------------------------------


def test_pools_that_are_refused():
    e = np.ones((2, 3))
    broken = np.array([[1.0, 1.0], [np.nan, 1.0]])
    sums = [sums_of(0.1), sums_of(float("nan"))]
    for make, message in (
        (lambda: QueryPool(ids=()), "pool is empty"),
        (lambda: QueryPool(ids=("b", "a")), "not ascending"),
        (lambda: QueryPool.create(["a", "a"]), "distinct"),
        (lambda: QueryPool(ids=("a",), round=2), "round 2 of 1"),
        (lambda: QueryPool(ids=("a",), round=0), "round 0 of 1"),
        (lambda: QueryPool.create(["a"], embeddings=e), "embeddings has 2 rows"),
        (lambda: QueryPool(ids=("a",), pretrained_embeddings=e), "one row for each of the 1 cases"),
        (lambda: QueryPool.create(["b", "a"], embeddings=broken), "embeddings of case a contains NaN"),
        (
            lambda: QueryPool.create(["a", "b"], pretrained_embeddings=broken),
            "pretrained_embeddings of case b contains NaN",
        ),
        (lambda: QueryPool.create(["a", "b"], sums=sums), "sums of case b contains NaN"),
        (lambda: QueryPool(ids=("a",), labelled_embeddings=broken), "labelled_embeddings contains NaN"),
        (
            lambda: QueryPool(ids=("a", "b"), embeddings=e, labelled_embeddings=e[:, :2]),
            r"has shape \(2, 2\); expected \(L, 3\)",
        ),
        (lambda: QueryPool(ids=("a", "b"), permutation=("a", "c")), r"cases \['b'\] are not in the random permutation"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", PER_CASE)
def test_a_value_that_is_not_finite_is_refused_with_its_case(name: str, bad: float, dtype: type):
    array = np.zeros((3,) + (2,) * (PER_CASE[name] - 1), dtype=dtype)
    array.reshape(3, -1)[1, -1] = bad
    with pytest.raises(ValueError, match=f"{name} of case b contains NaN or inf"):
        QueryPool.create(["c", "b", "a"], **{name: array})
    with pytest.raises(ValueError, match="labelled_embeddings contains NaN or inf"):
        QueryPool(ids=("a",), labelled_embeddings=np.array([[0.0, bad]], dtype=dtype))


@pytest.mark.parametrize("name", PER_CASE)
def test_arrays_of_another_shape_are_refused(name: str):
    array = np.zeros((3,) + (2,) * (PER_CASE[name] - 1))
    for wrong in (array[:2], array[..., None], array[0]):
        with pytest.raises(ValueError, match=f"{name} has shape"):
            QueryPool(ids=("a", "b", "c"), **{name: wrong})
    with pytest.raises(ValueError, match=f"{name} has 2 rows"):
        QueryPool.create(["a", "b", "c"], **{name: array[:2]})


def test_create_sorts_every_array_with_the_ids():
    arrays = {name: np.arange(3.0).reshape((3,) + (1,) * (n_axes - 1)) for name, n_axes in PER_CASE.items()}
    pool = QueryPool.create(["b", "c", "a"], **arrays)
    assert pool.ids == ("a", "b", "c")
    for name in PER_CASE:
        assert getattr(pool, name).ravel().tolist() == [2.0, 0.0, 1.0]
    assert QueryPool.create(["b", "a"], embeddings=None, labelled_embeddings=None).embeddings is None


# The table, and the options of the method --------------------------------------------------------------------------


def test_table():
    assert list(STRATEGIES)[:3] == ["random", "dkd_asd", "assft"]
    assert len(STRATEGIES) == 22
    assert [name for name, row in STRATEGIES.items() if row.semi_supervised] == ["assft"]
    assert [name for name, row in STRATEGIES.items() if row.excludes_pseudo_labelled] == ["assft"]


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
    other = QueryPool(**{**vars(pool), "options": Options(asd_reduction="mean", pd_first="max", pd_weights="reversed")})
    plain, varied = (STRATEGIES["dkd_asd"].query(p, 10).scores for p in (pool, other))
    assert varied["asd"] == tuple(metrics.asd_from_sums(sums, "mean") for sums in pool.sums)
    assert varied["pd"] != plain["pd"]


A_TO_AXIS, A_TO_D = 1 - 1 / math.sqrt(2), 1 - 7 / math.sqrt(50)  # cosine distances of four_cases


def four_cases(**options: object) -> QueryPool:
    """In the order of PAKD: b, d, a, c. One labelled case, in the direction of b."""
    return QueryPool.create(
        list("abcd"),
        sums=[replace(sums_of(u), masked_entropy_sum_tau1=1 - u) for u in (0.2, 0.1, 0.9, 0.5)],
        embeddings=np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [3.0, 4.0]]),
        pretrained_embeddings=np.tile([1.0, 0.0], (4, 1)),
        labelled_embeddings=np.array([[0.0, 2.0]]),
        options=Options(**options),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("options", "pd"),
    [
        ({}, (0.198612314655, 1.0, 0.682148869802, 0.2)),
        ({"pd_first": "max"}, (0.198612314655, 0.682148869802, 0.682148869802, 0.2)),
        ({"pd_weights": "reversed"}, ((2 * A_TO_D + A_TO_AXIS) / 3, 1.0, (3 * A_TO_AXIS + 2 * 0.4 + 1) / 6, 0.2)),
        ({"pd_labelled": True}, ((5 * A_TO_AXIS + A_TO_D) / 6, 0.0, (4 + 3 + 2 * 0.4 + A_TO_AXIS) / 10, 0.2)),
    ],
)
@pytest.mark.parametrize("name", ["dkd_asd", "assft", "dkd_high", "dkd_low"])
def test_options_of_pd_worked_by_hand(name: str, options: dict, pd: tuple[float, ...]):
    scores = STRATEGIES[name].query(four_cases(**options), 1).scores
    assert scores["pd"] == pytest.approx(pd, abs=1e-9)
    assert scores["dkd"] == pytest.approx(np.multiply(scores["pakd"], pd), abs=1e-9)


def test_labelled_cases_in_pd_are_needed_then_and_change_the_query():
    assert [STRATEGIES["dkd_high"].query(four_cases(pd_labelled=on), 1).ids for on in (False, True)] == [("b",), ("d",)]
    for name, row in STRATEGIES.items():
        needs = row.needs_with(Options(pd_labelled=True))
        assert needs == row.needs | ({"labelled_embeddings"} if "pretrained_embeddings" in row.needs else set())
        assert row.needs_with(Options()) == row.needs
        if needs != row.needs:
            with pytest.raises(ValueError, match="lacks labelled_embeddings"):
                STRATEGIES[name].query(replace(four_cases(pd_labelled=True), labelled_embeddings=None), 1)
            assert STRATEGIES[name].query(replace(four_cases(), labelled_embeddings=None), 1)


def test_tau_of_1_takes_the_other_sums():
    for tau, asd in (("round", (0.2, 0.1, 0.9, 0.5)), ("one", (0.8, 0.9, 0.1, 0.5))):
        for name in ("dkd_asd", "assft", "asd_high", "asd_low"):
            assert STRATEGIES[name].query(four_cases(tau=tau), 1).scores["asd"] == pytest.approx(asd)
        assert STRATEGIES["asd_high_tau1"].query(four_cases(tau=tau), 1).scores["asd"] == pytest.approx(
            (0.8, 0.9, 0.1, 0.5)
        )
    assert STRATEGIES["asd_high"].query(four_cases(tau="one"), 1).ids == ("b",)


def test_ranks_of_scikit_learn():
    """Its interpolation may move interior ties by half a rank."""
    moved = 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        pool = replace(
            make_pool(30, seed=seed), sums=tuple(sums_of(float(u)) for u in rng.choice([0.1, 0.2, 0.3, 0.7], 30))
        )
        exact, other = (
            STRATEGIES["dkd_asd"].query(replace(pool, options=Options(ranks=ranks)), 30)
            for ranks in ("exact", "sklearn")
        )
        dkd, asd = np.array(other.scores["dkd"]), np.array(other.scores["asd"])
        assert other.scores["q"] == tuple(metrics.query_score(dkd, asd, ranks="sklearn"))
        assert other.ids == tuple(pool.ids[i] for i in metrics.select_query(dkd, asd, 30, ranks="sklearn"))
        moved += other.scores["q"] != exact.scores["q"]
    assert moved

"""One contract for every row of the table of query strategies."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_assft.active.metrics import VoxelSums
from nnunet_assft.active.query.pool import PER_CASE, QueryPool
from nnunet_assft.active.settings import Settings
from nnunet_assft.active.state import Experiment
from nnunet_assft.active.strategies import STRATEGIES, Strategy
from nnunet_assft.errors import AssftError
from tests.active.query.pools import budgets, check_query, coarse_pool, few, make_pool, seeds, shuffled, sizes

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.filterwarnings("ignore:PAKD is 0", "ignore:ASD is 0")]

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)


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


@pytest.mark.parametrize("name", ["sann", "typiclust", "dkd_asd", "assft", "dkd_high", "dkd_low"])
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


def test_only_the_method_itself_trains_on_pseudo_labels():
    for name in ("semi_supervised", "excludes_pseudo_labelled"):
        assert [key for key, row in STRATEGIES.items() if getattr(row, name)] == ["assft"]


def test_an_experiment_with_a_strategy_that_is_gone_says_which_version_to_use(nnunet_folders):
    settings = Settings(strategy="cup_low", rounds=2, budget="2", epochs=1)
    experiment = Experiment(
        dataset="Dataset901_Blobs",
        name="assft",
        settings=settings,
        n_query=2,
        pool=("a", "b"),
        test=(),
        test_source="none",
        permutation=("b", "a"),
        versions={"nnunet_assft": "0.1.0"},
    )
    experiment.save()
    expected = (
        r"strategy 'cup_low', which this version no longer has\. It was written by nnunet_assft 0\.1\.0; use that"
    )
    with pytest.raises(AssftError, match=expected):
        Experiment.load(experiment.paths)

"""One contract for every row of the table of selection strategies, and each row worked by hand."""

import copy
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_assft.active import metrics
from nnunet_assft.active.metrics import Selection
from nnunet_assft.active.selection import SELECTIONS, SelectionPool, SelectionStrategy
from tests.worked_examples import worked_example

ARRAYS = ("confidence", "embeddings", "anchors")
few = settings(max_examples=25, deadline=None)
every_selection = pytest.mark.parametrize("strategy", SELECTIONS.values(), ids=SELECTIONS)


def make_pool(n: int, *, seed: int = 0, duplicates: bool = False) -> SelectionPool:
    rng = np.random.default_rng(seed)
    confidence, embeddings, anchors = rng.uniform(0, 5000, n), rng.normal(size=(n, 6)), rng.normal(size=(3, 6))
    if duplicates:
        confidence[:], embeddings[:] = confidence[0], embeddings[0]
    return SelectionPool(tuple(f"case_{i:03d}" for i in range(n)), confidence, embeddings, anchors, round=2, seed=seed)


def n_expected(name: str, n: int, n_select: int) -> int:
    return n if name == "all" else min(n, n_select)


def check_selection(selection: Selection, n: int, n_selected: int) -> None:
    assert len(selection.indices) == len(set(selection.indices.tolist())) == n_selected
    assert len(selection.candidates) == len(set(selection.candidates.tolist())) <= n
    assert set(selection.indices.tolist()) <= set(selection.candidates.tolist()) <= set(range(n))
    assert len(selection.distance) == len(selection.reliability) == n
    for column in (selection.distance, selection.reliability):
        assert np.isfinite(column[selection.candidates]).all()
        assert np.isnan(np.delete(column, selection.candidates)).all()


def assert_same(first: Selection, second: Selection) -> None:
    for name, values in vars(first).items():
        np.testing.assert_array_equal(values, getattr(second, name))


# The contract ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in SELECTIONS if name != "random"])
def test_ties_are_decided_by_id(name: str):
    assert SELECTIONS[name].function(make_pool(9, duplicates=True), 4).indices.tolist() == list(
        range(n_expected(name, 9, 4))
    )


@pytest.mark.parametrize("name", SELECTIONS)
@few
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 15))
def test_which_case_has_which_id_does_not_matter(name: str, seed: int, n: int, n_select: int):
    """Without ties the same cases are selected under other ids; the random row selects the same ids in any case."""
    pool = make_pool(n, seed=seed)
    order = np.random.default_rng(seed).permutation(n)
    other = replace(
        pool, confidence=pool.confidence[order], embeddings=pool.embeddings[order], anchors=pool.anchors[::-1]
    )
    first, second = (SELECTIONS[name].function(p, n_select) for p in (pool, other))
    check_selection(first, n, n_expected(name, n, n_select))
    assert (
        second.indices.tolist() == first.indices.tolist()
        if name == "random"
        else order[second.indices].tolist() == first.indices.tolist()
    )
    np.testing.assert_allclose(second.reliability, first.reliability[order], atol=1e-9)


@every_selection
def test_without_any_confidence(strategy: SelectionStrategy):
    pool = replace(make_pool(6), confidence=np.zeros(6))
    selection = strategy.function(pool, 2)
    assert len(selection.candidates) == 6
    assert selection.reliability.tolist() == [0.0] * 6
    if strategy.function not in (SELECTIONS["random"].function, SELECTIONS["distance_only"].function):
        assert selection.indices[:2].tolist() == [0, 1]


@every_selection
def test_inputs_are_left_alone(strategy: SelectionStrategy):
    pool = make_pool(8)
    before = copy.deepcopy(pool)
    for name in ARRAYS:
        getattr(pool, name).flags.writeable = False
    strategy.function(pool, 3)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(pool, name), getattr(before, name))


@every_selection
def test_any_float_type_in_any_layout_gives_the_same_selection(strategy: SelectionStrategy):
    pool = make_pool(20)
    half = replace(pool, **{name: getattr(pool, name).astype(np.float16) for name in ARRAYS})
    double = replace(pool, **{name: getattr(half, name).astype(np.float64) for name in ARRAYS})
    assert_same(strategy.function(half, 5), strategy.function(double, 5))
    views = replace(
        pool, **{name: np.asfortranarray(np.repeat(getattr(pool, name), 2, axis=0))[::2] for name in ARRAYS}
    )
    assert strategy.function(views, 5).indices.tolist() == strategy.function(pool, 5).indices.tolist()


@every_selection
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_embeddings_that_are_not_finite_and_no_anchor_are_refused(strategy: SelectionStrategy, bad: float):
    pool, broken = make_pool(4), np.full((4, 6), bad)
    for changes, message in (
        ({"embeddings": broken}, "contains NaN or inf"),
        ({"anchors": broken}, "contains NaN or inf"),
        ({"anchors": np.empty((0, 6))}, "at least one case"),
        ({"anchors": np.ones((2, 5))}, "expected the same d"),
    ):
        with pytest.raises(ValueError, match=message):
            strategy.function(replace(pool, **changes), 2)


@every_selection
def test_only_the_random_row_depends_on_seed_and_round(strategy: SelectionStrategy):
    pool = make_pool(12)
    orders = {
        tuple(strategy.function(replace(pool, seed=seed, round=r), 12).indices)
        for seed in range(4)
        for r in range(1, 5)
    }
    assert len(orders) == (16 if strategy is SELECTIONS["random"] else 1)


@every_selection
def test_only_reliable_cuts_off_candidates(strategy: SelectionStrategy):
    pool = make_pool(12)
    n_candidates = [len(strategy.function(replace(pool, tau_c=tau_c), 2).candidates) for tau_c in (0.1, 2.0)]
    expected = [metrics.n_candidates(pool.confidence, 2, tau_c) for tau_c in (0.1, 2.0)]
    assert 2 == expected[0] < expected[1] < 12
    assert n_candidates == (expected if strategy is SELECTIONS["reliable"] else [12, 12])


@every_selection
def test_a_row_says_where_it_comes_from(strategy: SelectionStrategy):
    assert strategy.source
    assert strategy.description


# Each row ----------------------------------------------------------------------------------------------------------


def five_cases(**changes: object) -> SelectionPool:
    """D is 1, 0, 0.4, 0.2, 2 for a to e; the second anchor is farther from all but e."""
    embeddings = np.array([[0.0, 2.0], [1.0, 0.0], [3.0, 4.0], [4.0, 3.0], [-5.0, 0.0]])
    pool = SelectionPool(
        tuple("abcde"), np.array([10.0, 8.0, 6.0, 4.0, 2.0]), embeddings, np.array([[7.0, 0.0], [1.0, 0.0]])
    )
    return replace(pool, **changes)


@pytest.mark.parametrize(
    ("name", "tau_c", "expected"),
    [
        ("reliable", 2.0, "bc"),  # K = ceil(2 * 2 / 0.6) = 7, so all
        ("reliable", 0.9, "bc"),  # K = 3: a, b, c
        ("reliable", 0.6, "ba"),  # K = 2: a, b
        ("confidence_only", 2.0, "ab"),
        ("distance_only", 2.0, "bd"),
        ("all", 0.6, "bcdae"),
    ],
)
def test_worked_by_hand(name: str, tau_c: float, expected: str):
    """R is 0, 8, 3.6, 3.2, -2."""
    pool = five_cases(tau_c=tau_c)
    selection = SELECTIONS[name].function(pool, 2)
    assert "".join(pool.ids[i] for i in selection.indices) == expected
    known = selection.candidates
    assert selection.distance[known] == pytest.approx(np.array([1.0, 0.0, 0.4, 0.2, 2.0])[known], abs=1e-12)
    assert selection.reliability[known] == pytest.approx(np.array([0.0, 8.0, 3.6, 3.2, -2.0])[known], abs=1e-12)


def test_the_scale_of_the_confidence_decides_k_and_nothing_else():
    """Unscaled: K = ceil(2 * 2 / 6) = 1, at least N_SU."""
    for name in SELECTIONS:
        scaled, unscaled = (SELECTIONS[name].function(five_cases(scale=scale), 2) for scale in ("max", "none"))
        assert (len(scaled.candidates), len(unscaled.candidates)) == ((5, 2) if name == "reliable" else (5, 5))
        assert unscaled.indices.tolist() == ([1, 0] if name == "reliable" else scaled.indices.tolist())


@few
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.integers(1, 15),
    st.sampled_from([0.1, 0.9, 2.0]),
    st.sampled_from(metrics.SCALES),
)
def test_reliable_is_that_of_the_metrics_and_all_is_everything_by_reliability(
    seed: int, n: int, n_select: int, tau_c: float, scale: str
):
    pool = replace(make_pool(n, seed=seed), tau_c=tau_c, scale=scale)
    of_metrics = metrics.select_reliable(
        pool.confidence, pool.embeddings, pool.anchors, n_select, tau_c, scale, pool.ids
    )
    assert SELECTIONS["reliable"].function(pool, n_select).indices.tolist() == of_metrics.tolist()
    everything = SELECTIONS["all"].function(pool, n_select)
    reliability = metrics.reliability(pool.confidence, pool.embeddings, pool.anchors)
    np.testing.assert_allclose(everything.reliability, reliability, atol=1e-9)
    assert everything.indices.tolist() == sorted(range(n), key=lambda i: (-everything.reliability[i], i))


@few
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 15))
def test_rows_of_one_metric_are_sorted_by_it(seed: int, n: int, n_select: int):
    rng = np.random.default_rng(seed)
    pool = replace(
        make_pool(n, seed=seed),
        confidence=rng.integers(0, 3, n).astype(float),
        embeddings=np.eye(6)[rng.integers(6, size=n)],
    )
    distance = metrics.semantic_distance(pool.embeddings, pool.anchors)
    for name, key in (("confidence_only", -pool.confidence), ("distance_only", distance)):
        assert (
            SELECTIONS[name].function(pool, n_select).indices.tolist()
            == sorted(range(n), key=lambda i: (key[i], i))[:n_select]
        )


def test_random_selects_every_case_equally_often():
    count = Counter(
        int(i) for seed in range(600) for i in SELECTIONS["random"].function(five_cases(seed=seed), 2).indices
    )
    assert [count[i] / 600 for i in range(5)] == pytest.approx([0.4] * 5, abs=0.07)


@pytest.mark.parametrize(
    ("name", "scale"), [("pseudo_selection_default", "max"), ("pseudo_selection_foreground_mean", "none")]
)
def test_example_pseudo_selection(name: str, scale: str):
    given_, expected = (worked_example(name)[part] for part in ("inputs", "expected"))
    confidence, embeddings, anchors = (np.array(given_[key]) for key in ARRAYS)
    ids = tuple("abcdefghij"[: len(confidence)])
    pool = SelectionPool(ids, confidence, embeddings, anchors, given_["tau_c"], scale)
    selection = SELECTIONS["reliable"].function(pool, given_["n_su"])
    assert selection.candidates.tolist() == expected["candidates"]
    assert selection.indices.tolist() == expected["selected"]
    expected_reliability = [math.nan if value is None else value for value in expected["reliability"]]
    assert selection.reliability == pytest.approx(expected_reliability, rel=1e-9, abs=1e-9, nan_ok=True)
    everything = SELECTIONS["all"].function(pool, given_["n_su"])
    assert everything.reliability[selection.candidates] == pytest.approx(
        np.array(expected_reliability)[selection.candidates], rel=1e-9
    )


def test_pools_that_are_refused():
    ones, e = np.ones(2), np.ones((2, 3))
    for make, message in (
        (lambda: SelectionPool((), ones[:0], e[:0], e), "0 ids; expected at least one"),
        (lambda: SelectionPool(("b", "a"), ones, e, e), "ascending and distinct"),
        (lambda: SelectionPool(("a", "a"), ones, e, e), "ascending and distinct"),
        (lambda: SelectionPool(("a", "b"), ones[:1], e, e), "confidence has 1 rows"),
        (lambda: SelectionPool(("a", "b"), ones, e[:1], e), "embeddings has 1 rows"),
        (lambda: SelectionPool(("a", "b"), np.array([1.0, np.nan]), e, e), "confidence of case b contains NaN"),
        (
            lambda: SelectionPool(("a", "b"), ones, np.array([[np.inf] * 3, [1.0] * 3]), e),
            "embeddings of case a contains NaN or inf",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()

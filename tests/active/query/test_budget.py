"""The budget of a round and the cases it may choose from: values worked by hand, the worked examples, literal loops."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_assft.active.query.budget import query_budget, query_candidates
from tests.worked_examples import worked_example

few = settings(max_examples=40, deadline=None)


@pytest.mark.parametrize(
    ("spec", "n_pool", "expected"),
    [
        (0.05, 300, 15),
        ("5%", 361, 18),
        ("0.05", 9262, 463),
        ("5 %", 60, 3),
        (0.05, 30, 2),
        (0.05, 5, 1),
        (2, 30, 2),
        ("2", 30, 2),
        ("100%", 30, 30),
        (0.145, 100, 15),  # 14.5 in decimals, 14.499999999999998 in binary
        (np.int64(7), 3, 7),
        (np.float64(0.5), 3, 2),
        ("0.1%", 9, 1),
    ],
)
def test_query_budget(spec: int | float | str, n_pool: int, expected: int):
    assert query_budget(spec, n_pool) == expected


@pytest.mark.parametrize(
    "spec",
    [
        "0%",
        "-1",
        -1,
        0,
        "0",
        1.5,
        "1.5",
        "101%",
        "5%%",
        "",
        "five",
        "nan",
        float("nan"),
        float("inf"),
        -0.1,
        True,
        None,
    ],
)
def test_query_budget_refuses_nonsense(spec: object):
    with pytest.raises(ValueError, match="expected a number of cases"):
        query_budget(spec, 30)  # type: ignore[arg-type]


def test_query_candidates_give_back_the_least_reliable():
    reliability = {"c": 0.9, "d": 0.1, "e": 0.5}
    assert query_candidates("edcba", [], {}, 2) == ["a", "b", "c", "d", "e"]
    assert query_candidates("abcde", "cde", reliability, 2) == ["a", "b"]
    assert query_candidates("abcde", "cde", reliability, 3) == ["a", "b", "d"]
    assert query_candidates("abcde", "cde", dict.fromkeys("cde", 1.0), 4) == ["a", "b", "c", "d"]
    assert query_candidates("abcde", "cde", reliability, 99) == ["a", "b", "c", "d", "e"]
    with pytest.raises(ValueError, match="no finite reliability for"):
        query_candidates("abcde", "cde", {"c": 1.0}, 3)
    with pytest.raises(ValueError, match="not in T_u"):
        query_candidates("abc", "z", {}, 1)


def test_example_budget():
    for case in worked_example("budget")["cases"]:
        assert query_budget(case["spec"], case["n_t"]) == case["n_b"], case


def test_example_query_candidates():
    for case in worked_example("query_pool")["cases"]:
        found = query_candidates(
            case["unlabelled"], case["pseudo_labelled_last_round"], case["reliability"], case["n_b"]
        )
        assert found == case["pool"], case


@few
@given(digits=st.integers(1, 10**4), n_pool=st.integers(1, 20000))
def test_a_fraction_of_the_pool_is_rounded_half_up(digits: int, n_pool: int):
    fraction = Fraction(digits, 10**4)
    expected = max(1, math.floor(fraction * n_pool + Fraction(1, 2)))
    decimal, percent = Decimal(digits).scaleb(-4), Decimal(digits).scaleb(-2)
    specs = [f"{decimal}", f"{percent}%", f" {percent} % ", float(decimal), np.float64(float(decimal)), f"{decimal:e}"]
    assert [query_budget(spec, n_pool) for spec in specs] == [expected] * len(specs)
    assert 1 <= expected <= n_pool
    assert [query_budget(spec, n_pool) for spec in (digits, str(digits), np.int32(digits))] == [digits] * 3


@few
@given(n_pool=st.integers(1, 3000).map(lambda n: 2 * n - 1), tenths=st.integers(0, 99))
def test_a_budget_of_half_a_case_is_rounded_up(n_pool: int, tenths: int):
    assert query_budget(0.5, n_pool) == (n_pool + 1) // 2
    assert query_budget(f"{tenths}.5%", 100) == tenths + 1


@few
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 12), n_query=st.integers(1, 14))
def test_the_pool_leaves_out_the_most_reliable(seed: int, n: int, n_query: int):
    rng = np.random.default_rng(seed)
    unlabelled = [f"case_{i}" for i in rng.permutation(n)]  # case_10 < case_2
    excluded = [case for case in unlabelled if rng.random() < 0.6]
    reliability = dict(zip(unlabelled, rng.choice([-1.0, 0.0, 0.5, 3e5], n), strict=True))
    pool, waiting = set(unlabelled) - set(excluded), set(excluded)
    short = len(pool) < n_query
    while len(pool) < n_query and waiting:
        lowest = min(reliability[case] for case in waiting)
        given_back = min(case for case in waiting if reliability[case] == lowest)
        waiting.remove(given_back)
        pool.add(given_back)
    assert query_candidates(unlabelled, excluded, reliability, n_query) == sorted(pool)
    assert query_candidates(frozenset(unlabelled), tuple(excluded[::-1]), reliability, n_query) == sorted(pool)
    if not short:  # R is needed only then
        assert query_candidates(unlabelled, excluded, {}, n_query) == sorted(pool)

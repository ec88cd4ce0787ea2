"""DKD and ASD together and alone: worked by hand, and the options of the method."""

import math
from dataclasses import replace

import numpy as np
import pytest

from nnunet_assft.active import metrics
from nnunet_assft.active.options import Options
from nnunet_assft.active.query.pool import QueryPool
from nnunet_assft.active.strategies import STRATEGIES
from tests.active.query.pools import make_pool, sums_of


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
    other = QueryPool(**{**vars(pool), "options": Options(asd_reduction="mean", pd_weights="reversed")})
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


# Ablations: one metric alone ---------------------------------------------------------------------------------------


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
    other = QueryPool(**{**vars(pool), "options": Options(asd_reduction="sum", pd_weights="reversed")})
    assert STRATEGIES["asd_low"].query(other, 1).scores != STRATEGIES["asd_low"].query(pool, 1).scores
    assert STRATEGIES["dkd_low"].query(other, 1).scores != STRATEGIES["dkd_low"].query(pool, 1).scores


def test_tau_of_the_round_and_tau_1_may_disagree():
    a, b = (
        replace(sums_of(0.5), masked_entropy_sum_tau1=entropy, masked_entropy_sum=10 - entropy)
        for entropy in (3.0, 2.0)
    )
    pool = QueryPool.create(["a", "b"], sums=[a, b])
    first = {
        name: STRATEGIES[name].query(pool, 1).ids for name in ("asd_high", "asd_low", "asd_high_tau1", "asd_low_tau1")
    }
    assert first == {"asd_high": ("b",), "asd_low": ("a",), "asd_high_tau1": ("a",), "asd_low_tau1": ("b",)}
    assert STRATEGIES["asd_high"].query(pool, 1).scores["asd"] == pytest.approx((0.7, 0.8))
    assert STRATEGIES["asd_high_tau1"].query(pool, 1).scores["asd"] == (3.0, 2.0)


@pytest.mark.parametrize("name", ["asd_low", "asd_low_tau1"])
def test_cases_without_foreground_come_first_by_id_and_are_counted(name: str):
    pool = QueryPool.create(list("dcba"), sums=[sums_of(0.0), sums_of(0.2), sums_of(0.0), sums_of(0.1)])
    with pytest.warns(UserWarning, match="ASD is 0 for 2 of 4 cases"):
        assert STRATEGIES[name].query(pool, 3).ids == ("b", "d", "a")

"""Properties of Eqs. 1-26: slow literal loops written from the equations, ranges, invariances, any kind of array."""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nnunet_assft.active import arrays, metrics
from nnunet_assft.active.metrics import VoxelSums

pytestmark = [
    pytest.mark.filterwarnings("error"),
    pytest.mark.filterwarnings("ignore:PAKD is 0"),
]  # no overflow, no 0/0

FLOATS = {  # with squares that over- or underflow, the largest value and the smallest denormal
    np.float16: [0.0, 1.0, -1.0, 3.0, 300.0, 65504.0, -65504.0, 6e-5, 6e-8],
    np.float32: [0.0, 1.0, -1.0, 3.0, 1e30, 3e38, -3e38, 1e-30, 1e-45],
    np.float64: [0.0, 1.0, -1.0, 3.0, 1e200, 1.7e308, -1.7e308, 1e-200, 1e-310, 5e-324],
}
REDUCTIONS = [(asd, confidence) for asd in metrics.ASD_REDUCTIONS for confidence in metrics.CONFIDENCE_REDUCTIONS]

few = settings(max_examples=40, deadline=None)
rngs = st.integers(0, 2**32 - 1).map(np.random.default_rng)
blocks = st.sampled_from([1, 7, 2**22])  # rows or voxels one by one, a few, all at once
temperatures = st.sampled_from([1.0, 1.5, 2.0, 2.35, 3.0])


def near(expected: Any, tolerance: float = 1e-9) -> Any:
    return pytest.approx(expected, rel=tolerance, abs=tolerance, nan_ok=True)


def numbers_of(sums: VoxelSums) -> dict[str, float]:
    values = dict(vars(sums))
    return values | {f"class {c}": n for c, n in enumerate(values.pop("class_voxels"))}


def shuffled_ids(rng: np.random.Generator, n: int) -> list[str]:
    return [f"case_{i}" for i in rng.permutation(n)]  # case_10 < case_2


def few_values(rng: np.random.Generator, n: int) -> np.ndarray:
    """Scores with many ties, all of them now and then."""
    return rng.choice([0.0, 0.1, 0.2, 0.7, 1.9][: rng.integers(1, 6)], n)


def embeddings(n: st.SearchStrategy[int] | int, d: int) -> st.SearchStrategy[np.ndarray]:
    def of(dtype: type) -> st.SearchStrategy[np.ndarray]:
        rows = st.just(n) if isinstance(n, int) else n
        elements = st.sampled_from(FLOATS[dtype]).map(dtype) | st.floats(-4, 4, width=16).map(dtype)
        return rows.flatmap(lambda n: hnp.arrays(dtype, (n, d), elements=elements, fill=st.nothing()))

    return st.sampled_from(list(FLOATS)).flatmap(of)


def cases_twice(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """(n, d), about every other case a copy of another."""
    return rng.normal(size=(n, d))[rng.integers(n, size=n)]


def softmax_of(rng: np.random.Generator, n_classes: int, shape: tuple[int, ...]) -> np.ndarray:
    """Voxels of four kinds: any, almost certain (down to denormals), eighths (ties, edges of masks), one-hot."""
    logits = rng.normal(0, rng.choice([1.0, 4.0, 300.0], size=shape), (n_classes, *shape))
    p = np.exp(logits - logits.max(axis=0))
    p /= p.sum(axis=0)
    eighths = np.moveaxis(rng.multinomial(8, np.full(n_classes, 1 / n_classes), shape) / 8, -1, 0)
    one_hot = np.moveaxis(np.eye(n_classes)[rng.integers(n_classes, size=shape)], -1, 0)
    kind = rng.integers(4, size=shape)
    return np.where(kind < 2, p, np.where(kind == 2, eighths, one_hot))


@st.composite
def softmaxes(draw: st.DrawFn, dtypes: tuple[type, ...] = (np.float16, np.float32, np.float64)) -> np.ndarray:
    shape = draw(st.sampled_from([(1,), (7,), (2, 3), (3, 2, 4)]))
    return softmax_of(draw(rngs), draw(st.sampled_from([2, 3, 26])), shape).astype(draw(st.sampled_from(dtypes)))


# Literal loops, written from the equations -------------------------------------------------------------------------


def exact_distance(a: np.ndarray, b: np.ndarray) -> Decimal:
    """Eqs. 1-2 in 60 digits, where no square over- or underflows; a zero vector has distance 1."""
    with localcontext(Context(prec=60)):
        a, b = [Decimal(float(x)) for x in a], [Decimal(float(x)) for x in b]
        squares = sum(x * x for x in a) * sum(y * y for y in b)
        cosine = sum(x * y for x, y in zip(a, b, strict=True)) / squares.sqrt() if squares else Decimal(0)
        return 1 - min(cosine, Decimal(1))


def literal_distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(exact_distance(a, b))


def literal_pd(e: np.ndarray, pakd: np.ndarray, ids: list[str], pd_weights: str) -> np.ndarray:
    """Eqs. 3-4 for n cases sorted by PAKD descending, ties by id."""
    order, n = sorted(range(len(e)), key=lambda i: (-pakd[i], ids[i])), len(e)
    pd = {1: 1.0}
    for c in range(2, n + 1):
        total = 0.0
        for k in range(1, c):
            weight = k if pd_weights == "literal" else c - k
            total += weight * literal_distance(e[order[c - 1]], e[order[c - k - 1]])
        pd[c] = total / (c * (c - 1) / 2)
    return np.array([pd[order.index(i) + 1] for i in range(n)])


def literal_pd_after(
    labelled: np.ndarray, e: np.ndarray, pakd: np.ndarray, ids: list[str], pd_weights: str
) -> np.ndarray:
    """PD_c = sum_j w_cj d_cj / sum_j w_cj over the cases j ranked before; labelled cases share rank 1."""
    order = sorted(range(len(e)), key=lambda i: (-pakd[i], ids[i]))
    better = [(1, case) for case in labelled]
    pd = np.empty(len(e))
    for rank, i in enumerate(order, start=2):
        weights = [rank - other if pd_weights == "literal" else other for other, _ in better]
        distances = [literal_distance(e[i], case) for _, case in better]
        pd[i] = sum(w * d for w, d in zip(weights, distances, strict=True)) / sum(weights)
        better.append((rank, e[i]))
    return pd


def literal_sums(probs: np.ndarray, tau: float) -> VoxelSums:
    """Eqs. 6-11 and 17-22, voxel by voxel."""
    sums: dict[str, Any] = {field.name: 0 for field in fields(VoxelSums)} | {"class_voxels": [0] * len(probs)}
    for p in probs.astype(np.float64).reshape(len(probs), -1).T.tolist():
        entropy = -math.fsum(x * math.log(x) for x in p if x > 0)
        first, second = sorted(p, reverse=True)[:2]
        label = p.index(first)
        sums["voxels"] += 1
        sums["entropy_sum"] += entropy
        sums["top1_sum"] += first
        sums["margin_sum"] += first - second
        for name, t in (("", tau), ("_tau1", 1.0)):
            if p[0] / t < max(p[1:]):
                sums["masked_entropy_sum" + name] += entropy
                sums["mask_voxels" + name] += 1
        if label != 0:
            sums["foreground_margin_sum"] += first - second
            sums["foreground_voxels"] += 1
        sums["class_voxels"][label] += 1
    return VoxelSums(**sums | {"class_voxels": tuple(sums["class_voxels"])})


def literal_asd(probs: np.ndarray, tau: float, reduction: str) -> float:
    """Eqs. 10-11: the entropy of Phat = P M on all channels."""
    total, inside, voxels = 0.0, 0, probs.reshape(len(probs), -1).astype(np.float64).T.tolist()
    for p in voxels:
        mask = p[0] / tau < max(p[1:])
        inside += mask
        total += -sum(x * mask * math.log(x * mask) for x in p if x * mask > 0)
    return {"sum": total, "mean": total / len(voxels), "foreground_mean": total / inside if inside else 0.0}[reduction]


def literal_rank01(scores: list[float]) -> list[Fraction]:
    ranks = []
    for x in scores:
        places = [place for place, y in enumerate(sorted(scores)) if y == x]
        rank = 0 if x == min(scores) else len(scores) - 1 if x == max(scores) else Fraction(sum(places), len(places))
        ranks.append(Fraction(rank, max(1, len(scores) - 1)))
    return ranks


def literal_k(confidence: np.ndarray, n_select: int, tau_c: float, scale: str) -> int:
    values = [Fraction(float(c)) for c in confidence]
    if max(values) == 0:
        return len(values)
    mean = sum(values) / len(values) / (max(values) if scale == "max" else 1)
    k = math.ceil(n_select * Fraction(tau_c) / mean - Fraction(1, 10**9))
    return min(max(k, min(n_select, len(values))), len(values))


# Eqs. 1-5 ----------------------------------------------------------------------------------------------------------


@few
@given(e=st.integers(1, 4).flatmap(lambda d: embeddings(st.integers(1, 6), d)))
def test_unit_vectors_have_length_1_or_0(e: np.ndarray):
    found = arrays.unit_vectors(e)
    with localcontext(Context(prec=60)):
        for unit, row in zip(found, e, strict=True):
            squares = sum(Decimal(float(x)) ** 2 for x in row)
            assert unit == near([float(Decimal(float(x)) / squares.sqrt()) if squares else 0.0 for x in row], 1e-15)
    assert found.dtype == np.float64


@few
@given(data=st.data(), n=st.integers(1, 6), d=st.integers(1, 4), block=blocks)
def test_pakd_is_the_cosine_distance(data: st.DataObject, n: int, d: int, block: int):
    e_pre, e_cur = data.draw(embeddings(n, d)), data.draw(embeddings(n, d))
    with patch.object(arrays, "BLOCK", block):
        found = metrics.pakd(e_pre, e_cur)
    assert found == near([literal_distance(a, b) for a, b in zip(e_pre, e_cur, strict=True)], 1e-14)
    assert found.min() >= 0
    assert found.max() <= 2
    np.testing.assert_array_equal(metrics.pakd(e_cur, e_pre), found)


@few
@given(rng=rngs, spread=st.sampled_from([1e-2, 1e-5, 1e-8]))
def test_a_small_pakd_has_no_cancellation(rng: np.random.Generator, spread: float):
    e_pre = rng.normal(size=(4, 5))
    e_cur = e_pre * (1 + spread * rng.normal(size=(4, 5)))
    for found, a, b in zip(metrics.pakd(e_pre, e_cur), e_pre, e_cur, strict=True):
        expected = literal_distance(a, b)
        assert found == pytest.approx(expected, rel=1e-15, abs=4e-15 * math.sqrt(expected) + 1e-30)


@few
@given(rng=rngs, n=st.integers(10, 20), d=st.integers(1, 40))
def test_opposite_embeddings_are_not_further_apart_than_2(rng: np.random.Generator, n: int, d: int):
    e = rng.normal(size=(n, d))
    opposite = -3 * e
    pair = np.stack([e, opposite])
    for weights in metrics.PD_WEIGHTS:
        pd = [metrics.pairwise_dissimilarity(pair[:, i], np.zeros(2), pd_weights=weights)[1] for i in range(n)]
        after = [
            metrics.pairwise_dissimilarity(e[[i]], np.zeros(1), pd_weights=weights, e_labelled=opposite[[i]])[0]
            for i in range(n)
        ]
        assert pd == after == near(np.full(n, 2.0), 1e-14)
        assert max(pd) <= 2
    distance = [metrics.semantic_distance(opposite[[i]], e[[i]])[0] for i in range(n)]
    for found in (metrics.pakd(e, opposite), np.array(distance)):
        assert found == near(np.full(n, 2.0), 1e-14)
        assert found.max() <= 2


@few
@given(e=embeddings(st.integers(1, 6), 3))
def test_pakd_warns_only_if_no_case_has_moved(e: np.ndarray):
    e[:, 0] = 1  # no zero vector: its distance is 1
    with pytest.warns(UserWarning, match="PAKD is 0 for every case"):
        found = metrics.pakd(e, e.copy())
    assert not found.any()
    moved = e.copy()
    moved[-1] *= -1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metrics.pakd(e, moved)[-1] == near(2, 1e-14)
        assert metrics.pakd(np.eye(2), np.array([[1, 1e-5], [0, 1]])) == pytest.approx([5e-11, 0], rel=1e-6)


@few
@given(data=st.data(), n=st.integers(1, 9), d=st.integers(1, 4), rng=rngs, block=blocks)
@pytest.mark.parametrize("pd_weights", metrics.PD_WEIGHTS)
def test_pd_is_the_double_loop(
    pd_weights: str, data: st.DataObject, n: int, d: int, rng: np.random.Generator, block: int
):
    e, pakd, ids = data.draw(embeddings(n, d)), few_values(rng, n), shuffled_ids(rng, n)
    with patch.object(arrays, "BLOCK", block):
        found = metrics.pairwise_dissimilarity(e, pakd, ids, pd_weights=pd_weights)
    assert found == near(literal_pd(e, pakd, ids, pd_weights), 2e-13)
    assert found.min() >= 0
    assert found.max() <= 2


@few
@given(data=st.data(), n=st.integers(1, 7), d=st.integers(1, 4), n_labelled=st.integers(1, 4), rng=rngs, block=blocks)
@pytest.mark.parametrize("pd_weights", metrics.PD_WEIGHTS)
def test_pd_after_labelled_cases_is_the_double_loop(
    pd_weights: str, data: st.DataObject, n: int, d: int, n_labelled: int, rng: np.random.Generator, block: int
):
    e, labelled = data.draw(embeddings(n, d)), data.draw(embeddings(n_labelled, d))
    pakd, ids, before = few_values(rng, n), shuffled_ids(rng, n), labelled.copy()
    reordered = rng.permutation(labelled)
    reordered.flags.writeable = False
    with patch.object(arrays, "BLOCK", block):
        found, again = (
            metrics.pairwise_dissimilarity(e, pakd, ids, pd_weights=pd_weights, e_labelled=rows)
            for rows in (labelled, reordered)
        )
    assert found == near(literal_pd_after(labelled, e, pakd, ids, pd_weights), 2e-13)
    assert found.min() >= 0
    assert found.max() <= 2
    np.testing.assert_array_equal(again, found)
    np.testing.assert_array_equal(labelled, before)


@few
@given(rng=rngs, n=st.integers(1, 9), d=st.integers(1, 9), n_labelled=st.integers(2, 30))
def test_order_of_labelled_cases_plays_no_role(rng: np.random.Generator, n: int, d: int, n_labelled: int):
    e_pre, e_cur, labelled = rng.normal(size=(n, d)), rng.normal(size=(n, d)), cases_twice(rng, n_labelled, d)
    for weights in metrics.PD_WEIGHTS:
        expected = metrics.dkd(e_pre, e_cur, pd_weights=weights, e_labelled=labelled)
        found = metrics.dkd(e_pre, e_cur, pd_weights=weights, e_labelled=rng.permutation(labelled))
        np.testing.assert_array_equal(found, expected)


@few
@given(rng=rngs, n=st.integers(1, 9), d=st.integers(1, 4))
def test_no_labelled_case_is_the_paper(rng: np.random.Generator, n: int, d: int):
    e_pre, e_cur, none = rng.normal(size=(n, d)), rng.normal(size=(n, d)), np.empty((0, d))
    for weights in metrics.PD_WEIGHTS:
        expected = metrics.dkd(e_pre, e_cur, pd_weights=weights)
        np.testing.assert_array_equal(metrics.dkd(e_pre, e_cur, pd_weights=weights, e_labelled=none), expected)


@few
@given(
    rng=rngs,
    n=st.integers(1, 9),
    d=st.integers(1, 4),
    n_labelled=st.integers(0, 3),
    spread=st.sampled_from([1.0, 1e-3, 1e-6]),
)
def test_dkd_is_pakd_times_pd(rng: np.random.Generator, n: int, d: int, n_labelled: int, spread: float):
    rows = rng.integers(n, size=n)  # some cases twice: equal PAKD, the id decides
    e_pre, e_cur = (1 + spread * rng.normal(size=(2, n, d)))[:, rows]
    labelled, ids = 1 + spread * rng.normal(size=(n_labelled, d)), shuffled_ids(rng, n)
    divergence = [literal_distance(a, b) for a, b in zip(e_pre, e_cur, strict=True)]
    for weights in metrics.PD_WEIGHTS:
        found = metrics.dkd(e_pre, e_cur, ids, pd_weights=weights, e_labelled=labelled)
        if n_labelled:
            pd = literal_pd_after(labelled, e_cur, metrics.pakd(e_pre, e_cur), ids, weights)
        else:
            pd = literal_pd(e_cur, metrics.pakd(e_pre, e_cur), ids, weights)
        largest = max(divergence)
        tolerance = 2e-13 * largest + 1e-14 * math.sqrt(largest) + 1e-28
        assert found == pytest.approx(divergence * pd, rel=1e-12, abs=tolerance)
        assert found.min() >= 0
        assert found.max() <= 4


# Eqs. 6-11 and 17-22 -----------------------------------------------------------------------------------------------


@few
@given(n_rounds=st.integers(1, 40))
def test_temperature_falls_from_3_to_half_of_it(n_rounds: int):
    found = [metrics.temperature(r, np.int64(n_rounds)) for r in range(1, n_rounds + 1)]
    assert found[0] == 3.0
    assert found == near([3.0] + [3 - 1.5 * math.log(r) / math.log(n_rounds) for r in range(2, n_rounds + 1)], 1e-14)
    assert n_rounds == 1 or found[-1] == near(1.5, 1e-14)
    assert sorted(set(found), reverse=True) == found


@few
@given(probs=softmaxes(), tau=temperatures, block=blocks)
def test_sums_are_those_of_the_voxel_loop(probs: np.ndarray, tau: float, block: int):
    with patch.object(arrays, "BLOCK", block):
        found = metrics.voxel_sums(probs, tau)
    assert numbers_of(found) == near(numbers_of(literal_sums(probs, tau)), 1e-12)


@few
@given(probs=softmaxes(), n_rounds=st.integers(1, 5), tau=temperatures)
@pytest.mark.parametrize("reduction", metrics.ASD_REDUCTIONS)
def test_asd_is_the_masked_entropy(reduction: str, probs: np.ndarray, n_rounds: int, tau: float):
    sums = metrics.voxel_sums(probs, tau)
    assert metrics.asd_from_sums(sums, reduction) == near(literal_asd(probs, tau, reduction), 1e-12)
    assert metrics.asd_from_sums(sums, reduction, tau1=True) == near(literal_asd(probs, 1.0, reduction), 1e-12)
    for r in range(1, n_rounds + 1):
        assert metrics.asd(probs, r, n_rounds, reduction) == near(
            literal_asd(probs, metrics.temperature(r, n_rounds), reduction), 1e-12
        )
    assert metrics.asd(probs, 1, 1) == metrics.asd_from_sums(metrics.voxel_sums(probs, 3.0), "foreground_mean")


@few
@given(probs=softmaxes())
@pytest.mark.parametrize("reduction", metrics.CONFIDENCE_REDUCTIONS)
def test_confidence_is_the_margin_in_predicted_foreground(reduction: str, probs: np.ndarray):
    expected = literal_sums(probs, 1.0)
    total = expected.foreground_margin_sum
    if reduction == "foreground_mean":
        total /= max(1, expected.foreground_voxels)
    assert metrics.confidence(probs, reduction) == near(total, 1e-12)
    assert metrics.confidence(probs) == metrics.confidence(probs, "sum")
    sums = metrics.voxel_sums(probs, 2.0)  # no temperature in the confidence
    assert metrics.confidence_from_sums(sums, reduction) == metrics.confidence(probs, reduction)


@few
@given(probs=softmaxes(), tau=temperatures)
def test_ranges_of_what_is_summed_over_voxels(probs: np.ndarray, tau: float):
    sums = metrics.voxel_sums(probs, tau)
    n_classes, slack = len(probs), 1 + 1e-2
    assert sum(sums.class_voxels) == sums.voxels == probs[0].size
    assert (
        sum(sums.class_voxels[1:]) == sums.foreground_voxels <= sums.mask_voxels_tau1 <= sums.mask_voxels <= sums.voxels
    )
    assert 0 <= sums.masked_entropy_sum_tau1 <= sums.masked_entropy_sum + 1e-9
    assert sums.masked_entropy_sum <= sums.entropy_sum + 1e-9 <= sums.voxels * math.log(n_classes) * slack + 2e-9
    assert sums.voxels / n_classes <= sums.top1_sum * slack <= sums.voxels * slack**2
    assert 0 <= sums.foreground_margin_sum <= sums.margin_sum + 1e-9 <= sums.top1_sum + 2e-9
    assert (
        metrics.asd_from_sums(sums, "mean") <= metrics.asd_from_sums(sums) + 1e-9 <= math.log(n_classes) * slack + 2e-9
    )
    assert 0 <= metrics.confidence_from_sums(sums, "foreground_mean") <= 1
    enpy = metrics.asd_from_sums(
        metrics.voxel_sums(probs, 1e300), "mean"
    )  # a mask of 1, but where nothing is uncertain
    assert enpy == near(sums.entropy_sum / sums.voxels)


@few
@given(probs=softmaxes(), tau=temperatures, rng=rngs)
def test_order_of_voxels_and_foreground_classes(probs: np.ndarray, tau: float, rng: np.random.Generator):
    flat, expected = probs.reshape(len(probs), -1), numbers_of(metrics.voxel_sums(probs, tau))
    shuffled = flat[:, rng.permutation(flat.shape[1])]
    assert numbers_of(metrics.voxel_sums(shuffled, tau)) == near(expected, 1e-12)
    renamed = numbers_of(metrics.voxel_sums(flat[[0, *rng.permutation(range(1, len(flat)))]], tau))
    names = [
        name for name in expected if not name.startswith("class ")
    ]  # a tie of two foreground classes is the first one
    assert [renamed[name] for name in names] == near([expected[name] for name in names], 1e-12)


@few
@given(probs=softmaxes(), tau=temperatures)
def test_parts_of_a_case_add_up(probs: np.ndarray, tau: float):
    whole, flat = metrics.voxel_sums(probs, tau), probs.reshape(len(probs), -1)
    parts = [metrics.voxel_sums(flat[:, v : v + 2], tau) for v in range(0, flat.shape[1], 2)]
    for blocks in (parts, parts[::-1]):
        assert numbers_of(sum(blocks, VoxelSums.zero(len(probs)))) == near(numbers_of(whole), 1e-12)
    assert whole + VoxelSums.zero(len(probs)) == VoxelSums.zero(len(probs)) + whole == whole
    assert parts[0] + parts[-1] == parts[-1] + parts[0]


@few
@given(numbers=st.lists(st.integers(0, 99), min_size=2 * len(fields(VoxelSums)), max_size=2 * len(fields(VoxelSums))))
def test_every_field_adds_to_its_own(numbers: list[int]):
    names = [field.name for field in fields(VoxelSums)]
    mine, theirs = ({name: next(number) for name in names} for number in [iter(numbers)] * 2)
    records = [VoxelSums(**values | {"class_voxels": (values["class_voxels"], 1)}) for values in (mine, theirs)]
    expected = {name: mine[name] + theirs[name] for name in names}
    assert vars(records[0] + records[1]) == expected | {"class_voxels": (expected["class_voxels"], 2)}
    for record, values in zip(records, (mine, theirs), strict=True):  # and every reduction reads the fields of its own
        for mask in ("", "_tau1"):
            total, inside = values[f"masked_entropy_sum{mask}"], values[f"mask_voxels{mask}"]
            expected = {
                "sum": total,
                "mean": total / (values["voxels"] or math.inf),
                "foreground_mean": total / (inside or math.inf),
            }
            assert {name: metrics.asd_from_sums(record, name, tau1=bool(mask)) for name in expected} == near(expected)
        total, inside = values["foreground_margin_sum"], values["foreground_voxels"]
        expected = {"sum": total, "foreground_mean": total / (inside or math.inf)}
        assert {name: metrics.confidence_from_sums(record, name) for name in expected} == near(expected)


@few
@given(probs=softmaxes(), tau=temperatures)
@pytest.mark.parametrize(("asd", "confidence"), REDUCTIONS)
def test_an_empty_field_of_view_dilutes_only_the_mean(asd: str, confidence: str, probs: np.ndarray, tau: float):
    flat = probs.reshape(len(probs), -1)
    empty = np.zeros_like(flat)
    empty[0] = 1
    case, padded = metrics.voxel_sums(flat, tau), metrics.voxel_sums(np.hstack([flat, empty]), tau)
    diluted = 2 if asd == "mean" else 1
    assert diluted * metrics.asd_from_sums(padded, asd) == near(metrics.asd_from_sums(case, asd), 1e-12)
    assert metrics.confidence_from_sums(padded, confidence) == near(
        metrics.confidence_from_sums(case, confidence), 1e-12
    )


@few
@given(rng=rngs, n_classes=st.sampled_from([2, 26]), tau=temperatures)
def test_half_precision_is_precise_enough(rng: np.random.Generator, n_classes: int, tau: float):
    logits = rng.normal(0, 2, (n_classes, 50))
    probs = np.exp(logits) / np.exp(logits).sum(axis=0)
    exact = metrics.voxel_sums(probs, tau)
    for dtype, tolerance in ((np.float16, 3e-3), (np.float32, 1e-6)):
        found = metrics.voxel_sums(probs.astype(dtype), tau)
        for name in ("entropy_sum", "top1_sum", "margin_sum"):
            assert getattr(found, name) == pytest.approx(getattr(exact, name), rel=tolerance)


# Eqs. 12-16 --------------------------------------------------------------------------------------------------------

scores = hnp.arrays(
    np.float64, st.integers(1, 12), elements=st.sampled_from([0.0, -0.0, 5e-324, 1e-9, 0.1, 0.2, 0.3, 1.0, 4.0, 1e300])
)


@few
@given(scores=scores)
def test_minmax_is_the_quotient(scores: np.ndarray):
    low, high = Fraction(min(scores)), Fraction(max(scores))
    expected = [float((Fraction(x) - low) / (high - low)) if high > low else 0.0 for x in scores]
    assert metrics.minmax(scores) == near(expected, 1e-15)
    assert metrics.minmax(scores).min() == 0
    assert metrics.minmax(scores).max() == (high > low)


@few
@given(scores=scores, rng=rngs)
def test_rank01_is_the_mean_rank(scores: np.ndarray, rng: np.random.Generator):
    found, shuffle = metrics.rank01(scores), rng.permutation(len(scores))
    assert found == near([float(rank) for rank in literal_rank01(scores.tolist())], 1e-15)
    np.testing.assert_array_equal(metrics.rank01(scores[shuffle]), found[shuffle])
    np.testing.assert_array_equal(metrics.rank01(2 * scores), found)  # any increasing map
    np.testing.assert_array_equal(metrics.rank01(found), found)
    assert metrics.rank01(-scores) == near(1 - found if np.ptp(scores) else found, 1e-15)
    assert found.min() == 0
    assert found.max() == (np.ptp(scores) > 0)


@few
@given(rng=rngs, n=st.integers(1, 14), n_query=st.integers(1, 16))
def test_the_query_is_the_sorted_sum_of_ranks(rng: np.random.Generator, n: int, n_query: int):
    dkd, asd, ids = few_values(rng, n), few_values(rng, n), shuffled_ids(rng, n)
    q = [a + b for a, b in zip(literal_rank01(dkd.tolist()), literal_rank01(asd.tolist()), strict=True)]
    assert metrics.query_score(dkd, asd).tolist() == [round(float(value), 9) for value in q]
    by_id = sorted(range(n), key=lambda i: (-q[i], -dkd[i], ids[i]))
    by_row = sorted(range(n), key=lambda i: (-q[i], -dkd[i], i))
    assert metrics.select_query(dkd, asd, n_query, ids).tolist() == by_id[:n_query]
    assert metrics.select_query(dkd, asd, n_query).tolist() == by_row[:n_query]


@few
@given(rng=rngs, n=st.integers(1, 30))
def test_query_score_sees_only_the_order_of_scores(rng: np.random.Generator, n: int):
    dkd, asd = few_values(rng, n), few_values(rng, n)
    q = metrics.query_score(dkd, asd)
    assert q.min() >= 0
    assert q.max() <= 2
    np.testing.assert_array_equal(q, metrics.query_score(np.exp(dkd), asd**3))
    np.testing.assert_array_equal(q, metrics.query_score(asd, dkd))


# Eqs. 23-26 --------------------------------------------------------------------------------------------------------


def confidences(rng: np.random.Generator, n: int) -> np.ndarray:
    """Tenths (K may be an integer), sums over voxels, fractions of one voxel, all equal, and one case above 0."""
    kind = rng.integers(5)
    tenths = rng.integers(0, 10, n) / 10
    return [tenths, rng.random(n) * 1e6, tenths * 1e-310, np.full(n, tenths[0]), np.eye(n)[0] * tenths[0]][kind]


@few
@given(
    rng=rngs,
    n=st.integers(1, 40),
    n_select=st.integers(1, 12),
    tau_c=st.sampled_from([1e-9, 0.1, 0.9, 1.0, 2.0, 50.0, 1e300]),
)
@pytest.mark.parametrize("scale", metrics.SCALES)
def test_k_is_the_clipped_ceiling(scale: str, rng: np.random.Generator, n: int, n_select: int, tau_c: float):
    confidence = confidences(rng, n)
    k = metrics.n_candidates(confidence, n_select, tau_c, scale)
    assert k == literal_k(confidence, n_select, tau_c, scale)
    assert min(n, n_select) <= k <= n
    assert metrics.n_candidates(rng.permutation(confidence), n_select, tau_c, scale) == k
    if scale == "max":
        assert metrics.n_candidates(confidence * 1024, n_select, tau_c, scale) == k
    assert metrics.n_candidates(confidence, n_select) == literal_k(confidence, n_select, 2.0, "max")


@few
@given(n=st.integers(1, 40), n_select=st.integers(1, 5), tenths=st.integers(1, 99), k=st.integers(1, 40))
def test_k_is_exact_where_the_quotient_is_an_integer(n: int, n_select: int, tenths: int, k: int):
    equal = np.full(n, tenths / 10)
    expected = min(n, max(n_select, n_select * k))
    assert metrics.n_candidates(equal, n_select, tenths * k / 10, "none") == expected
    assert metrics.n_candidates(equal, n_select, k, "max") == expected


@few
@given(data=st.data(), n=st.integers(1, 6), d=st.integers(1, 4), n_anchors=st.integers(1, 4), rng=rngs, block=blocks)
def test_distance_to_the_nearest_anchor(
    data: st.DataObject, n: int, d: int, n_anchors: int, rng: np.random.Generator, block: int
):
    e, anchors, confidence = data.draw(embeddings(n, d)), data.draw(embeddings(n_anchors, d)), confidences(rng, n)
    with patch.object(arrays, "BLOCK", block):
        found, reliability = metrics.semantic_distance(e, anchors), metrics.reliability(confidence, e, anchors)
    expected = np.array([min(literal_distance(case, anchor) for anchor in anchors) for case in e])
    assert found == near(expected, 1e-14)
    assert found.min() >= 0
    assert found.max() <= 2
    tolerance = 1e-14 * confidence.max() + np.finfo(np.float64).tiny  # subnormal numbers have fewer digits
    np.testing.assert_allclose(reliability, confidence * (1 - expected), rtol=0, atol=tolerance)
    assert metrics.semantic_distance(e, rng.permutation(anchors)) == near(found, 1e-14)
    itself = metrics.semantic_distance(e, e)
    np.testing.assert_allclose(itself, np.where(e.any(axis=1), 0.0, 1.0), rtol=0, atol=1e-15)


@few
@given(
    rng=rngs,
    n=st.integers(1, 14),
    n_anchors=st.integers(1, 4),
    n_select=st.integers(1, 6),
    tau_c=st.sampled_from([0.5, 2.0]),
)
@pytest.mark.parametrize("scale", metrics.SCALES)
def test_the_selection_is_the_literal_loop(
    scale: str, rng: np.random.Generator, n: int, n_anchors: int, n_select: int, tau_c: float
):
    confidence, ids = rng.choice(confidences(rng, n), n), shuffled_ids(rng, n)
    e, anchors = cases_twice(rng, n, 3), rng.normal(size=(n_anchors, 3))
    e[rng.random(n) < 0.3] = 0  # D = 1 and R = 0 whatever the confidence
    distance = [min(exact_distance(case, anchor) for anchor in anchors) for case in e]
    reliability = [Decimal(c) * (1 - d) for c, d in zip(confidence, distance, strict=True)]
    k = literal_k(confidence, n_select, tau_c, scale)
    candidates = sorted(range(n), key=lambda i: (-confidence[i], ids[i]))[:k]
    expected = sorted(candidates, key=lambda i: (-reliability[i], ids[i]))[:n_select]
    found = metrics.rank_reliable(confidence, e, anchors, n_select, tau_c, scale, ids)
    assert found.candidates.tolist() == candidates
    assert found.indices.tolist() == expected
    inside = [i in candidates for i in range(n)]
    assert found.distance == near(np.where(inside, np.array(distance, dtype=float), np.nan), 1e-14)
    np.testing.assert_allclose(
        found.reliability, np.where(inside, np.array(reliability, dtype=float), np.nan), rtol=1e-12
    )
    assert metrics.select_reliable(confidence, e, anchors, n_select, tau_c, scale, ids).tolist() == expected


# Arrays, order and scale -------------------------------------------------------------------------------------------

CALLS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "unit_vectors": (arrays.unit_vectors, ("e_pre",)),
    "pakd": (metrics.pakd, ("e_pre", "e_cur")),
    "pairwise_dissimilarity": (metrics.pairwise_dissimilarity, ("e_cur", "dkd")),
    "pairwise_dissimilarity reversed": (
        lambda *a: metrics.pairwise_dissimilarity(*a, pd_weights="reversed"),
        ("e_cur", "dkd"),
    ),
    "pairwise_dissimilarity labelled": (
        lambda e, s, a: metrics.pairwise_dissimilarity(e, s, e_labelled=a),
        ("e_cur", "dkd", "anchors"),
    ),
    "dkd": (metrics.dkd, ("e_pre", "e_cur")),
    "dkd labelled": (lambda *a: metrics.dkd(*a[:2], e_labelled=a[2]), ("e_pre", "e_cur", "anchors")),
    "voxel_sums": (lambda p: metrics.voxel_sums(p, 2.0), ("probs",)),
    "asd": (lambda p: metrics.asd(p, 2, 3), ("probs",)),
    "confidence": (metrics.confidence, ("probs",)),
    "minmax": (metrics.minmax, ("dkd",)),
    "rank01": (metrics.rank01, ("dkd",)),
    "query_score": (metrics.query_score, ("dkd", "asd")),
    "select_query": (lambda *a: metrics.select_query(*a, 3), ("dkd", "asd")),
    "n_candidates": (lambda c: metrics.n_candidates(c, 2), ("confidence",)),
    "semantic_distance": (metrics.semantic_distance, ("e_cur", "anchors")),
    "reliability": (metrics.reliability, ("confidence", "e_cur", "anchors")),
    "rank_reliable": (lambda *a: metrics.rank_reliable(*a, 2), ("confidence", "e_cur", "anchors")),
    "select_reliable": (lambda *a: metrics.select_reliable(*a, 2), ("confidence", "e_cur", "anchors")),
    "summed_distance": (metrics.summed_distance, ("e_pre",)),
    "medoid": (metrics.medoid, ("e_pre",)),
}


def inputs_in_half_precision(rng: np.random.Generator, n: int, n_classes: int) -> dict[str, np.ndarray]:
    """float64 arrays whose values float16 holds exactly, though not their squares; no ties but in the softmax."""
    shapes = {"e_pre": (n, 40), "e_cur": (n, 40), "anchors": (3, 40)}
    rows = {
        name: rng.integers(-1024, 1025, shape) * 2.0 ** rng.integers(-14, 5, (shape[0], 1))
        for name, shape in shapes.items()
    }
    values = {name: rng.choice(2048, n, replace=False) / 1024 for name in ("dkd", "asd", "confidence")}
    probs = rng.multinomial(64, np.full(n_classes, 1 / n_classes), (2, 3, 4)) / 64
    return rows | values | {"probs": np.ascontiguousarray(np.moveaxis(probs, -1, 0))}


def layouts(array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    yield "contiguous", array.copy()
    yield "Fortran", np.asfortranarray(array.copy())
    yield "negative strides", np.flip(np.flip(array).copy())
    yield "every other of the last axis", np.repeat(array, 2, axis=-1)[..., ::2]
    yield "every other of the first axis", np.repeat(array, 2, axis=0)[1::2]
    yield "middle of a larger array", np.pad(array, 1, constant_values=np.nan)[(slice(1, -1),) * array.ndim]
    read_only = array.copy()
    read_only.flags.writeable = False
    yield "read-only", read_only


def values_of(result: Any) -> np.ndarray:
    parts = vars(result).values() if hasattr(result, "__dict__") else [result]
    return np.concatenate([np.ravel(part) for part in parts])


@settings(max_examples=5, deadline=None)
@given(rng=rngs, n=st.integers(4, 7), n_classes=st.sampled_from([2, 26]))
@pytest.mark.parametrize("name", CALLS)
def test_any_float_in_any_layout_gives_the_same_and_is_not_modified(
    name: str, rng: np.random.Generator, n: int, n_classes: int
):
    function, arguments = CALLS[name]
    inputs = inputs_in_half_precision(rng, n, n_classes)
    plain = [inputs[argument] for argument in arguments]
    expected = values_of(function(*plain))
    for dtype in FLOATS:
        for of_arguments in zip(*(layouts(array.astype(dtype)) for array in plain), strict=True):
            views = [view for _, view in of_arguments]
            message = f"{dtype.__name__}, {of_arguments[0][0]}"
            np.testing.assert_allclose(values_of(function(*views)), expected, rtol=1e-12, atol=1e-12, err_msg=message)
            for view, array in zip(views, plain, strict=True):
                np.testing.assert_array_equal(view, array, err_msg=message)


@few
@given(rng=rngs, n=st.integers(2, 14), n_labelled=st.integers(0, 3))
def test_a_shuffled_pool_gives_the_same_cases(rng: np.random.Generator, n: int, n_labelled: int):
    ids, shuffle = np.array(shuffled_ids(rng, n)), rng.permutation(n)
    e_pre, e_cur = np.hsplit(cases_twice(rng, n, 6), 2)
    anchors, labelled = rng.normal(size=(2, 3)), rng.normal(size=(n_labelled, 3))
    values, asd, confidence = (few_values(rng, n) for _ in range(3))

    def of(rows: np.ndarray) -> tuple[list[np.ndarray], list[list[str]]]:
        there, pre, cur, c = ids[rows], e_pre[rows], e_cur[rows], confidence[rows]
        dkd = [metrics.dkd(pre, cur, there, pd_weights=weights, e_labelled=labelled) for weights in metrics.PD_WEIGHTS]
        dkd.append(metrics.pairwise_dissimilarity(cur, values[rows], there))
        chosen = [metrics.select_query(scores, asd[rows], 3, there) for scores in (dkd[0], values[rows])]
        chosen += [metrics.select_reliable(c, cur, anchors, 3, ids=there), np.array([metrics.medoid(pre, there)])]
        per_case = [
            metrics.summed_distance(pre),
            metrics.reliability(c, cur, anchors),
            metrics.query_score(dkd[1], asd[rows]),
        ]
        return dkd + per_case, [there[indices].tolist() for indices in chosen]

    (values_here, chosen_here), (values_there, chosen_there) = of(np.arange(n)), of(shuffle)
    assert chosen_there == chosen_here
    for here, there in zip(values_here, values_there, strict=True):
        np.testing.assert_allclose(there, here[shuffle], rtol=1e-12, atol=2e-9)


@few
@given(rng=rngs, n=st.integers(1, 8))
def test_length_of_embeddings_plays_no_role(rng: np.random.Generator, n: int):
    e_pre, e_cur, anchors = rng.normal(size=(n, 4)), rng.normal(size=(n, 4)), rng.normal(size=(3, 4))

    def scaled(e: np.ndarray) -> np.ndarray:
        return e * rng.choice([1e-305, 1e-20, 1.0, 7.0, 1e20, 1e305], (len(e), 1))

    confidence = rng.random(n)
    for labelled in (None, anchors):
        longer = None if labelled is None else scaled(labelled)
        found = metrics.dkd(scaled(e_pre), scaled(e_cur), e_labelled=longer)
        assert found == near(metrics.dkd(e_pre, e_cur, e_labelled=labelled), 1e-13)
    assert metrics.summed_distance(scaled(e_pre)) == near(metrics.summed_distance(e_pre), 2e-9)
    assert metrics.reliability(confidence, scaled(e_cur), scaled(anchors)) == near(
        metrics.reliability(confidence, e_cur, anchors), 1e-13
    )
    found = metrics.select_reliable(confidence, scaled(e_cur), scaled(anchors), 2)
    np.testing.assert_array_equal(found, metrics.select_reliable(confidence, e_cur, anchors, 2))


@few
@given(rng=rngs, n=st.integers(2, 60), d=st.integers(1, 40), dtype=st.sampled_from(list(FLOATS)))
def test_the_id_decides_among_identical_cases(rng: np.random.Generator, n: int, d: int, dtype: type):
    ids, e = shuffled_ids(rng, n), np.tile(rng.normal(size=d), (n, 1)).astype(dtype)
    by_id = sorted(range(n), key=ids.__getitem__)
    e_pre = np.tile(rng.normal(size=d), (n, 1)).astype(dtype)
    for weights in metrics.PD_WEIGHTS:
        pd = metrics.pairwise_dissimilarity(e, metrics.pakd(e_pre, e), ids, pd_weights=weights)
        assert pd[by_id].tolist() == [1.0] + [0.0] * (n - 1)  # exactly, no rounding noise that could order them
        assert not metrics.pairwise_dissimilarity(
            e, metrics.pakd(e_pre, e), ids, pd_weights=weights, e_labelled=e[:2]
        ).any()
    assert metrics.select_query(metrics.dkd(e_pre, e, ids), np.ones(n), n, ids).tolist() == by_id
    assert metrics.select_query(metrics.dkd(e, e.copy(), ids), np.ones(n), n, ids).tolist() == by_id
    assert metrics.select_reliable(np.full(n, 0.3), e, rng.normal(size=(3, d)), n, ids=ids).tolist() == by_id
    assert metrics.medoid(e, ids) == by_id[0]


# The first case -----------------------------------------------------------------------------------------------------


@few
@given(e=st.integers(1, 3).flatmap(lambda d: embeddings(st.integers(1, 7), d)), rng=rngs, block=blocks)
def test_the_medoid_has_the_smallest_summed_distance(e: np.ndarray, rng: np.random.Generator, block: int):
    ids = shuffled_ids(rng, len(e))
    with patch.object(arrays, "BLOCK", block):
        found, first = metrics.summed_distance(e), metrics.medoid(e, ids)
    expected = [sum(literal_distance(e[i], e[j]) for j in range(len(e)) if j != i) for i in range(len(e))]
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.6e-9)
    np.testing.assert_array_equal(found, np.round(found, 9))
    assert first == min(range(len(e)), key=lambda i: (found[i], ids[i]))
    assert -1e-9 <= found.min() <= found.max() <= 2 * (len(e) - 1)

"""Statistics from logits, held against numbers worked by hand, loops over voxels, numpy, scipy and autograd."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import find_peaks
from torch.nn import functional as F  # noqa: N812

from nnunet_assft.active import metrics
from nnunet_assft.active.scoring import voxel_statistics
from nnunet_assft.active.scoring.voxel_statistics import (
    ENTROPY_BINS,
    EntropyHistogram,
    SoftmaxMoments,
    class_entropies,
    head_gradient,
    margin_of_logits,
    voxel_sums_of_logits,
)
from tests.worked_examples import worked_example

CPU = torch.device("cpu")

few = settings(max_examples=50, deadline=None)
rngs = st.integers(0, 2**32 - 1).map(np.random.default_rng)
class_counts = st.sampled_from([2, 3, 26])
every_kind = pytest.mark.parametrize(
    ("n_classes", "dtype"), [(c, d) for c in (2, 3, 26) for d in (torch.float16, torch.float32)]
)


def random_logits(
    n_classes: int, dtype: torch.dtype, shape: tuple[int, int, int] = (5, 6, 7), seed: int | None = None
) -> torch.Tensor:
    """In steps of one half, so that many voxels are tied."""
    generator = torch.Generator().manual_seed(n_classes if seed is None else seed)
    return (2 * torch.randn(n_classes, *shape, generator=generator)).round().div(2).to(dtype)


def logits_of(softmax: list[list[float]]) -> torch.Tensor:
    """(C, 1, 1, V) with this softmax."""
    return torch.tensor(softmax, dtype=torch.float64).log()[:, None, None]


def softmax_of(logits: torch.Tensor) -> np.ndarray:
    """(C, z, y, x) float64."""
    z = logits.double().numpy()
    e = np.exp(z - z.max(axis=0))
    return e / e.sum(axis=0)


def voxels_of(logits: torch.Tensor) -> list[list[float]]:
    """The C probabilities of each voxel."""
    return softmax_of(logits).reshape(len(logits), -1).T.tolist()


def entropy_of(p: list[float]) -> float:
    return -math.fsum(x * math.log(x) for x in p if x > 0)


def random_features(logits: torch.Tensor) -> torch.Tensor:
    return torch.randn(4, *logits.shape[1:], generator=torch.Generator().manual_seed(4))


# All of them -------------------------------------------------------------------------------------------------------


def moments_of(logits: torch.Tensor, device: torch.device | None = None) -> SoftmaxMoments:
    moments = SoftmaxMoments(spread=True)
    for other in (logits, -logits, logits.flip(0)):
        moments.add(other, device=device)
    return moments


NUMBERS: dict[str, Callable[[torch.Tensor], object]] = {
    "voxel_sums_of_logits": lambda z: [*dataclasses.astuple(voxel_sums_of_logits(z, 2.0))[:-1]],
    "class_entropies": class_entropies,
    "margin_of_logits": margin_of_logits,
    "head_gradient": lambda z: head_gradient(random_features(z), z),
    "SoftmaxMoments, mean": lambda z: moments_of(z).mean,
    "SoftmaxMoments, spread": lambda z: moments_of(z).mean_spread(),
    "SoftmaxMoments, entropies": lambda z: moments_of(z).entropies().mean_above_first_peak(),
}


@pytest.mark.parametrize("name", NUMBERS)
@every_kind
def test_blocks_and_memory_layout_change_nothing_and_logits_are_left_alone(name, n_classes, dtype, monkeypatch):
    logits = random_logits(n_classes, dtype)
    before = logits.clone()
    whole = np.asarray(NUMBERS[name](logits))
    assert torch.equal(logits, before)
    monkeypatch.setattr(voxel_statistics, "VOXELS_PER_BLOCK", 11)  # 210 voxels: 19 blocks and one voxel
    scattered = logits.movedim(0, -1).contiguous().movedim(-1, 0)
    assert not scattered.is_contiguous()
    np.testing.assert_allclose(np.asarray(NUMBERS[name](scattered)), whole, rtol=1e-5, atol=1e-6)
    assert torch.equal(scattered, before)


@pytest.mark.parametrize(
    "compute",
    [
        lambda z, device: voxel_sums_of_logits(z, 2.0, device=device),
        lambda z, device: class_entropies(z, device=device).tolist(),
        lambda z, device: moments_of(z, device).mean_spread(),
    ],
)
def test_the_computation_is_on_the_device_asked_for(compute):
    logits = random_logits(3, torch.float32)
    assert compute(logits, CPU) == compute(logits, None)
    # the device "meta" holds no values: a computation that takes place there cannot return one
    with pytest.raises(NotImplementedError, match=r"(?i)meta tensor"):
        compute(logits, torch.device("meta"))


# voxel_sums_of_logits ----------------------------------------------------------------------------------------------


def sums_of_softmax(logits: torch.Tensor, tau: float) -> metrics.VoxelSums:
    return metrics.voxel_sums(torch.softmax(logits.double(), dim=0).numpy(), tau)


def assert_equal_sums(found: metrics.VoxelSums, expected: metrics.VoxelSums) -> None:
    for name, value in dataclasses.asdict(expected).items():
        if isinstance(value, float):
            assert getattr(found, name) == pytest.approx(value, rel=1e-5, abs=1e-5), name
        else:
            assert getattr(found, name) == value, name


@pytest.mark.parametrize("tau", [1.0, 1.97609, 3.0])
@pytest.mark.parametrize("scale", [1, 40])  # 40: exp(logits) overflows, most probabilities are 0 in float32
@every_kind
def test_sums_of_logits_equal_sums_of_their_softmax(n_classes, dtype, scale, tau):
    logits = random_logits(n_classes, dtype) * scale
    assert_equal_sums(voxel_sums_of_logits(logits, tau), sums_of_softmax(logits, tau))


def test_a_tie_of_background_and_structure_is_background_worked_by_hand():
    logits = torch.zeros(3, 1, 1, 2)  # voxel 1: all three tied at 1/3
    logits[:, 0, 0, 1] = torch.tensor([1.0, 3.0, 2.0]).log()  # voxel 2: 1/6, 1/2, 1/3
    entropy_2 = np.log(6) / 6 + np.log(2) / 2 + np.log(3) / 3
    assert_equal_sums(
        voxel_sums_of_logits(logits, 1.0),
        metrics.VoxelSums(
            voxels=2,
            entropy_sum=np.log(3) + entropy_2,
            top1_sum=1 / 3 + 1 / 2,
            margin_sum=1 / 6,
            masked_entropy_sum=entropy_2,
            mask_voxels=1,
            masked_entropy_sum_tau1=entropy_2,
            mask_voxels_tau1=1,
            foreground_margin_sum=1 / 6,
            foreground_voxels=1,
            class_voxels=(1, 1, 0),
        ),
    )
    warmer = voxel_sums_of_logits(logits, 1.01)  # 1/3 / 1.01 < 1/3: the tied voxel is in the mask now
    assert (warmer.mask_voxels, warmer.mask_voxels_tau1, warmer.foreground_voxels) == (2, 1, 1)


def test_the_second_probability_may_be_that_of_background():
    logits = torch.tensor([0.3, 0.6, 0.1]).log().reshape(3, 1, 1, 1)
    assert voxel_sums_of_logits(logits, 1.0).foreground_margin_sum == pytest.approx(0.3)


def test_a_tie_of_two_structures_has_no_margin():
    sums = voxel_sums_of_logits(logits_of([[0.1], [0.2], [0.35], [0.35]]), 1.0)
    assert (sums.foreground_voxels, sums.foreground_margin_sum, sums.margin_sum) == (1, 0.0, 0.0)


# class_entropies ---------------------------------------------------------------------------------------------------


@every_kind
def test_class_entropies_equal_a_loop_over_voxels(n_classes, dtype):
    logits = random_logits(n_classes, dtype)
    voxels = voxels_of(logits)
    found = class_entropies(logits)
    assert found.dtype == np.float64
    assert found == pytest.approx(
        [math.fsum(entropy_of(p) * p[c] for p in voxels) / len(voxels) for c in range(n_classes)], rel=1e-5
    )
    sums = voxel_sums_of_logits(logits, 2.0)
    assert found.sum() == pytest.approx(sums.entropy_sum / sums.voxels, rel=1e-6)


def test_class_entropies_worked_by_hand():
    """Entropies of the two voxels: ln 2 and 0."""
    assert class_entropies(logits_of([[0.5, 0.0], [0.5, 1.0]]).clamp(min=-100)) == pytest.approx([math.log(2) / 4] * 2)


# margin_of_logits --------------------------------------------------------------------------------------------------


@every_kind
def test_margin_equals_a_loop_over_voxels(n_classes, dtype):
    logits = random_logits(n_classes, dtype)
    margin = margin_of_logits(logits)
    assert (margin.shape, margin.dtype) == (logits.shape[1:], torch.float32)
    expected = []
    for p in voxels_of(logits):
        *_, second, first = sorted(p)
        expected.append(first - second)
    assert margin.flatten().tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_margin_of_a_tie_is_0():
    margin = margin_of_logits(torch.tensor([[2.0, 1.0, 0.5], [2.0, 3.0, 0.5], [1.0, 3.0, 0.5]])[:, None, None])
    assert margin.tolist() == [[[0.0, 0.0, 0.0]]]


# head_gradient -----------------------------------------------------------------------------------------------------


def test_example_badge():
    given = worked_example("badge")
    softmax, h = given["inputs"]["softmax"], given["inputs"]["h"]
    found = head_gradient(torch.tensor(h).T[:, None, None], logits_of(softmax))
    np.testing.assert_allclose(found, given["expected"]["gradient"], rtol=1e-6)
    assert float((found**2).sum()) == pytest.approx(given["expected"]["squared_norm"], rel=1e-6)


def test_gradient_worked_by_hand():
    """Three voxels with argmax 0, 1, 0."""
    h = [[1.0, 0.0], [2.0, 1.0], [0.0, 2.0]]
    slope = [0.4 / 3, -0.3 / 3, 0.2 / 3]  # of class 1, voxel by voxel
    of_class_1 = [slope[0] + 2 * slope[1], slope[1] + 2 * slope[2]]
    found = head_gradient(torch.tensor(h).T[:, None, None], logits_of([[0.6, 0.3, 0.8], [0.4, 0.7, 0.2]]))
    np.testing.assert_allclose(found, [[-x for x in of_class_1], of_class_1], rtol=1e-5)


def head_and_features(
    rng: np.random.Generator, n_classes: int, absent: list[int]
) -> tuple[torch.nn.Conv3d, torch.Tensor]:
    """A last layer of 4 features whose logits are multiples of 1/2, which are exact; `absent` is no voxel's argmax."""
    head = torch.nn.Conv3d(4, n_classes, kernel_size=1, bias=True).double()
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(rng.integers(-1, 2, size=head.weight.shape) / 2))
        head.bias.copy_(torch.from_numpy(rng.integers(-1, 2, size=n_classes) / 2))
        head.bias[absent] = -6.0
    return head, torch.from_numpy(rng.integers(-1, 2, size=(4, 3, 4, 5)).astype(np.float64))


def autograd(head: torch.nn.Conv3d, features: torch.Tensor) -> np.ndarray:
    logits = head(features[None])
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, logits.argmax(dim=1)), head.weight)
    return gradient[:, :, 0, 0, 0].numpy()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@few
@given(rng=rngs, n_classes=class_counts, one_is_absent=st.booleans())
def test_gradient_is_that_of_autograd(dtype, rng, n_classes, one_is_absent):
    absent = [n_classes - 1] if one_is_absent else []
    head, features = head_and_features(rng, n_classes, absent)
    logits = head(features[None])[0].detach()
    assert not set(absent) & set(logits.argmax(dim=0).flatten().tolist())
    found = head_gradient(features.to(dtype), logits.to(dtype))
    assert (found.shape, found.dtype) == ((n_classes, 4), torch.float64)
    np.testing.assert_allclose(found, autograd(head, features), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.sum(dim=0), 0.0, atol=1e-6)


@pytest.mark.parametrize("n_classes", [2, 3, 26])
def test_gradient_of_nothing_but_background_is_that_of_autograd(n_classes):
    head, features = head_and_features(np.random.default_rng(0), n_classes, list(range(1, n_classes)))
    logits = head(features[None])[0].detach()
    assert logits.argmax(dim=0).max() == 0
    np.testing.assert_allclose(head_gradient(features, logits), autograd(head, features), rtol=1e-4, atol=1e-7)


def test_gradient_does_not_depend_on_autocast():
    """nnU-Net's windows run under autocast on a GPU, and so does the hook."""
    generator = torch.Generator().manual_seed(0)
    features, logits = (
        torch.rand(4, 64, 64, 64, generator=generator),
        3 * torch.randn(3, 64, 64, 64, generator=generator),
    )
    expected = head_gradient(features, logits)
    with torch.autocast("cpu", dtype=torch.float16):
        found = head_gradient(features, logits)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# SoftmaxMoments ----------------------------------------------------------------------------------------------------


@few
@given(rng=rngs, n_classes=class_counts, n=st.integers(1, 9), dtype=st.sampled_from([torch.float16, torch.float32]))
def test_moments_are_those_of_numpy(rng, n_classes, n, dtype):
    predictions = [torch.from_numpy(rng.normal(0, 2, (n_classes, 3, 4, 5))).to(dtype) for _ in range(n)]
    stacked = np.stack([softmax_of(z) for z in predictions])
    moments, mean_only = SoftmaxMoments(spread=True), SoftmaxMoments(spread=False)
    for z in predictions:
        moments.add(z)
        mean_only.add(z)
    np.testing.assert_allclose(moments.mean, stacked.mean(axis=0).reshape(n_classes, -1), rtol=1e-4, atol=1e-6)
    assert torch.equal(mean_only.mean, moments.mean)
    assert mean_only.squares is None
    assert moments.mean_spread() == pytest.approx(stacked.std(axis=0).mean(), rel=1e-4)


@pytest.mark.parametrize("n_classes", [2, 3, 26])
def test_equal_predictions_have_no_spread_at_all(n_classes):
    moments = SoftmaxMoments(spread=True)
    for _ in range(7):
        moments.add(torch.randn(n_classes, 5, 6, 7, generator=torch.Generator().manual_seed(0)))
    assert moments.mean_spread() == 0.0


def test_example_sann_committee():
    given = worked_example("sann")["committee"]
    moments = SoftmaxMoments(spread=True)
    for member in given["inputs"]["p"]:
        moments.add(logits_of([[1 - p for p in member], member]))
    deviation = (moments.squares / moments.n).sqrt()
    np.testing.assert_allclose(deviation, [given["expected"]["std_population"]] * 2, rtol=1e-5)
    assert moments.mean_spread() == pytest.approx(given["expected"]["uncertainty"], rel=1e-5)


def test_spread_worked_by_hand():
    """SD of 0.2 and 0.4 is 0.1, of 0.6 and 0.9 it is 0.15, in both classes."""
    moments = SoftmaxMoments(spread=True)
    moments.add(logits_of([[0.2, 0.6], [0.8, 0.4]]))
    moments.add(logits_of([[0.4, 0.9], [0.6, 0.1]]))
    assert moments.mean_spread() == pytest.approx((0.1 + 0.15) / 2, rel=1e-6)
    mean = moments.entropies()
    bits = [entropy_of([0.3, 0.7]) / math.log(2), entropy_of([0.75, 0.25]) / math.log(2)]
    assert (mean.highest, mean.lowest) == pytest.approx(tuple(bits), rel=1e-6)


# EntropyHistogram --------------------------------------------------------------------------------------------------


def histogram_of(bits: np.ndarray, n_classes: int) -> EntropyHistogram:
    histogram = EntropyHistogram(n_classes)
    for part in np.array_split(bits, 3):
        if len(part):
            histogram.add(torch.from_numpy(part * math.log(2)))
    return histogram


def repeated(counts_and_values: list[tuple[int, float]]) -> np.ndarray:
    return np.concatenate([np.full(count, value) for count, value in counts_and_values])


def literal_mean_above_first_peak(bits: np.ndarray, bins: int = 100) -> float:
    counts, edges = np.histogram(bits, bins)
    peaks, _ = find_peaks(counts)
    above = bits[bits > (edges[peaks[0]] if len(peaks) else bits.min())]
    return float(above.mean()) if len(above) else 0.0


@pytest.mark.parametrize("n_classes", [2, 26])
def test_example_ugtst(n_classes):
    given = worked_example("ugtst")
    inputs = given["inputs"]
    histogram = histogram_of(repeated(inputs["entropy_counts_and_values"]), n_classes)
    assert histogram.counts.sum() == sum(count for count, _ in inputs["entropy_counts_and_values"])
    assert histogram.sums.sum() / histogram.counts.sum() == pytest.approx(given["expected"]["plain_mean"])
    assert histogram.mean_above_first_peak(inputs["bins"]) == pytest.approx(given["expected"]["gaua"])
    for case in given["edge_cases"]:
        histogram = histogram_of(repeated(case["entropy_counts_and_values"]), n_classes)
        assert histogram.mean_above_first_peak(case["bins"]) == pytest.approx(case["gaua"]), case["note"]


@pytest.mark.parametrize(
    ("counts_and_values", "bins", "expected"),
    [
        ([(1, 0.0), (3, 0.3), (1, 0.6), (1, 1.0)], 4, (0.9 + 0.6 + 1.0) / 5),  # 1 3 1 1: above 0.25
        (
            [(1, 0.0), (3, 0.25), (2, 0.3), (1, 0.6), (1, 1.0)],
            4,
            (0.6 + 0.6 + 1.0) / 4,
        ),  # 1 5 1 1: 0.25 is not above 0.25
        (
            [(1, 0.0), (3, 0.3), (1, 0.6), (9, 0.8), (1, 1.0)],
            5,
            (0.9 + 0.6 + 7.2 + 1.0) / 14,
        ),  # 1 3 0 1 10: the first peak
        (
            [(1, 0.0), (3, 0.3), (3, 0.5), (3, 0.7), (1, 1.0)],
            5,
            (1.5 + 2.1 + 1.0) / 7,
        ),  # 1 3 3 3 1: middle of the plateau, 0.4
        ([(1, 0.0), (3, 0.3), (3, 0.6), (1, 1.0)], 4, (0.9 + 1.8 + 1.0) / 7),  # 1 3 3 1: its left half, 0.25
        ([(3, 0.0), (2, 0.5), (1, 1.0)], 3, (1.0 + 1.0) / 3),  # falls: all above the minimum
        ([(1, 0.0), (2, 0.5), (3, 1.0)], 3, (1.0 + 3.0) / 5),  # rises: the last bin is no peak either
        ([(2, 0.0), (2, 0.5), (2, 1.0)], 3, (1.0 + 2.0) / 4),  # flat
        ([(2, 0.0), (3, 0.125)], 100, 0.125),  # two values: no peak
        ([(1, 0.25), (1, 0.3), (2, 0.4), (1, 0.6), (1, 1.0)], 3, 2.7 / 5),  # 4 1 1 on [min, max]; it is 2 3 1 on [0, 1]
        ([(5, 0.3)], 100, 0.0),
        ([(5, 0.0)], 100, 0.0),
        ([(5, 1.0)], 100, 0.0),
    ],
)
@pytest.mark.parametrize("n_classes", [2, 3, 26])
def test_mean_above_first_peak_worked_by_hand(counts_and_values, bins, expected, n_classes):
    bits = repeated(counts_and_values)
    assert literal_mean_above_first_peak(bits, bins) == pytest.approx(expected)
    assert histogram_of(bits, n_classes).mean_above_first_peak(bins) == pytest.approx(expected)


@few
@given(
    rng=rngs,
    n_classes=class_counts,
    n=st.integers(0, 600),
    bins=st.sampled_from([3, 10, 100]),
    power=st.sampled_from([1, 2, 8]),
)
def test_mean_above_first_peak_is_exact_where_a_bin_holds_one_value(rng, n_classes, n, bins, power):
    """Values in the middle of their fine bins, a prime number of them: only the ends are on a coarse edge."""
    k = np.concatenate([[0], 1 + (60012 * rng.random(n) ** power).astype(int), [60013]])
    bits = (1000 + k + 0.5) * (math.log2(n_classes) / ENTROPY_BINS)
    found = histogram_of(bits, n_classes).mean_above_first_peak(bins)
    assert found == pytest.approx(literal_mean_above_first_peak(bits * math.log(2) / math.log(2), bins), rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_classes", [2, 3, 26])
def test_mean_above_first_peak_of_any_logits_within_a_bin(n_classes, seed):
    logits = 2 * torch.randn(n_classes, 10, 11, 12, generator=torch.Generator().manual_seed(seed))
    bits = np.array([entropy_of(p) / math.log(2) for p in voxels_of(logits)])
    moments = SoftmaxMoments(spread=False)
    moments.add(logits)
    histogram = moments.entropies()
    assert (histogram.lowest, histogram.highest) == pytest.approx((bits.min(), bits.max()), abs=1e-6)
    expected = literal_mean_above_first_peak(bits)
    width = math.log2(n_classes) / ENTROPY_BINS
    assert expected > bits.mean() + 10 * width  # there is a peak, and it matters
    assert histogram.mean_above_first_peak() == pytest.approx(expected, abs=width)


def test_entropies_a_rounding_beyond_their_range_are_moved_into_it():
    histogram = EntropyHistogram(3)
    histogram.add(torch.tensor([-1e-7, math.log(3) + 1e-6]))
    assert (histogram.lowest, histogram.highest) == (0.0, math.log2(3))
    assert (histogram.counts[0], histogram.counts[-1], histogram.counts.sum()) == (1, 1, 2)


@pytest.mark.parametrize(
    ("bits", "expected"),
    [([0.09] * 3 + [0.5] * 2 + [1.0], 2 / 3), ([0.0] * 900 + [1e-5] + [0.5] * 10 + [1.0], (1e-5 + 5 + 1) / 12)],
)
def test_without_a_peak_the_minimum_itself_is_not_above(bits, expected):
    histogram = EntropyHistogram(2)
    histogram.add(torch.tensor(bits, dtype=torch.float64) * np.log(2))
    assert histogram.mean_above_first_peak(3) == pytest.approx(expected)

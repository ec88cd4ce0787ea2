"""Statistics of a case from its logits, computed block by block in torch, so that a whole softmax is never in memory.

Logits are (C, z, y, x) in any float precision, on any device. Blocks are reduced in float32 and summed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from nnunet_assft.active.metrics import VoxelSums

VOXELS_PER_BLOCK = 2**16  # a block of C x 2^16 float32 about fits into the caches of the processor
ENTROPY_BINS = 2**16  # of EntropyHistogram: 6e-5 bits wide with 16 classes


def _blocks(logits: torch.Tensor, device: torch.device | None) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield slices of successive voxels and their logits, (C, n) in float32. device: by default that of the logits."""
    flat = logits.reshape(logits.shape[0], -1)
    device = device or logits.device
    step = VOXELS_PER_BLOCK if device.type == "cpu" else 16 * VOXELS_PER_BLOCK  # fewer and larger kernels
    for start in range(0, flat.shape[1], step):
        voxels = slice(start, min(start + step, flat.shape[1]))
        yield voxels, flat[:, voxels].to(device).float()


def _exponentials(z: torch.Tensor, top1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return e = exp(z - top1), its sum over the classes, and the entropy in nats. The softmax is e / sum.

    The entropy is computed from the same exponentials, so that there is only one per value.
    """
    difference = z - top1
    e = difference.exp()
    total = e.sum(dim=0)
    entropy = total.log() - difference.mul_(e).sum(dim=0) / total  # -inf * 0 cannot occur: logits are finite
    return e, total, entropy


@torch.inference_mode()
def voxel_sums_of_logits(logits: torch.Tensor, tau: float, *, device: torch.device | None = None) -> VoxelSums:
    """Return `metrics.voxel_sums` of the softmax of these logits, without storing the softmax.

    tau: temperature of the round (Eq. 7). device: where to compute, by default the device of the logits. A tie between
    background and a structure counts as background.
    """
    n_classes = logits.shape[0]
    rows: list[torch.Tensor] = []  # one row per block, kept on the device for a single transfer at the end
    counts: list[torch.Tensor] = []
    for _, z in _blocks(logits, device):
        top1, top2, label = z[0], torch.full_like(z[0], -torch.inf), torch.zeros_like(z[0], dtype=torch.int64)
        for c in range(1, n_classes):  # a running maximum: torch.max with indices is slow across the first axis
            label.masked_fill_(z[c] > top1, c)
            top2 = torch.maximum(top2, torch.minimum(top1, z[c]))
            top1 = torch.maximum(top1, z[c])
        e, total, entropy = _exponentials(z, top1)
        e_foreground = e[1:].amax(dim=0)  # Eq. 8
        mask = e[0] / tau < e_foreground  # Eqs. 6 and 9
        foreground = label > 0  # Eq. 19, which is also Eq. 9 at tau = 1
        margin = (1 - (top2 - top1).exp()) / total  # Eqs. 17-18; p_(1) is exp(0) / total
        columns = (entropy, 1 / total, margin, entropy * mask, entropy * foreground, margin * foreground)
        rows.append(torch.stack([column.sum(dtype=torch.float64) for column in columns]))
        counts.append(torch.cat([mask.sum()[None], torch.bincount(label, minlength=n_classes)]))
    entropy_sum, top1_sum, margin_sum, masked, masked_tau1, foreground_margin_sum = (
        torch.stack(rows).sum(dim=0).tolist()
    )
    mask_voxels, *class_voxels = torch.stack(counts).sum(dim=0).tolist()
    foreground_voxels = sum(class_voxels[1:])
    return VoxelSums(
        voxels=sum(class_voxels),
        entropy_sum=entropy_sum,
        top1_sum=top1_sum,
        margin_sum=margin_sum,
        masked_entropy_sum=masked,
        mask_voxels=mask_voxels,
        masked_entropy_sum_tau1=masked_tau1,
        mask_voxels_tau1=foreground_voxels,
        foreground_margin_sum=foreground_margin_sum,
        foreground_voxels=foreground_voxels,
        class_voxels=tuple(class_voxels),
    )


@torch.inference_mode()
def class_entropies(logits: torch.Tensor, *, device: torch.device | None = None) -> np.ndarray:
    """Return (C,) float64: for each class c the mean over voxels of H_v p_cv, in nats. The sum is the mean entropy."""
    total, n_voxels = np.zeros(logits.shape[0]), logits[0].numel()
    for _, z in _blocks(logits, device):
        e, e_sum, entropy = _exponentials(z, z.amax(dim=0))
        total += (e * (entropy / e_sum)).sum(dim=1, dtype=torch.float64).cpu().numpy()
    return total / n_voxels


@torch.inference_mode()
def margin_of_logits(logits: torch.Tensor) -> torch.Tensor:
    """Return the margin p_(1) - p_(2) of every voxel (Eqs. 17-18), (z, y, x) float32 on the CPU."""
    margin = torch.empty(logits[0].numel())
    for voxels, z in _blocks(logits, None):
        top2 = torch.softmax(z, dim=0).topk(2, dim=0).values
        margin[voxels] = (top2[0] - top2[1]).cpu()
    return margin.reshape(logits.shape[1:])


@torch.inference_mode()
def entropy_map(logits: torch.Tensor, tau: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the entropy in nats and the foreground mask of Eq. 9 at this temperature, both (z, y, x) on the CPU."""
    entropy = torch.empty(logits[0].numel())
    mask = torch.empty(logits[0].numel(), dtype=torch.bool)
    for voxels, z in _blocks(logits, None):
        e, _, nats = _exponentials(z, z.amax(dim=0))
        entropy[voxels], mask[voxels] = nats.cpu(), (e[0] / tau < e[1:].amax(dim=0)).cpu()
    return entropy.reshape(logits.shape[1:]), mask.reshape(logits.shape[1:])


@torch.inference_mode()
def head_gradient(features: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the cross-entropy at the last 1x1x1 layer, with the argmax as label, (C, F) float64.

    features: (F, ...) input of that layer; logits: (C, ...) its output. The loss is the mean over voxels, so that
    G = (1/V) sum_v (p_v - onehot(argmax p_v)) h_v^T. No autograd is needed.
    """
    h, z = features.reshape(features.shape[0], -1), logits.reshape(logits.shape[0], -1)
    n_classes, n_voxels = z.shape
    label = z.argmax(dim=0)  # a tie with background is background: first index
    total = torch.zeros(n_classes, h.shape[0], dtype=torch.float64, device=z.device)
    for voxels, block in _blocks(z, None):
        p = torch.softmax(block, dim=0)
        y = torch.nn.functional.one_hot(label[voxels], n_classes).T
        slope = (p - y) / n_voxels
        # on a GPU, nnU-Net runs the windows in float16, in which the slopes would underflow
        with torch.autocast(z.device.type, enabled=False):
            total += (slope @ h[:, voxels].float().T).double()
    return total


class SoftmaxMoments:
    """Mean and spread of several predictions of one case, updated one by one (Welford) in float32 on the CPU.

    It holds C x V values, or twice as many with the spread, so that one case has to fit into memory.
    """

    def __init__(self, *, spread: bool) -> None:
        self.n = 0
        self.mean: torch.Tensor | None = None  # (C, V)
        self.squares: torch.Tensor | None = None  # (C, V) sum of squared deviations
        self.with_spread = spread

    @torch.inference_mode()
    def add(self, logits: torch.Tensor, *, device: torch.device | None = None) -> None:
        """Add a prediction of the same case. logits: (C, z, y, x)."""
        if self.mean is None:
            shape = (logits.shape[0], logits[0].numel())
            self.mean = torch.zeros(shape)
            self.squares = torch.zeros(shape) if self.with_spread else None
        self.n += 1
        for voxels, z in _blocks(logits, device):
            p = torch.softmax(z, dim=0).cpu()
            mean = self.mean[:, voxels]
            difference = p - mean
            mean += difference / self.n
            if self.squares is not None:
                self.squares[:, voxels] += difference * (p - mean)

    def mean_spread(self) -> float:
        """Return the population SD over the predictions, averaged over voxels and classes."""
        assert self.squares is not None
        total = sum(
            float((block / self.n).sqrt().sum(dtype=torch.float64))
            for block in self.squares.split(VOXELS_PER_BLOCK, dim=1)
        )
        return total / self.squares.numel()

    def entropies(self) -> EntropyHistogram:
        """Return the histogram of the voxel entropies of the mean prediction."""
        assert self.mean is not None
        histogram = EntropyHistogram(self.mean.shape[0])
        for p in self.mean.split(VOXELS_PER_BLOCK, dim=1):
            histogram.add(torch.special.entr(p).sum(dim=0))
        return histogram


def bytes_of_moments(shape: Sequence[int], classes: int, *, spread: bool) -> int:
    """Return how much memory `SoftmaxMoments` take for an image of this shape, (channels, z, y, x)."""
    return 4 * classes * math.prod(shape[1:]) * (2 if spread else 1)


class EntropyHistogram:
    """A histogram of voxel entropies in bits: counts and sums in ENTROPY_BINS bins of equal width on [0, log2 C]."""

    def __init__(self, n_classes: int) -> None:
        self.highest_possible = float(np.log2(n_classes))
        self.counts = np.zeros(ENTROPY_BINS, dtype=np.int64)
        self.sums = np.zeros(ENTROPY_BINS)
        self.lowest, self.highest, self.n_lowest = np.inf, -np.inf, 0  # exact; n_lowest: voxels at the minimum

    def add(self, nats: torch.Tensor) -> None:
        """Add the entropies of voxels, given in nats."""
        bits = np.clip(nats.double().cpu().numpy() / np.log(2), 0.0, self.highest_possible)
        index = np.minimum((bits * (ENTROPY_BINS / self.highest_possible)).astype(np.int64), ENTROPY_BINS - 1)
        self.counts += np.bincount(index, minlength=ENTROPY_BINS)
        self.sums += np.bincount(index, weights=bits, minlength=ENTROPY_BINS)
        lowest = float(bits.min())
        if lowest < self.lowest:
            self.lowest, self.n_lowest = lowest, 0
        self.n_lowest += int((bits == self.lowest).sum())
        self.highest = max(self.highest, float(bits.max()))

    def mean_above_first_peak(self, bins: int = 100) -> float:
        """Return the mean of the entropies above lambda, in bits, or 0 if there is none (GAUA of UGTST).

        lambda is the left edge of the first peak of the histogram, or the minimum of the entropies if it has no peak.
        The histogram has `bins` bins from the minimum to the maximum of the entropies; a peak is an interior local
        maximum.
        """
        if not self.lowest < self.highest:
            return 0.0
        from scipy.signal import find_peaks  # slow to import, and one strategy needs it

        counts, sums = self.counts[self.counts > 0], self.sums[self.counts > 0]
        entropies = np.clip(sums / counts, self.lowest, self.highest)  # mean of each fine bin
        histogram, edges = np.histogram(entropies, bins, range=(self.lowest, self.highest), weights=counts)
        peaks, _ = find_peaks(histogram)
        if not len(peaks):
            return float((sums.sum() - self.n_lowest * self.lowest) / (counts.sum() - self.n_lowest))
        above = entropies > edges[peaks[0]]
        return float(sums[above].sum() / counts[above].sum()) if above.any() else 0.0

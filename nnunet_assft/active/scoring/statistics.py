"""One forward pass per case: voxel sums, embedding and what else a strategy asks for, together.

The softmax is taken from the blended logits block by block and reduced to sums at once; nothing of its size is stored or
resampled. Only a strategy that asks for statistics of several predictions (STATISTICS) pays for more passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nnunet_assft.active.scoring.case_record import CaseRecord, Request
from nnunet_assft.active.scoring.scorer import Scorer, check_finite
from nnunet_assft.active.scoring.views import MIRRORINGS, intensity_views
from nnunet_assft.active.scoring.voxel_statistics import (
    SoftmaxMoments,
    class_entropies,
    entropy_histogram,
    voxel_sums_of_logits,
)


def compute_record(
    scorer: Scorer, case: str, image: np.ndarray, request: Request, committee: Sequence[Scorer] = ()
) -> CaseRecord:
    """Sums, embedding and the requested statistics of one case.

    image: (channels, z, y, x), preprocessed. committee: other networks, for the statistic that compares them.
    """
    with ExitStack() as stack:
        bottleneck = stack.enter_context(scorer.bottleneck())
        gradients = None
        if "gradients" in request.statistics:
            gradients = stack.enter_context(scorer.head_gradients(request.badge_loss))
        logits = scorer.logits(image)
    embedding = bottleneck.mean()
    sums = voxel_sums_of_logits(logits, request.tau, second=request.second, device=scorer.float64_device)
    done = _Pass(scorer, image, request, committee, logits, gradients.mean() if gradients else None)
    statistics = {name: np.asarray(STATISTICS[name](done), dtype=np.float64) for name in request.statistics}
    means = np.array([sums.entropy_sum, sums.top1_sum, sums.margin_sum])
    check_finite(case, embedding, means, *statistics.values())
    return CaseRecord(case, embedding, sums, statistics)


@dataclass(frozen=True)
class _Pass:
    """One case after its forward pass: what a statistic may use."""

    scorer: Scorer
    image: np.ndarray
    request: Request
    committee: Sequence[Scorer]
    logits: torch.Tensor
    gradient: np.ndarray | None  # (C, F), if it was asked for

    @property
    def device(self) -> torch.device:
        return self.scorer.float64_device


def _mirror_spread(done: _Pass) -> float:
    """Mean over voxels and classes of the SD over the 8 mirrored predictions of one network."""
    moments = SoftmaxMoments(spread=True)
    moments.add(done.logits, device=done.device)
    for axes in MIRRORINGS:
        moments.add(done.scorer.logits(np.ascontiguousarray(np.flip(done.image, axes))).flip(axes), device=done.device)
    return moments.mean_spread()


def _committee_spread(done: _Pass) -> float:
    """The same over the predictions of the networks of a committee."""
    moments = SoftmaxMoments(spread=True)
    for member in done.committee:
        moments.add(member.logits(done.image), device=done.device)
    return moments.mean_spread()


def _peak_entropy(done: _Pass) -> float:
    """Mean of the voxel entropies above the first peak of their histogram (GAUA of UGTST), in bits."""
    if done.request.ugtst_entropy == "single":
        return entropy_histogram(done.logits, device=done.device).mean_above_first_peak()
    moments = SoftmaxMoments(spread=False)
    for view in intensity_views(done.image, done.request.seed):
        moments.add(done.scorer.logits(view), device=done.device)
    return moments.entropies().mean_above_first_peak()


# name, as in QueryPool -> what it is of one case
STATISTICS: dict[str, Callable[[_Pass], Any]] = {
    "class_entropies": lambda done: class_entropies(done.logits, device=done.device),
    "committee_spread": _committee_spread,
    "gradients": lambda done: done.gradient,
    "mirror_spread": _mirror_spread,
    "peak_entropy": _peak_entropy,
}

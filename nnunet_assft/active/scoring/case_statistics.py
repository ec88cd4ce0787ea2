"""The case record, computed in one forward pass: voxel sums, embedding and the statistics that a strategy needs.

The softmax of the blended logits is computed block by block and reduced to sums immediately; nothing of its size is
stored or resampled. Only statistics that compare several predictions (see STATISTICS) need further passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nnunet_assft.active.scoring.case_record import CaseRecord, ScoringRequest
from nnunet_assft.active.scoring.scorer import Scorer, check_finite, finite_logits
from nnunet_assft.active.scoring.sliding_window import bytes_of_logits, require_room
from nnunet_assft.active.scoring.views import intensity_views
from nnunet_assft.active.scoring.voxel_statistics import (
    SoftmaxMoments,
    bytes_of_moments,
    class_entropies,
    voxel_sums_of_logits,
)


def compute_record(
    scorer: Scorer, case: str, image: np.ndarray, request: ScoringRequest, committee: Sequence[Scorer] = ()
) -> CaseRecord:
    """Return the sums, the embedding and the requested statistics of one case.

    image: (channels, z, y, x), preprocessed. committee: other networks, for the statistic that compares them.
    Raises `AssftError`, which names the case, if the output of a network is not finite.
    """
    with finite_logits(case):
        with ExitStack() as stack:
            bottleneck = stack.enter_context(scorer.bottleneck())
            gradients = stack.enter_context(scorer.head_gradients()) if "gradients" in request.statistics else None
            logits = scorer.logits(image)
        embedding = bottleneck.mean()
        sums = voxel_sums_of_logits(logits, request.tau, device=scorer.float64_device)
        entropies = None
        if "class_entropies" in request.statistics:
            entropies = class_entropies(logits, device=scorer.float64_device)
        del logits  # further passes need the memory
        done = _Pass(scorer, image, request, committee, entropies, gradients.mean() if gradients else None)
        statistics = {name: np.asarray(STATISTICS[name](done), dtype=np.float64) for name in request.statistics}
    means = np.array([sums.entropy_sum, sums.top1_sum, sums.margin_sum])
    check_finite(case, embedding, means, *statistics.values())
    return CaseRecord(case, embedding, sums, statistics)


@dataclass(frozen=True)
class _Pass:
    """A case after its forward pass, with everything that a statistic may use."""

    scorer: Scorer
    image: np.ndarray
    request: ScoringRequest
    committee: Sequence[Scorer]
    class_entropies: np.ndarray | None  # if they were requested
    gradient: np.ndarray | None  # (C, F), if it was requested

    @property
    def device(self) -> torch.device:
        return self.scorer.float64_device


def _moments(done: _Pass, *, spread: bool) -> SoftmaxMoments:
    """Return the moments of predictions of the case. Raises `NoRoomError` if they do not fit into the memory, on a CPU
    together with the logits of one prediction."""
    shape, classes = done.image.shape, done.scorer.label_manager.num_segmentation_heads
    beside = bytes_of_logits(shape, classes) if done.scorer.predictor.device.type == "cpu" else 0
    require_room(bytes_of_moments(shape, classes, spread=spread) + beside, shape)
    return SoftmaxMoments(spread=spread)


def _committee_spread(done: _Pass) -> float:
    """Return the mean over voxels and classes of the SD over the predictions of a committee."""
    moments = _moments(done, spread=True)
    for member in done.committee:
        moments.add(member.logits(done.image), device=done.device)
    return moments.mean_spread()


def _peak_entropy(done: _Pass) -> float:
    """Return the uncertainty of UGTST, in bits: the mean voxel entropy above the first peak of the histogram.

    The entropies are those of the mean prediction over views of the image with altered intensities, as in the release
    HiLab-git/UMDM-SFADA. In HiLab-git/UGTST, they are those of the unaltered image.
    """
    moments = _moments(done, spread=False)
    for view in intensity_views(done.image, done.request.seed):
        moments.add(done.scorer.logits(view), device=done.device)
    return moments.entropies().mean_above_first_peak()


# name, as in QueryPool -> function that computes it for one case
STATISTICS: dict[str, Callable[[_Pass], Any]] = {
    "class_entropies": lambda done: done.class_entropies,
    "committee_spread": _committee_spread,
    "gradients": lambda done: done.gradient,
    "peak_entropy": _peak_entropy,
}

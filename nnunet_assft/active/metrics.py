"""Equations 1-26 of the ASSFT paper as pure functions, in the order of the equations.

They answer two questions about a pool of unlabelled cases. Which cases should be annotated next (Eqs. 1-16)? Those on
which fine-tuning has changed the encoder most (DKD) and whose segmentation is most uncertain (ASD). Which predictions
can be trusted as pseudo-labels (Eqs. 17-26)? Those that are confident and whose case resembles a labelled one.

All functions take and return numpy arrays and use no files, no torch and no state. Conventions of the whole module:

* `probs` is (C, Z, Y, X), a softmax over axis 0 on the network grid, with any number of spatial axes. Channel 0 is
  background.
* Embeddings are (N, d), one row per case, in any float precision; all arithmetic is float64. The cosine distance of a
  zero vector to everything is 1.
* `ids` are the case ids in the order of the rows. They break ties: compared as strings, the smaller one comes first.
  Without ids, the row number breaks ties. Indices are returned best first.
* Inputs are never modified. An input that cannot be used raises ValueError; the message says what was found, what was
  expected and what to do.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.special import entr

from nnunet_assft.active.arrays import (
    check_choice,
    check_confidence,
    check_count,
    check_embeddings,
    check_probabilities,
    check_softmax,
    check_vector,
    cosine_distance,
    id_rank,
    mean_or_zero,
    row_blocks,
    unit_vectors,
    voxel_blocks,
)

ASD_REDUCTIONS = ("mean", "foreground_mean", "sum")
CONFIDENCE_REDUCTIONS = ("sum", "foreground_mean")
PD_WEIGHTS = ("literal", "reversed")
SCALES = ("max", "none")
SCALE_OF_CONFIDENCE = {"sum": "max", "foreground_mean": "none"}  # reduction of Eq. 22 -> its scale in Eqs. 23-24

_ROUNDING = 1e-13  # a PD below this is rounding noise (an angle of 4e-7, below the precision of float32 embeddings)
_FROZEN = 1e-12  # if no PAKD is above this, the encoder has not moved
_UNMOVED = 1e-28  # a PAKD below this is rounding noise of unit vectors


# Eqs. 1-2: how far the encoder has moved on a case -----------------------------------------------------------------


def pakd(e_pre: np.ndarray, e_cur: np.ndarray) -> np.ndarray:
    """Return the prior-anchored knowledge divergence (Eqs. 1-2): how far fine-tuning has moved the embedding of a case.

    It is the cosine distance between the embeddings of a case under the pre-trained and under the latest encoder.
    e_pre, e_cur: (N, d), the same cases in the same order. Returns (N,) in [0, 2].
    Warns if the encoder has not moved at all. Raises ValueError for other shapes, NaN or inf.
    """
    e_pre, e_cur = check_embeddings(e_pre, "e_pre"), check_embeddings(e_cur, "e_cur")
    if e_pre.shape != e_cur.shape:
        raise ValueError(
            f"e_pre is {e_pre.shape} and e_cur {e_cur.shape}; expected the same cases and the same layer in both."
        )
    distance = np.concatenate(
        [cosine_distance(unit_vectors(e_pre[rows]), unit_vectors(e_cur[rows])) for rows in row_blocks(e_cur)]
    )
    if distance.max() <= _FROZEN:
        message = (
            "PAKD is 0 for every case: the latest encoder equals the pre-trained one, so that DKD is 0 and case ids "
            "break the ties."
        )
        warnings.warn(message, stacklevel=2)
    distance[distance < _UNMOVED] = 0.0
    return distance


# Eqs. 3-5: diversity -----------------------------------------------------------------------------------------------


def pairwise_dissimilarity(
    e_cur: np.ndarray,
    pakd: np.ndarray,
    ids: Sequence[str] | None = None,
    *,
    pd_weights: str = "literal",
    e_labelled: np.ndarray | None = None,
) -> np.ndarray:
    """Return PD (Eqs. 3-4): how much a case differs from the cases with a larger PAKD.

    The cases are ranked by PAKD, largest first. PD is the weighted mean of the cosine distances of a case to all cases
    ranked before it; it lowers the score of a case that resembles one which will be queried anyway. No case is ranked
    before the first one, so its PD is 0/0 in the printed equation and is set to 1. The cost is O(N d).

    e_cur: (N, d) embeddings under the latest encoder. pakd: (N,). Returns (N,) in the order of the input, in [0, 2].
    pd_weights: with `literal`, the case k ranks before has the weight k; with `reversed`, it has the weight c - k at
    rank c, so that near ranks count most (not in the paper).
    e_labelled: (L, d) embeddings of labelled cases to compare with as well (not in the paper). They share rank 1, the
    pool follows from rank 2, and the first case of the pool is compared with them. Their order does not matter.
    Raises ValueError for other shapes or options, NaN or inf.
    """
    check_choice("pd_weights", pd_weights, PD_WEIGHTS)
    e_cur = check_embeddings(e_cur, "e_cur")
    pakd = check_vector(pakd, "pakd", len(e_cur))
    n_before, before = _sum_of_labelled(e_labelled, e_cur.shape[1])
    order = np.lexsort((id_rank(ids, len(e_cur)), -pakd))
    in_rank_order = np.empty(len(order))
    # With unit vectors e, the weighted sum of the distances at rank c is total_c - e_c . S_c, where S_c is the weighted
    # sum of the unit vectors ranked before. S is updated from rank to rank, so no pairwise distance is computed.
    weighted = before.copy()  # S at the first rank of a block
    for rows in row_blocks(e_cur):
        unit = unit_vectors(e_cur[order[rows]])
        c = np.arange(rows.start + 1, rows.stop + 1, dtype=np.float64)  # ranks in the pool, from 1
        if pd_weights == "literal":  # S_{c+1} = S_c + A_c, where A_c = e_1 + ... + e_c
            step = np.cumsum(unit, axis=0)
            step += before
            before = step[-1].copy()
            total = c * (c - 1) / 2 + n_before * c
        else:  # S_{c+1} = S_c + rank e_c
            step = unit * (c + (n_before > 0))[:, None]
            total = c * (c - 1) / 2 + ((c - 1) + n_before if n_before else 0)
        step = np.cumsum(step, axis=0)
        step += weighted  # row i: S at the rank after row i
        dot = np.einsum("nd,nd->n", unit, np.vstack([weighted, step[:-1]]))
        in_rank_order[rows] = np.divide(total - dot, total, out=np.ones_like(total), where=total > 0)
        weighted = step[-1].copy()
    in_rank_order[in_rank_order < _ROUNDING] = 0.0
    np.minimum(in_rank_order, 2.0, out=in_rank_order)
    pd = np.empty_like(in_rank_order)
    pd[order] = in_rank_order
    return pd


def _sum_of_labelled(e_labelled: np.ndarray | None, d: int) -> tuple[int, np.ndarray]:
    """Return L and the sum of the labelled cases' unit vectors, which does not depend on their order."""
    if e_labelled is None or len(e_labelled) == 0:
        return 0, np.zeros(d)
    e_labelled = check_embeddings(e_labelled, "e_labelled")
    if e_labelled.shape[1] != d:
        raise ValueError(f"e_labelled is {e_labelled.shape}; expected (L, {d}), from the encoder of e_cur.")
    unit = unit_vectors(e_labelled)
    return len(unit), unit[np.lexsort(unit.T)].sum(axis=0)


def dkd(
    e_pre: np.ndarray,
    e_cur: np.ndarray,
    ids: Sequence[str] | None = None,
    *,
    pd_weights: str = "literal",
    e_labelled: np.ndarray | None = None,
) -> np.ndarray:
    """Return the diversified knowledge divergence (Eq. 5), PAKD times PD: large for a new case unlike the others.

    e_pre, e_cur: (N, d). Returns (N,) in [0, 4]. For the options and errors see `pakd` and `pairwise_dissimilarity`.
    """
    divergence = pakd(e_pre, e_cur)
    return divergence * pairwise_dissimilarity(e_cur, divergence, ids, pd_weights=pd_weights, e_labelled=e_labelled)


# Eqs. 6-11 and 17-22: one pass over the voxels of a case -----------------------------------------------------------


def temperature(r: int, R: int) -> float:  # noqa: N803
    """Return tau(r) = 3 - 1.5 ln r / ln R (Eq. 7), which falls from 3 in round 1 to 1.5 in round R (3 if R = 1).

    Raises ValueError for a round outside 1..R.
    """
    r, R = operator.index(r), operator.index(R)  # noqa: N806
    if not 1 <= r <= R:
        raise ValueError(f"round {r} of {R}; expected a round from 1 to the number of rounds; round 0 has no query.")
    return 3.0 if R == 1 else 3.0 - 1.5 * math.log(r) / math.log(R)


@dataclass(frozen=True)
class VoxelSums:
    """Sums over the voxels of one case on the network grid, from which every metric of the case is computed.

    The sums over disjoint parts of a case add up to those of the case. Entropies are in nats.
    """

    voxels: int
    entropy_sum: float
    top1_sum: float  # p_(1), the largest probability of a voxel (Eq. 17)
    margin_sum: float  # p_(1) - p_(2), with p_(2) the second largest probability (Eq. 18)
    masked_entropy_sum: float  # within the mask of Eq. 9 (possible foreground) at the temperature of the round
    mask_voxels: int
    masked_entropy_sum_tau1: float  # the same at the temperature 1
    mask_voxels_tau1: int
    foreground_margin_sum: float  # within the mask of Eq. 19 (predicted foreground)
    foreground_voxels: int
    class_voxels: tuple[int, ...]  # voxels that are predicted as each class

    @classmethod
    def zero(cls, n_classes: int) -> VoxelSums:
        """Return sums over no voxel, from which an accumulation starts."""
        return cls(0, 0.0, 0.0, 0.0, 0.0, 0, 0.0, 0, 0.0, 0, (0,) * n_classes)

    def __add__(self, other: VoxelSums) -> VoxelSums:
        mine, theirs = self.class_voxels, other.class_voxels
        if len(mine) != len(theirs):
            raise ValueError(f"cannot add sums over {len(mine)} and {len(theirs)} classes; expected parts of one case.")
        names = [field.name for field in fields(self) if field.name != "class_voxels"]
        totals = {name: getattr(self, name) + getattr(other, name) for name in names}
        return VoxelSums(**totals, class_voxels=tuple(map(operator.add, mine, theirs)))


def voxel_sums(probs: np.ndarray, tau: float) -> VoxelSums:
    """Return the sums of Eqs. 6-11 and 17-22 over one case, computed block by block in float64.

    probs: (C, ...) float, softmax over axis 0, C >= 2. tau: temperature of the round (Eq. 7), > 0.
    Raises ValueError for other shapes, values that are not probabilities, NaN or inf.
    """
    if not (math.isfinite(tau) and tau > 0):
        raise ValueError(f"tau is {tau}; expected a positive temperature, as temperature(r, R) returns.")
    probs = check_softmax(probs)
    tolerance = 5e-3 if probs.dtype == np.float16 else 1e-3
    total = VoxelSums.zero(probs.shape[0])
    for block in voxel_blocks(probs):
        check_probabilities(block, tolerance)
        total += _block_sums(block, tau)
    return total


def _block_sums(p: np.ndarray, tau: float) -> VoxelSums:
    """Return the sums over one block. p: (C, n) float64 probabilities, already checked; p is overwritten."""
    entropy = entr(p).sum(axis=0)
    label = p.argmax(axis=0)  # a tie with background is background: the first index wins
    foreground = label != 0  # Eq. 19
    top1 = p.max(axis=0)  # Eq. 17
    p_max = p[1:].max(axis=0)  # Eq. 8
    mask = p[0] / tau < p_max  # Eqs. 6 and 9
    mask_tau1 = p[0] < p_max
    p[label, np.arange(p.shape[1])] = 0.0
    margin = top1 - p.max(axis=0)  # Eq. 18; a tied voxel has margin 0
    return VoxelSums(
        voxels=p.shape[1],
        entropy_sum=float(entropy.sum()),
        top1_sum=float(top1.sum()),
        margin_sum=float(margin.sum()),
        masked_entropy_sum=float(entropy[mask].sum()),
        mask_voxels=int(mask.sum()),
        masked_entropy_sum_tau1=float(entropy[mask_tau1].sum()),
        mask_voxels_tau1=int(mask_tau1.sum()),
        foreground_margin_sum=float(margin[foreground].sum()),
        foreground_voxels=int(foreground.sum()),
        class_voxels=tuple(np.bincount(label, minlength=p.shape[0]).tolist()),
    )


def asd_from_sums(sums: VoxelSums, reduction: str = "foreground_mean", *, tau1: bool = False) -> float:
    """Return the ASD of a case (Eqs. 10-11), in nats, from its sums.

    reduction: `foreground_mean` divides the entropy within the mask of Eq. 9 by the voxels of the mask (0 if it is
    empty), `mean` divides it by all voxels, and `sum` does not divide it.
    tau1: use the mask at temperature 1 instead of that of the round, as in an ablation of the paper.
    """
    check_choice("asd_reduction", reduction, ASD_REDUCTIONS)
    entropy = sums.masked_entropy_sum_tau1 if tau1 else sums.masked_entropy_sum
    if reduction == "sum":
        return entropy
    if reduction == "mean":
        return mean_or_zero(entropy, sums.voxels)
    return mean_or_zero(entropy, sums.mask_voxels_tau1 if tau1 else sums.mask_voxels)


def asd(probs: np.ndarray, r: int, R: int, reduction: str = "foreground_mean") -> float:  # noqa: N803
    """Return the anatomical segmentation difficulty of one case in round r of R (Eqs. 6-11), in nats.

    It is the entropy of the voxels that may be foreground: those in which the background probability, divided by
    tau(r), is below the probability of some structure.
    probs: (C, Z, Y, X). For the reductions see `asd_from_sums`, for the errors `voxel_sums`.
    """
    check_choice("asd_reduction", reduction, ASD_REDUCTIONS)
    return asd_from_sums(voxel_sums(probs, temperature(r, R)), reduction)


# Eqs. 12-16: the query ---------------------------------------------------------------------------------------------


def minmax(scores: np.ndarray) -> np.ndarray:
    """Return (N,) scores normalised to [0, 1] (Eqs. 12-13), or zeros if all are equal.

    The ranks of Eqs. 14-15 do not depend on this step; its values are only shown in the table of scores.
    """
    scores = check_vector(scores, "scores")
    low, high = scores.min(), scores.max()
    return np.zeros_like(scores) if low == high else (scores - low) / (high - low)


def rank01(scores: np.ndarray) -> np.ndarray:
    """Return the rank of each score divided by N - 1: the uniform quantile transform (Eqs. 14-15), (N,) in [0, 1].

    Equal scores share their mean rank, but all ties at the minimum get 0 and all ties at the maximum get 1. If all
    scores are equal, all ranks are 0.
    """
    scores = check_vector(scores, "scores")
    from scipy.stats import rankdata  # a second to import, which `status` does not need

    ranks = rankdata(scores, method="average") - 1
    ranks[scores == scores.max()] = len(scores) - 1
    ranks[scores == scores.min()] = 0
    return ranks / max(1, len(scores) - 1)


def query_score(dkd: np.ndarray, asd: np.ndarray) -> np.ndarray:
    """Return Q (Eqs. 12-16), the sum of the ranks of DKD and ASD: (N,) in [0, 2], rounded to 1e-9.

    dkd, asd: (N,) over the query pool only, because ranks depend on the whole pool.
    """
    dkd = check_vector(dkd, "dkd")
    asd = check_vector(asd, "asd", len(dkd))
    return np.round(rank01(dkd) + rank01(asd), 9)


def select_query(dkd: np.ndarray, asd: np.ndarray, n_query: int, ids: Sequence[str] | None = None) -> np.ndarray:
    """Return the indices of the n_query cases to annotate, best first (Eq. 16); all cases if there are fewer.

    The case with the largest Q comes first. A tie goes to the larger DKD, then to the smaller id. dkd, asd: (N,) over
    the query pool.
    """
    n_query = check_count(n_query, "n_query")
    q = query_score(dkd, asd)
    return np.lexsort((id_rank(ids, len(q)), -np.asarray(dkd, dtype=np.float64), -q))[:n_query]


# Eqs. 17-26: pseudo-labels that can be trusted ---------------------------------------------------------------------


def confidence_from_sums(sums: VoxelSums, reduction: str = "sum") -> float:
    """Return the confidence C of a case (Eqs. 20-22) from its sums: the margin where foreground is predicted.

    reduction: `sum` is the sum of this margin, in voxels; `foreground_mean` is its mean, in [0, 1] (0 if no foreground
    is predicted).
    """
    check_choice("confidence", reduction, CONFIDENCE_REDUCTIONS)
    total = sums.foreground_margin_sum
    return total if reduction == "sum" else mean_or_zero(total, sums.foreground_voxels)


def confidence(probs: np.ndarray, reduction: str = "sum") -> float:
    """Return the confidence C of one case (Eqs. 17-22): how clearly the predicted class leads in predicted foreground.

    probs: (C, Z, Y, X). For the reductions see `confidence_from_sums`, for the errors `voxel_sums`.
    """
    check_choice("confidence", reduction, CONFIDENCE_REDUCTIONS)
    return confidence_from_sums(voxel_sums(probs, 1.0), reduction)


def n_candidates(confidence: np.ndarray, n_select: int, tau_c: float = 2.0, scale: str = "max") -> int:
    """Return K (Eqs. 23-24), the number of most confident cases from which the selection chooses.

    K = n_select tau_c / (mean confidence), rounded up: the less confident the network is, the more cases are
    candidates. K is at least n_select and at most N; it is N if no confidence is above 0. confidence: (N,), >= 0.
    scale: `max` divides the confidences by their maximum first, which suits C as a sum; `none` does not.
    """
    check_choice("scale", scale, SCALES)
    confidence = check_confidence(confidence)
    n_select = check_count(n_select, "n_select")
    if not (math.isfinite(tau_c) and tau_c > 0):
        raise ValueError(f"tau_c is {tau_c}; expected a positive number. The default is 2.")
    n, highest = len(confidence), confidence.max()
    mean = float((confidence / highest if scale == "max" and highest > 0 else confidence).mean())
    if n_select * tau_c >= n * mean:  # also when the mean is 0
        return n
    return min(n, max(n_select, math.ceil(n_select * tau_c / mean - 1e-9)))


def semantic_distance(e_cand: np.ndarray, e_anchor: np.ndarray) -> np.ndarray:
    """Return D (Eq. 25): the cosine distance of each candidate to the nearest labelled case.

    e_cand: (K, d). e_anchor: (L, d), the labelled cases under the same encoder, L >= 1. Returns (K,) in [0, 2].
    """
    e_cand, e_anchor = check_embeddings(e_cand, "e_cand"), check_embeddings(e_anchor, "e_anchor")
    if e_cand.shape[1] != e_anchor.shape[1]:
        raise ValueError(
            f"e_cand is {e_cand.shape} and e_anchor {e_anchor.shape}; expected the same d, from the same encoder."
        )
    anchors = unit_vectors(e_anchor)
    distance = np.empty(len(e_cand))
    for rows in row_blocks(e_cand, width=max(e_cand.shape[1], len(anchors))):
        unit = unit_vectors(e_cand[rows])
        nearest = np.argmax(unit @ anchors.T, axis=1)
        distance[rows] = cosine_distance(unit, anchors[nearest])  # without the cancellation of 1 - cos near 0
    return distance


def reliability(confidence: np.ndarray, e_cur: np.ndarray, e_anchor: np.ndarray) -> np.ndarray:
    """Return R = C (1 - D) (Eq. 26), large for a confident case that resembles a labelled one; (N,) in the unit of C.

    confidence: (N,) C, not scaled. e_cur: (N, d). e_anchor: (L, d).
    """
    distance = semantic_distance(e_cur, e_anchor)
    return check_confidence(confidence, len(distance)) * (1 - distance)


@dataclass(frozen=True)
class Selection:
    """A selection and the values that led to it. distance and reliability are NaN for cases that are not candidates."""

    indices: np.ndarray  # (<= n_select,) selected cases, best first
    candidates: np.ndarray  # (K,) the K most confident cases, best first
    distance: np.ndarray  # (N,) D of Eq. 25
    reliability: np.ndarray  # (N,) R of Eq. 26


def rank_reliable(  # seven parameters: Eqs. 23-26 need all of them
    confidence: np.ndarray,
    e_cur: np.ndarray,
    e_anchor: np.ndarray,
    n_select: int,
    tau_c: float = 2.0,
    scale: str = "max",
    ids: Sequence[str] | None = None,
) -> Selection:
    """Return the selection of `select_reliable` together with its candidates, D and R."""
    e_cur = check_embeddings(e_cur, "e_cur")
    n = len(e_cur)
    confidence = check_confidence(confidence, n)
    rank = id_rank(ids, n)
    candidates = np.lexsort((rank, -confidence))[: n_candidates(confidence, n_select, tau_c, scale)]
    distance, score = np.full(n, np.nan), np.full(n, np.nan)
    distance[candidates] = semantic_distance(e_cur[candidates], e_anchor)
    score[candidates] = confidence[candidates] * (1 - distance[candidates])  # Eq. 26
    largest = np.abs(score[candidates]).max() or 1.0
    rounded = (score[candidates] / largest).round(14)  # the last digits are rounding noise and must not break a tie
    best_first = np.lexsort((rank[candidates], -rounded))
    return Selection(candidates[best_first[:n_select]], candidates, distance, score)


def select_reliable(  # seven parameters: see rank_reliable
    confidence: np.ndarray,
    e_cur: np.ndarray,
    e_anchor: np.ndarray,
    n_select: int,
    tau_c: float = 2.0,
    scale: str = "max",
    ids: Sequence[str] | None = None,
) -> np.ndarray:
    """Return the indices of the n_select cases to pseudo-label (Eqs. 23-26), best first.

    Of the K most confident cases these are the ones with the largest R; a tie goes to the smaller id. All candidates
    are returned if there are fewer than n_select. confidence: (N,) C of every unlabelled case. e_cur: (N, d) their
    embeddings. e_anchor: (L, d) every labelled case, L >= 1, under the same encoder. tau_c, scale: see `n_candidates`.
    """
    return rank_reliable(confidence, e_cur, e_anchor, n_select, tau_c, scale, ids).indices


# The first case ----------------------------------------------------------------------------------------------------


def summed_distance(e_pre: np.ndarray) -> np.ndarray:
    """Return the summed cosine distance of each case to all others: (N, d) to (N,).

    It is rounded to 1e-9, so that equal sums compare equal. The cost is O(N d).
    """
    e_pre = check_embeddings(e_pre, "e_pre")
    total = sum((unit_vectors(e_pre[rows]).sum(axis=0) for rows in row_blocks(e_pre)), np.zeros(e_pre.shape[1]))
    similarity = np.empty(len(e_pre))
    for rows in row_blocks(e_pre):
        unit = unit_vectors(e_pre[rows])
        similarity[rows] = np.einsum("nd,nd->n", unit, total - unit)
    return np.round(len(e_pre) - 1 - similarity, 9)


def medoid(e_pre: np.ndarray, ids: Sequence[str] | None = None) -> int:
    """Return the index of the most central case, which is one choice of the first case to annotate.

    It has the smallest summed cosine distance to all others; a tie goes to the smaller id. e_pre: (N, d).
    """
    distance = summed_distance(e_pre)
    return int(np.lexsort((id_rank(ids, len(distance)), distance))[0])

"""Equations 1-26 of the ASSFT paper as pure functions, in the order of the equations.

numpy in, numpy out: no files, no torch, no state. Conventions of the whole module:

* `probs` is (C, Z, Y, X), softmax over axis 0, channel 0 is background, on the network grid (any number of spatial axes).
* Embeddings are (N, d), one row per case, in any float precision; all arithmetic is float64. A zero vector has cosine
  distance 1 to everything.
* `ids` are the case ids in the order of the rows. They decide ties, compared as strings, ascending. Without ids the row
  number decides. Indices are returned best first.
* Inputs are never modified. What cannot be used raises ValueError: what was found, what was expected, what to do.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.special import entr
from scipy.stats import rankdata

ASD_REDUCTIONS = ("mean", "foreground_mean", "sum")
CONFIDENCE_REDUCTIONS = ("sum", "foreground_mean")
PD_FIRST = ("one", "max")
PD_WEIGHTS = ("literal", "reversed")
RANKS = ("exact", "sklearn")
SECOND = ("order", "strict")
SCALES = ("max", "none")
SCALE_OF_CONFIDENCE = {
    "sum": "max",
    "foreground_mean": "none",
}  # the scale of Eqs. 23-24 that belongs to a reduction of Eq. 22

_BLOCK = 2**22  # values held in float64 at a time: 32 MiB
_ROUNDING = 1e-13  # a PD below this is rounding noise of its sums (an angle of 4e-7, below float32 embeddings)
_FROZEN = 1e-12  # no PAKD above this: the encoder has not moved
_UNMOVED = 1e-28  # a PAKD below this is rounding noise of unit vectors


# Eqs. 1-2: how far the encoder has moved on a case ---------------------------------------------------------------------


def pakd(e_pre: np.ndarray, e_cur: np.ndarray) -> np.ndarray:
    """Prior-anchored knowledge divergence (Eqs. 1-2): cosine distance of each case between two encoders.

    e_pre, e_cur: (N, d), the same cases under the pre-trained and the latest encoder. Returns (N,) in [0, 2].
    Warns if the encoder has not moved at all. Raises ValueError for other shapes, NaN or inf.
    """
    e_pre, e_cur = _embeddings(e_pre, "e_pre"), _embeddings(e_cur, "e_cur")
    if e_pre.shape != e_cur.shape:
        raise ValueError(
            f"e_pre is {e_pre.shape} and e_cur {e_cur.shape}; expected the same cases and the same layer in both."
        )
    distance = np.concatenate(
        [_cosine_distance(unit_vectors(e_pre[rows]), unit_vectors(e_cur[rows])) for rows in _row_blocks(e_cur)]
    )
    if distance.max() <= _FROZEN:
        message = (
            "PAKD is 0 for every case: the latest encoder equals the pre-trained one, so DKD is 0 and case ids decide."
        )
        warnings.warn(message, stacklevel=2)
    distance[distance < _UNMOVED] = 0.0
    return distance


# Eqs. 3-5: diversity ---------------------------------------------------------------------------------------------------


def pairwise_dissimilarity(
    e_cur: np.ndarray,
    pakd: np.ndarray,
    ids: Sequence[str] | None = None,
    *,
    pd_first: str = "one",
    pd_weights: str = "literal",
    e_labelled: np.ndarray | None = None,
) -> np.ndarray:
    """Rank-weighted cosine distance of each case to the cases with larger PAKD (Eqs. 3-4), in O(N d).

    e_cur: (N, d) latest embeddings. pakd: (N,). Returns (N,) in input order, in [0, 2].
    pd_first: the value of the first rank, 0/0 in print: `one`, or `max` (the largest PD of the others).
    pd_weights: `literal` gives weight k to the case k ranks before, `reversed` weight c - k at rank c.
    e_labelled: (L, d) embeddings of cases that count as well (not in the paper): they share rank 1, the pool follows from
    rank 2, and the first case of the pool is compared with them. Their order plays no role.
    Raises ValueError for other shapes or options, NaN or inf.
    """
    _choice("pd_first", pd_first, PD_FIRST)
    _choice("pd_weights", pd_weights, PD_WEIGHTS)
    e_cur = _embeddings(e_cur, "e_cur")
    pakd = _vector(pakd, "pakd", len(e_cur))
    n_before, before = _sum_of_labelled(e_labelled, e_cur.shape[1])
    order = np.lexsort((_id_rank(ids, len(e_cur)), -pakd))
    in_rank_order = np.empty(len(order))
    weighted = before.copy()  # S: the same as `before`, with the weights of the first rank of this block
    for rows in _row_blocks(e_cur):
        unit = unit_vectors(e_cur[order[rows]])
        c = np.arange(rows.start + 1, rows.stop + 1, dtype=np.float64)  # ranks in the pool, from 1
        if pd_weights == "literal":  # S_{c+1} = S_c + A_c
            step = np.cumsum(unit, axis=0)
            step += before  # A: sum of the unit vectors of the ranks before this block
            before = step[-1].copy()
            total = c * (c - 1) / 2 + n_before * c
        else:  # S_{c+1} = S_c + rank e_c
            step = unit * (c + (n_before > 0))[:, None]
            total = c * (c - 1) / 2 + ((c - 1) + n_before if n_before else 0)
        step = np.cumsum(step, axis=0)
        step += weighted  # row i: S of the rank after row i
        dot = np.einsum("nd,nd->n", unit, np.vstack([weighted, step[:-1]]))
        in_rank_order[rows] = np.divide(total - dot, total, out=np.ones_like(total), where=total > 0)
        weighted = step[-1].copy()
    in_rank_order[in_rank_order < _ROUNDING] = 0.0
    np.minimum(in_rank_order, 2.0, out=in_rank_order)
    if pd_first == "max" and len(order) > 1 and not n_before:
        in_rank_order[0] = in_rank_order[1:].max()
    pd = np.empty_like(in_rank_order)
    pd[order] = in_rank_order
    return pd


def _sum_of_labelled(e_labelled: np.ndarray | None, d: int) -> tuple[int, np.ndarray]:
    """(L, sum of the unit vectors of the labelled cases), in an order of their own, so that theirs plays no role."""
    if e_labelled is None or len(e_labelled) == 0:
        return 0, np.zeros(d)
    e_labelled = _embeddings(e_labelled, "e_labelled")
    if e_labelled.shape[1] != d:
        raise ValueError(f"e_labelled is {e_labelled.shape}; expected (L, {d}), from the encoder of e_cur.")
    unit = unit_vectors(e_labelled)
    return len(unit), unit[np.lexsort(unit.T)].sum(axis=0)


def dkd(
    e_pre: np.ndarray,
    e_cur: np.ndarray,
    ids: Sequence[str] | None = None,
    *,
    pd_first: str = "one",
    pd_weights: str = "literal",
    e_labelled: np.ndarray | None = None,
) -> np.ndarray:
    """Diversified knowledge divergence (Eq. 5): PAKD times PD. (N, d) twice; returns (N,) in [0, 4]. See the two parts."""
    divergence = pakd(e_pre, e_cur)
    pd = pairwise_dissimilarity(e_cur, divergence, ids, pd_first=pd_first, pd_weights=pd_weights, e_labelled=e_labelled)
    return divergence * pd


# Eqs. 6-11 and 17-22: one pass over the voxels of a case ---------------------------------------------------------------


def temperature(r: int, R: int) -> float:  # noqa: N803
    """tau(r) = 3 - 1.5 ln r / ln R (Eq. 7), from 3 in round 1 to 1.5 in round R; 3 for R = 1. Rounds outside 1..R raise."""
    r, R = operator.index(r), operator.index(R)  # noqa: N806
    if not 1 <= r <= R:
        raise ValueError(f"round {r} of {R}; expected a round from 1 to the number of rounds. Round 0 has no query.")
    return 3.0 if R == 1 else 3.0 - 1.5 * math.log(r) / math.log(R)


@dataclass(frozen=True)
class VoxelSums:
    """Sums over the voxels of one case on the network grid; all that the per-case metrics need. Blocks of a case add up.

    Entropies are in nats. top1 and margin are p_(1) and p_(1) - p_(2) (Eqs. 17-18). `masked` is the mask of Eq. 9 at the
    tau of the round (`_tau1`: at tau = 1), `foreground` the mask of Eq. 19, class_voxels the voxels per argmax class.
    """

    voxels: int
    entropy_sum: float
    top1_sum: float
    margin_sum: float
    masked_entropy_sum: float
    mask_voxels: int
    masked_entropy_sum_tau1: float
    mask_voxels_tau1: int
    foreground_margin_sum: float
    foreground_voxels: int
    class_voxels: tuple[int, ...]

    @classmethod
    def zero(cls, n_classes: int) -> VoxelSums:
        """The sums of no voxel: the start of an accumulation."""
        return cls(0, 0.0, 0.0, 0.0, 0.0, 0, 0.0, 0, 0.0, 0, (0,) * n_classes)

    def __add__(self, other: VoxelSums) -> VoxelSums:
        mine, theirs = self.class_voxels, other.class_voxels
        if len(mine) != len(theirs):
            raise ValueError(
                f"cannot add sums over {len(mine)} and {len(theirs)} classes; expected blocks of one case."
            )
        names = [field.name for field in fields(self) if field.name != "class_voxels"]
        totals = {name: getattr(self, name) + getattr(other, name) for name in names}
        return VoxelSums(**totals, class_voxels=tuple(map(operator.add, mine, theirs)))


def voxel_sums(probs: np.ndarray, tau: float, *, second: str = "order") -> VoxelSums:
    """The sums of Eqs. 6-11 and 17-22 over one case, block by block in float64.

    probs: (C, ...) float, softmax over axis 0, C >= 2. tau: temperature of the round (Eq. 7), > 0.
    second: p_(2) in foreground_margin_sum is the second order statistic (`order`), or literally the largest value below
    the maximum (`strict`, 0 if there is none); margin_sum always uses `order`.
    Raises ValueError for other shapes, values that are not probabilities, NaN or inf.
    """
    _choice("second", second, SECOND)
    if not (math.isfinite(tau) and tau > 0):
        raise ValueError(f"tau is {tau}; expected a positive temperature, as temperature(r, R) returns.")
    probs = np.asarray(probs)
    if probs.ndim < 2 or probs.shape[0] < 2 or probs.size == 0:
        raise ValueError(f"probs has shape {probs.shape}; expected (C, Z, Y, X) with C >= 2, channel 0 background.")
    if not np.issubdtype(probs.dtype, np.floating):
        raise ValueError(
            f"probs is {probs.dtype}; expected float softmax output. Give probabilities, not labels or logits."
        )
    tolerance = 5e-3 if probs.dtype == np.float16 else 1e-3
    total = VoxelSums.zero(probs.shape[0])
    for block in _voxel_blocks(probs):
        _check_probabilities(block, tolerance)
        total += _block_sums(block, tau, second)
    return total


def _block_sums(p: np.ndarray, tau: float, second: str) -> VoxelSums:
    """p: (C, n) float64, checked, overwritten."""
    entropy = entr(p).sum(axis=0)
    label = p.argmax(axis=0)  # a tie with background is background: first index
    foreground = label != 0  # Eq. 19
    top1 = p.max(axis=0)  # Eq. 17
    p_max = p[1:].max(axis=0)  # Eq. 8
    mask = p[0] / tau < p_max  # Eqs. 6 and 9
    mask_tau1 = p[0] < p_max
    ties = p == top1 if second == "strict" else None
    p[label, np.arange(p.shape[1])] = 0.0
    margin = top1 - p.max(axis=0)  # Eq. 18 as order statistic
    foreground_margin = margin
    if ties is not None:
        p[ties] = 0.0
        foreground_margin = top1 - p.max(axis=0)
    class_voxels = tuple(np.bincount(label, minlength=p.shape[0]).tolist())
    return VoxelSums(
        voxels=p.shape[1],
        entropy_sum=float(entropy.sum()),
        top1_sum=float(top1.sum()),
        margin_sum=float(margin.sum()),
        masked_entropy_sum=float(entropy[mask].sum()),
        mask_voxels=int(mask.sum()),
        masked_entropy_sum_tau1=float(entropy[mask_tau1].sum()),
        mask_voxels_tau1=int(mask_tau1.sum()),
        foreground_margin_sum=float(foreground_margin[foreground].sum()),
        foreground_voxels=int(foreground.sum()),
        class_voxels=class_voxels,
    )


def asd_from_sums(sums: VoxelSums, reduction: str = "foreground_mean", *, tau1: bool = False) -> float:
    """ASD of a case (Eqs. 10-11), in nats, from its sums; tau1 takes the mask at tau = 1 (ablation).

    reduction: `foreground_mean` over the mask of Eq. 9 (0 if empty), `mean` over all voxels, or `sum`.
    """
    _choice("asd_reduction", reduction, ASD_REDUCTIONS)
    entropy = sums.masked_entropy_sum_tau1 if tau1 else sums.masked_entropy_sum
    if reduction == "sum":
        return entropy
    if reduction == "mean":
        return _mean(entropy, sums.voxels)
    return _mean(entropy, sums.mask_voxels_tau1 if tau1 else sums.mask_voxels)


def asd(probs: np.ndarray, r: int, R: int, reduction: str = "foreground_mean", *, tau: float | None = None) -> float:  # noqa: N803
    """Anatomical segmentation difficulty of one case in round r of R (Eqs. 6-11): entropy in likely foreground, in nats.

    probs: (C, Z, Y, X). tau: replaces temperature(r, R). Reductions: see asd_from_sums; errors: see voxel_sums.
    """
    _choice("asd_reduction", reduction, ASD_REDUCTIONS)
    tau_r = temperature(r, R)
    return asd_from_sums(voxel_sums(probs, tau_r if tau is None else tau), reduction)


# Eqs. 12-16: the query -------------------------------------------------------------------------------------------------


def minmax(scores: np.ndarray) -> np.ndarray:
    """Min-max normalisation (Eqs. 12-13), (N,) to (N,) in [0, 1]; zeros if all scores are equal. For the log only."""
    scores = _vector(scores, "scores")
    low, high = scores.min(), scores.max()
    return np.zeros_like(scores) if low == high else (scores - low) / (high - low)


def rank01(scores: np.ndarray) -> np.ndarray:
    """Uniform quantile transform as exact ranks (Eqs. 14-15), (N,) to (N,) in [0, 1].

    Interior ties share their mean rank, ties at the minimum are 0 and at the maximum 1; all equal: zeros.
    """
    scores = _vector(scores, "scores")
    ranks = rankdata(scores, method="average") - 1
    ranks[scores == scores.max()] = len(scores) - 1
    ranks[scores == scores.min()] = 0
    return ranks / max(1, len(scores) - 1)


def query_score(dkd: np.ndarray, asd: np.ndarray, *, ranks: str = "exact") -> np.ndarray:
    """Q = DKD'' + ASD'' (Eqs. 12-16), rounded to 1e-9. (N,) twice, over the query pool only; returns (N,) in [0, 2].

    ranks: `exact`, or `sklearn` (its quantile transform with N quantiles) for comparison.
    """
    _choice("ranks", ranks, RANKS)
    dkd = _vector(dkd, "dkd")
    asd = _vector(asd, "asd", len(dkd))
    transform = rank01 if ranks == "exact" else _rank01_sklearn
    return np.round(transform(dkd) + transform(asd), 9)


def _rank01_sklearn(scores: np.ndarray) -> np.ndarray:
    from sklearn.preprocessing import QuantileTransformer  # slow to import, and for comparison only

    column = minmax(scores)[:, None]
    return QuantileTransformer(n_quantiles=len(column), subsample=None).fit_transform(column)[:, 0]


def select_query(
    dkd: np.ndarray, asd: np.ndarray, n_query: int, ids: Sequence[str] | None = None, *, ranks: str = "exact"
) -> np.ndarray:
    """The n_query cases to annotate (Eq. 16): Q descending, then DKD descending, then id ascending; all if there are fewer.

    dkd, asd: (N,) over the query pool. Returns indices, best first.
    """
    n_query = _count(n_query, "n_query")
    q = query_score(dkd, asd, ranks=ranks)
    return np.lexsort((_id_rank(ids, len(q)), -np.asarray(dkd, dtype=np.float64), -q))[:n_query]


# Eqs. 17-26: pseudo-labels that can be trusted -------------------------------------------------------------------------


def confidence_from_sums(sums: VoxelSums, reduction: str = "sum") -> float:
    """C(x) of a case (Eqs. 20-22) from its sums: margin summed over predicted foreground, in voxels, or its mean there.

    reduction: `sum`, or `foreground_mean` in [0, 1] (0 without foreground).
    """
    _choice("confidence", reduction, CONFIDENCE_REDUCTIONS)
    total = sums.foreground_margin_sum
    return total if reduction == "sum" else _mean(total, sums.foreground_voxels)


def confidence(probs: np.ndarray, reduction: str = "sum", *, second: str = "order") -> float:
    """Confidence C(x) of one case (Eqs. 17-22). probs: (C, Z, Y, X). See confidence_from_sums, and voxel_sums for `second`."""
    _choice("confidence", reduction, CONFIDENCE_REDUCTIONS)
    return confidence_from_sums(voxel_sums(probs, 1.0, second=second), reduction)


def n_candidates(confidence: np.ndarray, n_select: int, tau_c: float = 2.0, scale: str = "max") -> int:
    """K (Eqs. 23-24): ceil(n_select tau_c / mean C), at least n_select, at most N; N if the confidence is 0 everywhere.

    confidence: (N,), >= 0. scale: `max` divides it by its maximum first (right for C as a sum), `none` does not.
    """
    _choice("scale", scale, SCALES)
    confidence = _confidences(confidence)
    n_select = _count(n_select, "n_select")
    if not (math.isfinite(tau_c) and tau_c > 0):
        raise ValueError(f"tau_c is {tau_c}; expected a positive number. The default is 2.")
    n, highest = len(confidence), confidence.max()
    mean = float((confidence / highest if scale == "max" and highest > 0 else confidence).mean())
    if n_select * tau_c >= n * mean:  # also when the mean is 0
        return n
    return min(n, max(n_select, math.ceil(n_select * tau_c / mean - 1e-9)))


def semantic_distance(e_cand: np.ndarray, e_anchor: np.ndarray) -> np.ndarray:
    """D(x): cosine distance of each candidate to its nearest labelled case (Eq. 25). (K, d) and (L, d) to (K,) in [0, 2]."""
    e_cand, e_anchor = _embeddings(e_cand, "e_cand"), _embeddings(e_anchor, "e_anchor")
    if e_cand.shape[1] != e_anchor.shape[1]:
        raise ValueError(
            f"e_cand is {e_cand.shape} and e_anchor {e_anchor.shape}; expected the same encoder, the same d."
        )
    anchors = unit_vectors(e_anchor)
    distance = np.empty(len(e_cand))
    for rows in _row_blocks(e_cand, width=max(e_cand.shape[1], len(anchors))):
        unit = unit_vectors(e_cand[rows])
        nearest = np.argmax(unit @ anchors.T, axis=1)
        distance[rows] = _cosine_distance(unit, anchors[nearest])  # again, without the cancellation of 1 - cos near 0
    return distance


def reliability(confidence: np.ndarray, e_cur: np.ndarray, e_anchor: np.ndarray) -> np.ndarray:
    """R = C (1 - D) (Eq. 26) with the unscaled C. (N,), (N, d) and (L, d) to (N,), in the unit of C."""
    confidence = _confidences(confidence)
    distance = semantic_distance(e_cur, e_anchor)
    return _vector(confidence, "confidence", len(distance)) * (1 - distance)


@dataclass(frozen=True)
class Selection:
    """A selection with the values that decided it; distance and reliability are NaN outside the candidates."""

    indices: np.ndarray  # (<= n_select,) selected cases, best first
    candidates: np.ndarray  # (K,) the K most confident cases, best first
    distance: np.ndarray  # (N,) D of Eq. 25
    reliability: np.ndarray  # (N,) R of Eq. 26


def rank_reliable(
    confidence: np.ndarray,
    e_cur: np.ndarray,
    e_anchor: np.ndarray,
    n_select: int,
    tau_c: float = 2.0,
    scale: str = "max",
    ids: Sequence[str] | None = None,
) -> Selection:
    """The selection of select_reliable together with K, D and R."""
    confidence = _confidences(confidence)
    e_cur = _embeddings(e_cur, "e_cur")
    n = len(_vector(confidence, "confidence", len(e_cur)))
    id_rank = _id_rank(ids, n)
    candidates = np.lexsort((id_rank, -confidence))[: n_candidates(confidence, n_select, tau_c, scale)]
    distance, score = np.full(n, np.nan), np.full(n, np.nan)
    distance[candidates] = semantic_distance(e_cur[candidates], e_anchor)
    score[candidates] = confidence[candidates] * (1 - distance[candidates])  # Eq. 26
    largest = np.abs(score[candidates]).max() or 1.0
    best_first = np.lexsort(
        (id_rank[candidates], -(score[candidates] / largest).round(14))
    )  # the last digits decide no tie
    return Selection(candidates[best_first[:n_select]], candidates, distance, score)


def select_reliable(
    confidence: np.ndarray,
    e_cur: np.ndarray,
    e_anchor: np.ndarray,
    n_select: int,
    tau_c: float = 2.0,
    scale: str = "max",
    ids: Sequence[str] | None = None,
) -> np.ndarray:
    """The n_select cases to pseudo-label (Eqs. 23-26): of the K most confident, those with the largest R; ties by id.

    confidence: (N,) C of every unlabelled case. e_cur: (N, d). e_anchor: (L, d), every labelled case, L >= 1, same encoder.
    scale: see n_candidates. Returns indices, best first; all candidates if there are fewer than n_select.
    """
    return rank_reliable(confidence, e_cur, e_anchor, n_select, tau_c, scale, ids).indices


# The first case -------------------------------------------------------------------------


def summed_distance(e_pre: np.ndarray) -> np.ndarray:
    """Cosine distance of each case to all others, summed; (N, d) to (N,), in O(N d), rounded to 1e-9 so that ties are ties."""
    e_pre = _embeddings(e_pre, "e_pre")
    total = sum((unit_vectors(e_pre[rows]).sum(axis=0) for rows in _row_blocks(e_pre)), np.zeros(e_pre.shape[1]))
    similarity = np.empty(len(e_pre))
    for rows in _row_blocks(e_pre):
        unit = unit_vectors(e_pre[rows])
        similarity[rows] = np.einsum("nd,nd->n", unit, total - unit)
    return np.round(len(e_pre) - 1 - similarity, 9)


def medoid(e_pre: np.ndarray, ids: Sequence[str] | None = None) -> int:
    """Index of the case with the smallest summed cosine distance to all others, ties by id: a choice of the first case."""
    distance = summed_distance(e_pre)
    return int(np.lexsort((_id_rank(ids, len(distance)), distance))[0])


# Shared pieces ---------------------------------------------------------------------------------------------------------


def unit_vectors(rows: np.ndarray) -> np.ndarray:
    """Unit vectors of a few rows in float64; a zero vector stays zero. Scaled first, so that no square over- or underflows."""
    rows = rows.astype(np.float64)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    rows /= np.where(largest > 0, largest, 1.0)
    rows /= np.where(largest > 0, np.linalg.norm(rows, axis=1, keepdims=True), 1.0)
    return rows


def _cosine_distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Row by row distance of unit vectors as 0.5 |u - v|^2, without cancellation near 0; 1 where one of them is zero."""
    difference = u - v
    distance = 0.5 * np.einsum("nd,nd->n", difference, difference)
    distance[~(u.any(axis=1) & v.any(axis=1))] = 1.0
    return np.minimum(distance, 2.0)


def _row_blocks(rows: np.ndarray, width: int | None = None) -> Iterator[slice]:
    step = max(1, _BLOCK // (width or rows.shape[1]))
    for start in range(0, len(rows), step):
        yield slice(start, min(start + step, len(rows)))


def _voxel_blocks(probs: np.ndarray) -> Iterator[np.ndarray]:
    """Copies (C, n) in float64 of successive voxels; an array that is not contiguous is cut along its first spatial axis."""
    if probs.flags.c_contiguous:
        probs = probs.reshape(probs.shape[0], -1)
    step = max(1, _BLOCK * probs.shape[1] // probs.size)
    for start in range(0, probs.shape[1], step):
        yield probs[:, start : start + step].astype(np.float64, order="C").reshape(probs.shape[0], -1)


def _check_probabilities(p: np.ndarray, tolerance: float) -> None:
    if not np.isfinite(p).all():
        raise ValueError("probs contains NaN or inf; expected softmax output. Check the weights and the image.")
    error = float(np.abs(p.sum(axis=0) - 1).max())
    if error > tolerance or p.min() < 0:
        found = (
            f"sums to 1 over axis 0 only within {error:.2g}"
            if error > tolerance
            else f"has negative values ({p.min():.2g})"
        )
        raise ValueError(
            f"probs {found}; expected probabilities with sum 1 within {tolerance:g}. Apply softmax to logits first."
        )


def _embeddings(rows: np.ndarray, name: str) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim != 2 or rows.size == 0:
        raise ValueError(f"{name} has shape {rows.shape}; expected (N, d), one row per case, at least one case.")
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise ValueError(f"{name} contains NaN or inf in row {int(finite.argmin())}; embed that case again.")
    return rows


def _vector(values: np.ndarray, name: str, length: int | None = None) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or (length is not None and len(values) != length):
        expected = "(N,), at least one case" if length is None else f"({length},), one value per case"
        raise ValueError(f"{name} has shape {values.shape}; expected {expected}.")
    finite = np.isfinite(values)
    if not finite.all():
        raise ValueError(f"{name} contains NaN or inf in row {int(finite.argmin())}; score that case again.")
    return values


def _confidences(values: np.ndarray) -> np.ndarray:
    values = _vector(values, "confidence")
    if values.min() < 0:
        raise ValueError(f"confidence contains {values.min():g}; expected values >= 0, as confidence() returns.")
    return values


def _id_rank(ids: Sequence[str] | None, n: int) -> np.ndarray:
    """(n,) position of each case in ascending order of its id, or its row number without ids."""
    rank = np.arange(n)
    if ids is None:
        return rank
    names = [str(case) for case in ids]
    if len(names) != n or len(set(names)) != n:
        raise ValueError(
            f"{len(names)} ids, {len(set(names))} of them distinct, for {n} cases; expected one id per case."
        )
    rank[sorted(range(n), key=names.__getitem__)] = np.arange(n)
    return rank


def _count(value: int, name: str) -> int:
    value = operator.index(value)
    if value < 1:
        raise ValueError(f"{name} is {value}; expected a number of cases, at least 1.")
    return value


def _choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}.")


def _mean(total: float, count: int) -> float:
    return total / count if count else 0.0

"""Scoring of a folder of saved nnU-Net softmax outputs (CASE.npz or CASE.b2nd) into a table, without an experiment.

`nnUNetv2_predict --save_probabilities` writes (C, Z, Y, X) on the original grid of each image and fills the voxels
outside its crop with background = 1. This padding can halve, or worse, every mean over all voxels. CASE.pkl and
plans.json, which the same command writes, tell where the crop was; if both exist, only the voxels inside the crop are
summed. The padding changes neither means over foreground nor sums.

Sums count voxels of the original grid here, but voxels of the network grid in an experiment. Do not compare the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import blosc2
import numpy as np

from nnunet_assft.active.metrics import VoxelSums, asd_from_sums, confidence_from_sums, temperature, voxel_sums
from nnunet_assft.active.query.pool import Query, QueryPool
from nnunet_assft.active.scoring.softmax_files import (
    B2ND,
    KEY,
    bytes_held,
    crop_box,
    open_softmax,
    read_npz,
    saved_files,
    slabs,
    transpose_forward,
)
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.cases import for_each_case, in_processes
from nnunet_assft.runtime.processes import number_of_processes
from nnunet_assft.runtime.text import some

QUERY_COLUMNS = ("pakd", "pd", "dkd", "q")


@dataclass(frozen=True)
class SavedCase:
    """The sums of one case over the voxels inside the crop, or over all voxels if the crop is not known."""

    case: str
    cropped: bool
    sums: VoxelSums

    @property
    def is_hard(self) -> bool:
        """Whether every probability is 0 or 1, as those of a segmentation."""
        return self.sums.entropy_sum == 0 and self.sums.margin_sum == self.sums.voxels

    def row(self) -> dict[str, str | int | float]:
        """Return the row of this case: entropies in nats, foreground and sums in voxels of the original grid."""
        sums = self.sums
        return {
            "case": self.case,
            "voxels": sums.voxels,
            "cropped": "yes" if self.cropped else "no",
            "entropy": sums.entropy_sum / sums.voxels,
            "least_confidence": 1.0 - sums.top1_sum / sums.voxels,
            "margin": sums.margin_sum / sums.voxels,
            "asd": asd_from_sums(sums),
            "asd_mean": asd_from_sums(sums, "mean"),
            "asd_sum": asd_from_sums(sums, "sum"),
            "confidence": confidence_from_sums(sums),
            "confidence_foreground_mean": confidence_from_sums(sums, "foreground_mean"),
            "foreground_voxels": sums.foreground_voxels,
        }


@dataclass(frozen=True)
class FolderScores:
    """The scores of all cases of a folder, and the problems of those that cannot be scored."""

    tau: float
    cases: tuple[SavedCase, ...]  # ids ascending
    findings: dict[str, str]  # case that could not be scored -> what is wrong with it
    query: Query | None = None  # all cases ranked, best first, if embeddings were given

    def rows(self) -> list[dict[str, str | int | float]]:
        """Return one row per case, with the columns of the query if there is one."""
        rows = [case.row() for case in self.cases]
        if self.query is not None:
            rank = {case: i for i, case in enumerate(self.query.ids, start=1)}
            for i, row in enumerate(rows):
                row.update({name: self.query.scores[name][i] for name in QUERY_COLUMNS})
                row["query_rank"] = rank[str(row["case"])]
        return rows


def score_folder(
    folder: Path,
    r: int,
    R: int,  # noqa: N803
    *,
    embeddings_file: Path | None = None,
    num_processes: int | None = None,
) -> FolderScores:
    """Score every CASE.npz and CASE.b2nd of a folder for round r of R and, with embeddings, rank them for annotation.

    A case that cannot be scored is reported as a finding, and the other cases are still scored. Raises `AssftError` if
    there is no case, for a round outside 1..R, and for embeddings that do not match the cases.
    """
    try:
        tau = temperature(r, R)
    except ValueError as error:
        raise AssftError(str(error)) from error
    files = saved_files(folder, ignore=embeddings_file)
    transpose_forward(folder)  # wrong plans raise here once instead of in every case
    embeddings = None if embeddings_file is None else read_embeddings(embeddings_file, [file.stem for file in files])
    cases, findings = _score_files(files, tau, num_processes)
    query = None
    if embeddings is not None and cases:
        rows = [embeddings.index[case.case] for case in cases]
        pool = QueryPool.create(
            [case.case for case in cases],
            sums=[case.sums for case in cases],
            embeddings=embeddings.latest[rows],
            pretrained_embeddings=embeddings.pretrained[rows],
            round=r,
            n_rounds=R,
        )
        query = STRATEGIES["dkd_asd"].query(pool, len(cases))
    return FolderScores(tau, tuple(cases), findings, query)


def _score_files(
    files: Sequence[Path], tau: float, num_processes: int | None
) -> tuple[list[SavedCase], dict[str, str]]:
    """Return the cases that can be scored, ids ascending, and what is wrong with the others."""
    n = number_of_processes(
        num_processes,
        total_bytes=sum(file.stat().st_size for file in files if file.exists()),
        bytes_per_process=max(map(bytes_held, files)),
    )
    unusable: dict[str, AssftError] = {}
    results = for_each_case(
        partial(_score_or_say_why, tau),
        {file.stem: file for file in files},
        desc="scoring",
        failures=unusable,
        # a b2nd has no checksums, and some versions of blosc2 crash on one that is damaged
        executor=in_processes(n, never_here=any(file.suffix == B2ND for file in files)),
    )
    scored = [results[case] for case in sorted(results)]
    findings = {case: str(error) for case, error in unusable.items()}
    usual = _usual_classes(scored)
    for case in scored:
        found = len(case.sums.class_voxels)
        if found != usual:
            findings[case.case] = f"{found} channels, but {usual} in other cases; expected predictions of one model."
    return [case for case in scored if case.case not in findings], dict(sorted(findings.items()))


def _usual_classes(cases: Sequence[SavedCase]) -> int:
    """Return the most common number of channels; a tie goes to the number that occurs first."""
    counts = Counter(len(case.sums.class_voxels) for case in cases)
    return counts.most_common(1)[0][0] if counts else 0


# One case ----------------------------------------------------------------------------------------------------------


def score_file(file: Path, tau: float) -> SavedCase:
    """Return the sums of one CASE.npz or CASE.b2nd. Raises ValueError or OSError if the file cannot be used.

    tau: temperature of the round (Eq. 7).
    """
    probs = open_softmax(file)
    box = crop_box(file, probs.shape[1:])
    sums, outside = _sums_inside(probs, box or tuple(slice(0, size) for size in probs.shape[1:]), tau)
    n_outside = probs.size // probs.shape[0] - sums.voxels
    if not abs(outside - n_outside) <= 1e-3 + 1e-6 * n_outside:  # the tolerance covers rounding
        raise ValueError(
            f"the background is not 1 outside the crop in {file.stem}.pkl; expected files of one prediction. "
            "Predict the case again."
        )
    return SavedCase(file.stem, box is not None, sums)


def _score_or_say_why(tau: float, file: Path) -> SavedCase:
    """Call `score_file`, and raise its errors as an `AssftError` with a message of one line."""
    try:
        return score_file(file, tau)
    except MemoryError as error:
        raise AssftError("does not fit into memory. Run the same command again with -np 1.") from error
    except (OSError, ValueError) as error:
        raise AssftError(" ".join(str(error).split())) from error


def _sums_inside(probs: np.ndarray | blosc2.NDArray, box: tuple[slice, ...], tau: float) -> tuple[VoxelSums, float]:
    """Return the sums over the voxels inside the box, and the sum of the background probability outside it."""
    z, y, x = box
    sums, outside, start = VoxelSums.zero(probs.shape[0]), 0.0, 0
    for slab in slabs(probs):
        inside = slab[:, max(0, z.start - start) : max(0, z.stop - start), y, x]  # a view
        start += slab.shape[1]
        if inside.size:
            sums += _sums_of_softmax(inside, tau)
        outside += float(slab[0].sum(dtype=np.float64) - inside[0].sum(dtype=np.float64))
    return sums, outside


def _sums_of_softmax(probs: np.ndarray, tau: float) -> VoxelSums:
    """Call `voxel_sums`, and raise its errors with a message that suits a saved file."""
    try:
        return voxel_sums(probs, tau)
    except ValueError as error:
        if probs.dtype.kind != "f":
            raise
        problem = str(error)
        if probs.min() >= 0 and probs.max() <= 1:  # neither logits nor NaN
            problem = (
                f"{KEY} of {len(probs)} channels do not sum to 1 in every voxel; expected softmax with background. "
                "A region-based (sigmoid) prediction cannot be scored."
            )
        raise ValueError(f"{problem} If it was a softmax, the file is damaged: predict the case again.") from error


# Embeddings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of cases by the pre-trained and by the latest encoder, (N, d) each."""

    index: dict[str, int]  # case id -> row
    pretrained: np.ndarray
    latest: np.ndarray


def read_embeddings(file: Path, cases: Collection[str]) -> Embeddings:
    """Read the arrays `ids` (N,), `pretrained` (N, d) and `latest` (N, d) of an npz file, and check them.

    Ids that are not among `cases` are ignored. Raises `AssftError` for missing arrays, wrong shapes or types, ids that
    are missing or occur twice, and NaN or inf in the row of a case.
    """
    try:
        arrays = read_npz(file, ("ids", "pretrained", "latest"))
    except ValueError as error:
        raise AssftError(f"embeddings {file}: {error}") from error
    ids, pretrained, latest = arrays["ids"], arrays["pretrained"], arrays["latest"]
    if ids.ndim != 1 or ids.dtype.kind != "U":
        raise AssftError(
            f"embeddings {file}: ids is {ids.dtype} of shape {ids.shape}; expected (N,) strings, one per case."
        )
    for name, rows in (("pretrained", pretrained), ("latest", latest)):
        if rows.ndim != 2 or len(rows) != len(ids) or rows.shape != latest.shape or rows.dtype.kind != "f":
            raise AssftError(
                f"embeddings {file}: {name} is {rows.dtype} of shape {rows.shape}, latest of shape {latest.shape}; "
                f"expected floats (N, d) in both, with N = {len(ids)}, the number of ids."
            )
    index = {str(case): row for row, case in enumerate(ids)}
    if len(index) != len(ids):
        double = [case for case, count in Counter(ids.tolist()).items() if count > 1]
        raise AssftError(f"embeddings {file}: {some(double)} occurs more than once; expected one row per case.")
    missing = [case for case in cases if case not in index]
    if missing:
        raise AssftError(f"embeddings {file}: no row for {some(missing)}; expected a row for every case of the folder.")
    unusable = [case for case in cases if not np.isfinite([pretrained[index[case]], latest[index[case]]]).all()]
    if unusable:
        raise AssftError(f"embeddings {file}: NaN or inf in the row of {some(unusable)}; embed these cases again.")
    return Embeddings(index, pretrained, latest)

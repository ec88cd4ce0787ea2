"""Scores of saved nnU-Net softmax outputs, without any experiment: a folder of CASE.npz or CASE.b2nd in, a table of cases out.

A CASE.b2nd (blosc2, float16 or float32, any chunks) is read slab by slab and never held whole. An npz cannot be read in part:
numpy unpacks the array `probabilities` whole, once, in the type it was saved in; all that follows works on views of it. Either
way only blocks of voxels are converted to float64.

`nnUNetv2_predict --save_probabilities` writes (C, Z, Y, X) on the original grid of each image and fills what it had cropped
away with background = 1. That filling halves or worse every mean over all voxels. CASE.pkl and plans.json, which the same
command writes, say where the crop was: where both are there, the probabilities are cut back to it before anything is summed.
Means over foreground and sums do not notice the filling. Sums count voxels of the original grid here, while an experiment
counts voxels of the network grid: do not mix the two.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import blosc2
import numpy as np

from nnunet_assft.active.metrics import VoxelSums, asd_from_sums, confidence_from_sums, temperature, voxel_sums
from nnunet_assft.active.query.pool import Query, QueryPool
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.cases import for_each_case, in_processes
from nnunet_assft.runtime.files import read_json
from nnunet_assft.runtime.processes import number_of_processes

KEY = "probabilities"
NPZ, B2ND = ".npz", ".b2nd"
SLAB_BYTES = 2**25  # of a b2nd, read at a time; at least one slice of the first axis
QUERY_COLUMNS = ("pakd", "pd", "dkd", "q")


@dataclass(frozen=True)
class SavedCase:
    """The sums of one case over the voxels inside of the crop, or over all voxels if nothing says where the crop was."""

    case: str
    cropped: bool
    sums: VoxelSums

    def row(self) -> dict[str, str | int | float]:
        """The columns of this case: entropies in nats, foreground and sums in voxels of the original grid."""
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
    """cases: by id, ascending. findings: what is wrong with each case that was left out. query: all cases, best first."""

    tau: float
    cases: tuple[SavedCase, ...]
    findings: dict[str, str]
    query: Query | None = None

    def rows(self) -> list[dict[str, str | int | float]]:
        rows = [case.row() for case in self.cases]
        if self.query is not None:
            rank = {case: i for i, case in enumerate(self.query.ids, start=1)}
            for i, row in enumerate(rows):
                row.update({name: self.query.scores[name][i] for name in QUERY_COLUMNS})
                row["query_rank"] = rank[str(row["case"])]
        return rows


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of cases under the pre-trained and the latest encoder, (N, d) each; index: case id -> row."""

    index: dict[str, int]
    pretrained: np.ndarray
    latest: np.ndarray


def score_folder(
    folder: Path,
    r: int,
    R: int,  # noqa: N803
    *,
    embeddings_file: Path | None = None,
    num_processes: int | None = None,
) -> FolderScores:
    """Score every CASE.npz and CASE.b2nd of the folder for round r of R, and order the cases for a query if embeddings are given.

    A case that cannot be scored is a finding and does not stop the others. Raises `AssftError` if nothing can be scored, for
    a round outside 1..R, and for embeddings that do not fit the cases.
    """
    try:
        tau = temperature(r, R)
    except ValueError as error:
        raise AssftError(str(error)) from error
    files = saved_files(folder, ignore=embeddings_file)
    _transpose_forward(folder)  # raises here, once, rather than for every case
    embeddings = None if embeddings_file is None else read_embeddings(embeddings_file, [file.stem for file in files])
    cases, findings = _score_files(files, tau, _processes(files, num_processes))
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


def score_file(file: Path, tau: float) -> SavedCase:
    """The sums of one CASE.npz or CASE.b2nd at the temperature tau. Raises ValueError or OSError if it cannot be used."""
    if file.with_suffix(NPZ).is_file() and file.with_suffix(B2ND).is_file():
        raise ValueError(
            f"saved twice, as {file.stem}{NPZ} and {file.stem}{B2ND}; expected one of them. Remove the outdated one."
        )
    probs = _open_b2nd(file) if file.suffix == B2ND else _read_npz(file, (KEY,))[KEY]
    if probs.ndim != 4 or 0 in probs.shape:
        raise ValueError(f"{KEY} has shape {probs.shape}; expected (C, Z, Y, X) of nnUNetv2_predict.")
    box = _crop_box(file, probs.shape[1:])
    sums, outside = _sums_inside(probs, box or tuple(slice(0, size) for size in probs.shape[1:]), tau)
    n_outside = probs.size // probs.shape[0] - sums.voxels
    if not abs(outside - n_outside) <= 1e-3 + 1e-6 * n_outside:  # rounding, also where nothing lies outside
        raise ValueError(
            f"outside of the crop in {file.stem}.pkl the background is not 1; expected files of one prediction. Predict the case again."
        )
    return SavedCase(file.stem, box is not None, sums)


def saved_files(folder: Path, *, ignore: Path | None = None) -> list[Path]:
    """A CASE.npz or CASE.b2nd for each case of a folder, ids ascending, without `ignore` and hidden ones.

    Raises `AssftError` if there is none.
    """
    if not folder.is_dir():
        raise AssftError(
            f"{folder} is not a folder. Expected the output folder of nnUNetv2_predict --save_probabilities."
        )
    skip = None if ignore is None else ignore.resolve()
    files = [
        f
        for f in folder.iterdir()
        if f.suffix in (NPZ, B2ND) and f.is_file() and not f.name.startswith(".") and f.resolve() != skip
    ]
    if not files:
        raise AssftError(
            f"{folder} holds no CASE.npz or CASE.b2nd. Run nnUNetv2_predict with --save_probabilities to get them."
        )
    return sorted({file.stem: file for file in files}.values(), key=lambda file: file.stem)


def read_embeddings(file: Path, cases: Collection[str]) -> Embeddings:
    """`ids` (N,), `pretrained` (N, d) and `latest` (N, d) of an npz file, checked for these cases; other ids are ignored.

    Raises `AssftError` for keys, shapes or types that do not fit, ids that are missing or double, NaN and inf.
    """
    try:
        arrays = _read_npz(file, ("ids", "pretrained", "latest"))
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
                f"expected floats (N, d) in both, with N = {len(ids)} as ids."
            )
    index = {str(case): row for row, case in enumerate(ids)}
    if len(index) != len(ids):
        double = [case for case, count in Counter(ids.tolist()).items() if count > 1]
        raise AssftError(f"embeddings {file}: {_some(double)} more than once; expected one row per case.")
    missing = [case for case in cases if case not in index]
    if missing:
        raise AssftError(f"embeddings {file}: no row for {_some(missing)}; expected every case of the folder.")
    unusable = [case for case in cases if not np.isfinite([pretrained[index[case]], latest[index[case]]]).all()]
    if unusable:
        raise AssftError(f"embeddings {file}: NaN or inf in the row of {_some(unusable)}; embed again.")
    return Embeddings(index, pretrained, latest)


# One case ----------------------------------------------------------------------------------------------------------


def _sums_inside(probs: np.ndarray | blosc2.NDArray, box: tuple[slice, ...], tau: float) -> tuple[VoxelSums, float]:
    """The sums over the voxels inside of the box, and the background probability summed over those outside."""
    z, y, x = box
    sums, outside, start = VoxelSums.zero(probs.shape[0]), 0.0, 0
    for slab in _slabs(probs):
        inside = slab[:, max(0, z.start - start) : max(0, z.stop - start), y, x]  # a view
        start += slab.shape[1]
        if inside.size:
            sums += _sums_of_softmax(inside, tau)
        outside += float(slab[0].sum(dtype=np.float64) - inside[0].sum(dtype=np.float64))
    return sums, outside


def _slabs(probs: np.ndarray | blosc2.NDArray) -> Iterator[np.ndarray]:
    """Successive parts (C, z, Y, X) of a case: all of it if it is in memory, else about SLAB_BYTES read from its file."""
    if isinstance(probs, np.ndarray):
        yield probs
        return
    depth = max(1, SLAB_BYTES * probs.shape[1] // probs.nbytes)
    for start in range(0, probs.shape[1], depth):
        with _damage_is_a_value_error(B2ND):
            slab = np.asarray(probs[:, start : start + depth])
        yield slab


def _sums_of_softmax(probs: np.ndarray, tau: float) -> VoxelSums:
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
        raise ValueError(f"{problem} If it was a softmax, the file is damaged: make it again.") from error


def _crop_box(file: Path, shape: tuple[int, ...]) -> tuple[slice, ...] | None:
    """Where the crop of a case lies on the original grid, or None if CASE.pkl or plans.json is not there.

    nnU-Net transposes, then crops: axis i of its box is axis transpose_forward[i] of the original grid.
    """
    properties_file = file.with_suffix(".pkl")
    forward = _transpose_forward(file.parent)
    if forward is None or not properties_file.is_file():
        return None
    try:
        with open(properties_file, "rb") as stream:
            properties = pickle.load(stream)
        bounds = [(int(start), int(stop)) for start, stop in properties["bbox_used_for_cropping"]]
        transposed = tuple(int(size) for size in properties["shape_before_cropping"])
    except Exception as error:  # unpickling may raise anything
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{properties_file.name} is not a file of nnU-Net ({problem}); predict the case again, or remove that file to score all voxels."
        ) from error
    if transposed != tuple(shape[axis] for axis in forward) or len(bounds) != len(forward):
        raise ValueError(
            f"{properties_file.name} has shape {transposed} and crop {bounds} in the axis order {forward}, but {KEY} has shape "
            f"{shape}; expected files of one prediction. Predict the case again."
        )
    if not all(0 <= start < stop <= size for (start, stop), size in zip(bounds, transposed, strict=True)):
        raise ValueError(
            f"{properties_file.name} has crop {bounds}, not inside of shape {transposed}; predict the case again."
        )
    slices = dict(zip(forward, bounds, strict=True))
    return tuple(slice(*slices[axis]) for axis in range(len(forward)))


def _transpose_forward(folder: Path) -> tuple[int, ...] | None:
    """transpose_forward of plans.json, None without that file. Raises `AssftError` if it is not nnU-Net's."""
    file = folder / "plans.json"
    if not file.is_file():
        return None
    try:
        forward = tuple(read_json(file)["transpose_forward"])
    except (ValueError, KeyError, TypeError) as error:
        raise AssftError(
            f"{file} has no transpose_forward; expected the plans that nnUNetv2_predict wrote there."
        ) from error
    if sorted(forward) != [0, 1, 2]:
        raise AssftError(f"{file} has transpose_forward {forward}; expected an order of the axes 0, 1, 2.")
    return forward


def _open_b2nd(file: Path) -> blosc2.NDArray:
    """A blosc2 array of which nothing is read yet. Raises ValueError."""
    with _damage_is_a_value_error(B2ND):
        array = blosc2.open(str(file), mode="r", dparams={"nthreads": 1})  # the processes share the cores already
    if not isinstance(array, blosc2.NDArray):
        raise ValueError(
            f"a blosc2 {type(array).__name__}; expected an array (C, Z, Y, X), as blosc2.asarray writes it."
        )
    return array


def _read_npz(file: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of an npz file. Raises ValueError."""
    if not file.exists():
        raise ValueError("the file does not exist.")
    if not zipfile.is_zipfile(file):
        raise ValueError("not a whole npz file, perhaps cut off while it was written; make it again.")
    with _damage_is_a_value_error(NPZ), np.load(file) as archive:
        names = archive.files
        arrays = {key: np.asarray(archive[key]) for key in keys if key in names}
    missing = [key for key in keys if key not in arrays]
    if missing:
        raise ValueError(
            f"no array named {', '.join(missing)}; found {', '.join(names) or 'nothing'}, expected {', '.join(keys)}."
        )
    return arrays


@contextmanager
def _damage_is_a_value_error(ending: str) -> Iterator[None]:
    """numpy and blosc2 raise whatever the bytes of a damaged file lead to: SyntaxError, OverflowError, TokenError, ..."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(
            f"cannot be read as {ending}, perhaps damaged or cut off ({type(error).__name__}: {error}); make it again."
        ) from error


# The cases of a folder ---------------------------------------------------------------------------------------------


def _score_files(files: Sequence[Path], tau: float, num_processes: int) -> tuple[list[SavedCase], dict[str, str]]:
    """The cases that can be scored, by id, and what is wrong with the others."""
    unusable: dict[str, AssftError] = {}
    results = for_each_case(
        partial(_score_or_say_why, tau),
        {file.stem: file for file in files},
        desc="scoring",
        failures=unusable,
        executor=in_processes(num_processes),
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
    """The number of channels that most cases have; of two equally common numbers that of the first case."""
    counts = Counter(len(case.sums.class_voxels) for case in cases)
    return counts.most_common(1)[0][0] if counts else 0


def _score_or_say_why(tau: float, file: Path) -> SavedCase:
    try:
        return score_file(file, tau)
    except MemoryError as error:
        raise AssftError("does not fit into memory; fewer processes need less: try -np 1.") from error
    except (OSError, ValueError) as error:
        raise AssftError(" ".join(str(error).split())) from error


def _processes(files: Sequence[Path], requested: int | None) -> int:
    return number_of_processes(
        requested,
        total_bytes=sum(file.stat().st_size for file in files),
        bytes_per_process=max(map(_bytes_held, files)),
    )


def _bytes_held(file: Path) -> int:
    """What is in memory of a case at once: two slabs of a b2nd, all of an npz (the size of the file if it is damaged)."""
    if file.suffix == B2ND:
        return 2 * SLAB_BYTES  # one is summed while the next is read
    try:
        with zipfile.ZipFile(file) as archive:
            return sum(member.file_size for member in archive.infolist())
    except Exception:  # of a damaged file; scoring it says what is wrong
        return file.stat().st_size


def _some(cases: Sequence[str]) -> str:
    """The first five ids, and how many more there are."""
    more = f" and {len(cases) - 5} more" if len(cases) > 5 else ""
    return ", ".join(cases[:5]) + more

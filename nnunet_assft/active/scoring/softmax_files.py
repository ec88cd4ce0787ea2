"""Files of saved softmax outputs: the cases of a folder, their probabilities in parts, and the position of the crop.

CASE.b2nd (blosc2, float16 or float32, any chunks) is read slab by slab and never held in memory as a whole. CASE.npz
cannot be read in parts: numpy loads the whole array `probabilities` in the type it was saved in.

Damaged files raise ValueError; the message says what is wrong with the file.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import index
from pathlib import Path

import blosc2
import numpy as np

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.downloads import failed_download, first_bytes
from nnunet_assft.runtime.files import read_json
from nnunet_assft.runtime.text import reason
from nnunet_assft.runtime.untrusted import load_pickle
from nnunet_assft.volumes.headers import MOST_PER_BYTE

KEY = "probabilities"
KEY_V1 = "softmax"  # of nnU-Net v1
NPZ, B2ND = ".npz", ".b2nd"
SLAB_BYTES = 2**25  # read at a time from a b2nd, but at least one slice of the first axis


def saved_files(folder: Path, *, ignore: Path | None = None) -> list[Path]:
    """Return one CASE.npz or CASE.b2nd for each case of a folder, ids ascending.

    Hidden files and the file `ignore` are left out. A link that leads nowhere counts, because its case would be missing
    otherwise. Raises `AssftError` if there is no case.
    """
    if not folder.is_dir():
        raise AssftError(
            f"{folder} is not a folder; expected the output folder of nnUNetv2_predict --save_probabilities."
        )
    skip = None if ignore is None else os.path.realpath(ignore)
    files = {
        file.stem: file
        for file in folder.iterdir()
        if file.suffix in (NPZ, B2ND) and not file.name.startswith(".") and os.path.realpath(file) != skip
        if file.is_file() or not file.exists()
    }
    if not files:
        raise AssftError(
            f"{folder} holds no CASE.npz or CASE.b2nd. Run nnUNetv2_predict with --save_probabilities to create them."
        )
    return sorted(files.values(), key=lambda file: file.stem)


def open_softmax(file: Path) -> np.ndarray | blosc2.NDArray:
    """Open the probabilities of a case, (C, Z, Y, X). A b2nd is not read yet. Raises ValueError or OSError."""
    if file.with_suffix(NPZ).is_file() and file.with_suffix(B2ND).is_file():
        raise ValueError(
            f"saved twice, as {file.stem}{NPZ} and {file.stem}{B2ND}; expected only one. Remove the outdated file."
        )
    if not file.exists():
        raise ValueError(
            f"a symbolic link to {os.readlink(file)}, which does not exist. Restore that file or remove the link."
        )
    if other := failed_download(first_bytes(file)):
        raise ValueError(f"{other}.")
    probs = _open_b2nd(file) if file.suffix == B2ND else read_npz(file, (KEY,))[KEY]
    if probs.ndim != 4 or 0 in probs.shape:
        raise ValueError(f"{KEY} has shape {probs.shape}; expected (C, Z, Y, X), as nnUNetv2_predict writes it.")
    return probs


def slabs(probs: np.ndarray | blosc2.NDArray) -> Iterator[np.ndarray]:
    """Yield successive parts (C, z, Y, X): the whole array if it is in memory, otherwise about SLAB_BYTES."""
    if isinstance(probs, np.ndarray):
        yield probs
        return
    nbytes = math.prod(probs.shape) * probs.dtype.itemsize  # an older blosc2 counts the padding of the chunks too
    depth = max(1, SLAB_BYTES * probs.shape[1] // nbytes)
    for start in range(0, probs.shape[1], depth):
        with _damage_is_a_value_error(B2ND):
            slab = np.asarray(probs[:, start : start + depth])
        yield slab


def bytes_held(file: Path) -> int:
    """Return how many bytes of a case are in memory at once: two slabs of a b2nd, or a whole npz."""
    if file.suffix == B2ND:
        return 2 * SLAB_BYTES  # one is summed while the next is read
    try:
        with zipfile.ZipFile(file) as archive:
            return sum(member.file_size for member in archive.infolist())
    except Exception:  # the file is damaged; scoring it will report the problem
        return file.lstat().st_size


def read_npz(file: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Return these arrays of an npz file. Raises ValueError if the file is damaged or lacks one of them."""
    if not file.exists():
        raise ValueError("the file does not exist.")
    if not file.is_file():  # opening a pipe would wait for ever
        raise ValueError("it is a folder, a pipe or a device; expected an npz file.")
    if not zipfile.is_zipfile(file):
        raise ValueError("not a complete npz file, perhaps truncated while it was written; write it again.")
    with _damage_is_a_value_error(NPZ), zipfile.ZipFile(file) as members:
        for key in keys:
            _require_bounded(members, f"{key}.npy")
    with _damage_is_a_value_error(NPZ), np.load(file) as archive:
        names = archive.files
        arrays = {key: np.asarray(archive[key]) for key in keys if key in names}
    missing = [key for key in keys if key not in arrays]
    if missing == [KEY] and KEY_V1 in names:
        raise ValueError(
            f"the array is called {KEY_V1}, as nnU-Net v1 writes it, which holds the crop of the image only; expected "
            f"{KEY} of nnU-Net v2. Predict the case with nnU-Net v2, or save the array alone as {KEY}, without "
            f"{file.stem}.pkl."
        )
    if missing:
        raise ValueError(
            f"no array named {', '.join(missing)}; found {', '.join(names) or 'nothing'}; expected {', '.join(keys)}."
        )
    return arrays


def _require_bounded(archive: zipfile.ZipFile, name: str) -> None:
    """Raise ValueError if the header of an array promises more than its part of an npz file can hold, for which numpy
    would allocate memory."""
    if name not in archive.namelist():
        return
    member = archive.getinfo(name)
    with archive.open(member) as stream:
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = read[np.lib.format.read_magic(stream)](stream)
    promised, most = math.prod(shape) * dtype.itemsize, min(member.file_size, member.compress_size * MOST_PER_BYTE)
    if promised > most:
        raise ValueError(f"the header of {name} promises {promised:,} bytes, and at most {most:,} are there")


def _open_b2nd(file: Path) -> blosc2.NDArray:
    with _damage_is_a_value_error(B2ND):
        # unlike blosc2.open, this does not follow what the file may hold instead of numbers: code, or other files
        array = blosc2.blosc2_ext.open(
            str(file), "r", 0, dparams=blosc2.DParams(nthreads=1)
        )  # the workers use all cores
    if not isinstance(array, blosc2.NDArray) or set(array.schunk.meta) != {"b2nd"}:
        raise ValueError(
            "holds something else than an array of numbers; expected (C, Z, Y, X), as blosc2.asarray writes it."
        )
    with _damage_is_a_value_error(B2ND):
        expected = math.prod(-(-size // chunk) for size, chunk in zip(array.shape, array.chunks, strict=True))
        if array.schunk.nchunks != expected:  # a damaged header, and its shape may be too large for any memory
            raise ValueError(
                f"{array.schunk.nchunks} chunks, but shape {array.shape} in chunks of {array.chunks} needs {expected}"
            )
    return array


@contextmanager
def _damage_is_a_value_error(ending: str) -> Iterator[None]:
    """Raise ValueError for a damaged file, for which numpy and blosc2 may raise any exception, even SyntaxError."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(
            f"cannot be read as {ending}, damaged or truncated ({reason(error)}); write it again."
        ) from error


# The crop ----------------------------------------------------------------------------------------------------------


def crop_box(file: Path, shape: tuple[int, ...]) -> tuple[slice, ...] | None:
    """Return where the crop of a case lies on the original grid, or None if CASE.pkl or plans.json does not exist.

    shape: (Z, Y, X) of the probabilities. nnU-Net transposes the image before it crops, so axis i of its box is axis
    transpose_forward[i] of the original grid. Raises ValueError if the files do not belong to one prediction.
    """
    properties_file = file.with_suffix(".pkl")
    forward = transpose_forward(file.parent)
    if forward is None or not properties_file.is_file():
        return None
    bounds, transposed = _read_properties(properties_file)
    if transposed != tuple(shape[axis] for axis in forward) or len(bounds) != len(forward):
        raise ValueError(
            f"{properties_file.name} has shape {transposed} and crop {bounds} in the axis order {forward}, but {KEY} "
            f"has shape {shape}; expected files of one prediction. Predict the case again."
        )
    if not all(0 <= start < stop <= size for (start, stop), size in zip(bounds, transposed, strict=True)):
        raise ValueError(
            f"{properties_file.name} has crop {bounds}, which is not inside shape {transposed}. Predict the case again."
        )
    slices = dict(zip(forward, bounds, strict=True))
    return tuple(slice(*slices[axis]) for axis in range(len(forward)))


def _read_properties(file: Path) -> tuple[list[tuple[int, int]], tuple[int, ...]]:
    """Return the bounds of the crop and the shape before cropping, both in the transposed axes, from CASE.pkl."""
    try:
        properties = load_pickle(file)
        if not isinstance(properties, dict):
            raise TypeError(f"it holds a {type(properties).__name__} in place of properties")
        bounds = [(int(start), int(stop)) for start, stop in properties["bbox_used_for_cropping"]]
        return bounds, tuple(int(size) for size in properties["shape_before_cropping"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        problem = f"it lacks {error.args[0]}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise ValueError(
            f"{file.name} was not written by nnUNetv2_predict of nnU-Net v2 ({problem}). Predict the case again, or "
            "remove the file to score all voxels."
        ) from error


def transpose_forward(folder: Path) -> tuple[int, ...] | None:
    """Return transpose_forward of plans.json, or None without that file. Raises `AssftError` for an invalid file."""
    file = folder / "plans.json"
    if not file.is_file():
        return None
    try:
        forward = tuple(index(axis) for axis in read_json(file)["transpose_forward"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AssftError(
            f"{file} has no readable transpose_forward; expected the plans that nnUNetv2_predict wrote there."
        ) from error
    if sorted(forward) != [0, 1, 2]:
        raise AssftError(f"{file} has transpose_forward {forward}; expected a permutation of the axes 0, 1, 2.")
    return forward

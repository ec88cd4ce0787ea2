"""Images as people receive them: each function writes one, with one thing wrong, where a good one was.

All have 6 x 7 x 8 voxels (x, y, z) of 1 x 1 x 2 mm unless their name says otherwise.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np

SHAPE = (6, 7, 8)  # x, y, z
AFFINE = np.diag([1.0, 1, 2, 1])
VOXELS = np.random.default_rng(0).integers(1, 900, SHAPE).astype(np.int16)
GOOD = nibabel.Nifti1Image(VOXELS, AFFINE).to_bytes()
Damage = Callable[[Path], object]


def saved(array: np.ndarray = VOXELS, affine: np.ndarray = AFFINE) -> Damage:
    return lambda file: nibabel.save(nibabel.Nifti1Image(array, affine), file)


def patched(*edits: tuple[int, bytes], more: bytes = b"") -> Damage:
    """(offset, bytes) that replace those of a good file. more: bytes at its end."""

    def write(file: Path) -> None:
        content = bytearray(GOOD + more)
        for offset, new in edits:
            content[offset : offset + len(new)] = new
        file.write_bytes(gzip.compress(bytes(content)) if file.name.endswith(".gz") else content)

    return write


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def shorts(*values: int) -> bytes:
    return np.array(values, "<i2").tobytes()


def holding(content: bytes) -> Damage:
    return lambda file: file.write_bytes(content)


def cut(share: float) -> Damage:
    """A good file that ends too early."""

    def write(file: Path) -> None:
        saved()(file)
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * share)])

    return write


def with_forms(sform: np.ndarray, qform: np.ndarray, codes: tuple[int, int] = (2, 1)) -> Damage:
    def write(file: Path) -> None:
        image = nibabel.Nifti1Image(VOXELS, None)
        image.set_sform(sform, codes[0])
        image.set_qform(qform, codes[1])
        image.header["pixdim"][1:4] = np.linalg.norm(qform[:3, :3], axis=0)
        nibabel.save(image, file)

    return write


def skewed() -> np.ndarray:
    affine = AFFINE.copy()
    affine[1, 2] = 0.05
    return affine


def colours() -> np.ndarray:
    array = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    array["R"] = VOXELS % 200
    return array


def with_value(value: float) -> np.ndarray:
    array = VOXELS.astype(np.float32)
    array[0, 0, :3] = value
    return array


PIXDIM, SLOPE, DIM, DATATYPE, OFFSET = 80, 112, 40, 70, 108  # offsets in a NIfTI-1 header
PLANE = np.array([[1, 1, 0, 0], [0, 1e-6, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
SPACING = "expected 0.002 to 100 mm"
HUGE = shorts(3, 2000, 2000, 2000)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 123456\n"

# what is wrong -> (how, words of the message); for a .nii.gz, whatever the reader is
REFUSED: dict[str, tuple[Damage, str]] = {
    "time": (saved(np.stack([VOXELS] * 2, -1)), "it has 6 x 7 x 8 x 2 voxels, expected three axes. Save each volume"),
    "a fourth axis": (saved(VOXELS[..., None]), "it has 6 x 7 x 8 x 1 voxels, expected three axes. Drop the last one"),
    "five axes": (saved(VOXELS[..., None, None]), "it has 6 x 7 x 8 x 1 x 1 voxels, expected three axes. Drop"),
    "2D": (saved(VOXELS[..., 0]), "it has 6 x 7 voxels, expected a 3D volume"),
    "one slice": (saved(VOXELS[..., :1]), "it has 6 x 7 x 1 voxels, expected a 3D volume"),
    "RGB": (saved(colours()), "it holds 3 values per voxel, such as colours (RGB)"),
    "complex": (saved(VOXELS.astype(np.complex64)), "it holds complex numbers. Expected one real number per voxel"),
    "an unknown type": (patched((DATATYPE, shorts(1536, 128))), "it holds a type of voxels that is not supported"),
    "NaN": (saved(with_value(np.nan)), "3 voxels are NaN or infinite"),
    "infinity": (saved(with_value(-np.inf)), "3 voxels are NaN or infinite"),
    "too large for float32": (saved(with_value(1e30).astype(np.float64) * 1e30), "3 voxels are NaN or infinite"),
    "zeros": (saved(np.zeros(SHAPE, np.int16)), "all voxels are 0"),
    "air only": (saved(np.full(SHAPE, -1024, np.int16)), "all voxels are -1024"),
    "fill values": (saved(with_value(-3.4e38)), "3 voxels are beyond 1e+14"),
    **{
        f"voxels from byte {start}": (
            patched((OFFSET, floats(start))),
            f"its header says that its voxels begin at byte {start}; expected 352 or more",
        )
        for start in (0, 100, -1, np.nan)
    },
    "a type that does not exist": (
        patched((DATATYPE, shorts(9999, 16))),
        "its voxels are of the type 9999, which",
    ),
    "another magic": (patched((344, b"n+3\0")), "does not say that its voxels are in the same file"),
    "a qform alone that is no rotation": (patched((252, shorts(1, 0)), (256, floats(5, 5, 5))), "its affine is [[nan"),
    "axes in a plane": (saved(affine=AFFINE @ PLANE), "expected an invertible one"),
    "far away": (
        saved(affine=AFFINE + 1e10 * np.eye(4, k=3)),
        "its first voxel lies at 1e+10 mm, expected at",
    ),
    "compressed twice": (holding(gzip.compress(gzip.compress(GOOD))), "it is compressed twice. Unpack it once"),
    **{
        f"spacing {mm}": (patched((PIXDIM, floats(mm, 1, 2))), f"its spacing is {words} x 1 x 2 mm, {SPACING}")
        for mm, words in (
            (0, "0"),
            (-1, "-1"),
            (np.nan, "nan"),
            (np.inf, "inf"),
            (1e30, "1e+30"),
            (1e-6, "1e-06"),
            (500, "500"),
        )
    },
    "metres": (saved(affine=AFFINE @ np.diag([0.001, 0.001, 0.001, 1])), f"0.001 x 0.001 x 0.002 mm, {SPACING}"),
    "a NaN in the sform": (patched((280, floats(np.nan))), "its affine is [[nan, 0.0, 0.0, 0.0]"),
    "a pointer of Git LFS": (holding(POINTER), "Run git lfs pull"),
    "an HTML page": (holding(b"\n<!DOCTYPE html><html>Sign in</html>" * 20), "needs a login"),
    "an error message": (holding(b'{"error": "forbidden"}'), "it is a text file that begins with"),
    "text": (holding(b"no such object\n"), "it is a text file that begins with 'no such object'"),
    "nothing": (holding(b""), "it is empty"),
    "zeros only": (holding(b"\0" * 900), "it is empty or holds zeros only"),
    "DICOM": (holding(b"\0" * 128 + b"DICM" + b"\1" * 600), "it is a DICOM file"),
    "a zip archive": (holding(b"PK\3\4" + b"\1" * 600), "it is a zip archive"),
    "an NRRD file": (holding(b"NRRD0004\ntype: short\n" + b"\1" * 600), "it is an NRRD file"),
    "noise": (holding(bytes(range(1, 256)) * 3), "it is neither compressed nor a NIfTI file"),
    "not compressed": (
        holding(GOOD),
        "it is not compressed although its name ends with .gz. Compress it, or rename it to a_0000.nii",
    ),
    "half of the gzip": (
        cut(0.5),
        "cannot be read (Compressed file ended before the end-of-stream marker was reached)",
    ),
    "no end of the gzip": (cut(0.999), "cannot be read (Compressed file ended before"),
    "a wrong checksum": (
        lambda file: file.write_bytes(gzip.compress(GOOD)[:-8] + b"\1" * 4 + gzip.compress(GOOD)[-4:]),
        "cannot be read (CRC check failed",
    ),
    "few voxels, well compressed": (
        lambda file: file.write_bytes(gzip.compress(GOOD[:-100])),
        "its header promises 1,024 bytes, but only 924 come out of the file",
    ),
    "text in the gzip": (holding(gzip.compress(b"x" * 999)), "cannot be read (it is not a NIfTI file)"),
    "a short gzip": (holding(gzip.compress(b"x" * 99)), "cannot be read (it ends after 99 bytes)"),
    "a header of 2000^3 voxels": (
        patched((DIM, HUGE)),
        "its header promises 16,000,000,000 bytes of voxels (2000 x 2000 x 2000)",
    ),
    "a negative shape": (patched((DIM, shorts(3, -6, 7, 8))), "its header gives the shape (-6, 7, 8)"),
    "a gzip bomb": (patched(more=b"\0" * 3_000_000), "its header promises 1,024 bytes, but more come out"),
}

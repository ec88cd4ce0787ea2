"""What the header of a volume claims, checked against its file and the memory before anything is read.

NIfTI, NRRD, MetaImage and GIPL files are understood. A header may be damaged or made up, so that nothing here takes
more memory than a header.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from nnunet_assft.runtime.processes import free_memory
from nnunet_assft.runtime.text import reason
from nnunet_assft.volumes.grid import RAS, Grid, read_itk_grid
from nnunet_assft.volumes.nifti import best_affine, disagreement, is_gzipped, is_nifti, read_nifti_header
from nnunet_assft.volumes.one_file import META_TRUE

PLAIN, GZIPPED, ZLIB, HEX, TEXT = "plain", "gzip", "zlib", "hex", "text"  # how the voxels are stored
MOST_PER_BYTE = 1032  # a byte of a gzip, zlib or zip stream unpacks to at most this many
LONGEST_TEXT = 2**20  # bytes of an NRRD or MetaImage header
ALWAYS_FREE = 2**24  # bytes; to look up the free memory takes longer than to read so small an image
BYTES_OF_READING = 4  # per voxel: nnU-Net's readers return float32
_MM_OF_UNIT = {1: 1000.0, 3: 0.001}  # metre and micrometre in a NIfTI header, which ITK converts and nibabel does not
NIFTI_2 = (
    "it is a NIfTI-2 file, which ITK cannot read. Save it as NIfTI-1, or plan with "
    '"overwrite_image_reader_writer": "NibabelIOWithReorient" in dataset.json'
)

Affine = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Header:
    """The content of a header.

    shape: number of voxels (x, y, z), with the other axes that the file may have. affine: 4x4, RAS in mm, as the reader
    in use sees it. stored: type of the voxels in the file. scaled: whether the values are the stored voxels times a
    slope plus an intercept. pixdim: spacing in the file; if it is 0 or NaN, a reader puts another in its place, and the
    affine is NaN here. values: numbers per voxel. start: byte at which the voxels begin; for a .nii.gz, in the unpacked
    file. packing: how the voxels are stored. packed: bytes that they take in a compressed MetaImage file. forms: how
    sform and qform disagree, or "". refused: why ITK refuses the header, or "".
    """

    shape: tuple[int, ...]
    affine: Affine
    stored: np.dtype[Any]
    scaled: bool
    pixdim: tuple[float, ...] = (1.0, 1.0, 1.0)
    values: int = 1
    start: int = 0
    packing: str = PLAIN
    packed: int = 0
    forms: str = ""
    refused: str = ""

    @property
    def grid(self) -> Grid:
        """Where the voxels lie. Raises ValueError unless there are three axes."""
        return Grid.from_ras(self.shape, self.affine)

    @property
    def is_skewed(self) -> bool:
        """Whether ITK refuses the header because the axes are not at right angles."""
        return "orthonormal" in self.refused

    @property
    def stored_bytes(self) -> int:
        """Size of the voxels in the file when they are unpacked."""
        return math.prod(self.shape) * self.values * self.stored.itemsize

    @property
    def volume_bytes(self) -> int:
        """Size of the voxels in memory."""
        return math.prod(self.shape) * (8 if self.scaled else self.stored.itemsize)


def has_header(file: Path) -> bool:
    """Whether `read_header` understands files of this name."""
    return is_nifti(file) or file.name.lower().endswith((".nrrd", ".mha", ".gipl"))


def read_header(file: Path, *, by_itk: bool = False) -> Header:
    """Read the header of a NIfTI, NRRD, MetaImage or GIPL file, and no voxel.

    by_itk: take the position of a NIfTI file from ITK, as nnU-Net's SimpleITKIO does, and not from nibabel. Raises
    OSError, EOFError, ValueError or an error of nibabel if the header cannot be read.
    """
    if file.name.lower().endswith(".gipl"):
        return _gipl_header(file)
    if not is_nifti(file):
        return _text_header(file)
    header = read_nifti_header(file)
    if header["magic"].item() != (b"n+2" if isinstance(header, nibabel.Nifti2Header) else b"n+1"):
        # libraries would read NAME.img
        raise ValueError("its header does not say that its voxels are in the same file")
    start = _start_of_voxels(header)
    slope, inter = header.get_slope_inter()
    shape = _require_positive(header.get_data_shape())
    unit = _MM_OF_UNIT.get(int(header["xyzt_units"]) & 7, 1.0) if by_itk else 1.0
    pixdim = tuple(float(mm) * unit for mm in header["pixdim"][1:4])
    is_spacing = all(np.isfinite(mm) and mm > 0 for mm in pixdim)
    affine = np.asarray(best_affine(header) if is_spacing else np.full((4, 4), np.nan), dtype=np.float64)
    try:
        stored = header.get_data_dtype()
    except KeyError as error:
        raise ValueError(f"its voxels are of the type {error}, which NIfTI does not have") from error
    refused = ""
    if by_itk and len(shape) == 3 and stored.kind in "iuf" and np.isfinite(affine).all():
        try:
            affine = RAS @ read_itk_grid(file).affine
        except RuntimeError as error:
            refused = NIFTI_2 if isinstance(header, nibabel.Nifti2Header) else reason(error)
    return Header(
        shape,
        affine,
        stored,
        (slope, inter) not in ((None, None), (1.0, 0.0)),
        pixdim,
        start=start,
        packing=GZIPPED if is_gzipped(file) else PLAIN,
        forms=disagreement(header),
        refused=refused,
    )


def require_bounded(file: Path, header: Header) -> None:
    """Raise ValueError if a file cannot hold the voxels that its header promises, or if they do not fit into the free
    memory.

    This is to be called before the voxels are read, unpacked or given to a library.
    """
    promised, size = header.stored_bytes, file.stat().st_size
    rest = size - header.start
    most = {
        PLAIN: rest,
        HEX: rest // 2,
        TEXT: (rest + 1) // 2 * header.stored.itemsize,  # a digit and a blank for each number
    }.get(header.packing, size * MOST_PER_BYTE)
    shown = " x ".join(map(str, header.shape))
    if promised > most:
        packed = ", even if they are compressed as far as possible" if header.packing in (GZIPPED, ZLIB) else ""
        raise ValueError(
            f"its header promises {promised:,} bytes of voxels ({shown}), the file holds {max(most, 0):,}{packed}"
        )
    require_memory(promised + math.prod(header.shape) * BYTES_OF_READING, f"its {shown} voxels need")


def require_memory(needed: int, what: str) -> None:
    """Raise ValueError if this many bytes are not free. what: the beginning of the sentence, such as "it needs"."""
    if needed < ALWAYS_FREE:
        return
    free = free_memory()
    if free is not None and needed > free:
        raise ValueError(f"{what} {needed / 1e9:,.1f} GB of memory, {free / 1e9:,.1f} GB are free")


def _start_of_voxels(header: nibabel.Nifti1Header) -> int:
    """Return the byte at which the voxels begin. Libraries take a part of the header for voxels if it is said to."""
    start, least = float(header["vox_offset"]), int(header.single_vox_offset)
    if not np.isfinite(start) or start < least:
        raise ValueError(f"its header says that its voxels begin at byte {start:g}; expected {least} or more")
    return int(start)


def _require_positive(shape: Any) -> tuple[int, ...]:
    try:
        numbers = tuple(int(n) for n in shape)
    except ValueError as error:
        raise ValueError(f"its header gives the sizes {' '.join(shape)}; expected whole numbers") from error
    if not numbers or min(numbers) < 1:
        raise ValueError(f"its header gives the shape {numbers}")
    return numbers


# NRRD and MetaImage ---------------------------------------------------------------------------------------------------

# type of numpy -> its names in NRRD, without "signed", "_t" and the "int" of "short int", and in MetaImage
_TYPES = {
    "i1": ("int8", "char", "MET_CHAR"),
    "u1": ("uint8", "uchar", "unsigned char", "MET_UCHAR"),
    "i2": ("int16", "short", "MET_SHORT"),
    "u2": ("uint16", "ushort", "unsigned short", "MET_USHORT"),
    "i4": ("int32", "int", "MET_INT", "MET_LONG"),
    "u4": ("uint32", "uint", "unsigned", "MET_UINT", "MET_ULONG"),
    "i8": ("int64", "long long", "longlong", "MET_LONG_LONG"),
    "u8": ("uint64", "unsigned long long", "ulonglong", "MET_ULONG_LONG"),
    "f4": ("float", "MET_FLOAT"),
    "f8": ("double", "MET_DOUBLE"),
}
_TYPE_NAMED = {name: np.dtype(stored) for stored, names in _TYPES.items() for name in names}


def _text_header(file: Path) -> Header:
    is_nrrd = file.name.lower().endswith(".nrrd")
    with open(file, "rb") as stream:
        block = stream.read(LONGEST_TEXT)
    fields, start, packing = (_nrrd if is_nrrd else _meta_image)(block)
    shape = _require_positive(fields["sizes"].split())
    stored, values = _stored_type(fields["type"]), int(fields["values"])
    affine, refused = _itk_affine(file) if len(shape) == 3 and values == 1 else (np.eye(4), "")
    pixdim = tuple(map(_length, [part for part in fields["spacing"].split("|") if part][:3])) or (1.0, 1.0, 1.0)
    packed = int(fields["packed"]) if packing == ZLIB else 0
    return Header(shape, affine, stored, False, pixdim, values, start, packing, packed, "", refused)


def _itk_affine(file: Path) -> tuple[Affine, str]:
    """Return the affine, RAS in mm, as ITK reads it, and why it refuses the header, or ""."""
    try:
        return RAS @ read_itk_grid(file).affine, ""
    except (RuntimeError, ValueError) as error:
        return np.eye(4), reason(error)


_ENCODINGS = {
    "raw": PLAIN,
    **dict.fromkeys(("gzip", "gz"), GZIPPED),
    **dict.fromkeys(("ascii", "text", "txt"), TEXT),
    "hex": HEX,
}


def _nrrd(block: bytes) -> tuple[dict[str, str], int, str]:
    """Return the fields, the byte at which the voxels begin, and how they are stored."""
    end = re.search(rb"\r?\n\r?\n", block)
    if not block.startswith(b"NRRD") or end is None:
        raise ValueError("it is not an NRRD file, or its header is cut off")
    lines = block[: end.start()].decode("latin-1").splitlines()
    fields = dict(line.split(": ", 1) for line in lines if ": " in line and not line.startswith("#"))
    _require(fields, ("type", "sizes", "encoding"))
    encoding = fields["encoding"].strip().lower()
    if encoding not in _ENCODINGS:
        raise ValueError(f"its voxels are encoded as {encoding!r}; expected one of {', '.join(_ENCODINGS)}")
    vectors = re.findall(r"\(([^)]*)\)", fields.get("space directions", ""))
    sizes, values = fields["sizes"].split(), "1"
    if fields.get("space directions", "").startswith("none") and len(sizes) > 1:  # an axis that is not in space
        fields["sizes"], values = " ".join(sizes[1:]), sizes[0]
    fields["spacing"] = "|".join(vectors or fields.get("spacings", "").split())
    return {**fields, "values": values}, end.end(), _ENCODINGS[encoding]


def _meta_image(block: bytes) -> tuple[dict[str, str], int, str]:
    """Return the fields, the byte at which the voxels begin, and how they are stored."""
    end = re.search(rb"ElementDataFile *= *([^\r\n]*)\r?\n", block)
    if end is None:
        raise ValueError("it is not a MetaImage file, or its header is cut off")
    lines = block[: end.start()].decode("latin-1").splitlines()
    fields = {key.strip(): value.strip() for key, equals, value in (line.partition("=") for line in lines) if equals}
    _require(fields, ("DimSize", "ElementType"))
    packed = fields.get("CompressedData", "F")[:1] in META_TRUE
    is_text = fields.get("BinaryData", "T")[:1] not in META_TRUE
    if packed:  # without it, ITK does not find the voxels
        _require(fields, ("CompressedDataSize",))
    spacing = fields.get("ElementSpacing", fields.get("ElementSize", ""))
    known = {
        "sizes": fields["DimSize"],
        "type": fields["ElementType"],
        "values": fields.get("ElementNumberOfChannels", "1"),
        "spacing": "|".join(spacing.split()),
        "packed": fields.get("CompressedDataSize", ""),
    }
    return known, end.end(), ZLIB if packed else TEXT if is_text else PLAIN


def _require(fields: dict[str, str], names: tuple[str, ...]) -> None:
    missing = [name for name in names if name not in fields]
    if missing:
        raise ValueError(f"its header lacks {', '.join(missing)}")


def _stored_type(name: str) -> np.dtype[Any]:
    short = re.sub(r"^signed |_t$|(?<=short|.long) int$|(?<=unsigned) int$", "", name.strip())
    if short not in _TYPE_NAMED:
        raise ValueError(f"its voxels are of the type {name!r}; expected an integer or a floating-point number")
    return _TYPE_NAMED[short]


def _length(text: str) -> float:
    """Return the length of a vector, or the number, which may be negative."""
    try:
        vector = [float(number) for number in text.split(",")]
    except ValueError as error:
        raise ValueError(f"its header gives the spacing {text}; expected numbers") from error
    return vector[0] if len(vector) == 1 else float(np.linalg.norm(vector))


# GIPL -----------------------------------------------------------------------------------------------------------------

_GIPL_BYTES = 256  # of a header
_GIPL_MARK = bytes.fromhex("efffe9b0")
_GIPL_TYPES = {7: "i1", 8: "u1", 15: "i2", 16: "u2", 31: "u4", 32: "i4", 64: "f4", 65: "f8"}


def _gipl_header(file: Path) -> Header:
    with open(file, "rb") as stream:
        block = stream.read(_GIPL_BYTES)
    if not block.endswith(_GIPL_MARK):
        raise ValueError("it is not a GIPL file, or its header is cut off")
    sizes, kind = [int(n) for n in np.frombuffer(block[:8], ">u2")], int.from_bytes(block[8:10], "big")
    if kind not in _GIPL_TYPES:
        raise ValueError(f"its voxels are of the type {kind}; expected one of {', '.join(map(str, _GIPL_TYPES))}")
    shape = _require_positive(sizes if sizes[3] > 1 else sizes[:3])
    pixdim = tuple(float(mm) for mm in np.frombuffer(block[10:22], ">f4"))
    affine, refused = _itk_affine(file) if len(shape) == 3 else (np.eye(4), "")
    return Header(shape, affine, np.dtype(_GIPL_TYPES[kind]), False, pixdim, start=_GIPL_BYTES, refused=refused)

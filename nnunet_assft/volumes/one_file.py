"""Refuse volumes whose header a library must not be given: one that names another file, or one that ITK crashes on.

The name may be that of any file, such as a password file, or of a device or pipe that is never read to its end. ITK
quotes a wrong field of an NRRD header in a message of limited size, and takes the number of axes of a MetaImage header
as it is; both end the process, past every `except`. The text of a header is therefore bounded here, which needs no
other process, and says what is wrong.
"""

from __future__ import annotations

import gzip
import math
import re
import stat
import zlib
from pathlib import Path

MOST_HEADER = 2**24  # bytes; headers with the terminology of hundreds of segments have some hundred thousand
LONGEST_FIELD = 500  # bytes of a line of an NRRD header; ITK crashes on a wrong one with about 1000
MOST_AXES = 10  # of a MetaImage file
LONGEST_SHOWN = 40  # bytes of a wrong field in a message
LENGTH_OF_DIRECTIONS = 0.01  # by which that of an axis in a MetaImage header may differ from 1
META_TRUE = ("T", "t", "1")  # how a MetaImage field begins that is true


def kind_of_special_file(file: Path) -> str | None:
    """Return what a path is in words if opening it could block or read from a device, None for a file or a folder.

    A symbolic link counts as what it leads to. Raises OSError if it leads nowhere.
    """
    mode = file.stat().st_mode
    kinds = {
        "named pipe (FIFO)": stat.S_ISFIFO,
        "socket": stat.S_ISSOCK,
        "device": lambda m: stat.S_ISCHR(m) or stat.S_ISBLK(m),
    }
    return next((name for name, is_kind in kinds.items() if is_kind(mode)), None)


def refuse_unsafe(file: Path) -> None:
    """Raise ValueError if the header of a NIfTI, NRRD or MetaImage file does not say that its voxels follow in the same
    file, or if ITK could crash on it. Files in other formats are not checked.

    Only the header is read. A file that is damaged, or of another format than its name says, passes: its reader refuses
    it. Raises OSError if it cannot be opened.
    """
    name = file.name.lower()
    if name.endswith((".nhdr", ".mhd", ".hdr", ".img")):
        raise ValueError("its header and its voxels are in two files")
    if name.endswith((".nii", ".nii.gz")) and not _is_single_nifti(file):
        raise ValueError("its header does not say that its voxels are in the same file")
    unsafe = {".nrrd": _unsafe_nrrd, ".mha": _unsafe_mha}.get(file.suffix.lower())
    problem = unsafe(file) if unsafe else ""
    if problem:
        raise ValueError(problem)


def _is_single_nifti(file: Path) -> bool:
    """Whether a header has the mark of a single file, or is no header. Without the mark, libraries read NAME.img."""
    with open(file, "rb") as stream:
        is_compressed = stream.read(2) == b"\x1f\x8b"  # libraries go by this, too, and not by the name
    try:
        with gzip.open(file) if is_compressed else open(file, "rb") as stream:
            header = stream.read(348)
    except (OSError, EOFError, zlib.error):
        return True
    n_dimensions = {int.from_bytes(header[40:42], order) for order in ("little", "big")}  # by which ITK knows a header
    is_header = len(header) == 348 and not n_dimensions.isdisjoint(range(1, 8))
    return header[344:348] == b"n+1\0" or header[4:8] == b"n+2\0" or not is_header


IN_ANOTHER_FILE = "its header says that its voxels are in another file, which is not opened"


def _unsafe_nrrd(file: Path) -> str:
    """Return why the header of an NRRD file must not be given to ITK, or ""."""
    header = _header(file, end=rb"\n\r?\n")
    if re.search(rb"(?:^|[\r\n])[ \t]*data ?file:", header, re.IGNORECASE):
        return IN_ANOTHER_FILE
    for n, line in enumerate(header.splitlines() if header.startswith(b"NRRD") else (), 1):
        is_field = not line.startswith(b"#") and not re.match(rb"[^:]*:=", line)  # neither a comment nor a key
        if is_field and len(line) > LONGEST_FIELD:
            return f"line {n} of its header has {len(line):,} bytes; expected at most {LONGEST_FIELD}"
    return ""


def _unsafe_mha(file: Path) -> str:
    """Return why the header of a MetaImage file must not be given to ITK, or ""."""
    header = _header(file, end=rb"ElementDataFile[^\n]*\n")
    # the field ElementDataFile, which ends a header, has to be LOCAL
    is_local = re.search(rb"(?:^|\n)[ \t]*ElementDataFile\s*[=:]\s*local\s*\Z", header, re.IGNORECASE)
    if b"ElementDataFile" in header and not is_local:
        return IN_ANOTHER_FILE
    for text in re.findall(rb"NDims\s*[=:]\s*([^\r\n]*)", header):
        if not (re.fullmatch(rb"\d{1,2}", text.strip()) and 1 <= int(text) <= MOST_AXES):
            return _says("NDims", text, f"a number of axes from 1 to {MOST_AXES}")
    fields = re.findall(rb"(?:^|[\r\n])[ \t]*(\w+)[ \t]*[=:][ \t]*([^\r\n]*)", header)
    values = {name.decode(): text for name, text in fields}
    n_axes = int(values.get("NDims", b"3"))
    problems = (_wrong_field(name.decode(), text, n_axes) for name, text in fields)
    rest = file.stat().st_size - len(header)
    if values.get("CompressedData", b"F")[:1].decode("latin-1") in META_TRUE and "CompressedDataSize" in values:
        size = values["CompressedDataSize"].strip()
        if not size.isdigit():
            return _says("CompressedDataSize", size, "a number of bytes")
        if int(size) > rest:  # ITK allocates them
            return f"its header promises {int(size):,} bytes of compressed voxels, the file holds {rest:,}"
    return next(filter(None, problems), "")


def _wrong_field(name: str, text: bytes, n_axes: int) -> str:
    """Return what is wrong with a field of a MetaImage header, or "". ITK takes 0 for what is no number, and prints
    lines of its own about some fields."""
    if name == "DimSize" and [part.isdigit() for part in text.split()] != [True] * n_axes:
        return _says(name, text, f"{n_axes} whole numbers")
    if name == "HeaderSize" and text.strip() not in (b"0", b"-1"):
        return _says(name, text, "0, since the voxels follow the header")
    if name in ("ElementSpacing", "ElementSize", "Offset", "Position", "Origin"):
        if len(_numbers(text)) != n_axes:
            return _says(name, text, f"{n_axes} numbers")
    elif name in ("TransformMatrix", "Rotation", "Orientation"):
        numbers = _numbers(text)
        axes = [numbers[i : i + n_axes] for i in range(0, len(numbers), n_axes)]
        if len(numbers) != n_axes**2 or not all(abs(math.hypot(*axis) - 1) < LENGTH_OF_DIRECTIONS for axis in axes):
            return _says(name, text, f"{n_axes} directions of {n_axes} numbers, each of the length 1")
    return ""


def _numbers(text: bytes) -> list[float]:
    """Return the numbers in a field; none if one of them is no finite number."""
    try:
        numbers = [float(number) for number in text.split()]
    except ValueError:
        return []
    return numbers if all(map(math.isfinite, numbers)) else []


def _says(name: str, text: bytes, expected: str) -> str:
    shown = text[:LONGEST_SHOWN].decode("ascii", "replace").strip()
    return f"its header says {name} = {shown}; expected {expected}"


def _header(file: Path, end: bytes) -> bytes:
    """Return the bytes of a file up to a regular expression that ends its header; all of them if it is not found."""
    with open(file, "rb") as stream:
        start = stream.read(MOST_HEADER)
    found = re.search(end, start)
    return start[: found.end()] if found else start

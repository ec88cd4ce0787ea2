"""Refuse volumes whose header a library must not be given: one that names another file, or one that ITK crashes on.

The name may be that of any file, such as a password file, or of a device or pipe that is never read to its end. ITK
quotes a wrong field of an NRRD header in a message of limited size, and takes the number of axes of a MetaImage header
as it is; both end the process, past every `except`. The text of a header is therefore bounded here, which needs no
other process, and says what is wrong.
"""

from __future__ import annotations

import gzip
import re
import stat
import zlib
from pathlib import Path

MOST_HEADER = 2**24  # bytes; headers with the terminology of hundreds of segments have some hundred thousand
LONGEST_FIELD = 500  # bytes of a line of an NRRD header; ITK crashes on a wrong one with about 1000
MOST_AXES = 10  # of a MetaImage file
LARGEST_DIRECTION = 1e6  # in a MetaImage header; ITK does not come to an end with 1e308


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
            shown = text[:20].decode("ascii", "replace")
            return f"its header says NDims = {shown}; expected a number of axes from 1 to {MOST_AXES}"
    for line in re.findall(rb"(?:TransformMatrix|Rotation|Orientation)\s*[=:]([^\r\n]*)", header):
        for number in re.findall(rb"[-+.\deE]+", line):
            if not _is_direction(number):
                return f"its header gives the direction {number[:20].decode()}; expected numbers from -1 to 1"
    return ""


def _is_direction(text: bytes) -> bool:
    try:
        return abs(float(text)) <= LARGEST_DIRECTION
    except ValueError:
        return False


def _header(file: Path, end: bytes) -> bytes:
    """Return the bytes of a file up to a regular expression that ends its header; all of them if it is not found."""
    with open(file, "rb") as stream:
        start = stream.read(MOST_HEADER)
    found = re.search(end, start)
    return start[: found.end()] if found else start

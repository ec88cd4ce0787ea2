"""Refuse volumes whose voxels are in another file than their header, before a library follows the name of that file.

The name may be that of any file, such as a password file, or of a device or pipe that is never read to its end.
"""

from __future__ import annotations

import gzip
import re
import stat
import zlib
from pathlib import Path

MOST_HEADER = 2**24  # bytes; headers with the terminology of hundreds of segments have some hundred thousand


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


def refuse_detached(file: Path) -> None:
    """Raise ValueError if the header of a NIfTI, NRRD or MetaImage file does not say that its voxels follow in the same
    file. Files in other formats are not checked.

    Only the header is read. A file that is damaged, or of another format than its name says, passes: its reader refuses
    it. Raises OSError if it cannot be opened.
    """
    name = file.name.lower()
    if name.endswith((".nhdr", ".mhd", ".hdr", ".img")):
        raise ValueError("its header and its voxels are in two files")
    if name.endswith((".nii", ".nii.gz")) and not _is_single_nifti(file):
        raise ValueError("its header does not say that its voxels are in the same file")
    if (name.endswith(".nrrd") and _is_detached_nrrd(file)) or (name.endswith(".mha") and _is_detached_mha(file)):
        raise ValueError("its header says that its voxels are in another file, which is not opened")


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


def _is_detached_nrrd(file: Path) -> bool:
    header = _header(file, end=rb"\n\r?\n")
    return re.search(rb"(?:^|[\r\n])[ \t]*data ?file:", header, re.IGNORECASE) is not None


def _is_detached_mha(file: Path) -> bool:
    """Whether the field ElementDataFile, which ends a header, is anything but LOCAL."""
    header = _header(file, end=rb"ElementDataFile[^\n]*\n")
    is_local = re.search(rb"(?:^|\n)[ \t]*ElementDataFile\s*[=:]\s*local\s*\Z", header, re.IGNORECASE) is not None
    return b"ElementDataFile" in header and not is_local


def _header(file: Path, end: bytes) -> bytes:
    """Return the bytes of a file up to a regular expression that ends its header; all of them if it is not found."""
    with open(file, "rb") as stream:
        start = stream.read(MOST_HEADER)
    found = re.search(end, start)
    return start[: found.end()] if found else start

"""What a file holds instead of a volume, told by its first bytes: a download that failed, or a wrong ending."""

from __future__ import annotations

from pathlib import Path

GZIP = b"\x1f\x8b"
# what a file begins with -> what it is, and what to do
_CONTENTS = (
    (
        (b"version https://git-lfs",),
        "it is a pointer of Git LFS and not the file itself. Run git lfs pull in its repository",
    ),
    (
        (b"<!doctype html", b"<html", b"<head"),
        "it is an HTML page and not the file itself. The download failed or needs a login; download it again",
    ),
    ((b"<?xml", b"{"), "it is a text file, such as the error message of a download. Download it again"),
    ((b"pk\x03\x04",), "it is a zip archive. Unpack it"),
    ((b"7z\xbc\xaf", b"rar!"), "it is an archive. Unpack it"),
)
# the beginning of a format of images -> the endings that it belongs to, and its name
_FORMATS = (
    (b"nrrd000", (".nrrd",), "an NRRD file"),
    (b"objecttype", (".mha", ".mhd"), "a MetaImage file"),
    (b"\x89png", (".png",), "a PNG picture"),
    (b"\xff\xd8\xff", (".jpg", ".jpeg"), "a JPEG picture"),
    (b"\x89hdf", (".h5", ".hdf5", ".mnc"), "an HDF5 file"),
)
_NIFTI = (b"n+1", b"ni1")


class OtherContentError(ValueError):
    """A file that is something else than its name says. The text is that of `wrong_content`."""


def wrong_content(file: Path) -> str:
    """Return what a file is if it is not what its ending says, and what to do; "" if nothing is known against it.

    The text continues a sentence that names the file. Raises OSError if the file cannot be opened.
    """
    if not file.is_file():  # opening a pipe would wait for ever
        return f"it is a {'folder' if file.is_dir() else 'pipe or a device'}. Expected a file"
    with open(file, "rb") as stream:
        block = stream.read(540)
    name, start = file.name.lower(), block.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not block.strip(b"\0"):
        return "it is empty or holds zeros only. Download or copy it again"
    for beginnings, what in _CONTENTS:
        if start.startswith(beginnings):
            return what
    for beginning, endings, what in _FORMATS:
        if start.startswith(beginning) and not name.endswith(endings):
            return f"it is {what}, whatever its name says. Convert it, or give it the ending {endings[0]}"
    if block[128:132] == b"DICM":
        return "it is a DICOM file. Convert the series into one volume, for example with dcm2niix"
    is_nifti = block[344:347] in _NIFTI or block[4:7] in (b"n+2", b"ni2")
    if is_nifti and name.endswith(".gz"):
        return f"it is not compressed although its name ends with .gz. Compress it, or rename it to {file.name[:-3]}"
    if block.startswith(GZIP) and name.endswith(".nii"):
        return f"it is compressed although its name does not end with .gz. Unpack it, or rename it to {file.name}.gz"
    if name.endswith(".nii.gz") and not block.startswith(GZIP) and not _is_text(block):
        return "it is neither compressed nor a NIfTI file. Download or copy it again"
    if _is_text(block) and not start.startswith(tuple(beginning for beginning, _, _ in _FORMATS)):
        return f"it is a text file that begins with {_shown(start)}. Download it again"
    return ""


def _is_text(block: bytes) -> bool:
    return not block.lower().startswith(b"ndims") and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in block)


def _shown(block: bytes) -> str:
    return repr(" ".join(block[:40].decode("ascii", "replace").split()))

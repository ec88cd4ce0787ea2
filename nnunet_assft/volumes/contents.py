"""What a file holds instead of a volume, told by its first bytes: a download that failed, or a wrong ending."""

from __future__ import annotations

from pathlib import Path

from nnunet_assft.runtime.downloads import failed_download, first_bytes, is_text, text_instead

GZIP = b"\x1f\x8b"
_ARCHIVES = (
    (b"pk\x03\x04", "it is a zip archive. Unpack it"),
    (b"7z\xbc\xaf", "it is an archive. Unpack it"),
    (b"rar!", "it is an archive. Unpack it"),
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
    block, name = first_bytes(file), file.name.lower()
    if failed := failed_download(block):
        return failed
    start = block.lower()
    for beginning, what in _ARCHIVES:
        if start.startswith(beginning):
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
    if name.endswith(".nii.gz") and not block.startswith(GZIP) and not is_text(block):
        return "it is neither compressed nor a NIfTI file. Download or copy it again"
    if not start.startswith((b"ndims", *(beginning for beginning, _, _ in _FORMATS))):
        return text_instead(block)
    return ""

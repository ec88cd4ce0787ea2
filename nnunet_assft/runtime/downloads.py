"""Files that are not what was meant to be downloaded, told by their first bytes."""

from __future__ import annotations

from pathlib import Path

LFS = "it is a pointer of Git LFS and not the file itself. Run git lfs pull in its repository"
PAGE = "it is an HTML page and not the file itself. The download failed or needs a login; download it again"
_BEGINNINGS = {b"version https://git-lfs": LFS, b"<!doctype html": PAGE, b"<html": PAGE, b"<head": PAGE}  # lower case
_BLANK = b"\xef\xbb\xbf \t\r\n"
FIRST = 540  # bytes of a file that are looked at


def first_bytes(file: Path) -> bytes:
    """Return the beginning of a file. Raises OSError if it cannot be opened."""
    with open(file, "rb") as stream:
        return stream.read(FIRST)


def failed_download(block: bytes) -> str:
    """Return what any file is instead, and what to do; "" if nothing is known against it.

    block: its `first_bytes`. The text continues a sentence that names the file.
    """
    if not block.strip(b"\0"):
        return "it is empty or holds zeros only. Download or copy it again"
    start = block.lstrip(_BLANK).lower()
    return next((what for beginning, what in _BEGINNINGS.items() if start.startswith(beginning)), "")


def text_instead(block: bytes) -> str:
    """Return that a file is a text, such as the error message of a download, if a binary file was meant; else ""."""
    if not is_text(block):
        return ""
    shown = " ".join(block.lstrip(_BLANK).lower()[:40].decode("ascii", "replace").split())
    return f"it is a text file that begins with {shown!r}. Download it again"


def is_text(block: bytes) -> bool:
    return all(32 <= byte < 127 or byte in b"\t\r\n" for byte in block)

"""Atomic file operations: a file is written under a temporary name, flushed to the disk and renamed."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.downloads import FIRST, failed_download
from nnunet_assft.runtime.partial import private_path

NOT_OF_THE_USER = ("__MACOSX", "lost+found")  # folders
LARGEST_JSON = 2**28  # bytes: the records of a million cases are smaller, and Python needs several times as much memory


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a path to write to, in a folder of this process beside `path` and with the same name, which some writers
    choose the format by. On success the file is renamed to `path`, on failure it is removed."""
    with private_path(path) as partial:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        _replace(partial, path)


def _replace(partial: Path, path: Path) -> None:
    """Rename a file to `path`. Raises `AssftError` if a folder has this name."""
    try:
        os.replace(partial, path)
    except IsADirectoryError:
        raise AssftError(
            f"{path} is a folder; a file of this name has to be written. Move the folder away and run the same command "
            "again."
        ) from None


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8."""
    with atomic_path(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON. Raises ValueError for NaN and inf, which JSON cannot represent."""
    write_text(path, json_text(content))


def json_text(content: Any) -> str:
    """Return indented JSON. Raises ValueError for NaN and inf, which JSON cannot represent."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def refuse_endless(path: Path) -> None:
    """Raise ValueError for a pipe or a device, which could be waited for or read for ever. To be called before a file
    that somebody else has named is opened."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError("it is a pipe or a device")


def read_json(path: Path, *, unique_keys: bool = False) -> Any:
    """Return the content of a JSON file. Raises ValueError, which says what is wrong, unless it is JSON in UTF-8.

    unique_keys: whether it is an error if an object has a key twice; otherwise the last one counts. It is one in files
    that people write, who do not mean to leave out the first one.
    """
    refuse_endless(path)
    if (size := path.stat().st_size) > LARGEST_JSON:
        raise ValueError(f"it has {size:,} bytes; expected at most {LARGEST_JSON:,}")
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("it starts with a byte order mark; save it as UTF-8 without one")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not a text in UTF-8 (byte {error.start}); save it as UTF-8") from error
    if not text.strip():
        raise ValueError("it is empty")
    if other := failed_download(data[:FIRST]):
        raise ValueError(other)
    try:
        return json.loads(text, object_pairs_hook=_with_unique_keys if unique_keys else None)
    except RecursionError as error:
        raise ValueError("its brackets are nested too deeply") from error


def _with_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"it has the key {twice!r} twice; remove one of them")
    return content


def inside(folder: Path, relative: str) -> Path:
    """Return the path of a file in a folder. Raises `AssftError` if the relative path leads out of it."""
    if Path(relative).is_absolute() or ".." in Path(relative).parts:
        raise AssftError(f"{relative!r} leads out of {folder}; expected a relative path inside it.")
    return folder / relative


def base_name(path: str) -> str:
    """Return the name of a file or folder without the folders around it, which mean nothing on another machine."""
    return os.path.basename(os.path.abspath(path)) or path


def walk(root: Path) -> Iterator[Path]:
    """Yield the files of a folder and its subfolders in a fixed order, without hidden files and what macOS adds to
    archives and Linux to disks. Links to folders are followed, but no folder is visited twice.

    Raises `AssftError`, which does not name the folder, if one cannot be read: what it holds would be missing.
    """

    def refuse(error: OSError) -> None:
        raise AssftError(
            f"A folder in {root} cannot be read ({error.strerror or type(error).__name__}), and its files would be "
            "missing. Make it readable, or move it away."
        ) from None

    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if name not in NOT_OF_THE_USER and not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a symbolic link or a copy if that is impossible.

    An existing `target` is replaced atomically. A symbolic link is relative, so that both can be moved together.
    """
    original = source.resolve(strict=True)  # because a relative link would break in another folder
    with private_path(target) as partial:
        try:
            os.link(original, partial)
        except OSError:
            try:
                partial.symlink_to(os.path.relpath(original, target.parent.resolve()))  # which holds once it is renamed
            except OSError:
                shutil.copy2(original, partial)
        _replace(partial, target)  # for a hard link to another link of the same file, this does nothing


def free_name(path: Path) -> Path:
    """Return the first of `path`_1, `path`_2, ... that does not exist."""
    return next(p for n in range(1, 10_000) if not (p := path.with_name(f"{path.name}_{n}")).exists())


def bytes_of(files: Iterable[Path]) -> int:
    """Return the size of all files together. One that does not exist has none."""
    return sum(file.stat().st_size for file in files if file.is_file())


def signature(files: Iterable[Path]) -> list[list[int]]:
    """Return the size and modification time of each file, by which a replaced file is noticed without reading it."""
    return [[file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def sha256_file(path: Path) -> str:
    """Return the SHA-256 checksum of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of(content: Any) -> str:
    """Return the SHA-256 checksum of anything that JSON can represent, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()

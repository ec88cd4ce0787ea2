"""Atomic file operations: a file is written under a temporary name, flushed to the disk and renamed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL = ".partial"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a path in the same folder to write to. On success it is renamed to `path`, on failure it is removed.

    The temporary name keeps the ending (`x.nii.gz` -> `.partial_x.nii.gz`), because writers choose the format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{PARTIAL}_{path.name}")
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8."""
    with atomic_path(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON. Raises ValueError for NaN and inf, which JSON cannot represent."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a symbolic link or a copy if that is impossible.

    An existing `target` is replaced atomically.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{PARTIAL}_{target.name}")
    partial.unlink(missing_ok=True)
    try:
        os.link(source.resolve(strict=True), partial)  # resolved, because a relative link would break in another folder
    except OSError:
        try:
            partial.symlink_to(source.resolve(strict=True))
        except OSError:
            shutil.copy2(source, partial)
    os.replace(partial, target)
    partial.unlink(missing_ok=True)  # renaming a hard link to another link of the same file does nothing


def free_name(path: Path) -> Path:
    """Return the first of `path`_1, `path`_2, ... that does not exist."""
    return next(p for n in range(1, 10_000) if not (p := path.with_name(f"{path.name}_{n}")).exists())


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

"""Files that are either whole or not there: write beside, flush, fsync, rename."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL = ".partial"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a path in the same folder to write to; renamed to `path` on success, removed on failure.

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
    with atomic_path(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()


def write_json(path: Path, content: Any) -> None:
    """`content` as indented JSON; NaN is refused, since JSON has none."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A header from the first row, then the rows; floats in full precision."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def link_or_copy(source: Path, target: Path) -> None:
    """Hard link; where the file system has none, a symbolic link; where it has neither, a copy. Replaces `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{PARTIAL}_{target.name}")
    partial.unlink(missing_ok=True)
    try:
        os.link(
            source.resolve(strict=True), partial
        )  # of the file: a relative symbolic link leads nowhere from another folder
    except OSError:
        try:
            partial.symlink_to(source.resolve(strict=True))
        except OSError:
            shutil.copy2(source, partial)
    os.replace(partial, target)
    partial.unlink(missing_ok=True)  # renaming one hard link of a file to another one does nothing


def free_name(path: Path) -> Path:
    """The first of `path`_1, `path`_2, ... that is not there: where something is moved aside."""
    return next(p for n in range(1, 10_000) if not (p := path.with_name(f"{path.name}_{n}")).exists())


def signature(files: Iterable[Path]) -> list[list[int]]:
    """Size and modification time of each file: enough to notice that one was replaced, without reading it."""
    return [[file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of(content: Any) -> str:
    """Checksum of anything JSON can hold, independent of key order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()

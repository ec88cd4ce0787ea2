"""Places for files and folders that are not complete yet. Each belongs to one process. What is left of a process that
has ended is removed."""

from __future__ import annotations

import os
import re
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from nnunet_assft.runtime.processes import is_running, machine

PARTIAL = ".partial"
ABANDONED = 7 * 24 * 3600  # seconds without a change, after which a partial file of another machine is removed


@contextmanager
def private_path(path: Path) -> Iterator[Path]:
    """Yield a path of the same name in a folder beside `path` that no other process uses, and make that folder.

    The name is the same because some writers choose the format by it, or write it into the file. Whatever is still
    there in the end is removed. What processes that have ended left beside `path` is removed once per process.
    """
    folder = path.with_name(f"{PARTIAL}_{os.getpid():x}_{_checksum_of_machine()}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder.parent.resolve(), os.getpid())
    is_outermost = not folder.exists()
    folder.mkdir(exist_ok=True)
    partial = folder / path.name
    _remove(partial)
    try:
        yield partial
    finally:
        _remove(partial)
        if is_outermost:
            shutil.rmtree(folder, ignore_errors=True)


@cache
def _checksum_of_machine() -> str:
    return f"{zlib.crc32(machine().encode()):08x}"


@cache
def _remove_leftovers(folder: Path, pid: int) -> None:
    """Remove what processes that have ended left in a folder. pid: of this process; each forked one looks again."""
    for partial in folder.glob(f"{PARTIAL}_*"):
        name = re.fullmatch(rf"{re.escape(PARTIAL)}_([0-9a-f]+)_([0-9a-f]{{8}})", partial.name)
        with suppress(OSError):  # another process has removed it
            if name is None:
                continue
            here, age = name[2] == _checksum_of_machine(), time.time() - partial.lstat().st_mtime
            if not is_running(int(name[1], 16)) if here else age > ABANDONED:
                _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

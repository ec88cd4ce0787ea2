"""Names of files and folders that are not complete yet. Each belongs to one process. What is left of a process that has
ended is removed."""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from nnunet_assft.runtime.processes import is_running

PARTIAL = ".partial"
ABANDONED = 7 * 24 * 3600  # seconds without a change, after which a partial file of another machine is removed


def private_name(path: Path) -> Path:
    """Return a name beside `path` that no other process uses, such as `.partial_4a1_9f0c3b2d_x.nii.gz`, and make the
    folder. Partial files that processes which have ended left in the folder are removed once per process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent.resolve(), os.getpid())
    partial = path.with_name(f"{PARTIAL}_{os.getpid():x}_{_machine()}_{path.name}")
    _remove(partial)
    return partial


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside the folder `target`, for this process alone. It is removed in the end."""
    folder = private_name(target)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def _machine() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


@cache
def _remove_leftovers(folder: Path, pid: int) -> None:
    """Remove what processes that have ended left in a folder. pid: of this process; each forked one looks again."""
    for partial in folder.glob(f"{PARTIAL}_*"):
        name = re.match(rf"{re.escape(PARTIAL)}_([0-9a-f]+)_([0-9a-f]{{8}})_", partial.name)
        with suppress(OSError):  # another process has removed it
            if name is None:
                continue
            here, age = name[2] == _machine(), time.time() - partial.lstat().st_mtime
            if not is_running(int(name[1], 16)) if here else age > ABANDONED:
                _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

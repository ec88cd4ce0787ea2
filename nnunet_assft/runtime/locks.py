"""Locks: only one process at a time does a piece of work, also where the file system offers no locks."""

from __future__ import annotations

import errno
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunet_assft.errors import PassingError
from nnunet_assft.runtime.processes import is_running, machine, start_of

try:
    import fcntl
except ImportError:  # Windows: the lock is then a file that only one process can create
    fcntl = None  # type: ignore[assignment]

BUSY = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES}
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
PAUSE = 0.05  # seconds between two attempts
SILENCE = 3.0  # seconds of waiting before a line says so
LONG_PAUSE = 1.0  # seconds between two attempts after that, because the wait may take as long as a training


@contextmanager
def only_process(lock: Path, work: str, *, patience: float = 0.0) -> Iterator[None]:
    """Hold the file `lock`, so that two processes do not do the same work at the same time.

    The file names its holder, and stays behind empty. The lock ends with its process. Where the file system has no
    locks, a second file, which is created atomically, takes its place; one whose process has ended on this machine is
    replaced. work: what the lock is for, for messages. patience: seconds to wait for another process; after a few of
    them, a line says for whom. Raises `PassingError`, which says who holds the lock and since when.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    start, told = time.monotonic(), False
    while (release := _acquire(lock)) is None:
        waited = time.monotonic() - start
        if waited > SILENCE and not told:
            tqdm.write(f"{_holder(lock)} is working on {work}. Waiting for it to finish.", file=sys.stderr)
            told = True
        if waited >= patience:
            raise PassingError(
                f"{_holder(lock)} is working on {work}. Wait for it to finish, or stop it, and run the same command "
                "again."
            )
        time.sleep(LONG_PAUSE if told else PAUSE)
    try:
        yield
    finally:
        release()


def _acquire(lock: Path) -> Callable[[], None] | None:
    """Try once to hold the lock. Returns the function that releases it, or None if another process holds it."""
    if fcntl is None:
        return _create(_substitute(lock))
    file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if error.errno in BUSY:
            return None
        if error.errno in NO_LOCKS:
            _say_that_there_are_no_locks(lock.parent)
            return _create(_substitute(lock))
        raise
    try:
        _write_holder(file)
    except OSError:  # such as a full disk
        os.close(file)  # and the lock with it
        raise

    def release() -> None:
        with suppress(OSError):  # a lock that cannot be emptied ends all the same
            os.ftruncate(file, 0)
        fcntl.flock(file, fcntl.LOCK_UN)  # also for processes that were forked meanwhile
        os.close(file)

    return release


def _substitute(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}_holder")


def _create(file: Path) -> Callable[[], None] | None:
    """Create a file that did not exist, and return the function that removes it; None if another process has it."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        if not _is_stale(file):
            return None
        abandoned = file.with_name(f"{file.name}_{os.getpid()}")
        with suppress(FileNotFoundError):  # another process was faster
            os.rename(file, abandoned)
            if not _is_stale(abandoned):  # another process has replaced it since
                os.rename(abandoned, file)
                return None
            abandoned.unlink()
        return _create(file)
    try:
        _write_holder(descriptor)
    except OSError:
        file.unlink()  # a file that names nobody would be waited for until somebody deletes it
        raise
    finally:
        os.close(descriptor)
    return lambda: file.unlink(missing_ok=True)


def _is_stale(file: Path) -> bool:
    holder = _read(file)
    if holder.get("machine") != machine():  # nothing is known about processes of another machine
        return False
    pid = holder.get("pid")
    return isinstance(pid, int) and (not is_running(pid) or start_of(pid) != holder.get("process_start"))


def _write_holder(file: int) -> None:
    pid = os.getpid()
    holder = {
        "host": socket.gethostname(),
        "machine": machine(),
        "pid": pid,
        "process_start": start_of(pid),
        "since": datetime.now().isoformat(" ", "seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    os.ftruncate(file, 0)
    os.write(file, json.dumps(holder).encode())


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _holder(lock: Path) -> str:
    """Return a phrase about the process that holds the lock."""
    substitute = _substitute(lock)
    holder = _read(substitute) if substitute.exists() else _read(lock)
    who = "Another process"
    if {"host", "pid", "since", "command"} <= set(holder):
        who = f"Process {holder['pid']} on {holder['host']} ({holder['command']}, since {holder['since']})"
    elsewhere = substitute.exists() and holder.get("machine") != machine()
    return who + (f" (delete {substitute} if it no longer runs)" if elsewhere else "")


_disks_named: set[int] = set()


def _say_that_there_are_no_locks(folder: Path) -> None:
    """Print a warning about the disk that the folder is on, once per disk and process."""
    disk = folder.stat().st_dev
    if disk in _disks_named:
        return
    _disks_named.add(disk)
    print(
        f"warning: the disk of {folder} offers no file locks. A file that names the running process is used instead.",
        file=sys.stderr,
    )

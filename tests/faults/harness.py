"""Run a command in a process of its own, and let it meet a fault at a chosen write.

Writes are counted by Python's audit events: a file opened for writing, or a name that is made, changed or removed below
the folders of nnU-Net. Every fault is drawn from a seed, so that a finding can be repeated.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import resource
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

SECONDS = 300  # a command that takes longer hangs
NAMES = {"os.rename", "os.link", "os.symlink", "os.remove", "os.mkdir", "os.rmdir"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Ended(NamedTuple):
    """How a command ended.

    code: its exit status; None if it was killed. error: what it and its libraries printed on stderr, without progress
    bars. writes: how many writes it made. out: what it printed on stdout.
    """

    code: int | None
    error: str
    writes: int = 0
    out: str = ""


def kill(n: int) -> None:
    """The process is killed before its write n."""
    os.kill(os.getpid(), signal.SIGKILL)


def full_disk(n: int) -> None:
    """From write n on, no file can grow: writes fail in Python and in every library."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))


def permission_denied(n: int) -> None:
    """From write n on, nothing can be written."""
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), f"write {n}")


FAULTS = {"kill": kill, "full disk": full_disk, "permission denied": permission_denied}


def run(command: Callable[[], object], root: Path, fault: str | None = None, at: int = 0) -> Ended:
    """Run a command, which ends with SystemExit, in a fork of this process. The fault comes at write number `at`."""
    read_ends, write_ends = zip(*(os.pipe() for _ in range(3)), strict=True)  # files could not grow on a full disk
    pid = os.fork()
    if pid == 0:
        for end in read_ends:
            os.close(end)
        os.dup2(write_ends[0], 1)  # libraries write past Python
        os.dup2(write_ends[1], 2)
        _child(command, root, fault, at, write_ends[2])
    for end in write_ends:
        os.close(end)
    with ThreadPoolExecutor(len(read_ends)) as threads:
        printed, errors, content = threads.map(_read, read_ends)
    status = os.waitpid(pid, 0)[1]
    lines = [line.rsplit("\r", 1)[-1].strip() for line in errors.decode(errors="replace").splitlines()]
    if os.WIFSIGNALED(status):
        if os.WTERMSIG(status) == signal.SIGALRM:
            return Ended(None, "HANGS")
        return Ended(None, "" if os.WTERMSIG(status) == signal.SIGKILL else f"CRASHED {os.WTERMSIG(status)}")
    code, writes = pickle.loads(content)
    return Ended(code, "\n".join(line for line in lines if line), writes, printed.decode(errors="replace"))


def _read(end: int) -> bytes:
    with os.fdopen(end, "rb") as stream:
        return stream.read()


def _child(command: Callable[[], object], root: Path, fault: str | None, at: int, write_end: int) -> None:
    signal.alarm(SECONDS)
    writes = 0
    inside = str(root)

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal writes
        if event == "open":
            path, _, flags = arguments
            if not flags & WRITING:
                return
        elif event in NAMES:
            path = arguments[0]
        else:
            return
        if isinstance(path, bytes | str | Path) and os.fsdecode(path).startswith(inside):
            writes += 1
            if fault is not None and writes >= at:
                FAULTS[fault](writes)

    sys.addaudithook(count)
    code = 0
    utf_8: Any = {"encoding": "utf-8", "closefd": False}
    with open(1, "w", **utf_8) as out, open(2, "w", **utf_8) as err:
        try:
            with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
                command()
        except SystemExit as ended:
            code = int(ended.code or 0)
        except BaseException as error:  # a command must not raise anything
            code = 1
            err.write(f"\nRAISED {type(error).__name__}: {error}")
    with os.fdopen(write_end, "wb") as stream:
        stream.write(pickle.dumps((code, writes)))
    os._exit(0)

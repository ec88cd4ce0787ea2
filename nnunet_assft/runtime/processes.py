"""The number of processes that a command may use, and child processes that end with their parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from functools import cache
from pathlib import Path

BYTES_WORTH_A_PROCESS = 200_000_000  # of files; below that, starting a process takes longer than it saves
PROCESS_BYTES = 300_000_000  # memory of a process in addition to its case
SHARE_OF_MEMORY = 0.8  # fraction of the free memory that may be used


def number_of_processes(requested: int | None, *, total_bytes: int, bytes_per_process: int = 0) -> int:
    """Return the number of processes, at least 1 and no more than fit into the free memory.

    requested: the wanted number; None for one per core, but fewer if the files are small. total_bytes: size of all
    files to be read. bytes_per_process: memory that a process needs for its largest case.
    """
    wanted = requested or max(1, min(available_cores(), total_bytes // BYTES_WORTH_A_PROCESS))
    free = free_memory()
    if free is None:
        return wanted
    return max(1, min(wanted, int(SHARE_OF_MEMORY * free) // (PROCESS_BYTES + bytes_per_process)))


def available_cores() -> int:
    """Return the number of cores this process may run on, which on a cluster may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory() -> int | None:
    """Return the free memory in bytes, by the system and the limit of the container, or None if neither is known."""
    free = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
        group = Path("/sys/fs/cgroup")
        free.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # another system, or no limit ("max")
        pass
    return min(free, default=None)


@cache
def let_workers_die_with_us() -> None:
    """Make processes that are forked from now on end together with this one.

    Otherwise, after a SIGKILL of this process, nnU-Net's augmentation workers would wait for it forever.
    """
    _libc()  # loaded before the fork: in the child, a lock held by another thread could block it forever
    os.register_at_fork(after_in_child=die_with_parent)


def die_with_parent() -> None:
    """Make this process end with its parent, however the parent ends. Has an effect on Linux only."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG
        _libc().prctl(set_parent_death_signal, signal.SIGKILL)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)

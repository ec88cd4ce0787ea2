"""How many processes this job may use, and processes that end with the one that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from functools import cache
from pathlib import Path

BYTES_WORTH_A_PROCESS = 200_000_000  # of files: a process needs seconds for its imports before its first case
PROCESS_BYTES = 300_000_000  # memory of a process apart from its case
SHARE_OF_MEMORY = 0.8  # of the free memory may be used


def number_of_processes(requested: int | None, *, total_bytes: int, bytes_per_process: int = 0) -> int:
    """At least 1: as many as were requested, otherwise one per core as far as the files are worth it; no more than fit.

    total_bytes: of the files to be read. bytes_per_process: what a process holds of its largest case in memory.
    """
    wanted = requested or max(1, min(available_cores(), total_bytes // BYTES_WORTH_A_PROCESS))
    free = free_memory()
    if free is None:
        return wanted
    return max(1, min(wanted, int(SHARE_OF_MEMORY * free) // (PROCESS_BYTES + bytes_per_process)))


def available_cores() -> int:
    """The cores that this process may run on, which on a cluster are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory() -> int | None:
    """Bytes that processes may still take, by the system and by the container's limit; None where neither says."""
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
    """Processes that are forked from now on end with this one: after a SIGKILL, nnU-Net's augmentation workers would
    otherwise wait for ever for a process that is gone."""
    _libc()  # loaded before the fork: in the child, a lock copied from another thread could block it for ever
    os.register_at_fork(after_in_child=die_with_parent)


def die_with_parent() -> None:
    """On Linux, this process ends when the one that started it is gone, however that one ended."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG
        _libc().prctl(set_parent_death_signal, signal.SIGKILL)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)

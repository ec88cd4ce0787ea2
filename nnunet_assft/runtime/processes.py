"""The number of processes that a command may use, and child processes that end with their parent."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
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


def share_of_cores(i: int, n: int) -> set[int]:
    """Return the cores that the i-th of n processes may use, so that together they use those of this process.

    With more processes than cores, several share one. Empty where the system does not tell cores apart (macOS).
    """
    if not hasattr(os, "sched_getaffinity"):
        return set()
    cores = sorted(os.sched_getaffinity(0))
    if n >= len(cores):
        return {cores[i % len(cores)]}
    return set(cores[i * len(cores) // n : (i + 1) * len(cores) // n])


def restrict_to(cores: set[int]) -> None:
    """Let this process, and those that it starts, run on these cores only; without cores, change nothing."""
    if cores:
        os.sched_setaffinity(0, cores)


def free_memory(root: Path = Path("/")) -> int | None:
    """Return the free memory in bytes, or None if it is not known.

    It is the least of what the system has left and what the limits of this job leave. The limits are those of the
    control groups (version 1 or 2) that the process is in and of the groups around them. root: where /proc and /sys
    are.
    """
    available = re.findall(r"^MemAvailable:\s+(\d+) kB", "\n".join(_lines(root / "proc/meminfo")), re.MULTILINE)
    free = [int(kilobytes) * 1024 for kilobytes in available]
    for group, limit, used, unused_cache in _memory_groups(root):
        if (most := _number(group / limit)) is not None and (now := _number(group / used)) is not None:
            cache = [line.split()[1] for line in _lines(group / "memory.stat") if line.startswith(f"{unused_cache} ")]
            free.append(max(0, most - now + sum(map(int, cache))))  # the cache of files is given up when needed
    return min(free, default=None)


def _memory_groups(root: Path) -> Iterator[tuple[Path, str, str, str]]:
    """Yield the folder of every control group that this process is in, with the names of its limit, of its use, and of
    the part of its use that is cache of files."""
    for line in _lines(root / "proc/self/cgroup"):  # number:controllers:/path, and 0::/path in version 2
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        version_1 = "memory" in controllers.split(",")
        if controllers and not version_1:
            continue
        mount = root / ("sys/fs/cgroup/memory" if version_1 else "sys/fs/cgroup")
        # in a container the path may be that of the host, and then only the mount itself exists
        path = Path(name.strip("/"))
        for group in [path, *path.parents]:
            if version_1:
                yield mount / group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            else:
                yield mount / group, "memory.max", "memory.current", "inactive_file"


def _number(file: Path) -> int | None:
    """Return the number in a file; None for another text ("max": no limit) or if there is no such file."""
    text = "".join(_lines(file)).strip()
    return int(text) if re.fullmatch(r"\d+", text) else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


# Processes ------------------------------------------------------------------------------------------------------------


@cache
def machine() -> str:
    """Return a name for everything that counts processes together: the host, and the container if it has its own
    numbers. Two processes with the same machine and the same number are one process."""
    try:
        numbers = os.readlink("/proc/self/ns/pid")
    except OSError:
        numbers = ""
    return f"{socket.gethostname()} {numbers}".strip()


def is_running(pid: int) -> bool:
    """Return whether a process of this machine exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it belongs to another user
        return True
    return True


def start_of(pid: int) -> str:
    """Return when a process started, in ticks since the machine did, which tells it from an earlier one with the same
    number. Empty where the system does not say."""
    text = "".join(_lines(Path(f"/proc/{pid}/stat")))
    return text.rpartition(")")[2].split()[19] if ")" in text else ""


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


def die_with_parent_if_spawned() -> None:
    """Call `die_with_parent` if this process is a worker that `multiprocessing` has spawned."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        die_with_parent()
        if not parent.is_alive():  # it ended before it could be asked for its signal
            os._exit(1)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)

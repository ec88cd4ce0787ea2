"""How many processes a job may use, and that they end with the one that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunet_assft.runtime import processes
from nnunet_assft.runtime.processes import BYTES_WORTH_A_PROCESS, PROCESS_BYTES, number_of_processes, share_of_cores
from tests.kills import ended_process

GB = 10**9


def test_shares_of_the_cores_are_disjoint_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {9, 2, 3, 4, 8}, raising=False)
    assert [share_of_cores(i, 1) for i in range(1)] == [{2, 3, 4, 8, 9}]
    assert [share_of_cores(i, 2) for i in range(2)] == [{2, 3}, {4, 8, 9}]
    assert [share_of_cores(i, 7) for i in range(7)] == [{2}, {3}, {4}, {8}, {9}, {2}, {3}]
    monkeypatch.delattr(os, "sched_getaffinity")
    assert share_of_cores(0, 2) == set()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight cores for this process, 10 GB of free memory."""
    monkeypatch.setattr(processes, "available_cores", lambda: 8)
    monkeypatch.setattr(processes, "free_memory", lambda: 10 * GB)


@pytest.mark.parametrize(
    ("requested", "total_bytes", "bytes_per_process", "expected"),
    [
        (3, 0, 0, 3),  # what was requested
        (None, 0, 0, 1),  # at least one
        (None, BYTES_WORTH_A_PROCESS - 1, 0, 1),  # a second process needs longer for its imports than it saves
        (None, 5 * BYTES_WORTH_A_PROCESS, 0, 5),
        (None, 1000 * BYTES_WORTH_A_PROCESS, 0, 8),  # one per core
        (16, 0, 0, 16),  # more than the cores, if that was requested and fits
        (16, 0, GB, 6),  # 80 % of 10 GB for processes of 1.3 GB
        (None, 1000 * BYTES_WORTH_A_PROCESS, 2 * GB, 3),
        (16, 0, 100 * GB, 1),  # one even if it does not fit
    ],
)
def test_worked_examples(
    machine: None, requested: int | None, total_bytes: int, bytes_per_process: int, expected: int
) -> None:
    assert PROCESS_BYTES == 300_000_000  # which the examples count with
    found = number_of_processes(requested, total_bytes=total_bytes, bytes_per_process=bytes_per_process)
    assert found == expected


def test_where_nothing_tells_the_free_memory_it_sets_no_bound(machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "free_memory", lambda: None)
    assert number_of_processes(16, total_bytes=0, bytes_per_process=100 * GB) == 16


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to a core")
def test_only_the_cores_that_this_process_may_run_on_are_counted() -> None:
    allowed = os.sched_getaffinity(0)
    assert processes.available_cores() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})  # as a scheduler of a cluster does
        assert processes.available_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_free_memory_is_that_of_the_system_or_of_the_container() -> None:
    free = processes.free_memory()
    if sys.platform == "linux":
        assert free is not None
    assert free is None or free > 0


# /proc and /sys of several systems: file -> text. MemAvailable is 100 kB
MEMORY = {"proc/meminfo": "MemTotal: 200 kB\nMemAvailable:     100 kB\nMemFree: 50 kB\n"}
V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/memory"


def version_2(group: str, limit: str, used: int, cache: int = 0) -> dict[str, str]:
    """A control group of version 2, in bytes."""
    stat = f"anon 7\ninactive_file {cache}\nactive_file 9\n"
    return {f"{group}/memory.max": f"{limit}\n", f"{group}/memory.current": f"{used}\n", f"{group}/memory.stat": stat}


def version_1(group: str, limit: int, used: int, cache: int = 0) -> dict[str, str]:
    """A control group of version 1, in bytes."""
    stat = f"inactive_file 1\ntotal_inactive_file {cache}\n"
    limits = {"limit": limit, "usage": used}
    files = {f"{group}/memory.{name}_in_bytes": f"{value}\n" for name, value in limits.items()}
    return {**files, f"{group}/memory.stat": stat}


IN_V2 = {"proc/self/cgroup": "0::/slurm/job_7/step_0\n"}
IN_V1 = {"proc/self/cgroup": "9:cpu,cpuacct:/slurm\n4:memory:/slurm/job_7\n1:name=systemd:/x\n0::/ignored\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),  # another system
        (MEMORY, 102_400),
        (MEMORY | IN_V2, 102_400),  # no limit anywhere
        (MEMORY | IN_V2 | version_2(f"{V2}/slurm/job_7/step_0", "max", 5), 102_400),
        (MEMORY | IN_V2 | version_2(f"{V2}/slurm/job_7/step_0", "9000", 5000), 4000),
        (MEMORY | IN_V2 | version_2(f"{V2}/slurm/job_7/step_0", "9000", 5000, cache=3000), 7000),
        (MEMORY | IN_V2 | version_2(f"{V2}/slurm/job_7/step_0", "9000", 9001), 0),
        (MEMORY | IN_V2 | version_2(f"{V2}/slurm/job_7", "9000", 5000), 4000),  # the limit of a group around it
        (MEMORY | IN_V2 | version_2(V2, "9000", 1000), 8000),  # in a container the path is that of the host
        (
            MEMORY
            | IN_V2
            | version_2(f"{V2}/slurm/job_7/step_0", "9000", 1000)
            | version_2(f"{V2}/slurm/job_7", "9500", 8500),
            1000,  # another step of the job has used most of its memory
        ),
        (MEMORY | IN_V2 | version_2(f"{V2}/slurm/job_8", "10", 9), 102_400),  # another job
        (MEMORY | IN_V1 | version_1(f"{V1}/slurm/job_7", 9000, 5000, cache=500), 4500),
        (MEMORY | IN_V1 | version_1(f"{V1}/slurm", 9000, 5000), 4000),
        (MEMORY | IN_V1 | version_1(f"{V1}/slurm/job_7", 9223372036854771712, 5000), 102_400),  # no limit
        (IN_V1 | version_1(V1, 9000, 5000), 4000),
        (MEMORY | {"proc/self/cgroup": "nonsense\n"}, 102_400),
    ],
)
def test_free_memory_of_a_job(tmp_path: Path, files: dict[str, str], expected: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert processes.free_memory(tmp_path) == expected


def test_processes_are_told_apart_by_number_and_start() -> None:
    assert processes.is_running(os.getpid())
    assert not processes.is_running(ended_process())
    if sys.platform == "linux":
        assert processes.start_of(os.getpid()).isdigit()
        assert processes.start_of(os.getpid()) == processes.start_of(os.getpid())
        assert processes.start_of(1) != processes.start_of(os.getpid())
    assert processes.start_of(ended_process()) == ""


PARENT = """
import os, sys, time
from nnunet_assft.runtime.processes import let_workers_die_with_us
let_workers_die_with_us()
if os.fork() == 0:
    print(os.getpid(), flush=True)
time.sleep(60)
"""


SPAWNING_PARENT = """
import multiprocessing, sys
from nnunet_assft.runtime import cases
from tests.runtime.test_cases import sleep_and_say_who
if __name__ == "__main__":
    list(cases.in_processes(2)(sleep_and_say_who, [("a", None), ("b", None)], "sleeping"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("parent_script", [PARENT, SPAWNING_PARENT], ids=["forked", "spawned"])
def test_a_worker_ends_with_its_parent(parent_script: str, how: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", parent_script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert _is_running(worker)
        parent.send_signal(how)
        parent.wait()
        for _ in range(100):
            if not _is_running(worker):
                return
            time.sleep(0.1)
        os.kill(worker, signal.SIGKILL)
        pytest.fail("the worker outlived its parent by ten seconds")


def _is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"  # a zombie has ended
    except FileNotFoundError:
        return False

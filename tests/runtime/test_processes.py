"""How many processes a job may use, and that they end with the one that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from nnunet_assft.runtime import processes
from nnunet_assft.runtime.processes import BYTES_WORTH_A_PROCESS, PROCESS_BYTES, number_of_processes

GB = 10**9


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


PARENT = """
import os, sys, time
from nnunet_assft.runtime.processes import let_workers_die_with_us
let_workers_die_with_us()
if os.fork() == 0:
    print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_forked_worker_ends_with_a_killed_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert _is_running(worker)
        parent.send_signal(signal.SIGKILL)
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

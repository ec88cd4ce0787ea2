"""One process at a time, on disks with locks and without."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime import locks
from nnunet_assft.runtime.locks import only_process
from nnunet_assft.runtime.processes import machine, start_of
from tests.kills import ended_process

ME = re.escape(socket.gethostname())
HOLDER = """
import errno, sys, time
from pathlib import Path
from nnunet_assft.runtime import locks
if len(sys.argv) > 2:
    def no_locks(*_):
        raise OSError(int(sys.argv[2]), "no locks")
    locks.fcntl.flock = no_locks
with locks.only_process(Path(sys.argv[1]), "the work"):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def another_process(lock: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until it is killed."""
    command = [sys.executable, "-c", HOLDER, str(lock), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def is_free(lock: Path) -> bool:
    try:
        with only_process(lock, "the work"):
            return True
    except AssftError:
        return False


@pytest.fixture(params=[None, *sorted(locks.NO_LOCKS)], ids=lambda number: errno.errorcode.get(number, "with locks"))
def options(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A disk with locks, and one without for each error by which a system says so."""
    if request.param is None:
        return []

    def no_locks(*_: object) -> None:
        raise OSError(request.param, "no locks")

    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    monkeypatch.setattr(locks, "_disks_named", set())
    return [str(request.param)]


def test_a_second_process_is_told_who_holds_the_lock(tmp_path: Path, options: list[str]) -> None:
    lock = tmp_path / "folder" / ".lock"
    with another_process(lock, *options) as process:
        expected = (
            rf"^Process {process.pid} on {ME} \(-c .*, since \d{{4}}-\d\d-\d\d [\d:]{{8}}\) is working on the work\. "
            "Wait for it to finish, or stop it, and run the same command again\\.$"
        )
        with pytest.raises(AssftError, match=expected), only_process(lock, "the work"):
            pytest.fail("two processes hold the lock")
    process.wait()
    assert is_free(lock), "the lock of a killed process"
    assert is_free(lock)
    assert {file.name: file.read_text() for file in lock.parent.iterdir()} == {".lock": ""}


def test_a_lock_is_waited_for(tmp_path: Path, options: list[str]) -> None:
    lock = tmp_path / ".lock"
    with another_process(lock, *options) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with only_process(lock, "the work", patience=10):
            assert not is_free(lock)


def test_an_error_in_the_work_releases_the_lock(tmp_path: Path, options: list[str]) -> None:
    def fail() -> None:
        with only_process(tmp_path / ".lock", "the work"):
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    assert is_free(tmp_path / ".lock")


def test_a_disk_without_locks_is_named_once(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for lock in (".lock", ".lock", "another folder/.lock"):
        assert is_free(tmp_path / lock)
    expected = f"warning: the disk of {tmp_path} offers no file locks. A file that names the running process is used "
    assert capsys.readouterr().err == (f"{expected}instead.\n" if options else "")


@pytest.mark.parametrize(
    ("holder", "free"),
    [
        ({"machine": machine(), "pid": -1}, True),  # an ended process, see below
        ({"machine": machine(), "pid": os.getpid(), "process_start": "1"}, True),  # another one had the number
        ({"machine": machine(), "pid": os.getpid(), "process_start": start_of(os.getpid())}, False),
        ({"machine": "elsewhere", "pid": 1}, False),
        (None, False),  # just created
        (["nonsense"], False),
    ],
)
def test_the_file_that_takes_the_place_of_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holder: object, free: bool
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    if isinstance(holder, dict):
        more = {"pid": ended_process()} if holder["pid"] == -1 else {}
        known = {"host": "node_7", "command": "nnUNetv2_assft_plan -d 1", "since": "2026-01-02 03:04:05"}
        holder = {**known, **holder, **more}
    file = tmp_path / ".lock_holder"
    file.write_text("" if holder is None else json.dumps(holder))
    assert is_free(tmp_path / ".lock") == free
    assert file.exists() != free
    if isinstance(holder, dict) and holder["machine"] == "elsewhere":
        expected = f"Process 1 on node_7 .* 03:04:05\\) \\(delete {file} if it no longer runs\\) is working on the work"
        with pytest.raises(AssftError, match=expected), only_process(tmp_path / ".lock", "the work"):
            pass


def test_a_full_disk_leaves_no_lock_behind(tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(locks.os, "write", full)
        with pytest.raises(OSError, match="No space left"), only_process(tmp_path / ".lock", "the work"):
            pass
    assert is_free(tmp_path / ".lock")


def test_a_file_that_names_nobody_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    file = tmp_path / ".lock_holder"
    file.touch()  # its process was killed before it could write its name
    expected = rf"^Another process \(delete {file} if it no longer runs\) is working on the work\. Wait for it"
    with pytest.raises(AssftError, match=expected), only_process(tmp_path / ".lock", "the work"):
        pass


def test_another_error_of_the_disk_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(locks.fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output error"), only_process(tmp_path / ".lock", "the work"):
        pass

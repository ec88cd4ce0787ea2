"""A process that is killed at a chosen point of its work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from nnunet_assft.runtime import partial


def is_killed(kill: Callable[[], None], work: Callable[[], object]) -> bool:
    """Fork, let `kill` prepare the end, do the work. True if the child was killed, False if it finished.

    Anything else that ends the child is a failure here.
    """
    pid = os.fork()
    if pid == 0:
        signal.alarm(300)  # s; a child that hangs is a failure, not a test run that never ends
        code = 1
        try:
            kill()
            work()
            code = 0
        except SystemExit as exit_:  # a command ends with one
            code = int(exit_.code or 0)
        except BaseException as error:  # the parent must see any failure of the work itself
            print(repr(error), file=sys.stderr)
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    forget_folders()
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, signal.strsignal(os.WTERMSIG(status))
        return True
    assert status == 0
    return False


def before_replace(n: int) -> None:
    """SIGKILL just before the n-th file or folder would get its final name: the step before it is half done."""
    calls, replace = 0, os.replace

    def counted(*args: object, **kwargs: object) -> None:
        nonlocal calls
        calls += 1
        if calls == n:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*args, **kwargs)

    os.replace = counted


def forget_folders() -> None:
    """Let this process look for the partial files of ended processes again, as the next command would."""
    partial._remove_leftovers.cache_clear()


def ended_process() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def private_folder_of(pid: int, folder: Path) -> Path:
    """The folder in which a process of this machine writes what will be in `folder`."""
    return folder / f"{partial.PARTIAL}_{pid:x}_{partial._checksum_of_machine()}"

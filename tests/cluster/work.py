"""Functions that parts apply to cases, in a module of its own because parts import it."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_assft.cluster.engines import Engine
from nnunet_assft.cluster.job import PART, Job, Sweep, argument_sha256, say_progress
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.cases import Attempt, Executor, for_each_case
from nnunet_assft.runtime.locks import only_process


def has_slurm() -> bool:
    """Whether there is a SLURM whose controller answers."""
    return bool(shutil.which("sinfo")) and subprocess.run(["sinfo"], capture_output=True, check=False).returncode == 0


def command_of_part(job: Job, sweep: Sweep, before: str = "") -> tuple[list[str], dict[str, str]]:
    """The command that works on the only part of a sweep, and its environment, in which it can import the tests.
    before: a statement that comes first."""
    code = f"import signal, sys; from pathlib import Path; from nnunet_assft.cluster import job\n{before}\n"
    code += "job.run_part(Path(sys.argv[1]), 1, 0, sys.argv[2])"
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", code, str(sweep.folder), job.checksum(sweep)]
    return command, {**os.environ, "PYTHONPATH": path}


class LeftBehind:
    """An executor in this process that takes what an earlier call has found, as a command does that finds the results
    of parts whose command was killed. computed: the cases of the last call that were computed."""

    def __init__(self) -> None:
        self._found: dict[tuple[bytes, str, str], Any] = {}
        self.computed: list[str] = []

    def __reduce__(self) -> tuple[type[LeftBehind], tuple[()]]:
        return LeftBehind, ()

    def __call__(self, function: Attempt[Any], items: Sequence[Any], desc: str) -> Iterator[tuple[int, Any]]:
        keys = [(pickle.dumps(function), case, argument_sha256(argument)) for case, argument in items]
        new = [i for i, key in enumerate(keys) if key not in self._found]
        self.computed = [items[i][0] for i in new]
        for i, result in function.to_all([items[i] for i in new]):
            self._found[keys[new[i]]] = result
        yield from ((i, self._found[key]) for i, key in enumerate(keys))


def square(n: int) -> int:
    return n * n


def cores_of(case: str) -> list[int]:
    return sorted(os.sched_getaffinity(0))


def process_of(case: str) -> int:
    return os.getpid()


def refuse_even(n: int) -> int:
    if n % 2 == 0:
        raise AssftError(f"{n} is even.")
    return n


def wait_or_refuse(folder_and_waits: tuple[Path, bool]) -> None:
    """One case waits for a minute, and the other one is refused as soon as it does."""
    folder, waits = folder_and_waits
    if waits:
        (folder / f"waits_{os.getpid()}").touch()
        time.sleep(60)
    while not list(folder.glob("waits_*")):
        time.sleep(0.1)
    raise AssftError("refused.")


def reciprocal(n: int) -> float:
    return 1 / n


def killed_once(file: Path) -> str:
    """The first process that comes here is killed."""
    if not file.exists():
        file.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


_broken: list[str] = []  # the case at which this process has broken its GPU


def on_a_gpu(how: tuple[str, Path, int]) -> int:
    """Use a GPU as the first word says: `fine`; `full`, of other processes; or `broken`, for all that the process does
    afterwards. Only the first n uses of a file are like that."""
    word, file, n = how
    if _broken:
        raise RuntimeError("CUDA error: unspecified launch failure")
    uses = len(file.read_text()) if file.exists() else 0
    if word != "fine" and uses < n:
        file.write_text("x" * (uses + 1))
        if word == "full":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        _broken.append(word)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    return os.getpid()


def train_until_told_to_end(log: Path, train: Callable[[Path], None], fold: Path) -> None:
    """Train in a fold. The first two processes that do are told to end in their fourth step, as SLURM does, and every
    process writes the epoch with which it begins."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    signals = [signal.SIGUSR2, signal.SIGTERM]
    number = len(log.read_text().splitlines()) if log.exists() else 0
    train_step, steps = nnUNetTrainer.train_step, 0

    def step(trainer: Any, batch: dict[str, Any]) -> Any:
        nonlocal steps
        steps += 1
        if steps == 1:
            with open(log, "a") as file:
                file.write(f"{trainer.current_epoch}\n")
        if steps == 4 and number < len(signals):
            os.kill(os.getpid(), signals[number])
        return train_step(trainer, batch)

    nnUNetTrainer.train_step = step
    train(fold)


def behind_a_lock(file: Path) -> str:
    """Another process holds the lock the first time."""
    if not file.exists():
        file.touch()
        with only_process(file.with_name("lock"), "it"), only_process(file.with_name("lock"), "it"):
            pass
    return "done"


def always_killed(n: int) -> None:
    if n == 2:
        os.kill(os.getpid(), signal.SIGKILL)


def killed_once_or_wait(folder_and_deaths: tuple[Path, int]) -> str:
    """One case is killed once, and the other one waits until it is done. Return the GPU of the part."""
    folder, waits = folder_and_deaths
    if waits:
        _wait_for(folder, "done", 1)
    elif not (folder / "dead").exists():
        (folder / "dead").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "done").touch()
    return os.environ.get("CUDA_VISIBLE_DEVICES", "")


def always_killed_or_wait(folder_and_deaths: tuple[Path, int]) -> int:
    """One case is always killed, and the other one waits for so many deaths and some time. Return their number."""
    folder, waits = folder_and_deaths
    if not waits:
        (folder / f"dead_{os.getpid()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    _wait_for(folder, "dead_*", waits)
    time.sleep(3)
    return len(list(folder.glob("dead_*")))


def _wait_for(folder: Path, pattern: str, n: int) -> None:
    give_up = time.monotonic() + 120
    while len(list(folder.glob(pattern))) < n:
        time.sleep(0.1)
        if time.monotonic() > give_up:
            raise AssftError(f"{n} times {pattern} was expected.")


def killed_after_every_step(file: Path) -> int:
    """Like a training that is out of time after every epoch, and goes on from its checkpoint."""
    steps = len(file.read_text()) + 1 if file.exists() else 1
    file.write_text("x" * steps)
    say_progress(f"step {steps}")
    if steps < 4:
        os.kill(os.getpid(), signal.SIGTERM)
    return steps


def run_of_cases(folder: Path) -> int:
    """Like a run of a comparison that is out of time after every case of its pass over the pool."""
    executor = Engine().cases(folder)
    done = for_each_case(
        partial(_touch, folder), "abcd", desc="scoring", done=partial(_kept, folder), executor=executor
    )
    return len(done)


def _kept(folder: Path, case: str) -> bool | None:
    return (folder / case).exists() or None


def _touch(folder: Path, case: str) -> bool:
    if os.environ.setdefault("FIRST_CASE", case) != case:
        os.kill(os.getpid(), signal.SIGTERM)
    (folder / case).touch()
    return True


def job_of(folder: Path) -> str:
    """Say that the work has begun, and go on when the file `go` is there."""
    (folder / f"begun_{os.environ['SLURM_JOB_ID']}").touch()
    while not (folder / "go").exists():
        time.sleep(0.2)
    return os.environ["SLURM_JOB_ID"]


def wait_in_part_1(folder: Path) -> str:
    """Part 1 waits forever the first time."""
    begun = folder / "begun"
    if os.environ.get("SLURM_ARRAY_TASK_ID") == "1" and not begun.exists():
        begun.touch()
        time.sleep(600)
    return "done"


def longer_than_its_time(file: Path) -> int:
    """Like a training that can be continued after every step, and takes longer than its jobs may."""
    while True:
        steps = len(file.read_text()) if file.exists() else 0
        say_progress(f"step {steps}")
        if steps == 22:
            return steps
        time.sleep(2)
        file.write_text("x" * (steps + 1))


def say_in_another_process(seconds: float) -> bool:
    """Like a training on several GPUs, whose processes say how far it is."""
    code = "from nnunet_assft.cluster.job import say_progress; say_progress('3 epochs of 10')"
    subprocess.run([sys.executable, "-c", code], check=True)
    time.sleep(seconds)
    return PART in os.environ


def name_of(executor: Executor, n: int) -> str:
    return getattr(executor, "__name__", type(executor).__name__)


def content_of(file: Path) -> str:
    if not file.exists():
        raise AssftError(f"{file} is missing.")
    return file.read_text()


def touch_once(file: Path) -> None:
    file.touch(exist_ok=False)


def wait_after(begun: Path) -> None:
    begun.touch()
    time.sleep(60)


class MakesFolder:
    """Pickled, it makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)

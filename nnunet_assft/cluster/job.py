"""A step in parts: its function and its cases lie in a folder, other processes work on them and add their results.

```text
FOLDER/function.pkl              the function that is applied to every case
FOLDER/sweep_001/cases.pkl       the cases that were left when this sweep was submitted: case, argument, its checksum
FOLDER/sweep_001/submitted.json  how many parts it has, the ids of their jobs, and the cases in the order of cases.pkl
FOLDER/sweep_001/part_000_*.json what this part is doing, one file per process that has worked on it
FOLDER/sweep_001/part_000_*.bin  its results, one after the other, each with its length and its checksum; a result is
                                 the case, the checksum of its argument, and what the function has returned
```

Part i of n works on every n-th case, beginning with case i. Only the coordinator, which is the command that was typed,
decides what is left; parts write nothing but their own files and what the function itself writes. So any of them may
end at any time: what is missing is submitted again.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
import signal
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from nnunet_assft.errors import AssftError, BrokenGpuError, DamagedFileError, PassingError, in_one_line
from nnunet_assft.runtime.cases import Attempt
from nnunet_assft.runtime.files import write_bytes
from nnunet_assft.runtime.sealed import read_sealed, write_sealed
from nnunet_assft.runtime.untrusted import load_result

FUNCTION, CASES, SUBMITTED = "function.pkl", "cases.pkl", "submitted.json"
BETWEEN_SIGNS = 60.0  # seconds between two signs of life of a part
HEAD = struct.Struct("<QI")  # length and checksum of a result


@dataclass
class Job:
    """The folder of a step.

    function: as it is pickled. taken: file of results -> how many of its bytes the coordinator has read.
    """

    folder: Path
    function: bytes
    taken: dict[Path, int] = field(default_factory=dict)
    _sweeps: dict[Path, Sweep] = field(default_factory=dict)  # each of which reads its cases once

    @property
    def sweeps(self) -> list[Sweep]:
        """The sweeps so far, in their order."""
        folders = sorted(self.folder.glob("sweep_*"))
        return [self._sweeps.setdefault(folder, Sweep(folder)) for folder in folders]

    def write_function(self) -> None:
        """Write the function into the folder."""
        write_bytes(self.folder / FUNCTION, self.function)

    def submit(self, cases: Sequence[tuple[str, Any, str]], parts: int) -> Sweep:
        """Write the cases of a new sweep, each with its argument and the checksum of that."""
        sweep = Sweep(self.folder / f"sweep_{len(self.sweeps) + 1:03d}")
        write_bytes(sweep.folder / CASES, pickle.dumps(list(cases)))
        sweep.write(parts, [], [case for case, _, _ in cases])
        return sweep

    def checksum(self, sweep: Sweep) -> str:
        """Return the checksum of everything that a part of the sweep runs."""
        return _checksum(self.function, (sweep.folder / CASES).read_bytes())

    def new_results(self, arguments: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
        """Yield (case, result) of all results that this object has not read yet.

        arguments: case -> checksum of its argument. A result of another argument, which an earlier command gave, is
        passed over.
        """
        for file in sorted(self.folder.glob("sweep_*/part_*.bin")):
            with open(file, "rb") as stream:
                stream.seek(self.taken.get(file, 0))
                for content in _frames(stream):
                    self.taken[file] = stream.tell()
                    case, argument, result = load_result(content)
                    if argument == arguments.get(case):
                        yield case, result

    def progress(self) -> set[tuple[str, str]]:
        """Return what parts have said about their progress within a case, such as the epochs of a training."""
        return {(report["case"], report["progress"]) for sweep in self.sweeps for report in sweep.reports()}

    def at_work(self) -> dict[str, str]:
        """Return case -> how far it is, of the cases of which parts say that."""
        reports = [report for sweep in self.sweeps for report in sweep.reports() if report["state"] == "running"]
        return {report["case"]: report["progress"] for report in reports if report["progress"]}

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Sweep:
    """One submission of the cases that were left."""

    folder: Path

    def write(self, parts: int, jobs: Sequence[str], cases: Sequence[str]) -> None:
        """Record the number of parts, the ids of the jobs that work on them, in the order of the parts, and the
        cases."""
        write_sealed(self.folder / SUBMITTED, {"parts": parts, "jobs": list(jobs), "cases": list(cases)})

    @cached_property
    def parts(self) -> int:
        return int(self._submitted().get("parts", 0))

    @cached_property
    def cases(self) -> list[str]:
        """All cases; part i of n works on every n-th, beginning with case i."""
        return list(self._submitted().get("cases", ()))

    def jobs(self) -> list[str]:
        """The id of the job of every part, such as 77_3; none if the sweep was never submitted."""
        return list(self._submitted().get("jobs", ()))

    def ids(self) -> list[str]:
        """The ids of the jobs and arrays of jobs of this sweep, such as 77."""
        return list(dict.fromkeys(job.partition("_")[0] for job in self.jobs()))

    def _submitted(self) -> dict[str, Any]:
        with suppress(DamagedFileError):
            return read_sealed(self.folder / SUBMITTED)
        return {}

    def reports(self) -> list[dict[str, Any]]:
        """What each process that has worked on a part has last said: part, host, pid, job, began, state, finished, of,
        case, progress, error; whether that was an error of the moment: passing; when it last gave a sign of life: seen.
        """
        found = []
        for file in sorted(self.folder.glob("part_*.json")):
            with suppress(DamagedFileError, OSError):
                found.append({**read_sealed(file), "seen": file.stat().st_mtime})
        return found


Part = tuple[Sweep, int]  # a sweep, and the number of one of its parts


def balanced(sizes: Mapping[str, int], parts: int) -> list[str]:
    """Return the cases in an order in which every n-th case makes parts of about the same size, largest case first.

    sizes: case -> bytes. The largest n cases go to the n parts, the next n in the opposite order, and so on, such that
    the last of them, which may be fewer, go to the parts with the least.
    """
    cases = sorted(sizes, key=lambda case: -sizes[case])
    rows = [cases[i : i + parts] for i in range(0, len(cases), parts)]
    return [case for i, row in enumerate(rows) for case in (row[::-1] if (len(rows) - i) % 2 == 0 else row)]


def open_job(folder: Path, function: Callable[[Any], Any]) -> tuple[Job, bool]:
    """Return the job of a function, and whether an earlier coordinator has left it. A job of another function is one
    that nobody waits for any more; its folder is removed by the caller, who knows how to end its processes."""
    job, file = Job(folder, pickled(function)), folder / FUNCTION
    return job, file.is_file() and file.read_bytes() == job.function


def argument_sha256(argument: Any) -> str:
    """Return the checksum of the argument of a case."""
    return hashlib.sha256(pickled(argument)).hexdigest()


def pickled(content: Any) -> bytes:
    """Return a pickle that is the same for equal contents.

    A usual one refers back to an object that comes up twice, so it tells one text in two places from two equal ones. A
    command that has just planned or queried has the one, and the same command that reads this from files the other.
    """
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream)
    pickler.fast = True  # without references
    pickler.dump(content)
    return stream.getvalue()


def _checksum(function: bytes, cases: bytes) -> str:
    return hashlib.sha256(function + cases).hexdigest()


# Working on a part ----------------------------------------------------------------------------------------------------


# environment variable with the file in which a part, and every process that it starts, says how far it is
PART = "NNUNET_ASSFT_PART"


def _say(file: Path, **changes: Any) -> None:
    """Change what the file of a part says. A process that the part has started may have changed it meanwhile.

    Nothing is written once the step is over: the folder would appear again, and nobody would remove it.
    """
    if not (file.parent / CASES).is_file():
        return
    known: dict[str, Any] = {}
    with suppress(DamagedFileError):
        known = read_sealed(file)
    write_sealed(file, {**known, **changes})


def say_progress(text: str) -> None:
    """Say how far a long case is, such as the epoch that a training can be continued from. Does nothing elsewhere than
    in a part."""
    if PART in os.environ:
        _say(Path(os.environ[PART]), progress=text)


def run_part(sweep: Path, num_parts: int, part_id: int, sha256: str) -> None:
    """Work on one part of a sweep. The result of each case is added to the file of results as soon as it is there.

    Cases that an earlier process of the same part has finished, such as a job that SLURM has requeued, are passed over.
    A `PassingError` is no result of a case: the part fails, and what it has left is submitted again.
    sha256: the `checksum` of the sweep, as the coordinator knows it, so that nothing else is run.
    """
    content, of_cases = (sweep.parent / FUNCTION).read_bytes(), (sweep / CASES).read_bytes()
    if _checksum(content, of_cases) != sha256:
        raise AssftError(f"{sweep.parent} belongs to another step by now. Nothing is left to do for this part.")
    cases: list[tuple[str, Any, str]] = pickle.loads(of_cases)[part_id::num_parts]
    name = f"part_{part_id:03d}_{socket.gethostname()}_{os.getpid()}"
    file = sweep / f"{name}.json"
    os.environ[PART] = str(file)
    who = {"part": part_id, "host": socket.gethostname(), "pid": os.getpid(), "job": _job_id(), "began": time.time()}
    what = {"state": "running", "finished": 0, "of": len(cases), "case": "", "progress": "", "error": ""}
    _say(file, **who, **what)
    threading.Thread(target=_give_signs, args=(file,), daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGUSR2):  # of SLURM, when the time is up or another job comes first
        signal.signal(number, _end)
    try:
        # an error is the result of its case, which the coordinator raises or collects
        attempt: Attempt[Any] = replace(pickle.loads(content), returns=(Exception,))
        finished = _finished_cases(sweep, part_id)
        left = [case for case in cases if case[0] not in finished]
        with open(sweep / f"{name}.bin", "ab") as results:
            items = [(case, argument) for case, argument, _ in left]
            for i, result in _without_passing(attempt.to_all(items, partial(_begin, file, finished))):
                case, _, argument = left[i]
                _add(results, (case, argument, result))
                finished.append(case)
    except BaseException as error:
        said = in_one_line(error) if isinstance(error, Exception) else str(error)
        _say(file, state="failed", error=said, passing=isinstance(error, PassingError))
        raise
    _say(file, state="finished", finished=len(cases), case="")


def _without_passing(results: Generator[tuple[int, Any], None, None]) -> Iterator[tuple[int, Any]]:
    """Yield the results that are final. A `PassingError` among them is raised when no other is left, or at once if this
    process can do no more on its GPU."""
    passing: PassingError | None = None
    with closing(results):
        for i, result in results:
            if isinstance(result, BrokenGpuError):
                raise result
            if isinstance(result, PassingError):
                passing = result
            else:
                yield i, result
    if passing is not None:
        raise passing


def _give_signs(file: Path) -> None:
    """Touch the file of a part every minute. If the process is killed, that ends, and nothing else tells it to another
    machine."""
    while True:
        time.sleep(BETWEEN_SIGNS)
        with suppress(OSError):  # the step is over
            os.utime(file)


def _finished_cases(sweep: Path, part_id: int) -> list[str]:
    """Return the cases that processes of a part have finished, each once."""
    finished: dict[str, None] = {}
    for file in sorted(sweep.glob(f"part_{part_id:03d}_*.bin")):
        with open(file, "rb") as stream:
            for content in _frames(stream):
                with suppress(ValueError):  # it cannot be read, so it is computed again
                    finished[load_result(content)[0]] = None
    return list(finished)


def _job_id() -> str:
    """Return the id of the job of SLURM that this process is, as its log files are named; empty if it is none."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID", "")


def _begin(file: Path, finished: Sequence[str], case: str) -> None:
    _say(file, case=case, progress="", finished=len(finished))


def _end(number: int, _: object) -> None:
    raise SystemExit(f"ended by {signal.Signals(number).name}")


def _add(results: io.BufferedWriter, result: tuple[str, str, Any]) -> None:
    content = pickle.dumps(result)
    results.write(HEAD.pack(len(content), zlib.crc32(content)) + content)
    results.flush()
    os.fsync(results.fileno())


def _frames(stream: io.BufferedReader) -> Iterator[bytes]:
    """Yield the results that are complete. The last one may still be being written, or never be completed."""
    while len(head := stream.read(HEAD.size)) == HEAD.size:
        length, checksum = HEAD.unpack(head)
        content = stream.read(length)
        if len(content) < length or zlib.crc32(content) != checksum:
            return
        yield content

"""Executors that work on the cases of a step in parts: they submit what is missing until nothing is."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from nnunet_assft.cluster.job import Job, Sweep, argument_sha256, open_job, say_progress
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.cases import Attempt, Executor, here
from nnunet_assft.runtime.text import count, named, some

ATTEMPTS = 3  # submissions without progress, if parts ended with an error of the moment


class Launcher(Protocol):
    """Starts processes that call `run_part`."""

    pause: float  # seconds between two looks at the files
    delay: float  # seconds that it takes at most until this machine sees a file that a part has written
    ends_with_us: bool  # whether the parts end together with this process

    def submit(self, job: Job, sweep: Sweep) -> None:
        """Start the parts of a sweep, and record their ids in it."""

    def running(self, sweeps: Sequence[Sweep]) -> bool:
        """Return whether a part of these sweeps may still be waiting or at work."""

    def end(self, sweep: Sweep) -> None:
        """End the parts of a sweep."""

    def logs(self, sweep: Sweep) -> list[Path]:
        """Return the log files of the parts of a sweep that have one."""


@dataclass(frozen=True)
class InParts:
    """An executor. In a part, where it is pickled with its function, work is done in the process itself.

    folder: holds the folders of the steps. parts: how many parts a step has at most.
    """

    folder: Path
    launcher: Launcher
    parts: int

    def __reduce__(self) -> tuple[Callable[[], Executor], tuple[()]]:
        return _here, ()

    def __call__(self, function: Attempt[Any], items: Sequence[Any], desc: str) -> Iterator[tuple[int, Any]]:
        if not items:
            return
        folder = self.folder / re.sub(r"\W+", "_", desc).strip("_")
        job, left_behind = open_job(folder, function)
        if not left_behind:
            self._end(Job(folder, b""))
            job.write_function()
        number, left = {item[0]: i for i, item in enumerate(items)}, dict(items)
        try:
            for case, result in self._results(job, left, desc):
                if isinstance(result, AssftError) and not function.returns:  # at which the caller stops
                    self._end(job)  # so that the same command does not find this error again
                yield number[case], result
        except NoProgressError as error:  # the folder is kept, because the error names log files in it
            if not function.returns:
                raise
            for case in left:
                yield number[case], error
            return
        except BaseException:  # also if the caller stops at an error; jobs go on, and the same command finds them again
            for sweep in job.sweeps if self.launcher.ends_with_us else ():
                self.launcher.end(sweep)
            raise
        self._end(job)  # a part may be at work on a case that another part has finished

    def _results(self, job: Job, left: dict[str, Any], desc: str) -> Iterator[tuple[str, Any]]:
        """Yield (case, result) until nothing is left, and remove each case from what is left before."""
        arguments = {case: argument_sha256(argument) for case, argument in left.items()}
        known: object = None  # what had been achieved when the last sweep was submitted
        in_vain = 0  # sweeps without progress, one after the other
        ended = 0.0  # seconds since all parts were found to have ended
        with tqdm(bar_format="{desc}", leave=False, delay=1e-9) as line:  # is not shown before it says something
            while left:
                running = self.launcher.running(job.sweeps)  # asked before the files are read
                for case, result in job.new_results(arguments):
                    if case in left:
                        del left[case]
                        yield case, result
                if running:
                    ended = 0.0
                    at_work = job.at_work().items()
                    if said := "; ".join(f"{case}: {text.removeprefix(f'{desc}, ')}" for case, text in at_work):
                        line.set_description_str(f"{desc}, {said}")
                    time.sleep(self.launcher.pause)
                elif left and job.sweeps and ended < self.launcher.delay:
                    time.sleep(self.launcher.pause)
                    ended += self.launcher.pause
                elif left:
                    achieved = (len(left), job.progress())
                    in_vain = in_vain + 1 if achieved == known else 0
                    if in_vain and in_vain >= (ATTEMPTS if _passing(job.sweeps[-1:]) else 1):
                        raise NoProgressError(self._no_progress(job, list(left)))
                    known, ended = achieved, 0.0
                    self._submit(job, [(case, argument, arguments[case]) for case, argument in left.items()], desc)

    def _submit(self, job: Job, left: Sequence[tuple[str, Any, str]], desc: str) -> None:
        for earlier in job.sweeps:  # jobs of another engine, which are not asked for, would work on the same cases
            self.launcher.end(earlier)
        passing = {report["case"] for report in _passing(job.sweeps)}
        left = sorted(left, key=lambda item: item[0] in passing)  # last, so that they do not keep a part from others
        sweep = job.submit(left, min(self.parts, len(left)))
        self.launcher.submit(job, sweep)
        if sweep.ids():
            told = f"{count(sweep.parts, 'part')} submitted as {named('job', sweep.ids())}"
            tqdm.write(f"{desc}: {count(len(left), 'case')} left, {told}", file=sys.stderr)

    def _no_progress(self, job: Job, left: Sequence[str]) -> str:
        last = job.sweeps[-1]
        errors = sorted({report["error"] for report in last.reports() if report["error"]})
        logs = [str(file) for file in self.launcher.logs(last)]
        return (
            f"{count(len(left), 'case')} could not be finished ({some(left)}): the last {count(last.parts, 'part')} "
            f"ended without a result{': ' + '; '.join(errors) if errors else ''}. "
            f"See {some(logs) if logs else job.folder}, and run the same command again."
        )

    def _end(self, job: Job) -> None:
        for sweep in job.sweeps:
            self.launcher.end(sweep)
        job.remove()


def _passing(sweeps: Sequence[Sweep]) -> list[dict[str, Any]]:
    """Return what was said by the processes that ended with an error of the moment."""
    return [report for sweep in sweeps for report in sweep.reports() if report.get("passing")]


class NoProgressError(AssftError):
    """Parts have ended, and no case is further than before."""


def here_with_progress(
    function: Attempt[Any], items: Sequence[tuple[str, Any]], desc: str
) -> Iterator[tuple[int, Any]]:
    """Apply the function in this process. If this is a part that executes a whole run, say which cases are finished."""
    for i, result in here(function, items, desc):
        say_progress(f"{desc}, {items[i][0]}")
        yield i, result


def _here() -> Executor:
    return here

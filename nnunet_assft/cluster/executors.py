"""Executors that work on the cases of a step in parts: they submit what is missing until nothing is."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from nnunet_assft.cluster.job import Job, Part, Sweep, argument_sha256, balanced, open_job, say_progress
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

    def running(self, sweeps: Sequence[Sweep]) -> set[Part]:
        """Return the parts of these sweeps that may still be waiting or at work."""

    def end(self, sweep: Sweep) -> None:
        """End the parts of a sweep."""

    def logs(self, sweep: Sweep) -> list[Path]:
        """Return the log files of the parts of a sweep that have one."""


@dataclass(frozen=True)
class InParts:
    """An executor. In a part, where it is pickled with its function, work is done in the process itself.

    folder: holds the folders of the steps. parts: how many parts of a step are at work at a time, at most. size: case
    -> bytes, by which cases are divided among the parts; None to divide them in their order.
    """

    folder: Path
    launcher: Launcher
    parts: int
    size: Callable[[str], int] | None = None

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
        known: object = None  # what had been achieved when everything that was left was last submitted
        in_vain = 0  # submissions of everything that was left without progress, one after the other
        before = 0  # number of sweeps before that
        since: dict[str, float] = {}  # case that no part works on -> when that was found
        twice: set[str] = set()  # see `_at_once`
        with tqdm(bar_format="{desc}", leave=False, delay=1e-9) as line:  # is not shown before it says something
            while left:
                running = self.launcher.running(job.sweeps)  # asked before the files are read
                for case, result in job.new_results(arguments):
                    if case in left:
                        del left[case]
                        yield case, result
                if not left:
                    return
                held = {case for sweep, part in running for case in sweep.cases[part :: sweep.parts]}
                now = time.monotonic()
                since = {case: since.get(case, now) for case in left if case not in held}
                delay = self.launcher.delay if job.sweeps else 0.0
                due = [case for case, found in since.items() if now - found >= delay]
                free = self.parts - len(running)
                if not running and len(due) == len(left):
                    achieved = (len(left), job.progress())
                    in_vain = in_vain + 1 if achieved == known else 0
                    last = job.sweeps[before:]
                    if in_vain and in_vain >= (ATTEMPTS if _passing(last) else 1):
                        raise NoProgressError(self._no_progress(job, last, list(left)))
                    known, before = achieved, len(job.sweeps)
                    for earlier in job.sweeps:  # jobs of another engine, which are not asked for, may be at work
                        self.launcher.end(earlier)
                else:
                    due = self._at_once(job, due, left, twice) if running and free > 0 else []
                if due:
                    self._submit(job, {case: (left[case], arguments[case]) for case in due}, free, desc)
                    for case in due:
                        del since[case]
                    continue
                at_work = job.at_work().items()
                if said := "; ".join(f"{case}: {text.removeprefix(f'{desc}, ')}" for case, text in at_work):
                    line.set_description_str(f"{desc}, {said}")
                time.sleep(self.launcher.pause)

    def _at_once(self, job: Job, due: Sequence[str], left: Mapping[str, Any], twice: set[str]) -> list[str]:
        """Return the cases that are submitted while other parts are at work, of those whose own part has ended.

        They are those of a part that got further, with another case or within one, and any other one once, because a
        machine may be broken. The rest waits until no part is at work. twice: the cases that have had that chance.
        """
        part_of: dict[str, Part] = {}
        further: set[Part] = set()
        said: set[tuple[str, str]] = set()
        for sweep in job.sweeps:
            reports = [report for report in sweep.reports() if report["progress"]]
            further |= {(sweep, r["part"]) for r in reports if (r["case"], r["progress"]) not in said}
            said |= {(report["case"], report["progress"]) for report in reports}
            for i, case in enumerate(sweep.cases):
                part_of[case] = (sweep, i % sweep.parts)
                if case not in left:
                    further.add(part_of[case])
        chosen = [case for case in due if part_of.get(case) in further or case not in twice]
        twice.update(case for case in chosen if part_of.get(case) not in further)
        return chosen

    # four parameters: the cases with their arguments and the checksums of these, and how they are submitted
    def _submit(self, job: Job, cases: Mapping[str, tuple[Any, str]], parts: int, desc: str) -> None:
        parts = min(parts, len(cases))
        order = list(cases)
        if self.size is not None and parts > 1:
            order = balanced({case: self.size(case) for case in cases}, parts)
        passing = {report["case"] for report in _passing(job.sweeps)}
        order.sort(key=lambda case: case in passing)  # last, so that they do not keep a part from others
        sweep = job.submit([(case, *cases[case]) for case in order], parts)
        self.launcher.submit(job, sweep)
        if sweep.ids():
            told = f"{count(parts, 'part')} submitted as {named('job', sweep.ids())}"
            tqdm.write(f"{desc}: {count(len(cases), 'case')} left, {told}", file=sys.stderr)

    def _no_progress(self, job: Job, last: Sequence[Sweep], left: Sequence[str]) -> str:
        errors = sorted({report["error"] for sweep in last for report in sweep.reports() if report["error"]})
        logs = [str(file) for sweep in last for file in self.launcher.logs(sweep)]
        parts = sum(sweep.parts for sweep in last)
        return (
            f"{count(len(left), 'case')} could not be finished ({some(left)}): the last {count(parts, 'part')} "
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

"""Launchers: how the parts of a step are started. In processes of this machine, as jobs of SLURM, or by somebody else,
with a script that is written for it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunet_assft.cluster.job import Job, Part, Sweep, run_part
from nnunet_assft.errors import AssftError, WaitingForParts
from nnunet_assft.runtime.environment import FOLDERS, SPEED
from nnunet_assft.runtime.files import write_text
from nnunet_assft.runtime.processes import die_with_parent, restrict_to, share_of_cores

OF_SUBMITIT = ("time", "array_parallelism", "signal_delay_s")  # which it needs to know; all others are given to sbatch
SCRIPT = "part.sh"
# since SLURM 22.05, srun, in which submitit starts a part, does not take the cores per task from sbatch
CORES = 'if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi'
MINUTES = 240  # that a job of SLURM may take; what it has not finished then is submitted again


def _command(job: Job, sweep: Sweep) -> list[str]:
    """Return the command that works on a part of a sweep, without the number of the part at its end."""
    numbers = ["-num_parts", str(sweep.parts), "-part_id"]
    checksum = ["--sha256", job.checksum(sweep)]
    return [sys.executable, "-m", "nnunet_assft.cli.part", str(sweep.folder), *checksum, *numbers]


@dataclass
class Local:
    """Starts a process on this machine for every part. They end with this process, and share its cores.

    Without a share of its own, every part would start threads and processes for all cores.
    gpus: the values of CUDA_VISIBLE_DEVICES that the parts get in turn; none: the parts see what this process sees.
    """

    gpus: tuple[str, ...] = ()
    pause: float = 0.2
    delay: float = 0.0
    ends_with_us: bool = True
    patience: float = 30.0  # seconds that parts have to end before they are killed, as those of SLURM have
    _processes: dict[Path, list[subprocess.Popen[bytes]]] = field(default_factory=dict)
    _places: dict[int, int] = field(default_factory=dict)  # number of a process -> its place
    _n_places: int = 0  # among which cores and GPUs are divided

    def submit(self, job: Job, sweep: Sweep) -> None:
        processes = [process for each in self._processes.values() for process in each]
        taken = {self._places[process.pid] for process in processes if process.poll() is None}
        if not taken:
            self._n_places = sweep.parts
        free = [place for place in range(self._n_places) if place not in taken]
        for part in range(sweep.parts):
            place = free[part % len(free)]
            visible = {"CUDA_VISIBLE_DEVICES": self.gpus[place % len(self.gpus)]} if self.gpus else {}
            with open(sweep.folder / f"part_{part:03d}.log", "ab") as log:
                process = subprocess.Popen(
                    [*_command(job, sweep), str(part)],
                    env=os.environ | visible,
                    cwd=sweep.folder,  # the user's working directory may contain a folder that shadows a package
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    preexec_fn=partial(_begin, share_of_cores(place, self._n_places)),
                )
            self._places[process.pid] = place
            self._processes.setdefault(sweep.folder, []).append(process)

    def running(self, sweeps: Sequence[Sweep]) -> set[Part]:
        return {
            (sweep, part)
            for sweep in sweeps
            for part, process in enumerate(self._processes.get(sweep.folder, ()))
            if process.poll() is None
        }

    def end(self, sweep: Sweep) -> None:
        _cancel(sweep)
        processes, give_up = self._processes.pop(sweep.folder, []), time.monotonic() + self.patience
        for process in processes:
            process.terminate()
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, give_up - time.monotonic()))
            process.kill()  # does nothing to one that has ended
            process.wait()

    def logs(self, sweep: Sweep) -> list[Path]:
        return sorted(sweep.folder.glob("part_*.log"))


def _begin(cores: set[int]) -> None:
    die_with_parent()
    restrict_to(cores)


@dataclass
class Slurm:
    """Submits an array of jobs to SLURM, one for every part. They go on if this process ends.

    options: of sbatch, such as partition, time or gres. Parts whose job was cancelled, preempted or out of time are
    submitted again by the executor, so nothing is requeued here.
    """

    options: Mapping[str, str] = field(default_factory=dict)
    pause: float = 3.0
    delay: float = 60.0  # for so long NFS may show an old list of files
    ends_with_us: bool = False
    _told: bool = False  # that SLURM does not answer

    def submit(self, job: Job, sweep: Sweep) -> None:
        longest = _longest_array()  # asks SLURM first: submitit is of no use on a machine without it
        submitit = _submitit()
        logs = sweep.folder / "logs"
        options: dict[str, Any] = {"time": MINUTES, **self.options}
        named = {name: number for name, number in options.items() if name in OF_SUBMITIT}
        named |= {name: int(number) for name, number in named.items() if str(number).isdigit()}
        others = {name: _value(text) for name, text in options.items() if name not in named and _value(text)}
        # the user's working directory may contain a folder that shadows a package
        others["chdir"] = str(sweep.folder)
        work = partial(run_part, sweep.folder, sweep.parts, sha256=job.checksum(sweep))
        jobs: list[str] = []
        try:
            for parts in _chunks(range(sweep.parts), longest):
                executor = submitit.SlurmExecutor(logs)
                name = f"assft_{job.folder.name}"[:60]
                executor.update_parameters(job_name=name, **named, additional_parameters=others, setup=[CORES])
                with _not_as_a_job():
                    jobs += [each.job_id for each in executor.map_array(work, parts)]
                sweep.write(sweep.parts, jobs, sweep.cases)
        except (submitit.core.utils.FailedJobError, FileNotFoundError, RuntimeError, ValueError) as error:
            raise AssftError(
                f"SLURM took no job: {' '.join(str(error).split())[:400]} Check the options given with --slurm."
            ) from error

    def running(self, sweeps: Sequence[Sweep]) -> set[Part]:
        jobs = {(sweep, part): name for sweep in sweeps for part, name in enumerate(sweep.jobs())}
        if not jobs:
            return set()
        # -r: every job of an array, such as 77_3
        queue = _ask("squeue", "-h", "-r", "-u", str(os.getuid()), "-o", "%i")
        if queue.returncode:  # nothing is known, and nothing is submitted
            if not self._told:
                said = " ".join(queue.stderr.split())[:400]
                tqdm.write(f"squeue does not answer ({said}). Waiting until it does.", file=sys.stderr)
            self._told = True
            return set(jobs)
        self._told = False
        queued = set(queue.stdout.split())
        return {part for part, name in jobs.items() if name in queued}

    def end(self, sweep: Sweep) -> None:
        _cancel(sweep)

    def logs(self, sweep: Sweep) -> list[Path]:
        return sorted(file for file in (sweep.folder / "logs").glob("*_log.err") if file.stat().st_size)


def _cancel(sweep: Sweep) -> None:
    """Cancel the jobs of a sweep, if it has any: also with another engine than the one that has submitted them."""
    if sweep.ids():
        _ask("scancel", *sweep.ids())


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of SLURM. Raises `AssftError` where there is no such command."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise AssftError(
            f"This machine has no {command[0]}. Run the command where jobs can be submitted, such as a login node."
        ) from error


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise AssftError(
            "The engine slurm needs submitit. Install it with: pip install 'nnunet_assft[cluster]'"
        ) from error
    return submitit


def _longest_array() -> int:
    """Return how many jobs an array may have at this site; SLURM's default if it does not say."""
    config = _ask("scontrol", "show", "config").stdout
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", config, re.MULTILINE)
    return max(1, int(found[1]) - 1 if found else 1000)


@contextmanager
def _not_as_a_job() -> Iterator[None]:
    """Hide what SLURM has told this process as a job, such as its memory, from the jobs that it submits. What a user or
    a site has set, such as SBATCH_ACCOUNT or SLURM_CONF, stays, which submitit's own `clean_env` would hide as well."""
    told = [name for name in os.environ if name.startswith(("SLURM_", "SLURMD_", "SRUN_")) and name != "SLURM_CONF"]
    hidden = {name: os.environ.pop(name) for name in told} if "SLURM_JOB_ID" in os.environ else {}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _value(text: str) -> str | bool:
    """Return the value of an option for submitit, which writes one that is True, such as exclusive, without a value."""
    return {"true": True, "false": False}.get(text.lower(), text)


def _chunks(numbers: Sequence[int], length: int) -> list[Sequence[int]]:
    return [numbers[i : i + length] for i in range(0, len(numbers), length)]


@dataclass
class Print:
    """Writes a script that works on a part, and leaves it to somebody else to start the parts."""

    pause: float = 0.0
    delay: float = 0.0
    ends_with_us: bool = False

    def submit(self, job: Job, sweep: Sweep) -> None:
        exports = [
            f"export {name}={shlex.quote(os.environ[name])}"
            for name in (*FOLDERS, *SPEED, "PYTHONPATH", "OMP_NUM_THREADS")
            if name in os.environ
        ]
        lines = [
            "#!/usr/bin/env bash",
            f"# Works on one of the parts 0 to {sweep.parts - 1}. Give its number, or submit this as an array of jobs.",
            "set -euo pipefail",
            *exports,
            'part="${1:-${SLURM_ARRAY_TASK_ID:-${PBS_ARRAY_INDEX:-$((LSB_JOBINDEX - 1))}}}"',
            f"cd {shlex.quote(str(sweep.folder))}",
            f'exec {shlex.join(_command(job, sweep))} "$part"',
        ]
        write_text(sweep.folder / SCRIPT, "\n".join(lines) + "\n")
        self._require_ended(sweep)

    def running(self, sweeps: Sequence[Sweep]) -> set[Part]:
        """Raise `WaitingForParts` unless every part has ended; nothing else is known about their processes."""
        for sweep in sweeps:
            self._require_ended(sweep)
        return set()

    def _require_ended(self, sweep: Sweep) -> None:
        ended = {report["part"] for report in sweep.reports() if report["state"] != "running"}  # of some process
        waiting = [part for part in range(sweep.parts) if part not in ended]
        file = sweep.folder / SCRIPT
        if not waiting or not file.is_file():  # without it, the sweep has never been handed out
            return
        script = shlex.quote(str(file))
        raise WaitingForParts(
            f"{len(waiting)} of {sweep.parts} parts are not finished. Run `bash {script} PART` for each part from 0 to "
            f"{sweep.parts - 1}, for example as jobs (sbatch --array=0-{sweep.parts - 1} {script}), and then the same "
            "command again. A part that was killed can be run again."
        )

    def end(self, sweep: Sweep) -> None:
        """Nothing is known about the processes, so only jobs that another engine has submitted are ended."""
        _cancel(sweep)

    def logs(self, sweep: Sweep) -> list[Path]:
        return []

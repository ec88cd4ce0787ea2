"""Launchers, without the processes that they start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from nnunet_assft.cluster import launchers
from nnunet_assft.cluster.executors import InParts, Launcher
from nnunet_assft.cluster.job import Job, Sweep, open_job
from nnunet_assft.cluster.launchers import Local, Print, Slurm
from nnunet_assft.errors import AssftError, WaitingForParts
from nnunet_assft.runtime.cases import Attempt, for_each_case
from nnunet_assft.runtime.sealed import write_sealed
from tests.cluster import work


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """A sweep of two parts, which job 77 works on."""
    sweep = Sweep(tmp_path / "step/sweep_001")
    sweep.write(2, ["77_0", "77_1"], ["a", "b"])
    return sweep


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Makes a command of this name that runs these lines of a shell; there is no other command."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def write(name: str, lines: str) -> None:
        file = tmp_path / "bin" / name
        file.write_text(f"#!/bin/sh\n{lines}\n")
        file.chmod(0o755)

    return write


@pytest.fixture
def squeue(command: Callable[[str, str], None]) -> Callable[[str], None]:
    """Makes a `squeue` that runs these lines of a shell."""
    return partial(command, "squeue")


@pytest.fixture
def submitted(tmp_path: Path, command: Callable[[str, str], None]) -> Callable[..., tuple[list[str], set[str]]]:
    """Submits one part with options, and returns what `sbatch` gets: the options in its script, and the names in its
    environment."""
    pytest.importorskip("submitit")
    command("sbatch", f'/bin/cat "$1" > {tmp_path}/script; /usr/bin/env > {tmp_path}/names; echo job 99')
    for name in ("srun", "scontrol"):
        command(name, "")

    def submit(**options: str) -> tuple[list[str], set[str]]:
        job = Job(tmp_path / "job", b"")
        sweep = job.submit([("a", 1, "")], 1)
        Slurm(options).submit(job, sweep)
        assert sweep.ids() == ["99"]
        script, names = ((tmp_path / name).read_text().splitlines() for name in ("script", "names"))
        asked = [line.removeprefix("#SBATCH --") for line in script if line.startswith("#SBATCH --")]
        return asked, {line.partition("=")[0] for line in names}

    return submit


def test_options_without_a_value(submitted: Callable[..., tuple[list[str], set[str]]]) -> None:
    asked, _ = submitted(exclusive="True", nice="false", requeue="true", mem="9G")
    assert {"exclusive", "requeue", "mem=9G"} <= set(asked)
    assert not [option for option in asked if option.startswith("nice")]


def test_a_part_has_the_cores_that_were_asked_for(
    submitted: Callable[..., tuple[list[str], set[str]]], tmp_path: Path
) -> None:
    """Since SLURM 22.05, srun does not look at what was asked of sbatch."""
    asked, _ = submitted(cpus_per_task="6")
    assert "cpus-per-task=6" in asked
    script = (tmp_path / "script").read_text()
    begin, srun, _ = script.partition("\nsrun ")
    assert srun
    show = f"{begin}\necho ${{SRUN_CPUS_PER_TASK-unset}}"
    for given, expected in (({"SLURM_CPUS_PER_TASK": "6"}, "6"), ({}, "unset")):
        done = subprocess.run(["/bin/bash", "-euc", show], env=given, capture_output=True, text=True, check=True)
        assert done.stdout == f"{expected}\n"


def test_a_command_that_is_a_job_itself_submits_as_any_other(
    submitted: Callable[..., tuple[list[str], set[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_MEM_PER_NODE", "SLURM_CONF", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, "1")
    assert {"SLURM_MEM_PER_NODE", "SLURM_CONF", "SBATCH_ACCOUNT"} <= submitted()[1]  # set by a user on a login node
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    _, names = submitted()
    assert {"SLURM_CONF", "SBATCH_ACCOUNT"} <= names
    assert names.isdisjoint({"SLURM_MEM_PER_NODE", "SLURM_JOB_ID"})
    assert os.environ["SLURM_JOB_ID"] == "7"


def test_a_job_runs_while_the_queue_lists_it(sweep: Sweep, squeue: Callable[[str], None]) -> None:
    # before SLURM 20.02, squeue knew no --me
    squeue('case "$*" in *--me*) echo "unrecognized option --me" >&2; exit 1;; esac; echo 76_0; echo 77_0; echo 77_1')
    assert Slurm().running([sweep]) == {(sweep, 0), (sweep, 1)}
    squeue("echo 76_0; echo 77_1; echo 177_0")
    assert Slurm().running([sweep]) == {(sweep, 1)}
    squeue("echo 76_0")
    assert not Slurm().running([sweep])


def test_the_queue_is_asked_once_for_all_sweeps(sweep: Sweep, squeue: Callable[[str], None], tmp_path: Path) -> None:
    later = Sweep(tmp_path / "step/sweep_002")
    later.write(1, ["78"], ["c"])
    squeue(f"echo asked >> {tmp_path}/asked; echo 78")
    assert Slurm().running([sweep, later]) == {(later, 0)}
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_jobs_are_cancelled_before_another_engine_works_on_their_cases(
    command: Callable[[str, str], None], tmp_path: Path
) -> None:
    command("scancel", f"echo $* >> {tmp_path}/cancelled")
    job, _ = open_job(tmp_path / "squares", Attempt(work.square, "squares", (AssftError,)))
    job.write_function()
    job.submit([("a", 2, "")], 1).write(1, ["77"], [])  # by a command that was killed
    with pytest.raises(WaitingForParts, match="sweep_002"):
        for_each_case(work.square, {"a": 2}, desc="squares", failures={}, executor=InParts(tmp_path, Print(), 1))
    assert (tmp_path / "cancelled").read_text() == "77\n"


@pytest.mark.parametrize("launcher", [Local(), Print(), Slurm()])
def test_every_engine_cancels_jobs(
    launcher: Launcher, sweep: Sweep, command: Callable[[str, str], None], tmp_path: Path
) -> None:
    command("scancel", f"echo $* >> {tmp_path}/cancelled")
    launcher.end(sweep)
    assert (tmp_path / "cancelled").read_text() == "77\n"


def test_a_process_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = (
        "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"
    )
    monkeypatch.setattr(launchers, "_command", lambda job, sweep: [sys.executable, "-c", deaf])
    job, local = Job(tmp_path / "step", b""), Local(patience=0.2)
    sweep = job.submit([("a", 1, ""), ("b", 2, "")], 2)
    local.submit(job, sweep)
    while any(not log.read_text() for log in local.logs(sweep)):
        time.sleep(0.05)
    processes = local._processes[sweep.folder]
    local.end(sweep)
    assert [process.poll() for process in processes] == [-signal.SIGKILL] * 2


def test_while_slurm_does_not_answer_the_command_waits_and_says_so_once(
    sweep: Sweep, squeue: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    slurm = Slurm()
    squeue('echo "Unable to contact slurm controller" >&2; exit 1')
    assert slurm.running([sweep]) == {(sweep, 0), (sweep, 1)}
    assert slurm.running([sweep])
    said = "squeue does not answer (Unable to contact slurm controller). Waiting until it does."
    assert capsys.readouterr().err.split("\n") == [said, ""]


def test_a_machine_without_slurm(sweep: Sweep, squeue: Callable[[str], None]) -> None:
    for ask in (partial(Slurm().running, [sweep]), partial(Slurm().end, sweep)):
        with pytest.raises(AssftError, match=r"no (squeue|scancel). Run the command where jobs can be submitted"):
            ask()


def test_a_part_has_ended_if_one_of_its_processes_has(tmp_path: Path) -> None:
    said = {"pid": 7, "job": "", "finished": 0, "of": 1, "case": "", "progress": "", "error": ""}
    job = Job(tmp_path / "step", b"")
    sweep = job.submit([("a", 1, ""), ("b", 2, "")], 2)
    with pytest.raises(WaitingForParts, match="2 of 2 parts are not finished"):
        Print().submit(job, sweep)
    for part, host, state in ((0, "a", "finished"), (0, "b", "running"), (1, "a", "running"), (1, "b", "running")):
        report = {**said, "part": part, "host": host, "state": state}
        write_sealed(sweep.folder / f"part_{part:03d}_{host}_7.json", report)
    with pytest.raises(WaitingForParts, match="1 of 2 parts are not finished"):
        Print().running([sweep])


def test_a_printed_script_has_what_decides_how_a_gpu_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_assft_autocast", "bf16")
    monkeypatch.setenv("nnUNet_compile", "f")
    job = Job(tmp_path / "step", b"")
    sweep = job.submit([("a", 1, "")], 1)
    with pytest.raises(WaitingForParts):
        Print().submit(job, sweep)
    lines = (sweep.folder / "part.sh").read_text().splitlines()
    assert {"export nnUNet_assft_autocast=bf16", "export nnUNet_compile=f"} <= set(lines)


def test_a_sweep_whose_script_was_never_written_is_not_waited_for(sweep: Sweep) -> None:
    assert not Print().running([sweep])

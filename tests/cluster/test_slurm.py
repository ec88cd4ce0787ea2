"""Steps in parts on a real SLURM. They are skipped where there is none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_assft.cluster import launchers
from nnunet_assft.cluster.executors import InParts
from nnunet_assft.cluster.launchers import Print, Slurm
from nnunet_assft.errors import AssftError, WaitingForParts
from nnunet_assft.runtime.cases import for_each_case
from tests.cluster import work

pytest.importorskip("submitit")
ROOT = Path(__file__).parents[2]
CASES = {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}
OPTIONS = {"time": "1", "mem": "500", "signal_delay_s": "5"}  # by default the signal would come at once


pytestmark = [pytest.mark.slow, pytest.mark.skipif(not work.has_slurm(), reason="there is no SLURM here")]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., InParts]:
    """An executor with n parts; parts can import the tests."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return lambda parts, **options: InParts(
        tmp_path / "jobs", Slurm({**OPTIONS, **options}, pause=0.5, delay=1.0), parts
    )


def jobs(printed: str) -> list[str]:
    """What was submitted, from the lines that say it."""
    return [line.partition("left, ")[2] for line in printed.splitlines() if "submitted" in line]


def test_results_are_those_of_one_process(
    slurm: Callable[..., InParts], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = for_each_case(work.square, CASES, desc="squares", executor=slurm(2))
    assert found == {"a": 1, "b": 4, "c": 9, "d": 16, "e": 25}
    (line,) = jobs(capsys.readouterr().err)
    assert line.startswith("2 parts submitted as job ")
    assert list((tmp_path / "jobs").iterdir()) == []


def test_an_array_is_no_longer_than_the_site_allows(
    slurm: Callable[..., InParts], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert launchers._longest_array() == 1000  # MaxArraySize=1001
    monkeypatch.setattr(launchers, "_longest_array", lambda: 2)
    found = for_each_case(work.square, CASES, desc="squares", executor=slurm(5))
    assert found["e"] == 25
    (line,) = jobs(capsys.readouterr().err)
    assert line.startswith("5 parts submitted as jobs ")
    assert line.count(",") == 2


def test_a_part_that_crashed_is_submitted_again(slurm: Callable[..., InParts], tmp_path: Path) -> None:
    cases = dict.fromkeys(CASES, tmp_path / "killed")
    assert for_each_case(work.killed_once, cases, desc="done", executor=slurm(2)) == dict.fromkeys(CASES, "done")


def test_what_a_crashed_job_has_left_is_done_while_another_one_runs(
    slurm: Callable[..., InParts], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = {"a": (tmp_path, 1), "b": (tmp_path, 0)}
    found = for_each_case(work.killed_once_or_wait, cases, desc="w", executor=slurm(2, time="3"))
    assert list(found) == ["a", "b"]
    assert [line.partition(" submitted")[0] for line in jobs(capsys.readouterr().err)] == ["2 parts", "1 part"]


def test_a_job_that_was_cancelled_by_hand_is_submitted_again(
    slurm: Callable[..., InParts], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def cancel() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.2)
        names = subprocess.run(["squeue", "-h", "--me", "-o", "%i"], capture_output=True, text=True, check=True).stdout
        subprocess.run(["scancel", *[name for name in names.split() if name.endswith("_1")]], check=True)

    thread = threading.Thread(target=cancel)
    thread.start()
    found = for_each_case(work.wait_in_part_1, dict.fromkeys(CASES, tmp_path), desc="waits", executor=slurm(2))
    thread.join()
    assert found == dict.fromkeys(CASES, "done")
    assert [line.partition(" submitted")[0] for line in jobs(capsys.readouterr().err)] == ["2 parts", "2 parts"]


def test_a_job_whose_time_is_shorter_than_its_work_goes_on(
    slurm: Callable[..., InParts], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # the signal is due after 7 of 60 seconds; as SLURM looks every 30 seconds, it comes before the 44 that are needed
    executor = slurm(1, signal_delay_s="53")
    found = for_each_case(work.longer_than_its_time, {"training": tmp_path / "steps"}, desc="t", executor=executor)
    assert found == {"training": 22}
    assert len(jobs(capsys.readouterr().err)) > 1


def test_a_coordinator_that_was_killed_finds_its_jobs_again(slurm: Callable[..., InParts], tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from nnunet_assft.cluster.executors import InParts\n"
        "from nnunet_assft.cluster.launchers import Slurm; from nnunet_assft.runtime.cases import for_each_case\n"
        "from tests.cluster import work; folder = Path(sys.argv[1])\n"
        f"executor = InParts(folder / 'jobs', Slurm({OPTIONS!r}, pause=0.5), 1)\n"
        "print(for_each_case(work.job_of, {'a': folder}, desc='jobs', executor=executor)['a'])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT) as first:
        while not list(tmp_path.glob("begun_*")):
            time.sleep(0.2)
        first.kill()
    (tmp_path / "go").touch()
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (begun,) = tmp_path.glob("begun_*")
    assert second.stdout.split() == [begun.name.removeprefix("begun_")]  # by the job of the first one
    assert "submitted" not in second.stderr


SLURMD = Path("/run/slurmd.pid")


@pytest.mark.skipif(os.geteuid() != 0 or not SLURMD.is_file(), reason="the node daemon cannot be killed")
def test_a_node_daemon_that_is_killed_and_comes_back(slurm: Callable[..., InParts], tmp_path: Path) -> None:
    def kill_and_start_again() -> None:
        while not list(tmp_path.glob("begun_*")):
            time.sleep(0.2)
        os.kill(int(SLURMD.read_text()), signal.SIGKILL)
        (tmp_path / "go").touch()
        time.sleep(5)
        subprocess.run(["slurmd"], check=True)

    thread = threading.Thread(target=kill_and_start_again)
    thread.start()
    found = for_each_case(work.job_of, dict.fromkeys(CASES, tmp_path), desc="jobs", executor=slurm(2))
    thread.join()
    assert set(found) == set(CASES)


def test_a_printed_script_runs_as_an_array_of_jobs(slurm: Callable[..., InParts], tmp_path: Path) -> None:
    printed = InParts(tmp_path / "jobs", Print(), 2)
    with pytest.raises(WaitingForParts, match=r"sbatch --array=0-1"):
        for_each_case(work.square, CASES, desc="squares", executor=printed)
    script = tmp_path / "jobs/squares/sweep_001/part.sh"
    options = ["--wait", "--array=0-1", "--mem=500", f"--output={tmp_path}/%a.log"]
    subprocess.run(["sbatch", *options, str(script)], check=True, capture_output=True, cwd=tmp_path)
    assert for_each_case(work.square, CASES, desc="squares", executor=printed)["e"] == 25


def test_options_that_slurm_refuses_are_one_line(slurm: Callable[..., InParts]) -> None:
    with pytest.raises(AssftError, match=r"SLURM took no job: .*nowhere.*Check the options given with --slurm"):
        for_each_case(work.square, CASES, desc="squares", executor=slurm(2, partition="nowhere"))

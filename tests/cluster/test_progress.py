"""What status says about parts."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from nnunet_assft.cli.status import main
from nnunet_assft.cluster.job import Sweep
from nnunet_assft.cluster.progress import lines_about_parts
from nnunet_assft.runtime.sealed import write_sealed
from tests.conftest import Trained

REPORT = {"host": "node7", "pid": 12, "job": "77", "of": 4, "case": "", "progress": "", "error": ""}


def test_parts_that_are_at_work_have_failed_or_wait(tmp_path: Path) -> None:
    folder = tmp_path / "scoring_round_02_query/sweep_001"
    Sweep(folder).write(4, ["77"], [])
    gone = {"host": socket.gethostname(), "pid": 2**22 + 1}  # no process has this number
    reports = [
        {**REPORT, "part": 0, "state": "finished", "finished": 4},
        {**REPORT, "part": 1, "state": "running", "finished": 3, "case": "case_07"},
        {**REPORT, **gone, "part": 2, "state": "running", "finished": 1, "case": "case_03"},
    ]
    for report in reports:
        write_sealed(folder / f"part_{report['part']:03d}_x.json", report)
    assert list(lines_about_parts(tmp_path)) == [
        "scoring round 02 query: 8 cases done; 4 parts: 1 failed, 1 finished, 1 running, 1 waiting, job 77",
        "  part 1: running on node7 (process 12, job 77), at case_07",
        f"  part 2: failed on {socket.gethostname()} (process {2**22 + 1}, job 77), at case_03",
    ]
    assert os.getpid() < 2**22 + 1


def test_a_part_that_was_killed_on_another_machine_is_silent(tmp_path: Path) -> None:
    folder = tmp_path / "scoring/sweep_001"
    Sweep(folder).write(2, ["77_0", "77_1"], [])
    for part, minutes in enumerate((9, 35)):
        file = folder / f"part_{part:03d}_x.json"
        write_sealed(file, {**REPORT, "part": part, "state": "running", "finished": 1, "case": "case_07"})
        os.utime(file, (time.time(), time.time() - 60 * minutes - 10))
    assert list(lines_about_parts(tmp_path)) == [
        "scoring: 2 cases done; 2 parts: 1 running, 1 silent, job 77",
        "  part 0: running on node7 (process 12, job 77), at case_07",
        "  part 1: silent on node7 (process 12, job 77), at case_07, no sign of life for 35 minutes",
    ]


def test_a_training_says_its_epochs(tmp_path: Path) -> None:
    folder = tmp_path / "round_1_semi_training/sweep_002"
    Sweep(folder).write(1, [], [])
    said = {"part": 0, "state": "failed", "finished": 0, "case": "semi", "progress": "3 epochs of 10"}
    write_sealed(folder / "part_000_x.json", {**REPORT, **said, "error": "ended by SIGUSR1"})
    assert list(lines_about_parts(tmp_path)) == [
        "round 1 semi training (sweep 002): 0 cases done; 1 part: 1 failed",
        "  part 0: failed on node7 (process 12, job 77), at semi, 3 epochs of 10: ended by SIGUSR1",
    ]


def test_a_part_whose_job_was_requeued_is_one_part(tmp_path: Path) -> None:
    """Its first process is on the node whose name comes later, and had finished three cases when it was ended."""
    folder = tmp_path / "scoring/sweep_001"
    Sweep(folder).write(1, ["77"], [])
    first = {**REPORT, "host": "node9", "began": 1.0, "part": 0, "state": "failed", "finished": 3}
    second = {**REPORT, "host": "node2", "began": 2.0, "part": 0, "state": "running", "finished": 0}
    for report in (first, second):
        write_sealed(folder / f"part_000_{report['host']}_12.json", report)
    assert list(lines_about_parts(tmp_path)) == [
        "scoring: 3 cases done; 1 part: 1 running, job 77",
        "  part 0: running on node2 (process 12, job 77)",
    ]


@pytest.mark.parametrize("log", ["part_000.log", "logs/77_0_0_log.err"])
def test_the_log_of_a_failed_part_is_named(log: str, tmp_path: Path) -> None:
    folder = tmp_path / "scoring/sweep_001"
    Sweep(folder).write(1, ["77"], [])
    report = {**REPORT, "job": "77_0", "part": 0, "state": "failed", "finished": 0}
    write_sealed(folder / "part_000_x.json", report)
    (folder / log).parent.mkdir(exist_ok=True)
    (folder / log).write_text("out of memory")
    assert list(lines_about_parts(tmp_path))[1].endswith(f"job 77_0); see {folder / log}")


def test_nothing_is_said_where_nothing_is_done_in_parts(tmp_path: Path) -> None:
    assert list(lines_about_parts(tmp_path / "jobs")) == []


def test_status_shows_a_prediction_after_the_last_round_and_the_runs_of_a_comparison(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = trained.experiment.paths
    Sweep(paths.jobs / "predicting_new/sweep_001").write(2, ["77"], [])
    Sweep(paths.results_of_dataset / "assft_compare/c/jobs/runs/sweep_001").write(1, ["78"], [])
    for options, line in (
        (["-d", "901"], "predicting new: 0 cases done; 2 parts: 2 waiting, job 77\nAll rounds are done.\n"),
        ([], f"{paths.dataset}, comparison 'c':\nruns: 0 cases done; 1 part: 1 waiting, job 78\n"),
    ):
        with pytest.raises(SystemExit):
            main(options)
        assert capsys.readouterr().out.endswith(line)

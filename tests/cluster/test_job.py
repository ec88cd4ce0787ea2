"""The folder of a step, and the processes that work on its parts."""

from __future__ import annotations

import os
import pickle
import subprocess
import time
from pathlib import Path

import pytest

from nnunet_assft.cluster.job import CASES, Job, Sweep, balanced, open_job, run_part
from nnunet_assft.cluster.progress import lines_about_parts
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.cases import Attempt
from tests.cluster import work

ROOT = Path(__file__).parents[2]


def step(folder: Path, item: object) -> tuple[Job, Sweep]:
    """A step whose function waits for a minute after it has made the file that is its argument."""
    job, _ = open_job(folder, Attempt(work.wait_after, "waits", ()))
    job.write_function()
    return job, job.submit([("a", item, "")], 1)


def test_a_part_that_ends_when_its_step_is_over_leaves_nothing(tmp_path: Path) -> None:
    job, sweep = step(tmp_path / "jobs/waits", tmp_path / "begun")
    command, environment = work.command_of_part(job, sweep)
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as part:
        while not (tmp_path / "begun").exists():
            assert part.poll() is None
            time.sleep(0.05)
        job.remove()
        part.terminate()
    assert list((tmp_path / "jobs").iterdir()) == []
    assert list(lines_about_parts(tmp_path / "jobs")) == []


def test_a_part_gives_signs_of_life(tmp_path: Path) -> None:
    job, sweep = step(tmp_path / "jobs/waits", tmp_path / "begun")
    command, environment = work.command_of_part(job, sweep, "job.BETWEEN_SIGNS = 0.1")
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as part:
        while not (tmp_path / "begun").exists():
            assert part.poll() is None
            time.sleep(0.05)
        (file,) = sweep.folder.glob("part_*.json")
        os.utime(file, (0, 0))
        give_up = time.monotonic() + 30
        while sweep.reports()[0]["seen"] == 0 and time.monotonic() < give_up:
            time.sleep(0.05)
        part.terminate()
    assert sweep.reports()[0]["seen"] > time.time() - 60


def test_a_part_that_is_run_again_passes_over_what_it_has_finished(tmp_path: Path) -> None:
    """As SLURM does with a job that it has requeued, and somebody with a printed script."""
    job, _ = open_job(tmp_path / "jobs/touches", Attempt(work.touch_once, "touches", ()))
    job.write_function()
    cases = {name: tmp_path / name for name in "abc"}
    sweep = job.submit([(case, file, "") for case, file in cases.items()], 1)
    command, environment = work.command_of_part(job, sweep)
    for _ in range(2):
        subprocess.run(command, env=environment, check=True)
    assert list(job.new_results(dict.fromkeys(cases, ""))) == [("a", None), ("b", None), ("c", None)]
    (line,) = lines_about_parts(tmp_path / "jobs")
    assert line == "touches: 3 cases done; 1 part: 1 finished"


def test_cases_are_balanced_by_their_bytes() -> None:
    sizes = {name: i for i, name in enumerate("abcdefgh", start=1)}
    order = balanced(sizes, 4)
    assert order == ["e", "f", "g", "h", "d", "c", "b", "a"]
    assert [sum(sizes[case] for case in order[part::4]) for part in range(4)] == [9, 9, 9, 9]
    assert balanced({"a": 2, "b": 9, "c": 2, "d": 2, "e": 10}, 3) == ["a", "b", "e", "c", "d"]  # 4, 11 and 10 bytes
    assert balanced({"a": 0, "b": 0}, 1) == ["a", "b"]


@pytest.mark.parametrize("file", ["function.pkl", "sweep_001/cases.pkl"])
def test_only_what_the_coordinator_has_written_is_run(file: str, tmp_path: Path) -> None:
    job, sweep = step(tmp_path / "waits", "a")
    assert sweep.folder / CASES == tmp_path / "waits/sweep_001/cases.pkl"
    checksum = job.checksum(sweep)
    (tmp_path / "waits" / file).write_bytes(pickle.dumps([("a", work.MakesFolder(tmp_path / "ran"))]))
    with pytest.raises(AssftError, match="belongs to another step by now"):
        run_part(sweep.folder, 1, 0, checksum)
    assert not (tmp_path / "ran").exists()

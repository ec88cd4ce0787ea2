"""Steps in parts, in real processes."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from nnunet_assft.cluster.engines import Engine
from nnunet_assft.cluster.executors import InParts
from nnunet_assft.cluster.job import PART, Job, Part, Sweep
from nnunet_assft.cluster.launchers import Local, Print
from nnunet_assft.errors import AssftError, WaitingForParts
from nnunet_assft.runtime.cases import for_each_case
from nnunet_assft.runtime.staged import Staged
from tests.cluster import work


class SeenLate(Local):
    """Like NFS, on which the jobs have ended before this machine sees their results."""

    submitted: list[str]

    def submit(self, job: Job, sweep: Sweep) -> None:
        self.submitted = [*getattr(self, "submitted", []), sweep.folder.name]
        super().submit(job, sweep)

    def running(self, sweeps: Sequence[Sweep]) -> set[Part]:
        return set()


CASES = {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts can import the tests."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def local(tmp_path: Path, importable: None) -> Callable[[int], InParts]:
    """An executor with n parts."""
    return lambda parts: InParts(tmp_path / "jobs", Local(), parts)


@pytest.mark.parametrize("parts", [1, 3, 7])
def test_results_are_those_of_one_process(local: Callable[[int], InParts], parts: int, tmp_path: Path) -> None:
    found = for_each_case(work.square, CASES, desc="squares: of 5", executor=local(parts))
    assert found == {"a": 1, "b": 4, "c": 9, "d": 16, "e": 25}
    assert list(found) == list(CASES)
    assert list((tmp_path / "jobs").iterdir()) == []  # nothing is left of the step


def test_every_part_is_a_process_with_every_nth_case(local: Callable[[int], InParts]) -> None:
    found = for_each_case(work.process_of, list(CASES), desc="processes", executor=local(2))
    assert os.getpid() not in found.values()
    assert found["a"] == found["c"] == found["e"] != found["b"] == found["d"]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not tell cores apart")
def test_parts_on_one_machine_share_its_cores(local: Callable[[int], InParts]) -> None:
    found = for_each_case(work.cores_of, ["a", "b"], desc="cores", executor=local(2))
    ours = sorted(os.sched_getaffinity(0))
    assert sorted(found["a"] + found["b"]) == (ours if len(ours) > 1 else 2 * ours)
    assert for_each_case(work.cores_of, ["a", "b"], desc="cores", executor=local(1))["a"] == ours


def test_errors_of_cases_are_collected_or_end_the_loop(local: Callable[[int], InParts]) -> None:
    failures: dict[str, AssftError] = {}
    found = for_each_case(work.refuse_even, CASES, desc="odd", executor=local(2), failures=failures)
    assert found == {"a": 1, "c": 3, "e": 5}
    assert {case: str(error) for case, error in failures.items()} == {"b": "2 is even.", "d": "4 is even."}
    with pytest.raises(AssftError, match="is even"):
        for_each_case(work.refuse_even, CASES, desc="odd", executor=local(2))


def test_an_error_whose_cause_is_gone_is_not_found_again(local: Callable[[int], InParts], tmp_path: Path) -> None:
    cases, executor = {"a": tmp_path / "a", "b": tmp_path / "b"}, local(2)
    cases["a"].write_text("before")
    with pytest.raises(AssftError, match="b is missing"):
        for_each_case(work.content_of, cases, desc="contents", executor=executor)
    for case, file in cases.items():
        file.write_text(f"{case} after")  # the result of a, too, may have been computed before it was corrected
    found = for_each_case(work.content_of, cases, desc="contents", executor=executor)
    assert found == {"a": "a after", "b": "b after"}


def test_after_an_error_no_process_goes_on(local: Callable[[int], InParts], tmp_path: Path) -> None:
    cases = {"a": (tmp_path, True), "b": (tmp_path, False)}
    with pytest.raises(AssftError, match="refused"):
        for_each_case(work.wait_or_refuse, cases, desc="waits", executor=local(2))
    (waiting,) = tmp_path.glob("waits_*")
    assert not Path("/proc", waiting.name.removeprefix("waits_")).exists()


def test_an_error_of_another_kind_says_on_which_case(local: Callable[[int], InParts]) -> None:
    with pytest.raises(AssftError, match="quotients b: ZeroDivisionError: division by zero"):
        for_each_case(work.reciprocal, {"a": 1, "b": 0}, desc="quotients", executor=local(2))


def test_what_a_killed_part_has_left_is_submitted_again(local: Callable[[int], InParts], tmp_path: Path) -> None:
    cases = dict.fromkeys(CASES, tmp_path / "killed")
    found = for_each_case(work.killed_once, cases, desc="done", executor=local(2))
    assert found == dict.fromkeys(CASES, "done")


def test_without_progress_the_cases_and_the_logs_are_named(local: Callable[[int], InParts], tmp_path: Path) -> None:
    with pytest.raises(AssftError, match=r"1 case could not be finished \(b\).*sweep_00[34]/part_000\.log"):
        for_each_case(work.always_killed, CASES, desc="killed", executor=local(2))


def test_a_case_without_progress_fails_alone_where_failures_are_collected(
    local: Callable[[int], InParts], tmp_path: Path
) -> None:
    failures: dict[str, AssftError] = {}
    found = for_each_case(work.always_killed, CASES, desc="killed", executor=local(2), failures=failures)
    assert list(found) == ["a", "c", "d", "e"]
    assert list(failures) == ["b"]
    (log,) = re.findall(r"\S+/sweep_00[34]/part_000\.log", str(failures["b"]))
    assert Path(log).is_file()


def test_what_a_killed_part_has_left_is_done_while_others_are_at_work(tmp_path: Path, importable: None) -> None:
    executor = InParts(tmp_path / "jobs", Local(gpus=("7", "8")), 2)
    found = for_each_case(
        work.killed_once_or_wait, {"a": (tmp_path, 1), "b": (tmp_path, 0)}, desc="w", executor=executor
    )
    assert found == {"a": "7", "b": "8"}  # the GPU of the part that was killed, not that of the other


def test_what_kills_its_part_twice_waits_for_the_others(local: Callable[[int], InParts], tmp_path: Path) -> None:
    failures: dict[str, AssftError] = {}
    cases = {"a": (tmp_path, 2), "b": (tmp_path, 0)}
    found = for_each_case(work.always_killed_or_wait, cases, desc="w", executor=local(2), failures=failures)
    assert found == {"a": 2}
    assert list(failures) == ["b"]


def test_cases_are_divided_by_their_size(tmp_path: Path, importable: None) -> None:
    sizes = {"a": 1, "b": 2, "c": 3, "d": 4}
    executor = InParts(tmp_path / "jobs", Local(), 2, sizes.__getitem__)
    found: dict[str, int] = for_each_case(work.process_of, list(sizes), desc="processes", executor=executor)
    assert list(found) == list(sizes)
    assert found["a"] == found["d"] != found["b"] == found["c"]


def test_steps_that_read_images_are_divided_by_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "a_0000.nii.gz").write_bytes(b"12345")
    images = {"a": [tmp_path / "a_0000.nii.gz", tmp_path / "deleted.nii.gz"]}
    executor = Engine("print").images(tmp_path, images)
    assert isinstance(executor, InParts)
    assert executor.size is not None
    assert [executor.size(case) for case in ("a", "another")] == [5, 0]


@pytest.mark.parametrize("word", ["full", "broken"])
def test_a_gpu_that_fails_once_fails_no_case(word: str, local: Callable[[int], InParts], tmp_path: Path) -> None:
    how = {case: (word if case == "b" else "fine", tmp_path / "uses", 1) for case in CASES}
    found = for_each_case(work.on_a_gpu, how, desc="used", executor=local(1))
    assert found["b"] != found["a"]
    assert (found["c"] == found["a"]) == (word == "full")  # in the same process, or in one that can use the GPU


@pytest.mark.parametrize(
    ("word", "message"), [("full", "CUDA out of memory. Tried"), ("broken", "CUDA error: an illegal memory access")]
)
def test_a_case_for_which_a_gpu_fails_always_fails_alone(
    word: str, message: str, local: Callable[[int], InParts], tmp_path: Path
) -> None:
    """The first case of the only part: it keeps nobody from the others, and is not tried for ever."""
    failures: dict[str, AssftError] = {}
    how = {case: (word if case == "a" else "fine", tmp_path / "uses", 99) for case in CASES}
    found = for_each_case(work.on_a_gpu, how, desc="used", executor=local(1), failures=failures)
    assert (list(found), list(failures)) == (["b", "c", "d", "e"], ["a"])
    assert message in str(failures["a"])
    n = len((tmp_path / "uses").read_text())
    assert n == len(list((tmp_path / "jobs/used").glob("sweep_*")))
    assert 3 <= n <= 5


def test_a_lock_of_another_process_is_no_error_of_the_case(local: Callable[[int], InParts], tmp_path: Path) -> None:
    assert for_each_case(work.behind_a_lock, {"a": tmp_path / "a"}, desc="lock", executor=local(1)) == {"a": "done"}


def test_a_finished_case_of_a_run_is_progress(local: Callable[[int], InParts], tmp_path: Path) -> None:
    found = for_each_case(work.run_of_cases, {"random, seed 0": tmp_path}, desc="runs", executor=local(1))
    assert found == {"random, seed 0": 4}


def test_a_result_that_is_seen_late_is_not_computed_again(tmp_path: Path, importable: None) -> None:
    late = SeenLate(delay=500.0)
    assert for_each_case(work.square, {"a": 3}, desc="s", executor=InParts(tmp_path, late, 1)) == {"a": 9}
    assert late.submitted == ["sweep_001"]


def test_a_case_that_gets_further_each_time_is_submitted_until_it_is_done(
    local: Callable[[int], InParts], tmp_path: Path
) -> None:
    found = for_each_case(work.killed_after_every_step, {"training": tmp_path / "steps"}, desc="t", executor=local(1))
    assert found == {"training": 4}


def test_the_coordinator_shows_how_far_a_long_case_is(
    local: Callable[[int], InParts], capsys: pytest.CaptureFixture[str]
) -> None:
    executor = local(1)
    assert for_each_case(work.say_in_another_process, {"semi": 2.0}, desc="training", executor=executor) == {
        "semi": True
    }
    assert "training, semi: 3 epochs of 10" in capsys.readouterr().err
    assert PART not in os.environ


def test_a_function_in_three_steps_is_applied_to_the_cases_of_a_part(local: Callable[[int], InParts]) -> None:
    failures: dict[str, AssftError] = {}
    function = Staged(work.refuse_even, work.square, work.process_of)
    found: dict[str, int] = for_each_case(function, CASES, desc="processes", executor=local(2), failures=failures)
    assert list(found) == ["a", "c", "e"]
    assert os.getpid() not in found.values()
    assert {case: str(error) for case, error in failures.items()} == {"b": "2 is even.", "d": "4 is even."}


def test_in_a_part_the_executor_is_its_own_process(local: Callable[[int], InParts]) -> None:
    found = for_each_case(partial(work.name_of, local(2)), {"a": 1}, desc="names", executor=local(1))
    assert found == {"a": "here"}


def test_results_of_another_function_are_not_taken(local: Callable[[int], InParts], tmp_path: Path) -> None:
    printed = InParts(tmp_path / "jobs", Print(), 1)
    with pytest.raises(WaitingForParts):
        for_each_case(work.square, CASES, desc="step", executor=printed)
    _run_script(tmp_path / "jobs/step/sweep_001/part.sh", 0)
    assert for_each_case(work.refuse_even, {"a": 7}, desc="step", executor=local(1)) == {"a": 7}


def test_results_of_another_argument_are_not_taken(local: Callable[[int], InParts], tmp_path: Path) -> None:
    printed = InParts(tmp_path / "jobs", Print(), 1)
    with pytest.raises(WaitingForParts):
        for_each_case(work.square, {"a": 2, "b": 3}, desc="squares", executor=printed)
    _run_script(tmp_path / "jobs/squares/sweep_001/part.sh", 0)
    assert for_each_case(work.square, {"a": 5, "b": 3}, desc="squares", executor=local(1)) == {"a": 25, "b": 9}


def test_a_command_that_has_read_its_contents_from_files_takes_the_results(
    local: Callable[[int], InParts], tmp_path: Path
) -> None:
    """It has equal texts where the command before it, which planned or queried, had one text in two places."""
    printed, first, second = InParts(tmp_path / "jobs", Print(), 1), "".join("ab"), "".join("ab")
    assert first is not second
    with pytest.raises(WaitingForParts):
        for_each_case(partial(os.path.join, first, first), {"a": first}, desc="join", executor=printed)
    _run_script(tmp_path / "jobs/join/sweep_001/part.sh", 0)
    assert for_each_case(partial(os.path.join, first, second), {"a": second}, desc="join", executor=printed) == {
        "a": "ab/ab/ab"
    }


def test_printed_scripts_are_run_by_somebody_else(local: Callable[[int], InParts], tmp_path: Path) -> None:
    printed = InParts(tmp_path / "jobs", Print(), 2)
    script = tmp_path / "jobs/squares/sweep_001/part.sh"
    for part in range(2):
        with pytest.raises(WaitingForParts, match=rf"{2 - part} of 2 parts are not finished.*{script} PART"):
            for_each_case(work.square, CASES, desc="squares", executor=printed)
        _run_script(script, part)
    assert for_each_case(work.square, CASES, desc="squares", executor=printed)["e"] == 25


def _run_script(script: Path, part: int) -> None:
    subprocess.run(["bash", str(script), str(part)], check=True, cwd="/")


def test_half_a_result_is_computed_again(local: Callable[[int], InParts], tmp_path: Path) -> None:
    printed = InParts(tmp_path / "jobs", Print(), 1)
    with pytest.raises(WaitingForParts):
        for_each_case(work.square, CASES, desc="squares", executor=printed)
    _run_script(tmp_path / "jobs/squares/sweep_001/part.sh", 0)
    (results,) = tmp_path.glob("jobs/squares/sweep_001/part_000_*.bin")
    results.write_bytes(results.read_bytes()[:-5])  # the last case
    with pytest.raises(WaitingForParts, match="1 of 1 parts are not finished"):
        for_each_case(work.square, CASES, desc="squares", executor=printed)
    _run_script(tmp_path / "jobs/squares/sweep_002/part.sh", 0)
    assert for_each_case(work.square, CASES, desc="squares", executor=printed)["e"] == 25

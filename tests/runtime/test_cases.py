"""The one loop over cases: order, resuming, failures, and worker processes, one of which may be killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nnunet_assft.errors import AssftError, doing, in_one_line
from nnunet_assft.runtime.cases import each_case, for_each_case, here, in_processes

CASES = {"b": 2, "a": 1, "d": 4, "c": 3}


def square(n: int) -> int:
    return n * n


def reciprocal(n: int) -> float:
    return 1 / n


def square_of_odd(n: int) -> int:
    if n % 2 == 0:
        raise AssftError(f"{n} is even")
    return square(n)


def backwards(function: Callable[[Any], Any], items: Sequence[Any], desc: str) -> Iterator[tuple[int, Any]]:
    """An executor whose last item is done first."""
    for i in reversed(range(len(items))):
        yield i, function(items[i])


# Order, resuming, failures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", [here, backwards])
def test_results_are_in_the_order_of_the_cases(executor: Any) -> None:
    found = for_each_case(square, CASES, desc="squares", executor=executor)
    assert list(found.items()) == [("b", 4), ("a", 1), ("d", 16), ("c", 9)]


def test_a_sequence_of_cases_stands_for_itself() -> None:
    assert for_each_case(str.upper, ["b", "a"], desc="letters") == {"b": "B", "a": "A"}
    assert for_each_case(str.upper, [], desc="letters") == {}


def test_cases_that_are_done_are_not_worked_on() -> None:
    worked_on, reported = [], []

    def work(n: int) -> int:
        worked_on.append(n)
        return square(n)

    found = for_each_case(
        work,
        CASES,
        desc="squares",
        done={"a": 100, "d": 0}.get,  # a result that is false in a condition is a result
        finished=lambda case, result: reported.append((case, result)),
    )
    assert list(found.items()) == [("b", 4), ("a", 100), ("d", 0), ("c", 9)]
    assert worked_on == [2, 3]
    assert reported == [("b", 4), ("c", 9)]


def test_each_result_is_reported_as_it_comes_in() -> None:
    reported: list[str] = []
    for_each_case(
        square, CASES, desc="squares", finished=lambda case, result: reported.append(case), executor=backwards
    )
    assert reported == ["c", "d", "a", "b"]


def test_failures_are_collected_and_the_other_cases_go_on() -> None:
    failures: dict[str, AssftError] = {}
    reported: list[str] = []
    found = for_each_case(
        square_of_odd,
        CASES,
        desc="squares",
        finished=lambda case, result: reported.append(case),
        failures=failures,
    )
    assert found == {"a": 1, "c": 9}
    assert {case: str(error) for case, error in failures.items()} == {"b": "2 is even", "d": "4 is even"}
    assert reported == ["a", "c"]


@pytest.mark.parametrize("executor", [here, in_processes(2)], ids=["here", "in two processes"])
def test_without_a_place_for_failures_the_first_one_ends_the_loop(executor: Any) -> None:
    reported: list[str] = []
    with pytest.raises(AssftError, match="2 is even"):
        for_each_case(
            square_of_odd,
            {"a": 1, "b": 2, "c": 3},
            desc="squares",
            finished=lambda case, result: reported.append(case),
            executor=executor,
        )
    if executor is here:
        assert reported == ["a"]


def test_an_error_of_another_kind_is_never_collected() -> None:
    def divide(n: int) -> float:
        return 1 / n

    failures: dict[str, AssftError] = {}
    with pytest.raises(ZeroDivisionError):
        for_each_case(divide, {"a": 0}, desc="quotients", failures=failures)
    assert failures == {}


@pytest.mark.parametrize("executor", [here, in_processes(2)], ids=["here", "in two processes"])
@pytest.mark.parametrize("collects", [False, True])
def test_an_error_of_another_kind_says_on_which_case(executor: Any, collects: bool) -> None:
    with pytest.raises(ZeroDivisionError) as raised, doing("round 3"):
        for_each_case(
            reciprocal, {"a": 1, "b": 0}, desc="quotients", failures={} if collects else None, executor=executor
        )
    assert in_one_line(raised.value) == "round 3: quotients b: ZeroDivisionError: division by zero"


def test_what_was_done_is_said_once() -> None:
    with pytest.raises(OSError, match="x") as raised, doing("round 3"), doing("round 3: training"):
        raise OSError(2, "x\ny", "file.json")
    assert in_one_line(raised.value) == "round 3: training: FileNotFoundError: [Errno 2] x y: 'file.json'"
    with pytest.raises(AssftError) as refused, doing("round 3"):
        raise AssftError("The message.")
    assert in_one_line(refused.value) == "The message."


def test_progress_counts_the_cases_that_were_left(capsys: pytest.CaptureFixture[str]) -> None:
    for_each_case(square, CASES, desc="squares", done={"a": 1}.get)
    assert "squares" in (shown := capsys.readouterr().err)
    assert "/3 " in shown
    for_each_case(square, CASES, desc="squares", done=CASES.get)
    assert capsys.readouterr().err == ""  # nothing was left, nothing is shown


# Processes ------------------------------------------------------------------------------------------------------------


def process_of(n: int) -> int:
    return os.getpid()


def sleep_and_say_who(_: object) -> None:
    os.write(1, f"{os.getpid()}\n".encode())  # at once, because two of them say it at the same time
    time.sleep(60)


def killed_at_even(n: int) -> int:
    if n % 2 == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return square(n)


def killed_if_first(mark: Path, n: int) -> int:
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return square(n)


def test_processes_give_the_same_results_and_collect_the_same_failures() -> None:
    failures: dict[str, AssftError] = {}
    found = for_each_case(square_of_odd, CASES, desc="squares", failures=failures, executor=in_processes(2))
    assert list(found.items()) == [("a", 1), ("c", 9)]
    assert {case: str(error) for case, error in failures.items()} == {"b": "2 is even", "d": "4 is even"}


def test_more_than_one_case_runs_in_other_processes() -> None:
    assert os.getpid() not in for_each_case(process_of, CASES, desc="processes", executor=in_processes(2)).values()


def made(file: Path) -> None:
    file.touch()


def test_no_more_than_one_item_per_process_waits(tmp_path: Path) -> None:
    """While the caller is busy with the first result, the one process may work on one item and has one waiting."""
    files = {str(i): tmp_path / str(i) for i in range(6)}
    results = each_case(made, files, desc="making", executor=in_processes(1, never_here=True))
    assert next(results) in [("0", None), ("1", None)]  # the second one, if both are finished by now
    time.sleep(0.5)
    assert len(list(tmp_path.iterdir())) <= 3
    assert len(list(results)) == 5


@pytest.mark.parametrize(("n", "cases"), [(1, CASES), (4, {"a": 1}), (4, {})])
def test_one_process_or_one_case_runs_here(n: int, cases: dict[str, int]) -> None:
    found = for_each_case(process_of, cases, desc="processes", executor=in_processes(n))
    assert found == dict.fromkeys(cases, os.getpid())


@pytest.mark.parametrize("n", [1, 2])
def test_a_case_that_kills_its_process_fails_alone(n: int) -> None:
    failures: dict[str, AssftError] = {}
    found = for_each_case(
        killed_at_even, CASES, desc="squares", failures=failures, executor=in_processes(n, never_here=True)
    )
    assert list(found.items()) == [("a", 1), ("c", 9)]
    assert sorted(failures) == ["b", "d"]
    assert "memory" in str(failures["b"])


def test_a_worker_that_was_killed_once_costs_no_case(tmp_path: Path) -> None:
    """As when the memory was too small for two cases at once, but holds one."""
    function = partial(killed_if_first, tmp_path / "mark")
    assert for_each_case(function, CASES, desc="squares", executor=in_processes(2)) == {
        case: n * n for case, n in CASES.items()
    }


def test_a_killed_case_is_one_line_with_its_name() -> None:
    reported: list[str] = []
    with pytest.raises(AssftError, match=r"^b: the process .* was killed.*memory.*Finished cases are kept\.$"):
        for_each_case(
            killed_at_even,
            {"a": 1, "b": 2, "c": 3},
            desc="squares",
            finished=lambda case, result: reported.append(case),
            executor=in_processes(2),
        )
    assert "a" in reported

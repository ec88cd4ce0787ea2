"""Functions in three steps: what is read ahead, what other processes write, and that the results are the same."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nnunet_assft.errors import AssftError, in_one_line
from nnunet_assft.runtime import staged
from nnunet_assft.runtime.cases import each_case, for_each_case, in_processes
from nnunet_assft.runtime.staged import InBackground, Staged, one_ahead

CASES = {"b": 2, "a": 1, "d": 4, "c": 3}


def square(n: int) -> int:
    return n * n


def text_of(n: int) -> str:
    return f"{n}"


def process_of(n: int) -> int:
    return os.getpid()


def refuse_four(n: int) -> int:
    if n == 4:
        raise AssftError("4 is refused")
    return n


def divide_by_zero(n: int) -> float:
    return 1 / (n - 4)


def killed_in_another_process(us: int, n: int) -> int:
    if os.getpid() != us:
        os.kill(os.getpid(), signal.SIGKILL)
    return n


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are started after the first call, however short it was."""
    monkeypatch.setattr(staged, "START", 0.0)


@pytest.fixture(params=["one process", "readers", "writers", "both"])
def way(request: pytest.FixtureRequest, at_once: None) -> dict[str, Any]:
    ways = {"one process": (0, 0), "readers": (2, 0), "writers": (0, 2), "both": (1, 1)}
    readers, writers = ways[request.param]
    return {"readers": readers, "writers": partial(int, writers)}


def test_the_steps_follow_each_other(way: dict[str, Any]) -> None:
    function = Staged(refuse_four, square, text_of, **way)
    assert function(3) == "9"
    failures: dict[str, AssftError] = {}
    assert for_each_case(function, CASES, desc="texts", failures=failures) == {"b": "4", "a": "1", "c": "9"}
    assert {case: str(error) for case, error in failures.items()} == {"d": "4 is refused"}


@pytest.mark.parametrize("step", range(3))
def test_an_error_in_any_step_names_its_case(way: dict[str, Any], step: int) -> None:
    steps: list[Callable[[int], float]] = [staged.as_it_is] * 3
    steps[step] = divide_by_zero
    with pytest.raises(ZeroDivisionError) as raised:
        for_each_case(Staged(*steps, **way), {"a": 1, "b": 2, "z": 4}, desc="quotients")
    assert in_one_line(raised.value) == "quotients z: ZeroDivisionError: division by zero"


def test_other_executors_take_all_steps_of_a_case_together() -> None:
    function = Staged(refuse_four, square, text_of, writers=partial(int, 2))
    assert for_each_case(function, {"a": 1, "b": 2}, desc="texts", executor=in_processes(2)) == {"a": "1", "b": "4"}


# Reading --------------------------------------------------------------------------------------------------------------


def test_one_item_is_read_while_the_caller_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged, "available_cores", lambda: 2)
    read: list[int] = []
    items = one_ahead(lambda n: read.append(n) or threading.current_thread(), [10, 11, 12, 13])
    i, thread = next(items)
    time.sleep(0.3)
    assert (i, read) == (0, [10, 11])
    assert thread is not threading.current_thread()
    assert [i for i, _ in items] == [1, 2, 3]


@pytest.mark.parametrize(("cores", "items"), [(1, [10, 11]), (2, [10]), (2, [])])
def test_nothing_is_read_ahead_where_it_cannot_help(
    cores: int, items: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staged, "available_cores", lambda: cores)
    here = threading.current_thread()
    assert list(one_ahead(lambda _: threading.current_thread(), items)) == [(i, here) for i in range(len(items))]


# Writing --------------------------------------------------------------------------------------------------------------


def writers_of(n: int, **how: object) -> dict[str, int]:
    return for_each_case(Staged(square, square, process_of, writers=partial(int, n), **how), CASES, desc="processes")


def test_after_the_first_case_other_processes_write(at_once: None) -> None:
    first, *others = writers_of(2).values()
    assert first == os.getpid()
    assert os.getpid() not in others


def test_no_process_is_started_for_what_takes_less_time_than_that() -> None:
    assert set(writers_of(2).values()) == {os.getpid()}


@pytest.mark.parametrize("free", [0, 400_000_000])
def test_no_process_writes_what_does_not_fit_into_memory(
    free: int, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process takes 300 MB and, here, 100 MB for its case; a fifth of the free memory is left alone."""
    monkeypatch.setattr(staged, "free_memory", lambda: free)
    assert set(writers_of(2, bytes_to_write=lambda n: 100_000_000).values()) == {os.getpid()}
    monkeypatch.setattr(staged, "free_memory", lambda: 500_000_000)
    others = list(writers_of(2, bytes_to_write=lambda n: 100_000_000).values())[1:]
    assert os.getpid() not in others
    assert len(set(others)) == 1  # there is room for one at a time, which is the same one or not


def test_a_process_that_is_killed_costs_no_case(at_once: None, capsys: pytest.CaptureFixture[str]) -> None:
    function = Staged(square, square, partial(killed_in_another_process, os.getpid()), writers=partial(int, 2))
    assert for_each_case(function, CASES, desc="numbers") == {case: n**4 for case, n in CASES.items()}
    assert capsys.readouterr().err.count("A process that writes results was killed, most likely because the mem") == 1


def touch_slowly(file: Path) -> None:
    file.with_suffix(".begun").touch()
    time.sleep(0.5)


def test_no_more_calls_than_processes_are_waiting(at_once: None, tmp_path: Path) -> None:
    computed: list[Path] = []
    function = Staged(Path, lambda file: computed.append(file) or file, touch_slowly, writers=partial(int, 1))
    results = each_case(function, {str(i): tmp_path / str(i) for i in range(5)}, desc="touching")
    for case, _ in results:
        # the case that is finished, the one that a process works on, and the one that waits for a process
        assert len(computed) <= int(case) + 3
    assert len(list(tmp_path.iterdir())) == 5


def test_after_an_error_nothing_is_left_behind(at_once: None) -> None:
    def calls() -> Iterator[tuple[int, int]]:
        with InBackground(process_of, 1, staged.no_bytes) as background:
            for i in range(3):
                yield from background.call(i, i, left=9)
            yield from background.rest()

    found = calls()
    assert next(found) == (0, os.getpid())
    _, other = next(found)
    found.close()
    with pytest.raises(ProcessLookupError):
        os.kill(other, 0)

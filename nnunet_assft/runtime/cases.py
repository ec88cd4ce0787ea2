"""The one loop over cases. Where the cases are worked on is the business of the executor."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from tqdm import tqdm

from nnunet_assft.errors import AssftError

Result = TypeVar("Result")


class Executor(Protocol):
    """Applies a function to every item and yields (index of the item, result) as the results come in."""

    def __call__(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[int, Any]]: ...


def here(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """In this process, one item after the other."""
    for i, item in enumerate(items):
        yield i, function(item)


def in_processes(n: int) -> Executor:
    """In n processes of this machine. Function, items and results are pickled.

    A process needs some seconds for its imports before its first case, so with n = 1, or a single item, the loop runs
    here. Workers are spawned, because forking after torch was loaded can hang.
    """

    def execute(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        if min(n, len(items)) < 2:
            yield from here(function, items)
            return
        with ProcessPoolExecutor(n, mp_context=multiprocessing.get_context("spawn")) as pool:
            try:
                futures = {pool.submit(function, item): i for i, item in enumerate(items)}
                for future in as_completed(futures):
                    yield futures[future], future.result()
            except BrokenProcessPool as error:
                raise AssftError(
                    f"One of {n} worker processes was killed, most likely because the memory was exhausted. Run the "
                    "same command again with a smaller -np; finished cases are kept."
                ) from error
            finally:
                pool.shutdown(cancel_futures=True)  # after an error, nothing that has not begun is begun

    return execute


def nothing_done(case: str) -> None:
    """No case is done yet."""


def for_each_case(  # the two callbacks and the executor are what the callers' hand-written loops differed in
    function: Callable[[Any], Result],
    cases: Mapping[str, Any] | Sequence[str],
    *,
    desc: str,
    done: Callable[[str], Result | None] = nothing_done,
    finished: Callable[[str, Result], object] | None = None,
    failures: dict[str, AssftError] | None = None,
    executor: Executor = here,
) -> dict[str, Result]:
    """The result of every case, in the order of `cases`, with a progress bar over those that are not done yet.

    cases: case id -> what `function` is called with; a sequence of ids stands for itself. desc: text of the progress
    bar. done: the result of a case that was finished by an earlier call, or None; usually read from the file that makes
    the case done. finished: called here with each new result as it comes in. failures: if given, an `AssftError` of one
    case is put in here and the other cases go on; otherwise the first error ends the loop.
    """
    items = cases if isinstance(cases, Mapping) else {case: case for case in cases}
    results = {case: result for case in items if (result := done(case)) is not None}
    todo = [case for case in items if case not in results]
    attempt = function if failures is None else _Attempt(function)
    with tqdm(total=len(todo), desc=desc, unit="case", leave=False, disable=not todo) as bar:
        for i, result in executor(attempt, [items[case] for case in todo]):
            if failures is not None and isinstance(result, AssftError):
                failures[todo[i]] = result
            else:
                results[todo[i]] = result
                if finished is not None:
                    finished(todo[i], result)
            bar.update()
    return {case: results[case] for case in items if case in results}


@dataclass(frozen=True)
class _Attempt(Generic[Result]):
    """Returns the error of a case in place of its result. A class, so that it can be pickled."""

    function: Callable[[Any], Result]

    def __call__(self, item: Any) -> Result | AssftError:
        try:
            return self.function(item)
        except AssftError as error:
            return error

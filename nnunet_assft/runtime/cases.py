"""The loop over cases that all steps share. Its executor decides in which processes the cases are computed."""

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
    """Applies a function to every item and yields (index of the item, result) in the order of completion."""

    def __call__(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[int, Any]]: ...


def here(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Apply the function in this process, to one item after the other."""
    for i, item in enumerate(items):
        yield i, function(item)


def in_processes(n: int) -> Executor:
    """Return an executor with n processes on this machine. The function, items and results are pickled.

    A process needs some seconds for its imports before its first case, so with n = 1, or a single item, the loop runs
    in this process. Workers are spawned, because forking after torch was loaded can hang.
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
                    "same command again with a smaller -np. Finished cases are kept."
                ) from error
            finally:
                pool.shutdown(cancel_futures=True)  # after an error, no further item is started

    return execute


def nothing_done(case: str) -> None:
    """Return None, so that every case is computed."""


def for_each_case(  # seven parameters: everything in which the loops over cases differ
    function: Callable[[Any], Result],
    cases: Mapping[str, Any] | Sequence[str],
    *,
    desc: str,
    done: Callable[[str], Result | None] = nothing_done,
    finished: Callable[[str, Result], object] | None = None,
    failures: dict[str, AssftError] | None = None,
    executor: Executor = here,
) -> dict[str, Result]:
    """Apply `function` to every case, and return case -> result in the order of `cases`.

    A progress bar counts the cases that are not done yet. cases: case id -> argument of `function`, or a sequence of
    ids that are the arguments themselves. desc: text of the progress bar. done: returns the result of a case that an
    earlier call has finished, usually from its file, or None. finished: called in this process with the id and the
    result of each case as it completes. failures: if given, an `AssftError` of a case is stored here and the other
    cases continue; otherwise the first error ends the loop.
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
    """Calls a function, and returns an `AssftError` instead of raising it. It is a class so that it can be pickled."""

    function: Callable[[Any], Result]

    def __call__(self, item: Any) -> Result | AssftError:
        try:
            return self.function(item)
        except AssftError as error:
            return error

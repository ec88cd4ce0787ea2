"""The loop over cases that all steps share. Its executor decides in which processes the cases are computed."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from tqdm import tqdm

from nnunet_assft.errors import AssftError, as_assft_error, doing
from nnunet_assft.runtime.processes import die_with_parent_if_spawned
from nnunet_assft.runtime.staged import InBackground, Staged, one_ahead

Result = TypeVar("Result")

KILLED = (
    "the process working on it was killed, most likely because the memory was exhausted (use a smaller -np, or a "
    "machine with more memory) or because the file is damaged."
)


class Executor(Protocol):
    """Applies a function to every (case, argument) and yields (index, result) in the order of completion.

    desc: what is done, such as "round 1: pseudo-labels"; it tells the steps of an experiment apart.
    """

    def __call__(
        self, function: Attempt[Any], items: Sequence[tuple[str, Any]], desc: str
    ) -> Iterator[tuple[int, Any]]: ...


def here(function: Attempt[Any], items: Sequence[tuple[str, Any]], desc: str) -> Iterator[tuple[int, Any]]:
    """Apply the function in this process, to one item after the other."""
    yield from function.to_all(items)


def in_processes(n: int, *, never_here: bool = False) -> Executor:
    """Return an executor with n processes on this machine. The function, items and results are pickled.

    A process needs some seconds for its imports before its first case, so with n = 1, or a single item, the loop runs
    in this process, unless `never_here` is set for a function that may crash its process. When a worker is killed, the
    items that are left are tried again in a single worker, one after the other. The result of an item that is killed
    there as well is an `AssftError`. Workers are spawned, because forking after torch was loaded can hang.
    """

    def execute(function: Attempt[Any], items: Sequence[tuple[str, Any]], desc: str) -> Iterator[tuple[int, Any]]:
        workers = min(n, len(items))
        if workers < 2 and not never_here:
            yield from here(function, items, desc)
            return
        left = dict(enumerate(items))
        while left:
            for i, result in _until_a_worker_is_killed(function, left, workers):
                del left[i]
                yield i, result
            if left and workers == 1:
                killed = next(iter(left))  # a single worker takes the items in their order
                del left[killed]
                yield killed, AssftError(KILLED)
            workers = 1

    return execute


def _until_a_worker_is_killed(
    function: Callable[[Any], Any], items: Mapping[int, Any], workers: int
) -> Iterator[tuple[int, Any]]:
    """Yield (index, result) of the items that were computed before a worker was killed, or of all items.

    A worker gets at most one item ahead, so that results do not pile up in memory while the caller is busy with one.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=die_with_parent_if_spawned) as pool:
        futures: dict[Future[Any], int] = {}
        waiting = iter(list(items.items()))  # the caller removes items that are done
        try:
            while True:
                with suppress(BrokenProcessPool):  # killed before an item was handed over
                    for i, item in islice(waiting, 2 * workers - len(futures)):
                        futures[pool.submit(function, item)] = i
                if not futures:
                    return
                for future in wait(futures, return_when=FIRST_COMPLETED).done:
                    i = futures.pop(future)
                    if not isinstance(future.exception(), BrokenProcessPool):
                        yield i, future.result()
        finally:
            pool.shutdown(cancel_futures=True)  # after an error, no further item is started


class Once(Generic[Result]):
    """Calls a function when its result is first needed, once in every process that needs it. It is pickled without the
    result, such as a network that every part of a step loads for itself."""

    def __init__(self, make: Callable[[], Result]) -> None:
        self.make = make
        self._made: list[Result] = []

    def __call__(self) -> Result:
        if not self._made:
            self._made.append(self.make())
        return self._made[0]

    def __reduce__(self) -> tuple[type[Once[Result]], tuple[Callable[[], Result]]]:
        return Once, (self.make,)


def nothing_done(case: str) -> None:
    """Return None, so that every case is computed."""


def for_each_case(  # seven parameters: everything in which the loops over cases differ
    function: Callable[[Any], Result] | Staged,
    cases: Mapping[str, Any] | Sequence[str],
    *,
    desc: str,
    done: Callable[[str], Result | None] = nothing_done,
    finished: Callable[[str, Result], object] | None = None,
    failures: dict[str, AssftError] | None = None,
    executor: Executor = here,
) -> dict[str, Result]:
    """Apply `function` to every case, and return case -> result in the order of `cases`.

    A progress bar counts the cases that are not done yet. function: with a `Staged` one, cases are read and written
    while others are computed. cases: case id -> argument of `function`, or a sequence of ids that are the arguments
    themselves. desc: text of the progress bar. done: returns the result of a case that an earlier call has finished,
    usually from its file, or None. finished: called in this process with the id and the result of each case as it
    completes. failures: if given, an `AssftError` of a case is stored here and the other cases continue; otherwise the
    first error ends the loop.
    """
    items = cases if isinstance(cases, Mapping) else {case: case for case in cases}
    results = {case: kept for case in items if (kept := done(case)) is not None}
    todo = {case: item for case, item in items.items() if case not in results}
    with tqdm(total=len(todo), desc=desc, unit="case", leave=False, disable=not todo) as bar:
        for case, result in each_case(function, todo, desc=desc, executor=executor, raises=failures is None):
            if isinstance(result, AssftError):
                assert failures is not None
                failures[case] = result
            else:
                results[case] = result
                if finished is not None:
                    finished(case, result)
            bar.update()
    return {case: results[case] for case in items if case in results}


def each_case(
    function: Callable[[Any], Result] | Staged,
    items: Mapping[str, Any],
    *,
    desc: str,
    executor: Executor = here,
    raises: bool = False,
) -> Iterator[tuple[str, Result | AssftError]]:
    """Apply `function` to every item, and yield (case, result) as they complete, for results that are too large to be
    kept.

    items: case id -> argument. desc: what is done, for errors. raises: whether the first `AssftError` ends the loop;
    otherwise it is yielded in place of the result of its case.
    """
    cases = list(items)
    attempt = Attempt(function, desc, () if raises else (AssftError,))
    for i, result in executor(attempt, list(items.items()), desc):
        if raises and isinstance(result, AssftError):  # of another process, or because that was killed
            raise AssftError(f"{cases[i]}: {result} Finished cases are kept.")
        yield cases[i], result


@dataclass(frozen=True)
class Attempt(Generic[Result]):
    """Calls a function with the argument of a case, and says in any other error than an `AssftError` on which case it
    was at work.

    returns: errors that are returned, as an `AssftError`, instead of raised. It is a class so that it can be pickled.
    """

    function: Callable[[Any], Result] | Staged
    desc: str
    returns: tuple[type[Exception], ...]

    def __call__(self, case_and_item: tuple[str, Any]) -> Result | AssftError:
        case, item = case_and_item
        try:
            with doing(f"{self.desc} {case}"):
                return self.function(item)
        except self.returns as error:
            return as_assft_error(error)

    def to_all(
        self, items: Sequence[tuple[str, Any]], begins: Callable[[str], object] = nothing_done
    ) -> Generator[tuple[int, Any], None, None]:
        """Yield (index, result) of all items in the order of completion. The work is done in this process, apart from
        the reading and writing of a `Staged` function. begins: called with each case before it is computed."""
        staged = self.function
        if not isinstance(staged, Staged):
            for i, item in enumerate(items):
                begins(item[0])
                yield i, self(item)
            return
        read, compute, write = (replace(self, function=step) for step in (staged.read, staged.compute, staged.write))
        contents, left = _contents(read, items, staged.readers), len(items)
        writing = InBackground(write, staged.writers(), lambda computed: staged.bytes_to_write(computed[1]))
        with closing(contents), writing:  # after an error, processes and threads end now, not when memory is tidied up
            for i, content in contents:
                left, case = left - 1, items[i][0]
                begins(case)
                computed = content if isinstance(content, AssftError) else compute((case, content))
                del content  # no more than the next case is held in memory
                if isinstance(computed, AssftError):
                    yield i, computed
                else:
                    yield from writing.call(i, (case, computed), left)
                del computed
            yield from writing.rest()


def _contents(
    read: Attempt[Any], items: Sequence[tuple[str, Any]], readers: int
) -> Generator[tuple[int, Any], None, None]:
    """Yield (index, what was read), ahead of the caller."""
    if readers:
        yield from in_processes(readers, never_here=True)(read, items, read.desc)
    else:
        yield from one_ahead(read, items)

"""Functions of a case in three steps, so that other cases are read and written while one is being computed.

A GPU computes one case at a time. While it does, the next case is read, and the results of earlier ones are brought to
their grid and written by other processes. What is computed is the same with and without them.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from nnunet_assft.runtime.processes import (
    PROCESS_BYTES,
    SHARE_OF_MEMORY,
    available_cores,
    die_with_parent_if_spawned,
    free_memory,
)

START = 15.0  # seconds that a process needs for its imports, generously


def as_it_is(computed: Any) -> Any:
    """Return what was computed: nothing is left to be done for the case."""
    return computed


def no_bytes(computed: Any) -> int:
    """Return 0."""
    return 0


@dataclass(frozen=True)
class Staged:
    """A function of a case in three steps. All of them are picklable.

    read: argument of the case -> what `compute` needs. compute: -> what `write` needs; called in one process, for one
    case at a time. write: -> the result of the case. readers: how many processes read; without any, one case is read
    ahead in this process. writers: returns how many processes may write, on the machine that computes. bytes_to_write:
    memory that `write` takes.
    """

    read: Callable[[Any], Any]
    compute: Callable[[Any], Any]
    write: Callable[[Any], Any] = as_it_is
    readers: int = 0
    writers: Callable[[], int] = int  # which returns 0
    bytes_to_write: Callable[[Any], int] = no_bytes

    def __call__(self, item: Any) -> Any:
        return self.write(self.compute(self.read(item)))


def one_ahead(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Yield (index, result) in the order of the items. While the caller is busy with one result, the next one is made
    in a thread, unless there is only one core."""
    if available_cores() < 2 or len(items) < 2:
        yield from ((i, function(item)) for i, item in enumerate(items))
        return
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(function, items[0])
        for i in range(len(items)):
            result = [future.result()]
            if i + 1 < len(items):
                future = pool.submit(function, items[i + 1])
            yield i, result.pop()  # so that only the caller holds it


class InBackground:
    """Calls a function in other processes, each of which has one call at a time, where that saves time.

    The first call is made in this process, which tells whether the calls that are left take longer than other processes
    take to start. So are calls for which other processes have not enough memory, and those of a process that is killed.
    n: number of processes, at most. bytes_of: memory that a call takes. Use it in a `with` statement.
    """

    def __init__(self, function: Callable[[Any], Any], n: int, bytes_of: Callable[[Any], int]) -> None:
        self.function = function
        self.n = n
        self.bytes_of = bytes_of
        self.seconds = 0.0  # that calls in this process took, and their number
        self.calls = 0
        self.pool: ProcessPoolExecutor | None = None
        self.pending: dict[Future[Any], tuple[int, Any, int]] = {}  # index, item and bytes

    def __enter__(self) -> InBackground:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def call(self, i: int, item: Any, left: int) -> Iterator[tuple[int, Any]]:
        """Hand over an item, and yield (index, result) of calls that are finished. It waits while every process is
        busy. left: number of items that will follow."""
        yield from self._finished(timeout=0)
        if self.pool is None and not self._pays(left):
            yield i, self._here(item)
            return
        needed = PROCESS_BYTES + self.bytes_of(item)
        while self.pending and (len(self.pending) >= self.n or not self._fits(needed)):
            yield from self._finished()
        if self.n and self._fits(needed):
            self._submit(i, item, needed)
        else:
            yield i, self._here(item)

    def rest(self) -> Iterator[tuple[int, Any]]:
        """Yield (index, result) of all calls that are not finished yet."""
        while self.pending:
            yield from self._finished()

    def _here(self, item: Any) -> Any:
        start = time.monotonic()
        result = self.function(item)
        self.seconds, self.calls = self.seconds + time.monotonic() - start, self.calls + 1
        return result

    def _pays(self, left: int) -> bool:
        return self.n > 0 and self.calls > 0 and left * self.seconds / self.calls > START

    def _fits(self, needed: int) -> bool:
        free = free_memory()
        reserved = sum(size for _, _, size in self.pending.values())  # which they may not have taken yet
        return free is None or needed + reserved <= SHARE_OF_MEMORY * free

    def _submit(self, i: int, item: Any, needed: int) -> None:
        if self.pool is None:
            context = multiprocessing.get_context("spawn")
            self.pool = ProcessPoolExecutor(self.n, mp_context=context, initializer=die_with_parent_if_spawned)
        try:
            self.pending[self.pool.submit(self.function, item)] = i, item, needed
        except BrokenProcessPool as error:  # noticed now; the item is worked on with the others
            lost: Future[Any] = Future()
            lost.set_exception(error)
            self.pending[lost] = i, item, needed

    def _finished(self, timeout: float | None = None) -> Iterator[tuple[int, Any]]:
        for future in wait(self.pending, timeout, return_when=FIRST_COMPLETED).done:
            i, item, _ = self.pending.pop(future)
            if not isinstance(future.exception(), BrokenProcessPool):
                yield i, future.result()
                continue
            if self.n:
                self.n = 0
                reason = "A process that writes results was killed, most likely because the memory was exhausted."
                tqdm.write(f"{reason} The cases that are left are written without other processes.", file=sys.stderr)
            yield i, self._here(item)

"""A loop over cases with a progress bar, in one process or in several."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_cases(
    function: Callable[[Item], Result], items: Sequence[Item], *, num_processes: int, desc: str
) -> Iterator[Result]:
    """Yields function(item) as results come in. Workers are spawned, since forking after torch is loaded can hang.

    A process pays some seconds of imports before its first case: with fewer than two processes, or nothing to share out,
    the loop runs here.
    """
    bar = tqdm(total=len(items), desc=desc, unit="case", leave=False, disable=not items)
    with bar:
        if min(num_processes, len(items)) < 2:
            for item in items:
                yield function(item)
                bar.update()
            return
        with ProcessPoolExecutor(num_processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            try:
                for future in as_completed([pool.submit(function, item) for item in items]):
                    yield future.result()
                    bar.update()
            finally:
                pool.shutdown(cancel_futures=True)  # an error ends the loop: what has not begun does not begin

"""Done if made from the same: what was made from the same inputs, and is still there, is not made again.

This is how a command that was interrupted goes on: every step that had finished finds its file. `cached` keeps the
result of one step in one file; `claim` marks a folder that many outputs go into one by one.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from nnunet_assft.runtime.files import free_name, read_json, sha256_of, write_json

Result = TypeVar("Result")


class Store(Protocol[Result]):
    """How a result is kept in a file, together with the checksum of the inputs that it was made from."""

    def read(self, file: Path) -> tuple[str, Result]:
        """The checksum and the result. Raises ValueError, KeyError, TypeError or OSError if the file is not whole."""

    def write(self, file: Path, inputs_sha256: str, result: Result, seconds: float) -> None:
        """Write the file in one step. seconds: how long the result took to compute."""


class JsonStore:
    """A result that JSON can hold, such as a dictionary."""

    def read(self, file: Path) -> tuple[str, Any]:
        content = read_json(file)
        return content["inputs_sha256"], content["result"]

    def write(self, file: Path, inputs_sha256: str, result: Any, seconds: float) -> None:
        write_json(file, {"inputs_sha256": inputs_sha256, "result": result, "seconds": round(seconds, 3)})


JSON = JsonStore()


def no_outputs(result: Any) -> Iterable[Path]:
    """The outputs of a step whose only output is its result."""
    return ()


def cached(
    file: Path,
    inputs: Any,
    compute: Callable[[], Result],
    *,
    outputs: Callable[[Result], Iterable[Path]] = no_outputs,
    store: Store[Result] = JSON,
) -> Result:
    """Return the cached result if its inputs are unchanged and its outputs exist; otherwise compute and cache it.

    inputs: everything that decides the result, as far as JSON can hold it. outputs: the files that `compute` wrote.
    """
    kept = cached_or_none(file, inputs, outputs=outputs, store=store)
    if kept is not None:
        return kept
    start = time.monotonic()
    result = compute()
    store.write(file, sha256_of(inputs), result, time.monotonic() - start)
    return result


def cached_or_none(
    file: Path,
    inputs: Any,
    *,
    outputs: Callable[[Result], Iterable[Path]] = no_outputs,
    store: Store[Result] = JSON,
) -> Result | None:
    """The cached result, or None if it must be computed. A damaged file counts as missing."""
    try:
        inputs_sha256, result = store.read(file)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    is_current = inputs_sha256 == sha256_of(inputs) and all(path.is_file() for path in outputs(result))
    return result if is_current else None


# Folders ------------------------------------------------------------------------------------------------------------


def claim(stamp: Path, inputs: Any, displace: Callable[[Path], object]) -> None:
    """Make the folder of `stamp` the folder of these inputs. What was made from the same inputs stays in it.

    stamp: a JSON file in the folder that says what the folder was made from. displace: what to do with a folder that
    was made from something else: `remove`, `set_aside`, or a function that raises.
    """
    inputs = json.loads(json.dumps(inputs))
    if is_claimed(stamp, inputs):
        return
    if stamp.parent.is_dir() and any(not path.name.startswith(".") for path in stamp.parent.iterdir()):
        displace(stamp.parent)
    write_json(stamp, inputs)


def is_claimed(stamp: Path, inputs: Any) -> bool:
    """Whether the folder of `stamp` was made from these inputs."""
    try:
        return bool(read_json(stamp) == json.loads(json.dumps(inputs)))
    except (OSError, ValueError):
        return False


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def set_aside(folder: Path) -> None:
    """Rename `fold_3` to `outdated_fold_3_1`: nothing that took hours is deleted."""
    os.replace(folder, free_name(folder.with_name(f"outdated_{folder.name}")))

"""Caching by inputs: a result that was computed from the same inputs, and still exists, is not computed again.

An interrupted command can therefore be run again: every step that had finished is loaded from its file. `cached`
stores the result of one step in one file; `claim` marks a folder to which many outputs are written one by one.
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
    """Stores a result in a file, together with the checksum of the inputs from which it was computed."""

    def read(self, file: Path) -> tuple[str, Result]:
        """Return the checksum and the result. Raises ValueError, KeyError, TypeError or OSError for a damaged file."""

    def write(self, file: Path, inputs_sha256: str, result: Result, seconds: float) -> None:
        """Write the file atomically. seconds: how long the result took to compute."""


class JsonStore:
    """Stores a result that JSON can represent, such as a dictionary."""

    def read(self, file: Path) -> tuple[str, Any]:
        content = read_json(file)
        return content["inputs_sha256"], content["result"]

    def write(self, file: Path, inputs_sha256: str, result: Any, seconds: float) -> None:
        write_json(file, {"inputs_sha256": inputs_sha256, "result": result, "seconds": round(seconds, 3)})


JSON = JsonStore()


def no_outputs(result: Any) -> Iterable[Path]:
    """Return no files, for a step that writes none."""
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

    inputs: everything that determines the result, in a form that JSON can represent. outputs: returns the files that
    `compute` wrote.
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
    """Return the cached result, or None if it has to be computed. A damaged file counts as missing."""
    try:
        inputs_sha256, result = store.read(file)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    is_current = inputs_sha256 == sha256_of(inputs) and all(path.is_file() for path in outputs(result))
    return result if is_current else None


# Folders ------------------------------------------------------------------------------------------------------------


def claim(stamp: Path, inputs: Any, displace: Callable[[Path], object]) -> None:
    """Reserve the folder of `stamp` for outputs that are computed from these inputs.

    Files that were computed from the same inputs stay in the folder. stamp: a JSON file in the folder that records its
    inputs. displace: called with a folder that is not empty and has other inputs, or none on record; `remove`,
    `set_aside`, or a function that raises.
    """
    inputs = json.loads(json.dumps(inputs))
    if is_claimed(stamp, inputs):
        return
    if stamp.parent.is_dir() and any(not path.name.startswith(".") for path in stamp.parent.iterdir()):
        displace(stamp.parent)
    write_json(stamp, inputs)


def is_claimed(stamp: Path, inputs: Any) -> bool:
    """Return whether the folder of `stamp` is reserved for outputs of these inputs."""
    try:
        return bool(read_json(stamp) == json.loads(json.dumps(inputs)))
    except (OSError, ValueError):
        return False


def remove(folder: Path) -> None:
    """Delete a folder with everything in it."""
    shutil.rmtree(folder)


def set_aside(folder: Path) -> None:
    """Rename a folder, such as `fold_3` to `outdated_fold_3_1`, so that no training that took hours is deleted."""
    os.replace(folder, free_name(folder.with_name(f"outdated_{folder.name}")))

"""Caching by inputs: a result that was computed from the same inputs, and still exists, is not computed again.

An interrupted command can therefore be run again: every step that had finished is loaded from its file. `cached`
stores the result of one step in one file; `claim` marks a folder to which many outputs are written one by one. What is
damaged counts as missing and is computed again.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from nnunet_assft.errors import DamagedFileError
from nnunet_assft.runtime.files import free_name, sha256_file, sha256_of
from nnunet_assft.runtime.sealed import RESTORE, read_sealed, write_sealed

Result = TypeVar("Result")
STEP_KEYS = ("file", "inputs_sha256", "result", "seconds")


class Store(Protocol[Result]):
    """Stores a result in a file, together with the checksum of what it was computed from."""

    def read(self, file: Path) -> tuple[str, Result]:
        """Return the checksum and the result. Raises ValueError, KeyError, TypeError, OSError or `DamagedFileError` for
        a damaged file."""

    def write(self, file: Path, inputs_sha256: str, result: Result, seconds: float) -> None:
        """Write the file atomically. seconds: how long the result took to compute."""


class JsonStore:
    """Stores a result that JSON can represent, such as a dictionary."""

    def read(self, file: Path) -> tuple[str, Any]:
        content = _read_step(file)
        return content["inputs_sha256"], content["result"]

    def write(self, file: Path, inputs_sha256: str, result: Any, seconds: float) -> None:
        content = {"file": file.name, "inputs_sha256": inputs_sha256, "result": result, "seconds": round(seconds, 3)}
        write_sealed(file, content)


JSON = JsonStore()


def _read_step(file: Path, remedy: str = RESTORE) -> dict[str, Any]:
    """Return the content of a JSON file of a result. Raises `DamagedFileError`, also for a copy of another result."""
    content = read_sealed(file, STEP_KEYS, remedy=remedy)
    name = content.get("file", file.name)  # which version 0.1.0 did not record
    if name != file.name:
        raise DamagedFileError(f"{file} is damaged (it is a copy of {name}). {remedy}")
    return content


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
    """Return the cached result if its inputs and its outputs are unchanged; otherwise compute and cache it.

    inputs: everything that determines the result, in a form that JSON can represent. outputs: returns the files that
    `compute` wrote. Their checksums are part of the stored one, so an output that was edited or damaged is made again.
    """
    kept = cached_or_none(file, inputs, outputs=outputs, store=store)
    if kept is not None:
        return kept
    start = time.monotonic()
    result = compute()
    keep(file, inputs, result, outputs(result), seconds=time.monotonic() - start, store=store)
    return result


# six parameters: a result, what it belongs to, and how it is stored
def keep(
    file: Path,
    inputs: Any,
    result: Result,
    outputs: Iterable[Path] = (),
    *,
    seconds: float = 0.0,
    store: Store[Result] = JSON,
) -> None:
    """Store a result for later calls of `cached_or_none` with the same inputs and outputs."""
    store.write(file, _checksum(inputs, outputs), result, seconds)


def cached_or_none(
    file: Path,
    inputs: Any,
    *,
    outputs: Callable[[Result], Iterable[Path]] = no_outputs,
    store: Store[Result] = JSON,
) -> Result | None:
    """Return the cached result, or None if it has to be computed. A damaged file counts as missing."""
    try:
        checksum, result = store.read(file)
        return result if checksum == _checksum(inputs, outputs(result)) else None
    except (OSError, ValueError, KeyError, TypeError, DamagedFileError):
        return None


def kept_result(file: Path, remedy: str) -> Any:
    """Return the result that is stored in a JSON file, whatever its inputs were.

    remedy: a sentence that says how the file is made again. Raises `DamagedFileError` if it cannot be read.
    """
    content = _read_step(file, remedy)
    if "result" not in content:
        raise DamagedFileError(f"{file} is damaged (it holds no result). {remedy}")
    return content["result"]


def is_result(file: Path) -> bool:
    """Return whether a JSON file holds a result and matches its checksum."""
    try:
        kept_result(file, "")
    except DamagedFileError:
        return False
    return True


def seconds_of(file: Path) -> float:
    """Return how long the result in a JSON file took to compute. Raises `DamagedFileError` if it cannot be read."""
    return float(_read_step(file, "Run the same command again.").get("seconds", math.nan))


def _checksum(inputs: Any, outputs: Iterable[Path]) -> str:
    """Return the checksum of the inputs and of the output files. Raises OSError if one of these cannot be read."""
    made = [sha256_file(file) for file in outputs]
    return sha256_of({"inputs": inputs, "outputs": made}) if made else sha256_of(inputs)


# Folders ------------------------------------------------------------------------------------------------------------


def claim(stamp: Path, inputs: Mapping[str, Any], displace: Callable[[Path], object]) -> None:
    """Reserve the folder of `stamp` for outputs that are computed from these inputs.

    Files that were computed from the same inputs stay in the folder. stamp: a JSON file in the folder that records its
    inputs. displace: called with a folder that is not empty and has other inputs, or none on record; `remove`,
    `set_aside`, or a function that raises.
    """
    if is_claimed(stamp, inputs):
        return
    if stamp.parent.is_dir() and any(not path.name.startswith(".") for path in stamp.parent.iterdir()):
        displace(stamp.parent)
    write_sealed(stamp, inputs)


def is_claimed(stamp: Path, inputs: Mapping[str, Any]) -> bool:
    """Return whether the folder of `stamp` is reserved for outputs of these inputs."""
    try:
        return bool(read_sealed(stamp, inputs) == json.loads(json.dumps(inputs)))
    except DamagedFileError:
        return False


def remove(folder: Path) -> None:
    """Delete a folder with everything in it."""
    shutil.rmtree(folder)


def set_aside(folder: Path) -> None:
    """Rename a folder, such as `fold_3` to `outdated_fold_3_1`, so that no training that took hours is deleted."""
    os.replace(folder, free_name(folder.with_name(f"outdated_{folder.name}")))

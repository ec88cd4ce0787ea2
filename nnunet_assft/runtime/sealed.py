"""JSON files that carry a checksum of their content, so that damage is noticed when they are read.

Every JSON file that this package writes and reads back is sealed. Files in a format of nnU-Net, such as plans, are
not; where they matter, their checksum is in a sealed file.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunet_assft.errors import DamagedFileError
from nnunet_assft.runtime.files import read_json, sha256_of, write_json
from nnunet_assft.runtime.text import reason

SEAL = "sha256"
RESTORE = "Restore it from a backup."


def write_sealed(file: Path, content: Mapping[str, Any]) -> None:
    """Write `content`, which must not have the key `sha256`, together with its checksum."""
    write_json(file, {**content, SEAL: _seal(content)})


def read_sealed(file: Path, keys: Collection[str] | None = None, *, remedy: str = RESTORE) -> dict[str, Any]:
    """Return the content that `write_sealed` wrote.

    A file without a checksum, as version 0.1.0 wrote it, is accepted. keys: the keys that the content may have; None
    if it may have any, and then the checksum is required. remedy: a sentence that says what to do about a damaged file.
    Raises `DamagedFileError` if the file cannot be read, does not match its checksum, or has an unknown key.
    """
    try:
        content = read_json(file)
    except (OSError, ValueError) as error:
        raise _damaged(file, reason(error), remedy) from error
    if not isinstance(content, dict):
        raise _damaged(file, f"it holds a {type(content).__name__}; expected a JSON object", remedy)
    seal = content.pop(SEAL, None)
    if seal is not None and seal != _seal(content):
        raise _damaged(file, "its content does not match its checksum", remedy)
    unknown = sorted(set(content) - set(keys)) if keys is not None else []
    if unknown:
        raise _damaged(file, f"it has the unknown key {unknown[0]!r}; expected {', '.join(sorted(keys or ()))}", remedy)
    if keys is None and seal is None:
        raise _damaged(file, "it has no checksum", remedy)
    return content


@contextmanager
def understanding(file: Path, remedy: str = RESTORE) -> Iterator[None]:
    """Raise `DamagedFileError` for an error that comes from the content of a file, such as a key that is missing.

    A file that no checksum protects may hold anything. Parameters are those of `read_sealed`.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise _damaged(file, reason(error), remedy) from error


def _damaged(file: Path, reason: str, remedy: str) -> DamagedFileError:
    return DamagedFileError(f"{file} is damaged ({reason}). {remedy}")


def _seal(content: Mapping[str, Any]) -> str:
    return sha256_of(json.loads(json.dumps(content)))  # as it is read back: with lists for tuples, texts for keys

"""JSON files that carry a checksum of their content, so that damage is noticed when they are read.

Every JSON file that this package writes and reads back is sealed. Files in a format of nnU-Net, such as plans, are
not; where they matter, their checksum is in a sealed file.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

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


def rebuilt(kind: Any, content: Any, name: str = "the content") -> Any:
    """Return what `dataclasses.asdict` and JSON have turned into `content`.

    kind: a data class, a typed dictionary, or a type of their annotations. name: of the content, for messages. A
    checksum does not tell whether the program that wrote a file meant the same by it, or whether somebody wrote it by
    hand. Raises ValueError, which names the value, if one is of another type, is not finite, is missing or unknown.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return content
    if origin in (Union, UnionType):
        if content is None and NoneType in inner:
            return None
        (other,) = (each for each in inner if each is not NoneType)
        return rebuilt(other, content, name)
    if is_dataclass(kind) or is_typeddict(kind):
        return _rebuilt_fields(kind, content, name)
    if origin is tuple and isinstance(content, list | tuple):
        return tuple(rebuilt(inner[0], each, f"{name}[{i}]") for i, each in enumerate(content))
    if origin is list and isinstance(content, list):
        return [rebuilt(inner[0], each, f"{name}[{i}]") for i, each in enumerate(content)]
    if origin is dict and isinstance(content, dict):
        return {key: rebuilt(inner[1], value, f"{name}[{key!r}]") for key, value in content.items()}
    if kind is float:
        if type(content) in (int, float) and math.isfinite(content):
            return content
    elif type(content) is kind:
        return content
    raise ValueError(f"{name} is {reprlib.repr(content)}; expected {TYPES[origin or kind]}")


TYPES = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    tuple: "a list",
    list: "a list",
    dict: "an object with keys",
}


def _rebuilt_fields(kind: Any, content: Any, name: str) -> Any:
    if not isinstance(content, dict):
        raise ValueError(f"{name} is {reprlib.repr(content)}; expected an object with keys")
    types = get_type_hints(kind)
    optional = [row.name for row in fields(kind) if _has_default(row)] if is_dataclass(kind) else []
    for key in content:
        if key not in types:
            raise ValueError(f"{name} has the unknown key {key!r}")
    for key in types:
        if key not in content and key not in optional:
            raise ValueError(f"{name} has no {key!r}")
    return kind(**{key: rebuilt(types[key], value, key) for key, value in content.items()})


def _has_default(row: Field[Any]) -> bool:
    return row.default is not MISSING or row.default_factory is not MISSING


def _damaged(file: Path, reason: str, remedy: str) -> DamagedFileError:
    return DamagedFileError(f"{file} is damaged ({reason.rstrip('.')}). {remedy}")


def _seal(content: Mapping[str, Any]) -> str:
    return sha256_of(json.loads(json.dumps(content)))  # as it is read back: with lists for tuples, texts for keys

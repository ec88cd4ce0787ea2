"""Structures that nobody drew in the label of a case: not_annotated.json beside dataset.json, case -> structures.

Such a structure is not absent from the case: its voxels have the value of the background, but may belong to it.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import read_json, write_json
from nnunet_assft.runtime.locks import only_process
from nnunet_assft.runtime.text import some
from nnunet_assft.volumes.names import shown
from nnunet_assft.volumes.structures import structures

Value = TypeVar("Value")
NAME = "not_annotated.json"
EXAMPLE = '{"case_01": ["liver"]}'


def read_not_annotated(folder: Path, labels: Mapping[str, int], cases: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return case -> structures that are not annotated in its label, in the order of the labels; empty without a file.

    folder: of a raw dataset. labels: name -> value, as in dataset.json. cases: all cases of the dataset. Raises
    `AssftError` that names every entry that cannot be used.
    """
    problems, found = [], {}
    for case, names in read_entries(folder).items():
        try:
            if case not in cases:
                raise AssftError("the dataset has no such case")
            found[case] = check_structures(names, labels)
        except AssftError as error:  # noqa: PERF203 - every entry is to be named
            problems.append(f"{shown(case)}: {error}")
    if problems:
        where = f"{folder.name}/{NAME}"
        raise AssftError(f"{where} cannot be used ({some(problems, 3, '; ')}). Expected for example {EXAMPLE}.")
    return {case: names for case, names in found.items() if names}


def read_entries(folder: Path) -> dict[str, Any]:
    """Return the entries as they are in the file, whatever they say; none without a file.

    Raises `AssftError` unless it is a JSON object.
    """
    file, where = folder / NAME, f"{folder.name}/{NAME}"
    if not file.is_file():
        return {}
    try:
        content = read_json(file, unique_keys=True)
    except (OSError, ValueError) as error:
        raise AssftError(f"{where} cannot be read: {error}. Expected for example {EXAMPLE}.") from error
    if not isinstance(content, dict):
        raise AssftError(f"{where} holds {reprlib.repr(content)}; expected for example {EXAMPLE}.")
    return content


def check_structures(names: Any, labels: Mapping[str, int]) -> tuple[str, ...]:
    """Return the names of structures in the order of the labels, each once.

    Raises `AssftError`, without a full stop, unless they are structures of the dataset, and not all of them.
    """
    known = structures(labels)
    if not isinstance(names, list | tuple):
        raise AssftError(f"found {reprlib.repr(names)}; expected a list of structures")
    unknown = [name for name in names if not isinstance(name, str) or name not in known]
    if unknown:
        raise AssftError(f"{some(map(shown, unknown))} is not a structure; expected {some(known, 10)}")
    if known and set(names) == set(known):
        raise AssftError("it names every structure, so nothing is annotated; such a case has no label")
    return tuple(name for name in known if name in names)


def save_not_annotated(folder: Path, of_cases: Mapping[str, Collection[str]]) -> None:
    """Replace the entries of these cases in not_annotated.json, and leave those of all others.

    of_cases: case -> structures; a case with none has no entry. Several commands may do so at the same time.
    """
    file = folder / NAME
    if not file.is_file() and not any(of_cases.values()):
        return
    with only_process(folder / f".{NAME}.lock", str(file), patience=math.inf):
        before = read_entries(folder)
        after = before | {case: list(names) for case, names in of_cases.items()}
        after = {case: names for case, names in sorted(after.items()) if names}
        if after != before:
            write_json(file, after)


def as_annotated(segmentation: np.ndarray, labels: Mapping[str, int], not_annotated: Collection[str]) -> np.ndarray:
    """Return a segmentation with these structures as background; the same array if there are none.

    A segmentation and a label of which both are treated like this can be compared: neither has such a structure.
    """
    if not not_annotated:
        return segmentation
    return np.where(np.isin(segmentation, [labels[name] for name in not_annotated]), 0, segmentation)


def annotated(of_structures: Mapping[str, Value], not_annotated: Collection[str]) -> dict[str, Value]:
    """Return structure -> anything, without the structures that are not annotated."""
    return {name: value for name, value in of_structures.items() if name not in not_annotated}


def count_annotated(
    cases: Iterable[str], labels: Mapping[str, int], not_annotated: Mapping[str, Collection[str]]
) -> dict[str, int]:
    """Return structure -> number of these cases in which it is annotated. not_annotated: case -> structures."""
    missing = [not_annotated.get(case, ()) for case in cases]
    return {name: sum(name not in names for names in missing) for name in structures(labels)}

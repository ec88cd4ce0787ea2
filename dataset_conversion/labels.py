"""Structures by name.

All spellings of a structure become one name, and ids of two datasets are related only by names.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

BACKGROUND = "background"

ALIASES = {  # words in alphabetical order, as `canonical_name` puts them
    "arota": "aorta",
    "postcava": "cava inferior vena",
    "ivc": "cava inferior vena",
    "cava vena": "cava inferior vena",
    "bladder gall": "gallbladder",
    "oesophagus": "esophagus",
    "bladder urinary": "bladder",
    "kidneys": "kidney",
    "adrenal left": "adrenal gland left",
    "adrenal right": "adrenal gland right",
}


def canonical_name(name: str) -> str:
    """Return one spelling per structure: `left kidney` and `kidney_left` are the same, `arota` is the aorta."""
    words = " ".join(sorted(re.findall(r"[a-z0-9]+", name.lower())))
    return ALIASES.get(words, words)


def read_label_table(labels: Any) -> dict[str, int]:
    """Return name -> id of a `labels` entry, written in either direction: `{"0": "liver"}` or `{"liver": 0}`.

    Raises ValueError if it is neither.
    """
    try:
        if all(str(key).isdigit() for key in labels):
            return {str(name): int(key) for key, name in labels.items()}
        return {str(name): _whole_number(value) for name, value in labels.items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"labels are {reprlib.repr(labels)}; expected names and integers") from error


def _whole_number(value: Any) -> int:
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"{value} is not a whole number")
    return int(value)


@dataclass(frozen=True)
class LabelMap:
    """How the ids of the source become ids of the dataset.

    ids: source id -> new id, background included; dropped structures become 0. names: source id -> name in the source.
    structures: canonical name -> new id, for masks with one structure per file. dropped: source ids set to background.
    """

    ids: dict[int, int]
    names: dict[int, str]
    structures: dict[str, int]
    dropped: frozenset[int] = field(default=frozenset())

    @property
    def kind(self) -> type[np.unsignedinteger[Any]]:
        """The type of a label that is written: bytes, unless there are more than 255 structures."""
        import numpy as np

        return np.uint8 if max(self.structures.values(), default=0) <= np.iinfo(np.uint8).max else np.uint16


def map_labels(source: Mapping[str, int], target: Mapping[str, int], dropped: tuple[str, ...] = ()) -> LabelMap:
    """Relate the ids of `source` to those of `target` by name. A name that is spelled alike in both is taken first:
    `canonical_name` cannot tell apart lesion+ and lesion-, or names in another script.

    Raises ValueError, with the names, if a structure of the source is neither in the target nor dropped.
    """
    structures = {canonical_name(name): value for name, value in target.items() if value}
    unwanted = {canonical_name(name) for name in dropped}
    ids, dropped_ids, unknown = {0: 0}, set(), []
    for name, value in source.items():
        key = canonical_name(name)
        if value == 0:
            continue
        if name in target or key in structures:
            ids[value] = target[name] if name in target else structures[key]
        elif key in unwanted:
            ids[value] = 0
            dropped_ids.add(value)
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(f"the source has {', '.join(map(repr, unknown))}; expected only {', '.join(target)}")
    return LabelMap(ids, {value: name for name, value in source.items()}, structures, frozenset(dropped_ids))

"""The grammar of the names that users choose: case ids, experiments, structures, annotators and datasets.

A name becomes a part of file names, tables, colour tables and command lines, so it is checked once, where it enters.
The module imports neither numpy nor nnU-Net.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from nnunet_assft.errors import AssftError

LONGEST_SHOWN = 60  # characters of a name in a message


@dataclass(frozen=True)
class Grammar:
    """What a kind of name may consist of.

    kind: what is named, such as "case id". characters: those that are allowed, in words. allows: whether a character is
    one of them. longest: bytes in UTF-8. no_ending: what a name must not end with. Every name starts with a letter or a
    digit and is in composed form (NFC), so that two names that look the same are the same.
    """

    kind: str
    characters: str
    allows: Callable[[str], bool]
    longest: int
    no_ending: str = ""

    @property
    def rule(self) -> str:
        """The grammar in one sentence."""
        article = "An" if self.kind[0] in "aeiou" else "A"
        return (
            f"{article} {self.kind} consists of {self.characters}, starts with a letter or a digit, and has at most "
            f"{self.longest} bytes"
        )

    def fault(self, name: object) -> str | None:
        """Return what is wrong with a name, as a predicate such as "contains U+000A"; None if it can be used."""
        if not isinstance(name, str):
            return "is not a text"
        if not name:
            return "is empty"
        wrong = next((c for c in name if not self.allows(c)), None)
        if wrong is not None:
            return f"contains {_character(wrong)}"
        if not unicodedata.is_normalized("NFC", name):
            return "is not in composed form (NFC), as after unpacking an archive of macOS"
        if not name[0].isalnum():
            return f"starts with {_character(name[0])}"
        if name[-1].isspace():
            return "ends with a blank"
        if self.no_ending and name.endswith(self.no_ending):
            return f"ends with {self.no_ending}, as segmentations of nnU-Net do"
        if len(name.encode()) > self.longest:
            return f"has {len(name.encode())} bytes"
        return None

    def check(self, name: object, where: str = "") -> None:
        """Raise `AssftError` for a name that cannot be used. where: the beginning of the message."""
        fault = self.fault(name)
        if fault:
            beginning = f"{where}: the" if where else "The"
            raise AssftError(f"{beginning} {self.kind} {shown(name)} {fault}. {self.rule}. Choose another name.")


def _letter_or_digit(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN"  # marks are parts of letters in many scripts


def _ascii_letter_or_digit(character: str) -> bool:
    return character.isascii() and character.isalnum()


CASE_ID = Grammar(
    "case id",
    "letters and digits of any script and _ - . +",
    lambda c: _letter_or_digit(c) or c in "_-.+",
    longest=100,
    no_ending="_seg",  # CASE_seg.b2nd is the segmentation of CASE
)
ASCII = "letters from a to z or A to Z, digits, _ and -"
EXPERIMENT = Grammar("experiment name", ASCII, lambda c: _ascii_letter_or_digit(c) or c in "_-", longest=100)
ANNOTATOR = Grammar("name of an annotator", ASCII, EXPERIMENT.allows, longest=60)
STRUCTURE = Grammar(
    "label name", 'printable characters except " and \\', lambda c: c.isprintable() and c not in '"\\', longest=200
)
DATASET = Grammar(
    "dataset name", "printable characters except / and \\", lambda c: c.isprintable() and c not in "/\\", longest=100
)


def shown(name: object) -> str:
    """Return a name for a message: quoted, escaped where two characters could look the same, and not too long."""
    if not isinstance(name, str):
        return repr(name)[:LONGEST_SHOWN]
    short = name if len(name) <= LONGEST_SHOWN else f"{name[:LONGEST_SHOWN]}..."
    return repr(short) if unicodedata.is_normalized("NFC", short) else ascii(short)


def _character(character: str) -> str:
    code = f"U+{ord(character):04X}"
    if character == " ":
        return f"a blank ({code})"
    return f"{character} ({code})" if character.isprintable() else code


def dataset_id(text: str) -> int | None:
    """Return the id that -d gives, a number of one to three ASCII digits; None if it is something else."""
    return int(text) if re.fullmatch(r"[0-9]{1,3}", text) else None


def without_case(name: str) -> str:
    """Return a name in a form that only serves to compare: the same for names that some disks do not tell apart."""
    return unicodedata.normalize("NFC", name).casefold()


def differs_in_case_from(other: str) -> str:
    """Return what is wrong with a case id, as a predicate, if `without_case` makes it the same as another one."""
    return f"differs from {shown(other)} in upper and lower case only, which Windows and macOS do not tell apart"


def simplified(name: str) -> str:
    """Return a label name without what people and programs change: case, and blanks, hyphens and underscores between
    letters and digits.

    Other signs have a meaning, and so has a hyphen at an end: `lesion+` and `lesion-`.
    """
    return re.sub(r"(?<=\w)[\s_-]+(?=\w)", "", without_case(name.strip()))

"""Phrases for the messages of commands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

LONGEST_REASON = 240  # characters of the message of a library
# what ITK, SimpleITK and numpy put in front of their reasons; of a chain of reasons about an NRRD file, the last counts
_NOISE = re.compile(
    r"(?s:.*)\[nrrd\] \w+: |Exception thrown in SimpleITK \w+: |/\S*\.(?:cxx|hxx|h):\d+:\s*|"
    r"(?:sitk::|itk::)?(?:ITK )?ERROR: |\w+\(0x[0-9a-f]+\): "
)


# ITK's words for whatever is wrong with a MetaImage file
_NO_REASON = re.compile(r"File cannot be read: .* for reading\. Reason: .*", re.DOTALL)


def some(items: Iterable[object], n: int = 5, separator: str = ", ") -> str:
    """Return the first n items and the number of the others, such as "a, b, c, d, e and 2 more"."""
    names = [str(item) for item in items]
    return separator.join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")


def named(kind: str, items: Iterable[object], n: int = 5) -> str:
    """Return the kind of the items, then `some` of them: "seed 1", "cases a, b". Empty if there are no items."""
    items = list(items)
    return f"{kind}{'' if len(items) == 1 else 's'} {some(items, n)}" if items else ""


def count(n: int, kind: str) -> str:
    """Return a number with its noun, such as "1 seed" or "3 seeds"."""
    return f"{n} {kind}{'' if n == 1 else 's'}"


def reason(error: BaseException) -> str:
    """Return the message of an exception of a library in one line. A long one is cut off at its end, because the cause
    comes first."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, KeyError):  # whose message is the key alone
        text = f"{text} is missing"
    text = _NO_REASON.sub("ITK cannot read it, and gives no reason", _NOISE.sub("", text))
    line = " ".join(text.split()) or _without_words(error)
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]} ..."


def _without_words(error: BaseException) -> str:
    return "there is not enough memory for it" if isinstance(error, MemoryError) else type(error).__name__


def by(size: Sequence[float]) -> str:
    """Return the size of a volume, such as "24 x 26 x 18"."""
    return " x ".join(map(str, size))


def printable(text: str) -> str:
    """Return a text as one line for a terminal: a line break or another control character in it is shown as an escape
    sequence, such as "\\n"."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

"""Errors for the person at the terminal: one line that says what was found, what was expected, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class AssftError(RuntimeError):
    """The command cannot continue. Nothing is lost; the same command works once the cause is gone. Exit code 1."""


class WaitingForAnnotation(AssftError):  # noqa: N818 - not an error: the round waits for the annotator. Exit code 3.
    """A round waits until the queried cases are annotated."""


class WaitingForParts(AssftError):  # noqa: N818 - not an error: others work on the step. Exit code 3.
    """A step waits until its parts have been worked on."""


class DamagedFileError(AssftError):
    """A file of this package was truncated, altered or lost after it was written. The message says what to do."""


class PassingError(AssftError):
    """An error of the moment and not of the case, such as a lock that another process holds. Later it may be gone."""


class BrokenGpuError(PassingError):
    """A GPU has failed, and answers nothing but errors to the process that was told. Another process may use it."""


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Let an error that nobody foresaw tell what was being done, such as `preprocessing case_03`; see `in_one_line`."""
    try:
        yield
    except AssftError:
        raise
    except Exception as error:
        inner = _what_was_done(error)
        error.__dict__["_doing"] = inner if inner.startswith(what) else f"{what}: {inner}" if inner else what
        raise


def in_one_line(error: Exception) -> str:
    """Return the message of an error in one line: `preprocessing case_03: ValueError: ...`, or that of an `AssftError`
    as it is."""
    if isinstance(error, AssftError):
        return str(error)
    where = _what_was_done(error)
    return f"{where}{': ' if where else ''}{type(error).__name__}: {' '.join(str(error).split())}"


def as_assft_error(error: Exception) -> AssftError:
    """Return the same error as one line for the user. Errors of a GPU are known by their words, because torch has
    classes for some of them only."""
    if isinstance(error, AssftError):
        return error
    text = str(error)
    broken = "CUDA error" in text or "cuDNN error" in text
    kind = PassingError if "CUDA out of memory" in text else BrokenGpuError if broken else AssftError
    return kind(f"{in_one_line(error)}.")


def _what_was_done(error: Exception) -> str:
    return str(error.__dict__.get("_doing", ""))  # which is pickled with the error

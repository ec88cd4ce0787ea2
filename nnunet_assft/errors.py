"""Errors for the person at the terminal: one line that says what was found, what was expected, and what to do."""


class AssftError(RuntimeError):
    """The command cannot continue. Nothing is lost; the same command works once the cause is gone. Exit code 1."""


class WaitingForAnnotation(AssftError):  # noqa: N818 - not an error: the round waits for the annotator. Exit code 3.
    """A round waits until the queried cases are annotated."""


class DamagedFileError(AssftError):
    """A file of this package was truncated, altered or lost after it was written. The message says what to do."""

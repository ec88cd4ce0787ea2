"""Errors meant for the person at the terminal: one line, what was found, what was expected, what to do."""


class AssftError(RuntimeError):
    """The command cannot go on; nothing is lost, and the same command works once the cause is gone. Exit code 1."""


class WaitingForAnnotation(AssftError):  # noqa: N818 - not an error: the round waits for the annotator. Exit code 3.
    """A round stands still until the queried cases are annotated."""

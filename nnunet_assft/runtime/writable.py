"""Folders and files that a command will write: whether that is possible is found out before the work starts."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from nnunet_assft.errors import AssftError


def require_folder(folder: Path, name: str) -> None:
    """Make a folder, unless it exists, and write a trial file into it.

    name: what the folder is, or the option that names it, for messages. Raises `AssftError` if something else has this
    name or if the folder cannot be made or written to.
    """
    what = _wrong(folder)
    if what is None and folder.exists() and not folder.is_dir():
        what = "is a file; expected a folder"
    if what is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            what = f"cannot be written to ({reason(error)})"
    if what is not None:
        raise AssftError(f"{name} {folder} {what}. Correct that, or choose another folder.")


def is_writable(folder: Path) -> bool:
    """Return whether files can be made in a folder that exists, by making one."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def require_file(file: Path, name: str) -> None:
    """Make sure that a file can be written; its folder is made. Parameters and errors are those of `require_folder`."""
    what = _wrong(file)
    if what is None and file.is_dir():
        what = "is a folder; expected the name of a file"
    if what is not None:
        raise AssftError(f"{name} {file} {what}. Choose another name.")
    require_folder(file.parent, f"{name} {file}: the folder")


def require_apart(file: Path, name: str, other: Path, other_name: str) -> None:
    """Raise `AssftError` if a file that will be written has the place of another file of the same command, or if one
    of them would lie in the other. Names: the options that name them."""
    place, taken = Path(os.path.realpath(file)), Path(os.path.realpath(other))  # which takes a loop of links, too
    if place == taken or place in taken.parents or taken in place.parents:
        where = "are the same file" if place == taken else "cannot lie in each other, as both are files"
        raise AssftError(f"{name} {file} and {other_name} {other} {where}. Choose another name for one of them.")


def readable_folder(folder: Path) -> str | None:
    """Return what is wrong with a folder that has to exist, or None if nothing is."""
    what = _wrong(folder)
    if what is None and not folder.is_dir():
        what = "is a file; expected a folder" if folder.exists() else "does not exist"
    if what is None and not os.access(folder, os.R_OK | os.X_OK):
        what = "cannot be read (Permission denied)"
    return what


def reason(error: OSError) -> str:
    """Return why an operation on a file failed, without the number of the error."""
    if error.errno == errno.ENOENT:  # mkdir reports it for folders that the system manages, such as /proc
        return f"no file or folder can be made in {Path(str(error.filename or '')).parent}"
    return error.strerror or str(error)


def _wrong(path: Path) -> str | None:
    """Return what is wrong with a path itself, whether or not something exists there."""
    try:
        path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            return f"is a symbolic link to {os.readlink(path)}, which does not exist"
    except (OSError, ValueError) as error:
        return f"cannot be used ({error.strerror or error})" if isinstance(error, OSError) else "is no valid name"
    return None

"""The environment variables of nnU-Net and our own, checked before anything long starts."""

from __future__ import annotations

import os
import re
import shutil
import sys
from functools import cache
from itertools import combinations
from pathlib import Path

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import link_or_copy
from nnunet_assft.runtime.partial import private_path
from nnunet_assft.runtime.writable import readable_folder, require_folder

RAW, PREPROCESSED, RESULTS = FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
NUMBERS = {"nnUNet_def_n_proc": 1, "nnUNet_n_proc_DA": 0}  # variable -> its least value; nnU-Net reads them on import
AUTOCAST, CHANNELS_LAST = "nnUNet_assft_autocast", "nnUNet_assft_channels_last"
CHOICES = {AUTOCAST: ("fp16", "bf16", "off"), CHANNELS_LAST: ("0", "1")}  # variable -> its values, the default first
SPEED = (*CHOICES, "nnUNet_compile")  # what decides how a GPU computes, see `runtime.precision`
NOT_INTERPRETED = "~'\""  # at the beginning of a folder, these were meant for the shell
FEW_BYTES, NO_BYTES = 10**9, 2**24  # free on a disk: a warning below the first, an error below the second
FEW_FILES, NO_FILES = 10_000, 100  # that a disk can still hold


def choice(name: str) -> str:
    """Return the value of one of our own variables. Raises an `AssftError` if it has no such value."""
    values = CHOICES[name]
    text = os.environ.get(name, values[0])
    if text not in values:
        raise AssftError(
            f"The environment variable {name} is {text!r}; expected {' or '.join(values)}. Correct it with export "
            f"{name}={values[0]}, or remove it with unset {name}."
        )
    return text


def require_values() -> None:
    """Raise an `AssftError` if one of our own variables, or one with which nnU-Net counts processes, has a value that
    means nothing."""
    for name in CHOICES:
        choice(name)
    for name, least in NUMBERS.items():
        text = os.environ.get(name)
        if text is not None and not (re.fullmatch(r"[0-9]{1,6}", text) and int(text) >= least):
            raise AssftError(
                f"The environment variable {name} is {text!r}; expected a whole number of at least {least}. Correct it "
                f"with export {name}=..., or remove it with unset {name}."
            )


def make_folders_absolute() -> None:
    """Make nnU-Net's three folders absolute in the environment of this process and of those that it starts, because the
    parts of an engine work in another folder. Has to come before nnU-Net is imported, which reads them then."""
    for name in FOLDERS:
        text = os.environ.get(name, "")
        if text.strip() and text[0] not in NOT_INTERPRETED and not os.path.isabs(text):
            os.environ[name] = str(Path(text).absolute())


def require_folders() -> None:
    """Raise an `AssftError` unless nnU-Net's three folders are set, are folders or can become some, and are different
    ones: what is preprocessed may be deleted, and has the file names of results.

    The raw folder has to exist, and is only read. Nothing is written.
    """
    for name in FOLDERS:
        text = os.environ.get(name)
        if text is None or not text.strip():
            raise AssftError(
                f"The environment variable {name} is {'not set' if text is None else 'empty'}. Set nnU-Net's three "
                "folders: export nnUNet_raw=... nnUNet_preprocessed=... nnUNet_results=..."
            )
        what = readable_folder(Path(text))
        if what == "does not exist" and name != RAW:  # it is made when something is written
            what = None
        if text[0] in NOT_INTERPRETED:
            what = f"begins with {text[0]}, which the shell did not interpret"
        if what is not None:
            raise AssftError(f"{name} is {text}, which {what}. Correct it with export {name}=FOLDER.")
    for name, other in combinations(FOLDERS, 2):
        if os.path.realpath(os.environ[name]) == os.path.realpath(os.environ[other]):
            raise AssftError(
                f"{name} and {other} are the same folder, {os.environ[other]}; expected different ones. Correct one of "
                f"them with export {other}=FOLDER."
            )


def require_space(dataset: str) -> None:
    """Make sure that results of this dataset can be written: its folders are made, and their disks have space.

    Warns on stderr if there is little space. Raises `AssftError` if a folder cannot be written to, or if nearly nothing
    can be written any more.
    """
    require_folders()
    for name in (PREPROCESSED, RESULTS):
        require_folder(Path(os.environ[name]), name)
        folder = Path(os.environ[name], dataset)
        require_folder(folder, f"{name}: the folder")
        _require_space_on(folder, name)
    _say_how_files_are_linked(Path(os.environ[PREPROCESSED], dataset))


def _require_space_on(folder: Path, name: str) -> None:
    n_bytes, n_files = shutil.disk_usage(folder).free, _free_files(folder)
    left = f"{n_bytes / 1e9:.3g} GB" + ("" if n_files is None else f" and names for {n_files} files")
    if n_bytes < NO_BYTES or (n_files is not None and n_files < NO_FILES):
        raise AssftError(
            f"The disk of {name} ({folder}) is full: {left} are free. Free some space and run the same command again."
        )
    if n_bytes < FEW_BYTES or (n_files is not None and n_files < FEW_FILES):
        _warn_once(f"the disk of {name} ({folder}) is nearly full", f"{left} are free")


def _say_how_files_are_linked(folder: Path) -> None:
    with private_path(folder / "links") as trial:
        trial.mkdir()
        source, target = trial / "source", trial / "target"
        source.touch()
        link_or_copy(source, target)
        kind = None if target.stat().st_nlink > 1 else "symbolic links are" if target.is_symlink() else "copies are"
    if kind is not None:
        _warn_once(f"the disk of {folder} has no hard links", f"{kind} used instead")


@cache
def _warn_once(what: str, consequence: str) -> None:
    print(f"warning: {what}; {consequence}.", file=sys.stderr)


def _free_files(folder: Path) -> int | None:
    """Return how many files the disk can still hold, or None if it does not say."""
    if not hasattr(os, "statvfs"):
        return None
    disk = os.statvfs(folder)
    return disk.f_favail if disk.f_files else None  # some file systems make inodes as they need them

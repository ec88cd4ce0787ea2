"""The image files of a folder, by case: the only listing of imagesTr, imagesTs and the input of a prediction.

Only names are looked at, and no file is opened.
"""

from __future__ import annotations

import os
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.text import count, some
from nnunet_assft.volumes.names import CASE_ID, differs_in_case_from, shown, without_case

CHANNEL = re.compile(r"(.*)_([0-9]{4})", re.DOTALL)  # CASE_0000
OTHER_ENDING = re.compile(r"(.+)_[0-9]{4}\..+", re.DOTALL)
TARGET_IS_GONE = "which does not exist"


@dataclass
class ImageFiles:
    """The images of a folder.

    cases: case id -> one file per channel, ids in ascending order as strings. incomplete: other case ids -> what is
    wrong with their files. misnamed: file -> why it belongs to no case. passed_over: other files that are not hidden.
    any_id: whether case ids are not checked, because they become names of files beside others of the user only.
    spellings: case ids in a form that only serves to compare -> as they are.
    """

    folder: Path
    file_ending: str
    any_id: bool = False
    cases: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    incomplete: dict[str, str] = field(default_factory=dict)
    misnamed: dict[str, str] = field(default_factory=dict)
    passed_over: list[str] = field(default_factory=list)
    spellings: dict[str, str] = field(default_factory=dict)

    def add(self, case: str, files: tuple[Path, ...], channels: Sequence[str]) -> None:
        """Add a case, which is complete if its files exist and are one per channel.

        Of ids that differ in upper and lower case only, the first one is a case. On the disks of Windows and macOS, as
        annotators have them, the files of the others would replace its files.
        """
        other = self.spellings.setdefault(case if self.any_id else without_case(case), case)
        problem = _problem_of_case(files, channels)
        if other != case:
            self.misnamed[files[0].name] = f"has a case id that {differs_in_case_from(other)}"
        elif problem:
            self.incomplete[case] = problem
        else:
            self.cases[case] = files

    def same_case(self, case: str) -> str | None:
        """Return the id of the case here that has this id, in whatever case it is written; None if there is none."""
        return self.spellings.get(without_case(case))

    def likely_case(self, name: str) -> str:
        """Return the case that a file probably belongs to, in a form that only serves to compare: without upper case,
        ending and channel, and composed."""
        stem = without_case(name).removesuffix(self.file_ending)
        match = CHANNEL.fullmatch(stem)
        return match[1] if match else stem

    @property
    def is_empty(self) -> bool:
        return not (self.cases or self.incomplete or self.misnamed)

    @property
    def left_out(self) -> list[str]:
        """The files that were passed over although they are named like an image of a case that has none here, such as
        CASE_0000.nii among .nii.gz, or CASE_0000.nii.gz.part."""
        cases = {**self.cases, **self.incomplete}
        return [name for name in self.passed_over if (match := OTHER_ENDING.fullmatch(name)) and match[1] not in cases]

    def require_sound(self) -> None:
        """Raise `AssftError` that names the files that cannot be used, if there are any."""
        problems = [
            *(f"{shown(name)} {problem}" for name, problem in self.misnamed.items()),
            *(f"case {case} {problem}" for case, problem in self.incomplete.items()),
        ]
        of_links = [problem for problem in problems if TARGET_IS_GONE in problem]
        advice = ["Put the files that the links lead to back in their places, or connect their disk."] * bool(of_links)
        if len(of_links) < len(problems):
            advice.append("Rename, complete or remove these files.")
        if problems:
            raise AssftError(f"{self.folder}: {some(problems, 3, '; ')}. {' '.join(advice)}")

    def describe_emptiness(self) -> str:
        """Return a sentence that says that there is no image, and what there is instead."""
        others = f"; it holds {some(map(shown, self.passed_over), 3)}" if self.passed_over else ""
        return f"{self.folder} holds no image named CASE_0000{self.file_ending}{others}."


def list_images(folder: Path, file_ending: str, channels: Sequence[str], *, any_id: bool = False) -> ImageFiles:
    """List the images of a folder. channels: their names, in order. any_id: see `ImageFiles`.

    Hidden files, as macOS adds them, and files that do not end with `file_ending` are passed over. A file that ends
    with it must be named CASE_0000.nii.gz, and a case must have every channel. A folder that does not exist is empty.
    """
    found = ImageFiles(folder, file_ending, any_id)
    of_case: dict[str, dict[int, Path]] = {}
    for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
        if name.startswith("."):
            continue
        if not name.lower().endswith(file_ending.lower()):
            found.passed_over.append(name)
        elif problem := _problem_of_name(name, file_ending):
            found.misnamed[name] = problem
        elif match := CHANNEL.fullmatch(name.removesuffix(file_ending)):
            of_case.setdefault(match[1], {})[int(match[2])] = folder / name
    for case, by_channel in sorted(of_case.items()):
        files = tuple(
            by_channel.get(c, folder / f"{case}_{c:04d}{file_ending}")
            for c in range(max(len(channels), 1 + max(by_channel)))
        )
        fault = None if any_id and case else CASE_ID.fault(case)
        if fault:
            found.misnamed[by_channel[min(by_channel)].name] = f"has a case id that {fault}. {CASE_ID.rule}"
        else:
            found.add(case, files, channels)
    return found


def _problem_of_case(files: Sequence[Path], channels: Sequence[str]) -> str | None:
    """Return what is wrong with the image files of a case, as a predicate; None if there is one per channel."""
    absent = [file for file in files if not file.is_file()]
    if len(files) == len(channels) and not absent:
        return None
    expected = f"expected {len(channels)}, one per channel ({', '.join(channels)})"
    listed = some(map(_absence, absent), 2) if absent else some(file.name for file in files)
    return f"has {count(len(files) - len(absent), 'image file')}; {expected}: {listed}"


def _absence(file: Path) -> str:
    name = f"{file.parent.name}/{file.name}"
    if file.exists():
        return f"{name} is a {'folder' if file.is_dir() else 'pipe or a device'}"
    return f"{name} is a link to {os.readlink(file)}, {TARGET_IS_GONE}" if file.is_symlink() else f"{name} is missing"


def _problem_of_name(name: str, file_ending: str) -> str | None:
    if not name.endswith(file_ending):
        return f"ends with {name[-len(file_ending) :]}; rename it to end with {file_ending}"
    if not CHANNEL.fullmatch(name.removesuffix(file_ending)):
        return f"has no channel number; expected a name such as CASE_0000{file_ending}"
    return None


def meant_instead(file: Path, file_ending: str) -> str:
    """Return a sentence about a file that was probably meant by `file`, which does not exist; empty if there is none.

    Found are names in other code points, in other case, with a channel number, or with another ending.
    """
    stem = file.name.removesuffix(file_ending)
    names = _names_by_folded(file.parent, file.parent.stat().st_mtime_ns) if file.parent.is_dir() else []
    for folded, name in names[bisect_left(names, (without_case(stem), "")) :]:
        if not folded.startswith(without_case(stem)):
            break
        if folded == without_case(file.name):
            same = unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", file.name)
            how = "different code points that look the same" if same else "different case"
            return f"There is {name!a}, which is spelled with {how}. Rename it to {shown(file.name)[1:-1]}."
        if re.fullmatch(rf"{re.escape(stem)}_[0-9]{{4}}{re.escape(file_ending)}", name):
            return f"There is {name}, but labels have no channel number. Rename it to {file.name}."
        if name == f"{stem}.seg.nrrd":
            return f"There is {name}, a segmentation of 3D Slicer. Export it from Slicer as the label map {file.name}."
        if name.startswith(f"{stem}."):
            return f"There is {name}; expected a label that ends with {file_ending}."
    return ""


@lru_cache(maxsize=4)
def _names_by_folded(folder: Path, _: int) -> list[tuple[str, str]]:
    """Return (folded name, name) of the files of a folder, sorted, until its time of modification changes."""
    return sorted((without_case(name), name) for name in os.listdir(folder))

"""Find the labels that annotators have returned, and the case and the annotator that each file belongs to."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_assft.active.annotation import AnnotationRequest, assigned_annotators
from nnunet_assft.active.context import Context
from nnunet_assft.active.state import Experiment, finished_rounds
from nnunet_assft.annotation.export import EXPORT_FILE
from nnunet_assft.annotation.label_files import ENDINGS
from nnunet_assft.annotation.minutes import Times
from nnunet_assft.errors import AssftError


@dataclass(frozen=True)
class Asked:
    """The request for the label of a case. annotators: who annotates it; empty if no annotators were named."""

    round: int
    annotators: tuple[str, ...]


@dataclass(frozen=True)
class Returned:
    """A file that holds a label of this case. annotator: who drew it, None if unknown."""

    case: str
    annotator: str | None
    file: Path
    asked: Asked

    @property
    def is_first(self) -> bool:
        """Whether this label is the one that is trained on; otherwise it is a second reading."""
        return not self.asked.annotators or self.annotator == self.asked.annotators[0]

    def __str__(self) -> str:
        return f"{self.case} ({self.file})"


def find_returned(
    context: Context, folder: Path, request: AnnotationRequest, times: Times, *, replace: bool
) -> tuple[list[Returned], list[str]]:
    """Return the labels in a folder whose case and annotator are clear, sorted by case, and the problems of the others.

    folder: a work folder, or any folder of files such as CASE.nii.gz, which may be in subfolders named after the
    annotators. replace: whether labels of finished rounds are accepted as well. Raises `AssftError` if the folder holds
    no label.
    """
    base = folder / "annotations" if (folder / EXPORT_FILE).is_file() else folder
    if not base.is_dir():
        raise AssftError(
            f"{base} is not a folder. Give the work folder, or a folder that holds CASE.nii.gz or CASE.seg.nrrd."
        )
    asked = {case: Asked(request.round, request.annotators[case]) for case in request.cases}
    if replace:
        asked = _labelled_before(context.experiment) | asked
    names = {name for entry in asked.values() for name in entry.annotators}
    files: dict[tuple[str, str | None], Path] = {}
    problems = [f"{file}: {error}" for file, error in _foreign_files(base, context.dataset.file_ending, asked)]
    label_files = list(_label_files(base, context.dataset.file_ending))
    for case, subfolder, file in label_files:
        try:
            _require_asked(case, asked, context.experiment, request.round)
            annotator = _annotator(case, subfolder, asked[case].annotators, names, times)
            if (case, annotator) in files:
                other = files.pop((case, annotator))
                raise AssftError(f"both {other.name} and {file.name} exist. Keep the one that is to be imported.")
            files[case, annotator] = file
        except AssftError as error:  # noqa: PERF203 - the other files are still imported
            problems.append(f"{case} ({file}): {error}")
    if not label_files and not problems:
        raise AssftError(
            f"{base} holds no label; expected files named CASE{' or CASE'.join(ENDINGS)}. Save the labels there, for "
            f"example as {request.cases[0]}.nii.gz."
        )
    returned = [Returned(case, annotator, file, asked[case]) for (case, annotator), file in files.items()]
    return sorted(returned, key=lambda entry: (entry.case, entry.annotator or "")), problems


def _label_files(base: Path, file_ending: str) -> Iterator[tuple[str, str | None, Path]]:
    """Yield (case, subfolder or None, file) for every file with the ending of a label."""
    for file in _files(base):
        ending = _ending(file, file_ending)
        if ending is not None:
            yield file.name[: -len(ending)], None if file.parent == base else file.parent.name, file


def _foreign_files(base: Path, file_ending: str, asked: Collection[str]) -> Iterator[tuple[Path, str]]:
    """Yield (file, what is wrong with it) for every file that is named after a case but has an unknown ending."""
    known = " ".join(sorted({*ENDINGS, file_ending}))
    for file in _files(base):
        if file.name.split(".")[0] in asked and _ending(file, file_ending) is None:
            yield (
                file,
                f"this format cannot be read; expected a file that ends with one of {known}. Save it in one of these.",
            )


def _files(base: Path) -> Iterator[Path]:
    subfolders = sorted(path for path in base.iterdir() if path.is_dir() and not path.name.startswith("."))
    for folder in (base, *subfolders):
        yield from sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _ending(file: Path, file_ending: str) -> str | None:
    endings = sorted({*ENDINGS, file_ending}, key=len, reverse=True)
    return next((ending for ending in endings if file.name.lower().endswith(ending)), None)


def _labelled_before(experiment: Experiment) -> dict[str, Asked]:
    """Return the requests of finished rounds, whose labels may be replaced, by case."""
    cases: dict[str, Asked] = {}
    for done in finished_rounds(experiment):
        annotators = assigned_annotators(experiment, done.round)
        cases |= {case: Asked(done.round, tuple(annotators.get(case, ()))) for case in done.queried}
    return cases


def _require_asked(case: str, asked: Collection[str], experiment: Experiment, r: int) -> None:
    if case in asked:
        return
    expected = f"expected {', '.join(sorted(asked))}"
    if case in experiment.pool:
        raise AssftError(
            f"round {r} does not ask for this case; {expected}. Add --replace to replace a label of an earlier round."
        )
    without_channel = re.sub(r"_\d{4}$", "", case)  # the label may have been saved under the name of its image
    near = [without_channel] if without_channel in asked else difflib.get_close_matches(case, list(asked), n=1)
    raise AssftError(f"the dataset has no case {case!r}; {expected}." + (f" Did you mean {near[0]}?" if near else ""))


def _annotator(
    case: str, folder: str | None, annotators: Sequence[str], names: Collection[str], times: Times
) -> str | None:
    """Return who drew a label: by its folder, then by --annotator_name or the table of times, then the only annotator
    of the case; None if unknown."""
    if folder is not None and folder not in names:
        raise AssftError(
            f"the folder {folder} is not named after an annotator; expected "
            f"{', '.join(sorted(names)) or 'no subfolder'}. Move the file."
        )
    name = folder or times.annotator_of(case) or (annotators[0] if len(annotators) == 1 else None)
    if annotators and name is None:
        raise AssftError(
            f"it is annotated by {' and '.join(annotators)}. Put it into a folder with the name of its annotator, or "
            "give the name with --annotator_name."
        )
    if annotators and name not in annotators:
        raise AssftError(f"it is annotated by {' and '.join(annotators)}, not by {name}.")
    return name

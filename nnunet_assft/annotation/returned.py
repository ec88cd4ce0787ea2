"""Find the labels that annotators have returned, and the case and the annotator that each file belongs to."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nnunet_assft.active.annotation import AnnotationRequest, finished_requests
from nnunet_assft.active.state import Experiment
from nnunet_assft.annotation.label_files import FORMATS, ending_of
from nnunet_assft.annotation.minutes import Times
from nnunet_assft.annotation.work_folder import EXPORT_FILE
from nnunet_assft.errors import AssftError, DamagedFileError
from nnunet_assft.runtime.sealed import read_sealed
from nnunet_assft.runtime.text import some
from nnunet_assft.volumes.dicom.key_file import KeyFile
from nnunet_assft.volumes.dicom.segmentation import is_dicom, origin_of
from nnunet_assft.volumes.one_file import kind_of_special_file

KNOWN = ", ".join(FORMATS)
DICOM = "DICOM"
NOT_READ = {  # what annotators save or send as well; a folder may hold pictures and texts beside the labels
    "one of two files, a header and its voxels": (".nhdr", ".mhd", ".hdr", ".img", ".raw", ".zraw", ".raw.gz"),
    DICOM: (".dcm", ".ima"),
    "a scene or project, not a segmentation": (".mrml", ".mrb", ".mitk", ".itksnap"),
    "a surface, not a label map": (".seg.vtm", ".vtm", ".vtp", ".vtk", ".stl", ".obj", ".ply"),
    "an archive that must be unpacked": (".zip", ".7z", ".rar", ".tar", ".tgz", ".gz", ".bz2", ".xz"),
    "of a format that is not read": (".mgz", ".mgh", ".mnc", ".tif", ".tiff", ".h5", ".npy", ".npz", ".mat"),
}


@dataclass(frozen=True)
class Asked:
    """The request for the label of a case, see `AnnotationRequest`. annotators: who annotates it; empty if nobody was
    named."""

    round: int | None
    annotators: tuple[str, ...]
    second_look: bool = False

    def is_first(self, annotator: str | None) -> bool:
        """Whether the label by this annotator is the one that is trained on; otherwise it is a second reading."""
        return not self.annotators or annotator == self.annotators[0]


@dataclass(frozen=True)
class Returned:
    """A file that holds a label of this case.

    annotator: who drew it, None if unknown. slices: of a DICOM SEG, the SOPInstanceUIDs of the slices of the case's
    series, in the order of the image; None for other files.
    """

    case: str
    annotator: str | None
    file: Path
    asked: Asked
    slices: tuple[str, ...] | None = None

    @property
    def is_first(self) -> bool:
        return self.asked.is_first(self.annotator)

    def __str__(self) -> str:
        return f"{self.case} ({self.file})"


def asked_for(experiment: Experiment, requests: Sequence[AnnotationRequest], *, replace: bool) -> dict[str, Asked]:
    """Return case -> the request for its label. replace: whether labels of finished rounds are asked for as well."""
    now = _by_case(requests)
    return _labelled_before(experiment) | now if replace else now


def folder_of_labels(folder: Path) -> Path:
    """Return the folder that holds the labels: that of a work folder, or any other folder itself. Raises `AssftError`
    if it is not a folder."""
    base = folder / "annotations" if (folder / EXPORT_FILE).is_file() else folder
    if not base.is_dir():
        raise AssftError(
            f"{base} is not a folder. Give the work folder, or a folder that holds CASE.nii.gz or CASE.seg.nrrd."
        )
    return base


def require_this_dataset(experiment: Experiment, folder: Path) -> None:
    """Raise `AssftError` for a work folder of another dataset, whose cases may have the same ids, and whose numbers may
    mean other structures. That of another experiment on the same dataset holds labels of the same cases."""
    stamp = folder / EXPORT_FILE
    with suppress(DamagedFileError):
        dataset = read_sealed(stamp).get("dataset") if stamp.is_file() else None
        if dataset not in (None, experiment.dataset):
            raise AssftError(
                f"{folder} is a work folder of {dataset}, not of {experiment.dataset}. Give that dataset with -d, or "
                "the work folder of this one."
            )


def find_returned(
    experiment: Experiment,
    folder: Path,
    asked: Mapping[str, Asked],
    times: Times,
    keys: KeyFile | None = None,
) -> tuple[list[Returned], list[str]]:
    """Return the labels in a folder whose case and annotator are clear, sorted by case, and the problems of the others.

    folder: a work folder, or any folder of files such as CASE.nii.gz, which may be in subfolders named after the
    annotators. asked: see `asked_for`. keys: says which case a DICOM SEG belongs to, whatever the file is called;
    without it, DICOM is refused. Raises `AssftError` if it is not a folder.
    """
    base = folder_of_labels(folder)
    names = {name for entry in asked.values() for name in entry.annotators}
    files: dict[tuple[str, str | None], list[Path]] = {}
    problems = []
    for file, subfolder in _entries(base, folder):
        name = str(file)
        try:
            require_openable(file, folder)
            stem = _name_of_case(file, asked, keys, in_subfolder=subfolder is not None)
            if stem is None:
                continue
            name = f"{stem} ({file})"
            case = _asked_case(stem, asked, experiment)
            annotator = annotator_of(case, subfolder, asked[case].annotators, names, times)
            files.setdefault((case, annotator), []).append(file)
        except AssftError as error:
            problems.append(f"{name}: {error}")
    returned = []
    for (case, annotator), found in sorted(files.items(), key=lambda item: (item[0][0], item[0][1] or "")):
        if len(found) == 1:
            slices = keys.slices_of(case) if keys and not ending_of(found[0].name) else None
            returned.append(Returned(case, annotator, found[0], asked[case], slices))
        else:
            listed = some((file.relative_to(base) for file in found), separator=" and ")
            problems.append(f"{case} ({base}): {listed} are labels of the same case. Keep the one to be imported.")
    return returned, problems


# Files ----------------------------------------------------------------------------------------------------------------


def _entries(base: Path, folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield (path, subfolder or None) of everything in the folder and its subfolders that is not hidden. No link is
    followed out of `folder`."""
    paths = _visible(base)
    yield from ((path, None) for path in paths)
    for path in paths:
        if path.is_dir() and _leads_inside(path, folder):
            yield from ((file, path.name) for file in _visible(path))


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _leads_inside(path: Path, folder: Path) -> bool:
    """Whether a path, after all links, is in the folder. Raises OSError or RuntimeError if a link leads nowhere."""
    return path.resolve(strict=True).is_relative_to(folder.resolve())


def require_openable(path: Path, folder: Path) -> None:
    """Raise `AssftError`, which says what it is, for a path that must not be opened. Nothing is opened."""
    try:
        inside, special = _leads_inside(path, folder), kind_of_special_file(path)
    except (OSError, RuntimeError) as error:  # a link to nothing, or to itself
        raise AssftError("it is a link that leads nowhere. Put the file there.") from error
    if not inside:
        raise AssftError(f"it is a link that leads out of {folder}, to {path.resolve()}. Put a copy there instead.")
    if special:
        raise AssftError(f"it is a {special} and is not opened. Remove it.")


def _is_label(path: Path, asked: Collection[str], *, in_subfolder: bool) -> bool:
    """Whether a path is a file that holds a label, by its name.

    Returns False for a file that has nothing to do with labels. Raises `AssftError`, which says what it is, for one
    that looks as if it should be imported and cannot be.
    """
    if ending_of(path.name) and path.is_file():
        return True
    is_named = any(path.name == case or path.name.startswith(f"{case}.") for case in asked)
    if path.is_dir():
        if is_named or (in_subfolder and _visible(path)):
            raise AssftError("folders in this place are not searched. Move the labels out of it.")
        return False
    what = next((kind for kind, endings in NOT_READ.items() if path.name.lower().endswith(endings)), None)
    if what or is_named:
        remedy = ", or --key_file for a DICOM SEG" if what == DICOM else ""
        raise AssftError(
            f"it is {what or 'of a format that is not read'}; expected a file that ends with {KNOWN}{remedy}."
        )
    return False


def _name_of_case(path: Path, asked: Collection[str], keys: KeyFile | None, *, in_subfolder: bool) -> str | None:
    """Return the name of the case whose label a path is; None for a file that has nothing to do with labels.

    Raises `AssftError`, which says what it is, for one that looks as if it should be imported and cannot be.
    """
    if keys and path.is_file() and not ending_of(path.name):
        if is_dicom(path):
            return _case_of_dicom(path, keys)
        if path.name.lower().endswith(NOT_READ[DICOM]):
            raise AssftError("it is called a DICOM file, but is none. Save it again.")
    is_label = _is_label(path, asked, in_subfolder=in_subfolder)
    return path.name[: -len(ending_of(path.name) or "")] if is_label else None


def _case_of_dicom(path: Path, keys: KeyFile) -> str | None:
    """Return the case that a DICOM SEG belongs to; None for a slice of a case's scan, which may lie beside it."""
    origin = origin_of(path)
    if not origin.is_segmentation:
        if keys.case_of([origin.own_series], ()):
            return None
        raise AssftError(f"it is DICOM of the kind {origin.kind!r}; expected a DICOM SEG. Save the segments as one.")
    case = keys.case_of(origin.series, origin.instances)
    if case is None:
        raise AssftError(
            "it is a DICOM SEG of a series that is not in the key file, or of several series; expected one of a case "
            "of the dataset. Draw on the series of the case, or give the key file of this dataset."
        )
    return case


# Cases and annotators -------------------------------------------------------------------------------------------------


def _labelled_before(experiment: Experiment) -> dict[str, Asked]:
    """Return the requests of finished rounds and second looks, whose labels may be replaced, by case."""
    cases = {
        case: Asked(change.round - 1, (), second_look=True)
        for change in experiment.history
        for case in change.labelled
        if case not in experiment.withdrawn
    }
    return cases | _by_case(finished_requests(experiment))


def _by_case(requests: Iterable[AnnotationRequest]) -> dict[str, Asked]:
    return {
        case: Asked(request.round, request.annotators[case], request.second_look)
        for request in requests
        for case in request.cases
    }


def _asked_case(name: str, asked: Mapping[str, Asked], experiment: Experiment) -> str:
    """Return the case that a label is named after. Raises `AssftError` if it is none that was asked for."""
    same = {unicodedata.normalize("NFC", case): case for case in asked}  # macOS takes letters and accents apart
    case = name if name in asked else same.get(unicodedata.normalize("NFC", name))
    if case is not None:
        return case
    expected = f"expected {some(sorted(asked))}"
    if name in experiment.withdrawn:
        raise AssftError("this case was withdrawn, so its label is not taken. Delete the file.")
    if name in experiment.now.pool:
        before = _labelled_before(experiment).get(name)
        second = " or to add a second reading" if before and len(before.annotators) > 1 else ""
        replace = f" Add --replace to replace its label{second}." if before else ""
        raise AssftError(f"nobody is asked for this case; {expected}.{replace}")
    if name in experiment.now.test:
        raise AssftError(f"it is a test case of the experiment already, and its label stays as it is; {expected}.")
    if name in experiment.raw_dataset().test_images:
        export = experiment.command("annotate export", "--test", "-o", "WORK")
        raise AssftError(f"nobody is asked for this case; {expected}. {export} asks for test cases without a label.")
    meant = _meant(name, {*experiment.now.pool, *experiment.now.test})
    hint = f" Did you mean {meant}? Then rename it." if meant in asked else ""
    raise AssftError(f"the dataset has no case {name!r}; {expected}.{hint}")


def _meant(name: str, cases: Collection[str]) -> str | None:
    """Return the case that a wrong name means, None if there is none or more than one.

    Numbers are patients: a case is meant only if it has the same numbers. The name may have the number of a channel, as
    its image, or of a copy in brackets in addition.
    """
    name = re.sub(r"\(\d+\)", "", name)
    numbers = _numbers(name)
    choices = [numbers, numbers[:-1]] if re.search(r"_\d{4}(?!.*\d)", name) else [numbers]
    alike = [case for case in cases if _numbers(case) in choices]
    near = [case for case in alike if case.casefold() in name.casefold()]
    near = near or difflib.get_close_matches(name, alike, n=2)
    return near[0] if len(near) == 1 else None


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def annotator_of(
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

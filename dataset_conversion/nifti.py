"""A folder of NIfTI files that is no public dataset: its row, and the layout that finds its cases by file names."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from nnunet_assft.dataset_conversion.datasets import CT, MRI, NIFTI, DatasetRow
from nnunet_assft.dataset_conversion.findings import Finding, found
from nnunet_assft.dataset_conversion.labels import BACKGROUND
from nnunet_assft.dataset_conversion.source_cases import ENDINGS, Sources, stem_of
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import walk
from nnunet_assft.runtime.text import count, some
from nnunet_assft.volumes.image_files import CHANNEL
from nnunet_assft.volumes.names import shown

LARGEST_VALUE = 65_535  # of a label file; a table of this length relates its values to ids
SPELLINGS = {"ct": CT, "mr": MRI, "mri": MRI}  # of channels, as the converted datasets have them


def nifti_row(structures: Sequence[str], channels: Sequence[str], label_folders: Sequence[Path]) -> DatasetRow:
    """Return the row of a dataset that the command line describes.

    structures: names in the order of their ids in the dataset, from 1; either all or none of them are written as
    NAME=VALUE, with their value in the label files, which otherwise is their id. channels: names in the order of their
    numbers. label_folders: see `nifti_files`. Raises `AssftError` if a value or a channel cannot be used.
    """
    values = _values(structures)
    names = tuple(SPELLINGS.get(name.casefold(), name) for name in channels)
    if len({name.casefold() for name in names}) < len(names):
        raise AssftError(f"--channels {','.join(channels)}: a channel is named twice. Give each channel its own name.")
    return DatasetRow(
        id=0,
        name=NIFTI,
        channels=names,
        labels=tuple(values),
        layout=partial(nifti_files, label_folders=label_folders, values={BACKGROUND: 0, **values}),
        split="all",
        description="",
        reference="",
        release="",
        licence="",
        citation="",
        unlabelled=True,
    )


def _values(structures: Sequence[str]) -> dict[str, int]:
    """Return name -> value in the label files."""
    parts = [text.partition("=") for text in structures]
    if len({name for name, _, _ in parts}) < len(parts):
        raise AssftError(f"--labels {','.join(structures)}: a structure is named twice. Name each structure once.")
    given = [value for _, equals, value in parts if equals]
    if not given:
        return {name: value for value, name in enumerate(structures, 1)}
    numbers = [int(value) if re.fullmatch("[0-9]{1,5}", value) else 0 for value in given]
    usable = len(set(numbers)) == len(structures) and all(0 < number <= LARGEST_VALUE for number in numbers)
    if not usable:
        raise AssftError(
            f"--labels {','.join(structures)}: expected NAME=VALUE for every structure or for none, with the different "
            f"values from 1 to {LARGEST_VALUE} that the structures have in the label files."
        )
    return dict(zip((name for name, _, _ in parts), numbers, strict=True))


def nifti_files(
    row: DatasetRow, roots: list[Path], *, label_folders: Sequence[Path], values: Mapping[str, int]
) -> Sources:
    """Find one case per image name, and the label of the same name.

    An image is CASE.nii.gz if there is one channel. It may always be CASE_0000.nii.gz, and if there are several
    channels also CASE_T1.nii.gz, with the name of the channel. Folders may be nested. label_folders: absolute folders
    with the labels, which may be below `roots`. values: name of a structure, background included -> value in the label
    files. Raises `AssftError` if there is no image, or if there are labels and none has the name of an image.
    """
    sources = Sources(row, labels=dict(values))
    labels = list(dict.fromkeys(file for folder in label_folders for file in walk(folder)))
    images = sorted({file for root in roots for file in walk(root)} - set(labels))
    for option, files in (("-i", images), ("-l", labels)):
        sources.findings += _passed_over(option, files)
    left_out = _add_images(sources, images, ", ".join(map(str, roots)))
    _add_labels(sources, [file for file in labels if stem_of(file) not in left_out])
    return sources


def _passed_over(option: str, files: Sequence[Path]) -> Iterator[Finding]:
    endings = Counter(file.suffix or "no ending" for file in files if stem_of(file) is None)
    if endings:
        listed = some(f"{n} with {ending}" for ending, n in endings.most_common())
        yield found("not_nifti", "", f"{option}: {listed}; expected {' or '.join(ENDINGS)}")


def _add_images(sources: Sources, files: Sequence[Path], where: str) -> set[str]:
    """Add the cases whose images are complete. Returns the names of the other cases, which become findings."""
    stems = {file: stem for file in files if (stem := stem_of(file))}
    if not stems:
        instead = f", but {count(len(files), 'other file')}" if files else ""
        raise AssftError(
            f"{where} holds no file that ends with {' or '.join(ENDINGS)}{instead}. Give the folder of the images with "
            "-i; a DICOM export is converted by nnUNetv2_assft_convert dicom."
        )
    channels, numbered = sources.row.channels, any(stem.endswith("_0000") for stem in stems.values())
    of_case: dict[str, dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for file, stem in stems.items():
        case, channel = _channel(stem, channels, numbered)
        of_case[case][channel].append(file)
    left_out = set()
    for case, by_channel in of_case.items():
        several = next((files for files in by_channel.values() if len(files) > 1), [])
        if several:
            sources.findings.append(found("several_files", case, f"there are {some(several, 2, ' and ')}"))
        elif sorted(by_channel) != list(range(len(channels))):
            names = some((files[0].name for _, files in sorted(by_channel.items())), 3)
            text = f"there is {names}; expected {_expected(channels, numbered)}"
            sources.findings.append(found("missing_image", case, text))
        else:
            sources.case(case).images = tuple(files[0] for _, files in sorted(by_channel.items()))
            continue
        left_out.add(case)
    return left_out


def _channel(stem: str, channels: Sequence[str], numbered: bool) -> tuple[str, int]:
    """Return the case and the number of the channel of an image; -1 if its name states no channel, but should.

    numbered: whether four digits at the end are the channel. If no image has the channel 0000, they are not: then
    scan_0001 and scan_0002 are two cases.
    """
    if numbered and (match := CHANNEL.fullmatch(stem)):
        return match[1], int(match[2])
    if len(channels) == 1:
        return stem, 0
    ends = {
        c: f"_{name.casefold()}" for c, name in enumerate(channels) if stem.casefold().endswith(f"_{name}".casefold())
    }
    if not ends:
        return stem, -1
    channel = max(ends, key=lambda c: len(ends[c]))
    return stem[: -len(ends[channel])], channel


def _expected(channels: Sequence[str], numbered: bool) -> str:
    if len(channels) == 1:
        return "one image for each case, and the channel 0000 only" if numbered else "one image for each case"
    numbers = ", ".join(f"_{c:04d} or _{name}" for c, name in enumerate(channels))
    return f"one image per channel, whose name ends with {numbers}"


def _add_labels(sources: Sources, files: Sequence[Path]) -> None:
    of_case: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        if stem := stem_of(file):
            of_case[stem].append(file)
    if of_case and not of_case.keys() & sources.cases.keys() and sources.cases:
        raise AssftError(
            f"None of {count(len(of_case), 'label')} has the name of an image: the first label is "
            f"{shown(min(of_case))}, the first case {shown(min(sources.cases))}. Give each label the name of its case, "
            "without the channel."
        )
    for case, own in of_case.items():
        if len(own) > 1:
            sources.findings.append(found("several_files", case, f"there are {some(own, 2, ' and ')}"))
            sources.cases.pop(case, None)
        else:
            sources.case(case).label = own[0]

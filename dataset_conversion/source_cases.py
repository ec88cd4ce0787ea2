"""Find the cases of a download and the files of each case, by their names. Only dataset.json is opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_assft.dataset_conversion.findings import Finding, found
from nnunet_assft.dataset_conversion.labels import read_label_table
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import read_json
from nnunet_assft.volumes.names import CASE_ID, differs_in_case_from, shown, without_case

if TYPE_CHECKING:
    from nnunet_assft.dataset_conversion.datasets import DatasetRow

ENDINGS = (".nii.gz", ".nii")
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")
POOL, TEST, UNLABELLED = "pool", "test", "unlabelled"


@dataclass
class SourceCase:
    """The files of one case.

    images: one file per channel. label: a file with all structures. masks: canonical name of a structure -> file, if
    there is no such label. not_annotated: canonical names of the structures that nobody drew, as far as the layout
    knows. part: the part that the download assigns the case to: POOL, TEST, UNLABELLED, or "" if it assigns none.
    listed: whether dataset.json of the download names the case.
    """

    name: str
    images: tuple[Path, ...] = ()
    label: Path | None = None
    masks: dict[str, Path] = field(default_factory=dict)
    not_annotated: tuple[str, ...] = ()
    part: str = ""
    listed: bool = False

    @property
    def has_label(self) -> bool:
        return self.label is not None or bool(self.masks)

    @property
    def files(self) -> tuple[Path, ...]:
        return (*self.images, *([self.label] if self.label else self.masks.values()))


@dataclass
class Sources:
    """What a layout finds in a download.

    row: the row of the dataset, which the layout may complete with what only the download states. cases: by name, in
    ascending order. labels: the label table of the download, if it has one. dataset_json: the content of its
    dataset.json, if it has one.
    """

    row: DatasetRow
    cases: dict[str, SourceCase] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    labels: dict[str, int] | None = None
    dataset_json: dict[str, Any] = field(default_factory=dict)

    def case(self, name: str) -> SourceCase:
        """Return the case with this name, which is added if there is none yet."""
        return self.cases.setdefault(name, SourceCase(name))

    def add_image(self, case: SourceCase, file: Path) -> None:
        """Add the image of a case. If there is one already, it is kept, and the second one becomes a finding."""
        self._report_twice(case, case.images[0] if case.images else None, file)
        case.images = case.images or (file,)

    def add_label(self, case: SourceCase, file: Path) -> None:
        """Add the label of a case. If there is one already, it is kept, and the second one becomes a finding."""
        self._report_twice(case, case.label, file)
        case.label = case.label or file

    def _report_twice(self, case: SourceCase, first: Path | None, file: Path) -> None:
        if first is not None:
            self.findings.append(found("case_found_twice", case.name, f"{file} was found in addition to {first}"))

    def assign(self, case: SourceCase, part: str) -> None:
        """Assign a case to a part. POOL and TEST take precedence over UNLABELLED; a case in both becomes a finding."""
        if {case.part, part} == {POOL, TEST}:
            text = "the download lists it as a training case and as a validation case; expected one of the two"
            finding = found("case_in_two_splits", case.name, text)
            if finding not in self.findings:
                self.findings.append(finding)
        elif case.part in ("", UNLABELLED):
            case.part = part

    def read_dataset_json(self, file: Path) -> None:
        """Read the label table and the lists of cases. A file that cannot be used becomes a finding."""
        try:
            content = read_json(file)
            if not isinstance(content, dict):
                raise ValueError("it does not hold a JSON object")
            self.labels = read_label_table(content["labels"]) if content.get("labels") else None
            self.dataset_json = content
        except (OSError, ValueError) as error:
            self.findings.append(found("bad_dataset_json", "", f"{file}: {error}"))


def collect(row: DatasetRow, roots: Sequence[Path]) -> Sources:
    """Find all cases of a download in the folders `roots`.

    Raises `AssftError` if one of them is not a folder, or if they hold no case.
    """
    require_folders(roots)
    sources = row.layout(row, [Path(os.path.abspath(root)) for root in roots])
    if not any(case.files for case in sources.cases.values()):
        image = row.image.replace("(?P<case>", "(")
        expected = f"images named {image}.nii.gz" if image else "the files that its dataset.json lists"
        raise AssftError(
            f"No case was found in {', '.join(map(str, roots))}. Expected {expected}; docs/conversion.md describes the "
            "folders of each dataset."
        )
    sources.cases = dict(sorted(sources.cases.items()))
    spellings: dict[str, str] = {}
    for name in list(sources.cases):
        if fault := CASE_ID.fault(name):
            problem = f"{fault}. {CASE_ID.rule}"
        elif (other := spellings.setdefault(without_case(name), name)) != name:
            problem = differs_in_case_from(other)
        else:
            continue
        del sources.cases[name]
        sources.findings.append(found("bad_name", shown(name), f"the case id {problem}"))
    return sources


def require_folders(roots: Sequence[Path], option: str = "-i") -> None:
    """Raise `AssftError` if one of them is not a folder. option: gave them."""
    for root in roots:
        if root.name.lower().endswith(ARCHIVES) and root.is_file():
            raise AssftError(f"{root} is an archive. Unpack it and give the folder with {option}.")
        if not root.is_dir():
            raise AssftError(f"{root} is not a folder. Give a folder with {option}; an archive has to be unpacked.")


def ending_of(file: Path) -> str:
    """Return the ending of a file in lower case, one of ENDINGS; "" for other files."""
    return next((ending for ending in ENDINGS if file.name.lower().endswith(ending)), "")


def stem_of(file: Path) -> str | None:
    """Return the name of a file without .nii or .nii.gz; None for other files."""
    ending = ending_of(file)
    return file.name[: -len(ending)] if ending else None

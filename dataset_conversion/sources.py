"""The files of a download, whatever its folders look like, sorted into cases. Names only; no file is opened but dataset.json."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_assft.dataset_conversion.datasets import AMOS_FIRST_MR_ID, CT, DatasetRow
from nnunet_assft.dataset_conversion.findings import Finding, found
from nnunet_assft.dataset_conversion.labels import canonical_name, read_label_table
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import read_json

ENDINGS = (".nii.gz", ".nii")
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")
POOL, TEST, UNLABELLED = "pool", "test", "unlabelled"


@dataclass
class SourceCase:
    """images: one file per channel; label: a file with all structures; masks: canonical structure -> file, if there is none.

    part: what the download says the case is for, POOL, TEST, UNLABELLED, or "" if it does not say.
    """

    name: str
    images: tuple[Path, ...] = ()
    label: Path | None = None
    masks: dict[str, Path] = field(default_factory=dict)
    part: str = ""
    listed: bool = False  # dataset.json of the download names it

    @property
    def has_label(self) -> bool:
        return self.label is not None or bool(self.masks)

    @property
    def files(self) -> tuple[Path, ...]:
        return (*self.images, *([self.label] if self.label else self.masks.values()))


@dataclass
class Sources:
    """Cases by name, ascending; labels: the download's own label table, if it has one; dataset_json: likewise."""

    cases: dict[str, SourceCase] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    labels: dict[str, int] | None = None
    dataset_json: dict[str, Any] = field(default_factory=dict)

    def case(self, name: str) -> SourceCase:
        return self.cases.setdefault(name, SourceCase(name))

    def add_image(self, case: SourceCase, file: Path) -> None:
        self._twice(case, case.images[0] if case.images else None, file)
        case.images = case.images or (file,)

    def add_label(self, case: SourceCase, file: Path) -> None:
        self._twice(case, case.label, file)
        case.label = case.label or file

    def _twice(self, case: SourceCase, first: Path | None, file: Path) -> None:
        if first is not None:
            self.findings.append(found("case_found_twice", case.name, f"{file} was found besides {first}"))

    def assign(self, case: SourceCase, part: str) -> None:
        """Notes what a case is for. A labelled part beats the test images without labels; two labelled parts are a finding."""
        if {case.part, part} == {POOL, TEST}:
            finding = found(
                "case_in_two_splits", case.name, "the download has it as training and as validation case; expected one"
            )
            if finding not in self.findings:
                self.findings.append(finding)
        elif case.part in ("", UNLABELLED):
            case.part = part


def collect(row: DatasetRow, roots: Sequence[Path]) -> Sources:
    """All cases of a download below `roots`. Raises `AssftError` if there is no folder, or no case in them."""
    for root in roots:
        if root.name.lower().endswith(ARCHIVES) and root.is_file():
            raise AssftError(f"{root} is an archive. Unpack it and give the folder.")
        if not root.is_dir():
            raise AssftError(f"{root} is not a folder. Give the unpacked download with -i.")
    sources = LAYOUTS[row.layout](row, [Path(os.path.abspath(root)) for root in roots])
    if not any(case.files for case in sources.cases.values()):
        image = row.image.replace("(?P<case>", "(")
        expected = f"images named {image}.nii.gz" if image else "the files that its dataset.json lists"
        raise AssftError(
            f"No case was found below {', '.join(map(str, roots))}. Expected {expected}; see docs/conversion.md for the "
            "folders of each dataset."
        )
    sources.cases = dict(sorted(sources.cases.items()))
    return sources


def walk(root: Path) -> Iterator[Path]:
    """Files below a folder in a fixed order, without what macOS leaves in archives. Linked folders are followed once."""
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if name != "__MACOSX" and not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def ending_of(file: Path) -> str:
    """One of ENDINGS, also if the name has it in upper case; "" for other files."""
    return next((ending for ending in ENDINGS if file.name.lower().endswith(ending)), "")


def stem_of(file: Path) -> str | None:
    """The name without .nii or .nii.gz; None for other files."""
    ending = ending_of(file)
    return file.name[: -len(ending)] if ending else None


def _images_or_labels(root: Path, file: Path) -> tuple[str, str]:
    """("image" or "label" or "", part) by the nearest folder that says it."""
    for folder in reversed([root.name, *file.relative_to(root).parts[:-1]]):
        name = folder.lower()
        kind = "label" if re.search("label|mask|seg", name) else "image" if re.search("image|img", name) else ""
        if kind:
            part = next(
                (part for word, part in (("tr", POOL), ("va", TEST), ("ts", UNLABELLED)) if name.endswith(word)), ""
            )
            return kind, part
    return "", ""


def _named_files(row: DatasetRow, roots: list[Path]) -> Sources:
    """Images and labels told apart by folder, else by name (`_0000`); several copies and any depth of folders."""
    sources = Sources()
    for root in roots:
        for file in walk(root):
            if file.name == "dataset.json" and not sources.dataset_json:
                _read_dataset_json(sources, file)
            stem = stem_of(file)
            if stem is None:
                continue
            kind, part = _images_or_labels(root, file)
            as_image, as_label = re.fullmatch(row.image, stem), re.fullmatch(row.label, stem)
            if as_image and (kind == "image" or (not kind and not (as_label and as_label["case"] == stem))):
                case = sources.case(as_image["case"])
                sources.add_image(case, file)
                if not re.fullmatch(row.label, case.name):  # no label can have this name
                    case.part = UNLABELLED
            elif as_label and kind != "image":
                case = sources.case(as_label["case"])
                sources.add_label(case, file)
            else:
                continue
            if row.split == "official" and part:
                sources.assign(case, part)
    return sources


def _amos(row: DatasetRow, roots: list[Path]) -> Sources:
    """One archive with CT and MR: the id says which. dataset.json names the cases of the official split."""
    sources = _named_files(row, roots)
    for key, part in (("training", POOL), ("validation", TEST), ("test", UNLABELLED)):
        for name in _listed(sources, key):
            case = sources.case(name)
            case.listed = True
            sources.assign(case, part)
    other = {name for name in sources.cases if (int(name[-4:]) < AMOS_FIRST_MR_ID) != (row.channel == CT)}
    for name in sorted(other):
        if sources.cases.pop(name).part != UNLABELLED:
            sources.findings.append(
                found("other_modality", name, f"by its id not {row.channel}; ids below {AMOS_FIRST_MR_ID} are CT")
            )
    left = [finding for finding in sources.findings if finding.case not in other or finding.code == "other_modality"]
    sources.findings = left
    return sources


def _listed(sources: Sources, key: str) -> Iterator[str]:
    """Case names in a list of dataset.json, which holds paths or objects with the key `image`."""
    entries = sources.dataset_json.get(key)
    for entry in entries if isinstance(entries, list) else ():
        path = entry.get("image") if isinstance(entry, dict) else entry
        match = re.search(r"(amos_\d{4})\.nii", str(path))
        if match:
            yield match[1]


def _read_dataset_json(sources: Sources, file: Path) -> None:
    try:
        content = read_json(file)
        if not isinstance(content, dict):
            raise ValueError("it is no object")
        sources.labels = read_label_table(content["labels"]) if content.get("labels") else None
        sources.dataset_json = content
    except (OSError, ValueError) as error:
        sources.findings.append(found("bad_dataset_json", "", f"{file}: {error}"))


def _case_folders(row: DatasetRow, roots: list[Path]) -> Sources:
    """A folder per case, in one or several roots: ct.nii.gz, combined_labels.nii.gz or segmentations/STRUCTURE.nii.gz."""
    sources = Sources()
    wanted = {canonical_name(name) for name in row.labels}
    for root in roots:
        for file in walk(root):
            stem = stem_of(file)
            in_masks = file.parent.name == "segmentations"
            folder = file.parent.parent if in_masks else file.parent
            match = re.fullmatch(row.image, folder.name)
            if stem is None or match is None:
                continue
            case = sources.case(match["case"])
            if in_masks and canonical_name(stem) in wanted:
                case.masks.setdefault(canonical_name(stem), file)
            elif stem == "ct" and not in_masks:
                sources.add_image(case, file)
            elif stem == "combined_labels" and not in_masks:
                sources.add_label(case, file)
    for case in sources.cases.values():
        if case.label:
            case.masks = {}
    return sources


def _msd(row: DatasetRow, roots: list[Path]) -> Sources:
    """A task of the Decathlon: the training cases that its dataset.json lists."""
    root = next((folder for folder in [*roots, *_subfolders(roots)] if (folder / "dataset.json").is_file()), None)
    if root is None:
        raise AssftError(
            f"{roots[0]} has no dataset.json. Give the folder of one Decathlon task, such as Task04_Hippocampus."
        )
    sources = Sources()
    _read_dataset_json(sources, root / "dataset.json")
    if sources.findings or not sources.labels:
        raise AssftError(
            f"{root / 'dataset.json'} cannot be used: {'; '.join(f.message for f in sources.findings) or 'no labels'}. "
            "Unpack the task again."
        )
    entries = sources.dataset_json.get("training")
    for entry in entries if isinstance(entries, list) else [entries]:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("image", "label")):
            raise AssftError(
                f"{root / 'dataset.json'} lists {entry!r} under 'training'; expected image and label. Unpack the task again."
            )
        image, label = (root / entry[key] for key in ("image", "label"))
        case = sources.case(stem_of(image) or image.name)
        case.listed = True
        case.images = (Path(os.path.normpath(image)),) if image.is_file() else ()
        case.label = Path(os.path.normpath(label)) if label.is_file() else None
    return sources


def _subfolders(roots: Iterable[Path]) -> Iterator[Path]:
    for root in roots:
        yield from sorted(
            path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__MACOSX"))
        )


LAYOUTS: dict[str, Callable[[DatasetRow, list[Path]], Sources]] = {
    "amos": _amos,
    "named_files": _named_files,
    "case_folders": _case_folders,
    "msd": _msd,
}

"""The key file: which patient and which series a case is. It is the only file that says so, and lies outside of the
dataset."""

from __future__ import annotations

import math
import os
import re
import secrets
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import atomic_path, json_text, read_json
from nnunet_assft.runtime.locks import only_process
from nnunet_assft.runtime.writable import reason, require_file
from nnunet_assft.volumes.dicom.slices import Slice

ABOUT = "Confidential: it says which patient and which DICOM series each case is. Keep it apart from the dataset."
LETTERS = "23456789bcdfghjkmnpqrstvwxz"  # none that look alike, and no vowels, so that no words arise
N_LETTERS = 6
CASE = re.compile(rf"dcm_[{LETTERS}]{{{N_LETTERS}}}_[0-9]{{2,}}")  # a patient and the number of a scan
FORMAT = 1
ONLY_FOR_THE_OWNER = 0o600
OF_DATASET = "a case of the dataset"  # the state of a series that is one

Identity = tuple[str, ...]  # patient (one or more texts), study, series


def identity(slices: Sequence[Slice]) -> Identity:
    """Return what tells a series from all others."""
    return (*slices[0].patient, slices[0].study, slices[0].series)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Wait until no other process reads and writes this key file, and keep it so."""
    with ExitStack() as stack:
        try:
            lock = path.with_name(f".{path.name}.lock")
            stack.enter_context(only_process(lock, f"the key file {path}", patience=math.inf))
        except OSError as error:
            raise AssftError(f"--key_file {path} cannot be locked ({reason(error)}). Choose another place.") from error
        yield


@dataclass
class KeyFile:
    """The content of a key file.

    secret: a random text, by which checksums can be kept in the dataset that nobody can guess the files from. entries:
    case id -> what it is. unreadable: DICOM files that cannot be parsed.
    """

    path: Path
    secret: str = field(default_factory=lambda: secrets.token_hex(16))
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, folders: Iterable[Path]) -> KeyFile:
        """Read a key file, or begin a new one.

        folders: of the dataset, which the file must not be in. Raises `AssftError` if it is in one of them, cannot be
        written, or is something else.
        """
        for folder in folders:
            if folder.resolve() in path.resolve().parents:
                raise AssftError(
                    f"--key_file {path} is inside the dataset's folder {folder}; expected a place outside of it, "
                    "because it names the patients. Choose another place."
                )
        if not path.exists():
            require_file(path, "--key_file")
            return cls(path)
        return cls.read(path)

    @classmethod
    def read(cls, path: Path) -> KeyFile:
        """Read a key file. Raises `AssftError` if it is missing or something else."""
        if not path.exists():
            raise AssftError(
                f"--key_file {path} does not exist. Give the key file that nnUNetv2_assft_convert dicom wrote when it "
                "made the dataset."
            )
        try:
            content = read_json(path)
            if content["format"] != FORMAT:
                raise ValueError
            entries = {case: dict(entry) for case, entry in content["cases"].items()}
            if not all(CASE.fullmatch(case) and entry["identity"] for case, entry in entries.items()):
                raise ValueError
            return cls(path, str(content["secret"]), entries)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # without the reason, which may quote the file
            raise AssftError(
                f"--key_file {path} exists, but is no key file that this command wrote, or cannot be read. Give the "
                "key file of an earlier run, or the name of a new file."
            ) from None

    def name_all(self, series: Iterable[Identity]) -> dict[Identity, str]:
        """Return the case id of each series: the one that it has, or else a new one, which tells nothing about it."""
        known = {tuple(entry["identity"]): case for case, entry in self.entries.items()}
        patients = {one[:-2]: case.rpartition("_")[0] for one, case in known.items()}
        scans: dict[str, int] = {}  # patient -> the highest number of a scan
        for case in known.values():
            patient, _, number = case.rpartition("_")
            scans[patient] = max(scans.get(patient, 0), int(number))
        new = [one for one in series if one not in known]
        secrets.SystemRandom().shuffle(new)  # so that the numbers of the scans of a patient say nothing either
        for one in new:
            if one[:-2] not in patients:
                patients[one[:-2]] = _new_name(scans)
            patient = patients[one[:-2]]
            scans[patient] = scans.get(patient, 0) + 1
            known[one] = f"{patient}_{scans[patient]:02d}"
            self.entries[known[one]] = {"identity": list(one)}
        return known

    def describe(self, case: str, slices: Sequence[Slice], files: Sequence[Path], state: str) -> None:
        """Keep what a case is. files: in the order of the slices of the volume, if it is one. state: what has become of
        it."""
        first = slices[0]
        instances = {slice_.file: slice_.sop_instance for slice_ in slices}
        self.entries[case] |= {
            "state": state,
            "patient_id": first.patient_id,
            "issuer_of_patient_id": first.issuer,
            "study_instance_uid": first.study,
            "series_instance_uid": first.series,
            "frame_of_reference_uid": first.frame,
            "modality": first.modality,
            **{re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower(): text for name, text in first.notes.items()},
            "files": list(map(str, files)),
            "sop_instance_uids": [instances[file] for file in files],
        }

    def is_of_dataset(self, case: str) -> bool:
        """Whether the series of a case became an image of the dataset, now or in an earlier run."""
        return self.entries[case].get("state") == OF_DATASET

    def case_of(self, series: Iterable[str], instances: Iterable[str]) -> str | None:
        """Return the case whose series a DICOM object refers to; None if there is none, or more than one.

        series: the SeriesInstanceUIDs that it names. instances: the SOPInstanceUIDs of slices, which count if it names
        no series that is known.
        """
        wanted, slices = set(series), set(instances)
        cases = [case for case, entry in self.entries.items() if entry.get("series_instance_uid") in wanted]
        cases = cases or [
            case for case, entry in self.entries.items() if not slices.isdisjoint(entry.get("sop_instance_uids", ()))
        ]
        return cases[0] if len(cases) == 1 else None

    def slices_of(self, case: str) -> tuple[str, ...]:
        """Return the SOPInstanceUIDs of the slices of a case, in the order of its image."""
        return tuple(self.entries[case].get("sop_instance_uids", ()))

    def save(self) -> None:
        """Write the file, which only its owner can read. Raises `AssftError` if that is not possible."""
        content: Mapping[str, Any] = {
            "about": ABOUT,
            "format": FORMAT,
            "secret": self.secret,
            "cases": dict(sorted(self.entries.items())),
            "unreadable": self.unreadable,
        }
        try:
            with atomic_path(self.path) as partial:
                descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, ONLY_FOR_THE_OWNER)
                with open(descriptor, "w", encoding="utf-8") as file:
                    file.write(json_text(content))
        except OSError as error:
            raise AssftError(
                f"--key_file {self.path} cannot be written ({reason(error)}), and no image was. Correct that, and run "
                "the same command again."
            ) from error


def _new_name(taken: Container[str]) -> str:
    """Return a random name for a patient."""
    while True:
        name = "dcm_" + "".join(secrets.choice(LETTERS) for _ in range(N_LETTERS))
        if name not in taken:
            return name

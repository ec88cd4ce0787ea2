"""conversion_manifest.json records from which files each file of a dataset was made.

While a conversion runs, one line per finished case is appended to a journal.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import read_json, sha256_file, sha256_of, write_json
from nnunet_assft.runtime.partial import PARTIAL

NAME = "conversion_manifest.json"
JOURNAL = f"{PARTIAL}_conversion_manifest.jsonl"

Record = dict[str, Any]  # sources, outputs, findings, content, made_with of one case


@dataclass
class Manifest:
    """What a conversion has done so far.

    options: those that a second run must repeat. cases: name -> record. dataset_json: checksum of dataset.json as it
    was written.
    """

    folder: Path
    options: dict[str, Any] = field(default_factory=dict)
    cases: dict[str, Record] = field(default_factory=dict)
    dataset_json: str = ""

    @classmethod
    def load(cls, folder: Path) -> Manifest | None:
        """Read the manifest of a dataset folder, and the journal of an interrupted conversion.

        Returns None if there is neither. Raises `AssftError` if the manifest is damaged.
        """
        manifest = cls(folder)
        begun = False
        if (folder / NAME).is_file():
            try:
                content = read_json(folder / NAME)
                manifest = cls(folder, content["options"], content["cases"], content["dataset_json_sha256"])
            except (ValueError, KeyError, TypeError) as error:
                raise AssftError(
                    f"{folder / NAME} is damaged ({error!r}). Move the folder away, or convert into another one with "
                    "-d."
                ) from error
            begun = True
        for entry in _journal_entries(folder / JOURNAL):
            begun = True
            if "options" in entry:
                manifest.options = entry["options"]
            else:
                manifest.cases[entry["case"]] = entry["record"]
        return manifest if begun else None

    def begin(self) -> None:
        """Open the journal. From here on, the folder belongs to a conversion with these options."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._append({"options": self.options})

    def add(self, case: str, record: Record) -> None:
        """Record that a case is finished."""
        self.cases[case] = record
        self._append({"case": case, "record": record})

    def finish(self) -> None:
        """Write the manifest and remove the journal."""
        content = {
            "options": self.options,
            "dataset_json_sha256": self.dataset_json,
            "cases": dict(sorted(self.cases.items())),
        }
        write_json(self.folder / NAME, content)
        (self.folder / JOURNAL).unlink(missing_ok=True)

    def edited_dataset_json(self) -> bool:
        """Whether dataset.json exists, but is not as this conversion wrote it."""
        file = self.folder / "dataset.json"
        return file.is_file() and sha256_of(file.read_text(encoding="utf-8", errors="replace")) != self.dataset_json

    def _append(self, entry: dict[str, Any]) -> None:
        """Append a line to the journal. It begins with a line break, so that a line that a kill has truncated remains
        separate."""
        with open(self.folder / JOURNAL, "a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _journal_entries(file: Path) -> Iterator[dict[str, Any]]:
    if not file.is_file():
        return
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError:  # the line was truncated by a kill; its case is converted again
                continue


def same_state(file: Path, recorded: Record) -> bool:
    """Whether size and time of a file are those recorded."""
    try:
        state = file.stat()
    except OSError:
        return False
    return (state.st_size, state.st_mtime_ns) == (recorded["size"], recorded["mtime_ns"])


def sources_unchanged(record: Record, files: Iterable[Path]) -> bool:
    """Whether a record was made from exactly these files, as they are now (size and time)."""
    recorded = record["sources"]
    return {entry["path"] for entry in recorded} == set(map(str, files)) and all(
        same_state(Path(entry["path"]), entry) for entry in recorded
    )


def output_state(folder: Path, output: Record, *, thorough: bool) -> str:
    """Return "" if an output is as it was written, otherwise "missing" or "changed".

    A file is compared by size and time and, if these differ or if `thorough` is set, by checksum. A link is compared by
    its target, and a hard link by whether it is the same file, since the source is compared separately. A file that is
    given by reference always counts as unchanged.
    """
    file = folder / output["path"]
    if output["action"] == "reference":
        return ""
    if output["action"] == "link" and file.is_symlink() and os.readlink(file) != output["source"]:
        return "changed"
    if not file.is_file():
        return "missing"
    if (
        output["action"] in ("link", "hardlink")
        and os.path.exists(output["source"])
        and os.path.samefile(file, output["source"])
    ):
        return ""
    if not thorough and same_state(file, output):
        return ""
    return "" if sha256_file(file) == output["sha256"] else "changed"

"""The command on small downloads, as a fixture."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from nnunet_assft.cli import convert as command

FROM_SIZE = ("count_differs", "other_modality", "unlabelled_image")  # codes that every small download gives


@dataclass
class Result:
    code: int
    out: str
    errors: list[str]
    folder: Path

    def json(self, stem: str = "conversion_report") -> dict[str, Any]:
        return json.loads((self.folder / f"{stem}.json").read_text())

    def findings(self, stem: str = "conversion_report") -> list[tuple[str, str, str]]:
        """(severity, code, case), without what every small download gives."""
        found = [(f["severity"], f["code"], f["case"]) for f in self.json(stem)["findings"]]
        return [finding for finding in found if finding[1] not in FROM_SIZE]

    def message(self, code: str, stem: str = "conversion_report") -> str:
        return next(f["message"] for f in self.json(stem)["findings"] if f["code"] == code)

    def values(self, path: str) -> np.ndarray:
        return np.asarray(nibabel.load(self.folder / path).dataobj)

    def cases(self, folder: str) -> list[str]:
        if not (self.folder / folder).is_dir():
            return []
        return sorted(
            file.name.removesuffix(".nii.gz").removesuffix("_0000") for file in (self.folder / folder).iterdir()
        )


Convert = Callable[..., Result]


@pytest.fixture
def convert(nnunet_folders: Path, capsys: pytest.CaptureFixture[str]) -> Convert:
    """`convert(name, *folders, options="")`: runs the command in one process; what it printed and wrote."""

    def call(name: str, *sources: Path, options: str = "") -> Result:
        arguments = ["-i", *map(str, sources)] if sources else []
        with pytest.raises(SystemExit) as exit_:
            command.main([name, *arguments, "-np", "1", *options.split()])
        out, err = capsys.readouterr()
        lines = [
            line for line in err.replace("\r", "\n").split("\n") if line.strip().startswith("nnUNetv2_assft_convert")
        ]
        folder = next(
            (line for line in out.splitlines() if "/Dataset" in line and ": " not in line), str(nnunet_folders / "none")
        )
        return Result(int(exit_.value.code or 0), out, lines, Path(folder))

    return call

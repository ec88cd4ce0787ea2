"""The convert command on small downloads: run anew, or once for all the tests that only look at its result."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.utilities import utils as nnunet_utils

from nnunet_assft.cli import convert as command
from tests.conftest import set_folders
from tests.dataset_conversion.downloads import DOWNLOADS

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

    def counts(self, stem: str = "conversion_report") -> dict[str, tuple[int | None, int]]:
        """What was counted -> (expected, found)."""
        return {row["what"]: (row["expected"], row["found"]) for row in self.json(stem)["counts"]}

    def dataset_json(self) -> dict[str, Any]:
        return json.loads((self.folder / "dataset.json").read_text())

    def values(self, path: str) -> np.ndarray:
        return np.asarray(nibabel.load(self.folder / path).dataobj)

    def cases(self, folder: str) -> list[str]:
        if not (self.folder / folder).is_dir():
            return []
        return sorted(
            file.name.removesuffix(".nii.gz").removesuffix("_0000") for file in (self.folder / folder).iterdir()
        )


Convert = Callable[..., Result]


def run_convert(name: str, *sources: Path, options: str = "") -> Result:
    """Run the command in one process. Returns what it printed and wrote."""
    arguments = ["-i", *map(str, sources)] if sources else []
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as exit_:
        command.main([name, *arguments, "-np", "1", *options.split()])
    lines = err.getvalue().replace("\r", "\n").split("\n")
    printed = (line for line in out.getvalue().splitlines() if "/Dataset" in line and ": " not in line)
    return Result(
        int(exit_.value.code or 0),
        out.getvalue(),
        [line for line in lines if line.strip().startswith("nnUNetv2_assft_convert")],
        Path(next(printed, "no folder was printed")),
    )


@pytest.fixture
def convert(nnunet_folders: Path) -> Convert:
    """`convert(name, *folders, options="")`, with empty nnU-Net folders."""
    return run_convert


@dataclass
class Converted:
    """download: the folder that the download was made in. result: of its conversion."""

    download: Path
    result: Result


ConvertedOnce = Callable[[str], Converted]


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> ConvertedOnce:
    """`converted(name)`: the undisturbed conversion of a row's small download, made once. It must not be changed."""

    @cache
    def call(name: str) -> Converted:
        root = tmp_path_factory.mktemp(name)
        with pytest.MonkeyPatch.context() as patch:
            set_folders(root, patch)
            roots = DOWNLOADS[name](root / "download")
            return Converted(root / "download", run_convert(name, *roots))

    return call


def check_by_nnunet(folder: Path) -> None:
    """nnU-Net's own check of a raw dataset, in threads: starting its processes takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nnunet_utils, "Pool", ThreadPool)
        patch.setattr(multiprocessing, "get_context", lambda _: SimpleNamespace(Pool=ThreadPool))
        verify_dataset_integrity(str(folder), num_processes=1)


def set_raw(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Make the parent of a dataset folder nnU-Net's raw folder."""
    patch.setenv("nnUNet_raw", os.fspath(folder.parent))

"""Shared by the tests of `nnUNetv2_assft_annotate`: one planned experiment, copied for each test."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from nnunet_assft.cli.annotate import main as annotate_main
from tests.cli.annotate.experiment import Call, plan_round_1
from tests.conftest import set_folders

PROGRESS = re.compile(r"\d+%\||\d+case \[")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """(exit code, stdout, lines of stderr that are no progress bar) of `annotate WHAT ...`."""

    def run_command(what: str, *arguments: object) -> tuple[int, str, list[str]]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            annotate_main([what, "-d", "901", *map(str, arguments)])
        out, err = capsys.readouterr()
        lines = [part.strip() for part in err.replace("\r", "\n").split("\n")]
        return int(exit_.value.code or 0), out, [line for line in lines if line and not PROGRESS.search(line)]

    return run_command


@pytest.fixture(scope="package")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of an experiment in round 1, which has queried three cases. Read-only."""
    root = tmp_path_factory.mktemp("planned")
    with pytest.MonkeyPatch.context() as monkeypatch:
        plan_round_1(root, monkeypatch)
    return root


@pytest.fixture
def root(planned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it."""
    shutil.copytree(planned, tmp_path, dirs_exist_ok=True)
    set_folders(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture(scope="package")
def exported(planned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another copy, with its work folder in `work`, uncertainty maps included. Read-only."""
    root = tmp_path_factory.mktemp("exported")
    shutil.copytree(planned, root, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_folders(root, monkeypatch)
        with pytest.raises(SystemExit) as exit_:
            annotate_main(["export", "-d", "901", "-o", str(root / "work"), "--uncertainty", "-device", "cpu"])
    assert not exit_.value.code
    return root


@pytest.fixture
def work(exported: Path, root: Path) -> Path:
    """The work folder of the copied experiment, exported already."""
    shutil.copytree(exported, root, dirs_exist_ok=True)
    return root / "work"

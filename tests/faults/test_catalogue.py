"""Every row of the catalogue of bad inputs: one clear line, and no harm done.

`pytest tests/faults/test_catalogue.py -o junit_family=xunit1 --junitxml FILE` writes a file with the whole lines.
"""

from __future__ import annotations

import os
import re
import resource
import shlex
import signal
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from tests.cli.annotate.experiment import plan_round_1
from tests.conftest import built_once, copy_template, set_folders, write_dataset
from tests.faults.catalogue import ROWS, Row
from tests.faults.harness import Ended, run
from tests.faults.inputs import Place

SECONDS = 60
BYTES = 2 * 10**9  # that a command may allocate
PROGRESS = re.compile(r"\d+%\||\d+(case|epoch) \[|^\x1b\[A$")
EXCEPTION = re.compile(r"\b[A-Z]\w*(Error|Exception|Interrupt)\b|Traceback|--verbose shows where")
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The folders of the row, with what it starts from."""
    start = request.node.callspec.params["row"].start
    if start != "nothing":
        copy_template(request.getfixturevalue(f"{start}_template"), tmp_path)
    set_folders(tmp_path, monkeypatch)
    place = Place(tmp_path)
    place.here.mkdir()
    place.canary.mkdir()
    return place


@pytest.fixture(scope="session")
def raw_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw dataset."""
    return built_once(tmp_path_factory, "raw", lambda root: write_dataset(root / "nnUNet_raw"))


@pytest.fixture(scope="session")
def waiting_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment that waits for labels of annotators."""

    def build(root: Path) -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            plan_round_1(root, monkeypatch)

    return built_once(tmp_path_factory, "waiting", build)


def allocated() -> int:
    """The bytes that this process has allocated."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
    return int(line.split()[1]) * 1024


def call(row: Row, place: Place) -> Ended:
    """Run the command of a row in a process of its own, with limits of time and memory."""
    folders = {name: str(getattr(place, name)) for name in ("root", "raw", "given", "canary")}
    name, *arguments = [word.format(**folders) for word in shlex.split(row.command)]

    def command() -> None:
        signal.alarm(SECONDS)
        most = allocated() + BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        os.chdir(place.here)
        os.environ.update({name: value.format(**folders) for name, value in row.environment.items()})
        import_module(f"nnunet_assft.cli.{name}").main(arguments)

    return run(command, place.root)


def outside(place: Place) -> dict[str, tuple[int, int]]:
    """Everything that no command has to touch: path -> its size and time."""
    own = [place.root / "out", *(place.root / name / place.raw.name for name in FOLDERS)]
    found = {}
    for path in place.root.rglob("*"):
        if not any(path == folder or folder in path.parents for folder in own) and not path.is_dir():
            status = path.lstat()
            found[str(path)] = (status.st_size, status.st_mtime_ns)
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: ascii(row.name)[1:-1])
def test_a_bad_input_is_one_clear_line(row: Row, place: Place, record_property: Callable[[str, object], None]) -> None:
    row.make(place)
    before = outside(place)
    ended = call(row, place)
    lines = [line for line in ended.error.splitlines() if not PROGRESS.search(line)]
    record_property("code", ended.code)
    record_property("lines", "\n".join(lines))
    assert ended.code == row.code, ended.error
    assert not [line for line in lines if EXCEPTION.search(line)], lines
    if row.code == 0:
        assert lines == []
        assert row.line in ended.out
    else:
        prefix = f"nnUNetv2_assft_{row.command.split()[0]}: "
        first = 1 if row.code == 2 else 0
        assert len(lines) == first + 1 + row.more, lines
        assert all(line.startswith(prefix) for line in lines[first:]), lines
        assert row.line in lines[first], lines[first]
    assert outside(place) == before
    assert list(place.here.iterdir()) == list(place.canary.iterdir()) == []

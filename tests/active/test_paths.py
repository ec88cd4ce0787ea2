"""The files of an experiment: they can be moved to another folder or another machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Trained


def is_log(file: Path) -> bool:
    """Logs are for people; no command reads them."""
    return file.name in ("log.txt", "debug.json") or file.name.startswith("training_log_")


def test_no_file_that_is_read_holds_a_path_of_this_machine(
    trained: Trained, tmp_path_factory: pytest.TempPathFactory
) -> None:
    here = str(tmp_path_factory.getbasetemp().parent).encode()  # all experiments of these tests are made below it
    files = [file for file in trained.root.rglob("*") if file.is_file()]
    with_path = {file for file in files if here in file.read_bytes()}
    assert len(files) > 100
    assert any(map(is_log, with_path))  # so the search finds what there is
    assert not [file for file in with_path if not is_log(file)]
    assert not [file for file in trained.root.rglob("*") if file.is_symlink()]

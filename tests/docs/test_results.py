"""The page of results holds what its script makes from the files beside it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT


@pytest.mark.slow
def test_the_page_on_hippocampus(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs/results", tmp_path / "results")
    page = tmp_path / "results/hippocampus.md"
    expected = page.read_text()
    page.write_text(expected.replace("| RAND |", "| - |"))  # the script has to write it anew
    subprocess.run([sys.executable, tmp_path / "results/tables.py"], check=True)
    assert page.read_text() == expected
    selection = Path("results/hippocampus/selection.csv")
    assert (tmp_path / selection).read_text() == (ROOT / "docs" / selection).read_text()

"""A comparison that is killed again and again ends with the tables of one that was not."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.comparison.conftest import OPTIONS
from tests.conftest import set_folders, write_dataset

SCRIPT = "from nnunet_assft.cli.compare import main; main()"
COMMAND = [sys.executable, "-c", SCRIPT, "-d", "901", *OPTIONS, "--references", "nnunet_finetuned", "upper_bound"]
KILLS = 4


def tables(root: Path) -> dict[str, str]:
    """The text of every table but that of costs, whose minutes differ."""
    (folder,) = root.rglob("tables")
    files = [folder.parent / "results.csv", folder.parent / "pseudo_label_quality.csv", *folder.glob("*.*")]
    return {file.name: file.read_text() for file in files if file.stem != "cost"}


@pytest.mark.slow
def test_a_comparison_that_is_killed_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    seconds = 0.0
    for root in (whole, killed):
        set_folders(root, monkeypatch)
        write_dataset(root / "nnUNet_raw")
        if root is whole:
            start = time.monotonic()
            subprocess.run(COMMAND, check=True, capture_output=True)
            seconds = time.monotonic() - start
    rng = np.random.default_rng(0)
    survived = 0
    for after in rng.uniform(0.1, 0.6, KILLS) * seconds:
        with subprocess.Popen(COMMAND, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                process.wait(after)
            except subprocess.TimeoutExpired:
                process.kill()
                survived += 1
    assert survived > 0
    subprocess.run(COMMAND, check=True, capture_output=True)
    assert tables(killed) == tables(whole)

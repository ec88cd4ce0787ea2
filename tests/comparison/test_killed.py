"""A comparison that is killed again and again ends with the tables of one that was not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.comparison.conftest import OPTIONS
from tests.conftest import set_folders, write_dataset

SCRIPT = "from nnunet_assft.cli.compare import main; main()"
COMMAND = [sys.executable, "-c", SCRIPT, "-d", "901", *OPTIONS, "--references", "nnunet_finetuned", "upper_bound"]
KILLED_AT = (0.3, 0.5, 0.7, 0.9)  # of the files that an undisturbed comparison has


def tables(root: Path) -> dict[str, str]:
    """The text of every table but that of costs, whose minutes differ."""
    (folder,) = root.rglob("tables")
    files = [folder.parent / "results.csv", folder.parent / "pseudo_label_quality.csv", *folder.glob("*.*")]
    return {file.name: file.read_text() for file in files if file.stem != "cost"}


def files_below(root: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(root))


@pytest.mark.slow
def test_a_comparison_that_is_killed_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for root in (whole, killed):
        set_folders(root, monkeypatch)
        write_dataset(root / "nnUNet_raw")
        if root is whole:
            subprocess.run(COMMAND, check=True, capture_output=True)
    for share in KILLED_AT:
        with subprocess.Popen(COMMAND, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while files_below(killed) < share * files_below(whole):
                assert process.poll() is None, "it ended before it could be killed"
                time.sleep(0.1)
            process.kill()
    subprocess.run(COMMAND, check=True, capture_output=True)
    assert tables(killed) == tables(whole)

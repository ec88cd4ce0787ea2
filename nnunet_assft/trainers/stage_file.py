"""The stage file, such as `round_03_semi.json`: everything that a training depends on apart from the plans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunet_assft.runtime.sealed import read_sealed

KEYS = ("round", "stage", "start_from", "start_sha256", "epochs", "cases")
REMEDY = "Run the round with nnUNetv2_assft_round, which writes its training set again."


def read_stage_file(file: Path, remedy: str = REMEDY) -> dict[str, Any]:
    """Return the content of a stage file, see `Stage.content`. Raises `DamagedFileError` if it cannot be read."""
    return read_sealed(file, KEYS, remedy=remedy)

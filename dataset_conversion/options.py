"""The options of a conversion."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nnunet_assft.dataset_conversion.headers import Tolerances


@dataclass(frozen=True)
class ConversionOptions:
    """The options of one run.

    mode: how files are placed: "link", "hardlink", "copy" or "reference". split: "default" (the split of the dataset)
    or "all"; split_file replaces it. strict: stop at the first error. overwrite: convert every case again.
    num_processes: None means one per core, or fewer if there is little to read.
    """

    mode: str = "link"
    split: str = "default"
    split_file: Path | None = None
    tolerances: Tolerances = field(default_factory=Tolerances)
    strict: bool = False
    overwrite: bool = False
    num_processes: int | None = None

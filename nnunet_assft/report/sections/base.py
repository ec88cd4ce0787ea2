"""What a section is made of, and what several sections say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.report.images import ViewerCase
from nnunet_assft.report.material import Material
from nnunet_assft.report.plot import Plot

BESIDE = "E⁽⁰⁾ is a random encoder here, and DKD is measured against it."  # short, for every figure and table
MAX_ROWS = 200  # of a table on the page; its CSV has all


@dataclass(frozen=True)
class SectionTable:
    """A table of a section. name: of its CSV. marked: column -> note in its header. folded: closed until opened."""

    name: str
    title: str
    data: pd.DataFrame
    caption: str = ""
    warning: str = ""
    marked: Mapping[str, str] = field(default_factory=dict)
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """One section of the page. missing: sentences that say why there is nothing to see, or not everything."""

    id: str
    title: str
    text: tuple[str, ...] = ()
    warning: str = ""
    missing: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    tables: tuple[SectionTable, ...] = ()
    viewer: tuple[ViewerCase, ...] = ()


def uses_dkd(strategy: str) -> bool:
    """Whether a strategy compares embeddings with those of E^(0). A strategy that no longer exists does not."""
    row = STRATEGIES.get(strategy)
    return row is not None and "pretrained_embeddings" in row.needs


def dkd_warning(material: Material) -> str:
    """What is shown beside everything that contains DKD; empty with a pre-trained encoder."""
    return "" if material.experiment.settings.encoder else BESIDE


def query_warning(material: Material) -> str:
    """What is shown beside everything that follows from the queries, if the strategy queries by DKD."""
    if not dkd_warning(material) or not uses_dkd(material.experiment.settings.strategy):
        return ""
    return f"The cases were queried by DKD. {BESIDE}"


def encoder_name(material: Material) -> str:
    """The file name of the pre-trained encoder. Its folder is nobody's business but the machine's."""
    encoder = material.experiment.settings.encoder
    return Path(encoder).name if encoder else "none (E⁽⁰⁾ is random)"

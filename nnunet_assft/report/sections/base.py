"""The parts of a section, and texts that several sections share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.report.images import ViewerCase
from nnunet_assft.report.material import Material
from nnunet_assft.report.plot import Plot

BESIDE = "E⁽⁰⁾ is a random encoder here, and DKD is measured against it."  # shown with every figure and table of DKD
MAX_ROWS = 200  # of a table on the page; its CSV file has all rows


@dataclass(frozen=True)
class SectionTable:
    """A table of a section. name: stem of its CSV file. marked: column -> note in its header. folded: whether it is
    collapsed at first."""

    name: str
    title: str
    data: pd.DataFrame
    caption: str = ""
    warning: str = ""
    marked: Mapping[str, str] = field(default_factory=dict)
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """One section of the page. missing: sentences that say what the section cannot show, and why."""

    id: str
    title: str
    text: tuple[str, ...] = ()
    warning: str = ""
    missing: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    tables: tuple[SectionTable, ...] = ()
    viewer: tuple[ViewerCase, ...] = ()


def uses_dkd(strategy: str) -> bool:
    """Whether a strategy compares embeddings with those of E^(0); False for a strategy that is not installed."""
    row = STRATEGIES.get(strategy)
    return row is not None and "pretrained_embeddings" in row.needs


def dkd_warning(material: Material) -> str:
    """Return the warning for everything that contains DKD; empty with a pre-trained encoder."""
    return "" if material.experiment.settings.encoder else BESIDE


def query_warning(material: Material) -> str:
    """Return the warning for everything that depends on the queries, if the strategy queries by DKD; otherwise
    empty."""
    if not dkd_warning(material) or not uses_dkd(material.experiment.settings.strategy):
        return ""
    return f"The cases were queried by DKD. {BESIDE}"


def encoder_name(material: Material) -> str:
    """Return the file name of the pre-trained encoder, without its folder, so that reports reveal no local paths."""
    encoder = material.experiment.settings.encoder
    return Path(encoder).name if encoder else "none (E⁽⁰⁾ is random)"

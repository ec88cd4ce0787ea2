"""The parts of a section, and texts that several sections share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import pandas as pd

from nnunet_assft.active.experiment import read_plans
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.comparison.arms import arm_of, name_of
from nnunet_assft.errors import DamagedFileError
from nnunet_assft.report.images import ViewerCase
from nnunet_assft.report.material import FinishedComparison, Material
from nnunet_assft.report.plot import Plot
from nnunet_assft.runtime.files import base_name

BESIDE = "E⁽⁰⁾ is a random encoder here, and DKD is measured against it."
MAX_ROWS = 200  # of a table on the page; its CSV file has all rows


@dataclass(frozen=True)
class SectionTable:
    """A table of a section. name: stem of its CSV file. names: column -> its name on the page, if that is not its own.
    marked: column -> note in its header. folded: whether it is collapsed at first."""

    name: str
    title: str
    data: pd.DataFrame
    caption: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
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


def dkd_is_random(material: Material) -> bool:
    """Whether DKD is measured against a random encoder. The head of the page says so, and names of columns and axes."""
    return material.experiment.settings.pretrained is None


def arm_uses_dkd(arm: str) -> bool:
    """Whether an arm, or the strategy whose cases it is trained on (`nnunet@assft`), depends on E^(0)."""
    cases = arm_of(arm).cases_of
    return cases is not None and uses_dkd(arm_of(cases).kind)


def arms_with_dkd(compared: FinishedComparison, arms: Iterable[str]) -> list[str]:
    """Return those of these arms that depend on a random E^(0), and not on a pre-trained encoder."""
    return [arm for arm in arms if arm_uses_dkd(arm) and _starts_at_random(compared, arm)]


def _starts_at_random(compared: FinishedComparison, arm: str) -> bool:
    if compared.spec.settings.start is not None:
        return False
    cases = arm_of(arm).cases_of
    return cases is None or compared.spec.encoder_of(arm_of(cases)) is None


def arms_warning(with_dkd: Sequence[str]) -> str:
    """Return the warning for a section that shows these `arms_with_dkd`; empty if there are none."""
    return f"Arms with DKD: {', '.join(map(name_of, with_dkd))}. {BESIDE}" if with_dkd else ""


def grey_values(window: tuple[float, float] | None) -> str:
    """Return the sentence on how pictures show grey values. window: see `volumes.display`."""
    grey = "percentiles 1 to 99 of the scan"
    if window:
        low, high = window
        grey = f"the soft-tissue window, {low:g} to {high:g} HU, if it suits the segmented region, otherwise {grey}"
    return f"Grey values: {grey}."


def no_picture(case: str, error: Exception) -> str:
    """Return the sentence on a case whose files cannot be read."""
    return f"{case}: no picture could be made ({' '.join(str(error).split())[:160]})."


def network_name(material: Material) -> str:
    """Return what the network is called for a reader, without its class if the plans cannot be read."""
    plans = None
    with suppress(OSError, DamagedFileError):
        plans = read_plans(material.experiment)
    return material.experiment.settings.network_name(plans)


def encoder_name(material: Material) -> str:
    """Return the name of the file or folder with the pre-trained encoder, without the folders around it, so that
    reports reveal no local paths."""
    settings = material.experiment.settings
    if settings.start:
        return f"that of the model {base_name(settings.start)}, whose decoder is taken as well"
    return base_name(settings.encoder) if settings.encoder else "none (E⁽⁰⁾ is random)"

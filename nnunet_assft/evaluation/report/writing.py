"""The page and the folder beside it."""

from __future__ import annotations

import lzma
from datetime import datetime
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from tqdm import tqdm

from nnunet_assft import __version__
from nnunet_assft.evaluation.report.figures import CONTOURS, Plot
from nnunet_assft.evaluation.report.gathering import Material
from nnunet_assft.evaluation.report.sections import MAX_ROWS, Section, Table, headline, sections
from nnunet_assft.files import atomic_path, write_text

ASSETS = Path(__file__).parent / "assets"


def write_report(material: Material, file: Path) -> Path:
    """Writes `file`, and beside it the folder FILE_files with PNG and SVG of every figure and CSV of figures and tables."""
    found = sections(material)
    folder = file.with_name(f"{file.stem}_files")
    plots = [plot for section in found for plot in section.plots]
    for plot in tqdm(plots, desc="figures", unit="figure", leave=False):
        _write_plot(plot, folder)
    for table in (table for section in found for table in section.tables):
        _write_csv(folder / f"{table.name}.csv", table.data)
    write_text(file, render(material, found, folder.name))
    return file


def render(material: Material, found: list[Section], folder: str) -> str:
    """The whole page. folder: where its links to files lead."""
    environment = Environment(loader=FileSystemLoader(ASSETS), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"cell": _cell, "inline_svg": lambda plot: Markup(plot.inline_svg())}
    environment.tests["number_like"] = lambda value: isinstance(value, Real)
    labels = material.dataset.labels
    has_viewer = any(section.viewer for section in found)
    return environment.get_template("report.html").render(
        head=headline(material),
        sections=found,
        folder=folder,
        max_rows=MAX_ROWS,
        colours=_label_colours(labels),
        niivue=Markup(niivue()) if has_viewer else "",
        written=datetime.now().strftime("%Y-%m-%d %H:%M"),
        version=__version__,
    )


def niivue() -> str:
    """NiiVue's script, safe inside a script element."""
    return lzma.decompress((ASSETS / "niivue.umd.js.xz").read_bytes()).decode().replace("</script", "<\\/script")


def _label_colours(labels: dict[str, int]) -> dict[str, Any]:
    """What the viewer calls a label colour map: the same colours as in the overlays, in the order of the labels."""
    ordered = sorted(labels.items(), key=lambda item: item[1])
    colours = ["#000000", *(CONTOURS[i % len(CONTOURS)] for i in range(len(ordered) - 1))]
    channels = {channel: [int(colour[1 + 2 * i : 3 + 2 * i], 16) for colour in colours] for i, channel in enumerate("RGB")}
    return {**channels, "A": [0, *[255] * (len(ordered) - 1)], "I": [value for _, value in ordered], "labels": [name for name, _ in ordered]}


def _write_plot(plot: Plot, folder: Path) -> None:
    write_text(folder / f"{plot.name}.svg", plot.svg())
    with atomic_path(folder / f"{plot.name}.png") as partial:
        partial.write_bytes(plot.png())
    _write_csv(folder / f"{plot.name}.csv", plot.data)


def _write_csv(file: Path, data: pd.DataFrame) -> None:
    write_text(file, data.to_csv(index=False, lineterminator="\n"))


def _cell(value: Any) -> str:
    """Four digits are enough to read; the CSV holds all."""
    if isinstance(value, float) and value != value:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.4g}"
    return str(value)


"""The page and the folder beside it."""

from __future__ import annotations

import lzma
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from tqdm import tqdm

from nnunet_assft import __version__
from nnunet_assft.annotation.gate import structures
from nnunet_assft.comparison.tables import Cell
from nnunet_assft.report.material import Material
from nnunet_assft.report.plot import Plot, label_colour
from nnunet_assft.report.sections import MAX_ROWS, Section, Table, headline, sections
from nnunet_assft.runtime.files import atomic_path, write_text

ASSETS = Path(__file__).parent / "assets"
SUPERSCRIPTS = {"⁰": "0", "ⁱ": "i"}


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
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"columns": columns_of, "inline_svg": lambda plot: Markup(plot.inline_svg()), "text": _text}
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # the pre-segmentation comes first
    labels = material.dataset.labels
    has_viewer = any(section.viewer for section in found)
    return environment.get_template("report.html").render(
        head=headline(material),
        sections=found,
        folder=folder,
        max_rows=MAX_ROWS,
        colours=_label_colours(labels),
        legend=[(name, label_colour(value)) for name, value in structures(labels).items()],
        niivue=Markup(niivue()) if has_viewer else "",
        written=datetime.now().strftime("%Y-%m-%d %H:%M"),
        version=__version__,
    )


def niivue() -> str:
    """NiiVue's script, safe inside a script element."""
    text = lzma.decompress((ASSETS / "niivue.umd.js.xz").read_bytes()).decode()
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _label_colours(labels: dict[str, int]) -> dict[str, Any]:
    """What the viewer calls a label colour map: the same colours as in the overlays, in the order of the labels."""
    ordered = sorted(labels.items(), key=lambda item: item[1])
    colours = ["#000000", *(label_colour(value) for _, value in ordered[1:])]
    channels: dict[str, Any] = {
        channel: [int(c[1 + 2 * i : 3 + 2 * i], 16) for c in colours] for i, channel in enumerate("RGB")
    }
    channels |= {
        "A": [0, *[255] * (len(ordered) - 1)],
        "I": [value for _, value in ordered],
        "labels": [name for name, _ in ordered],
    }
    return channels


def _write_plot(plot: Plot, folder: Path) -> None:
    write_text(folder / f"{plot.name}.svg", plot.svg())
    with atomic_path(folder / f"{plot.name}.png") as partial:
        partial.write_bytes(plot.png())
    _write_csv(folder / f"{plot.name}.csv", plot.data)


def _write_csv(file: Path, data: pd.DataFrame) -> None:
    write_text(file, data.to_csv(index=False, lineterminator="\n"))


@dataclass(frozen=True)
class Column:
    """A column of a table as it is shown."""

    name: str
    cells: Sequence[str]
    number: bool


def columns_of(table: Table) -> list[Column]:
    """The cells as they are read: numbers of a column with the same decimals, enough for four digits of the largest; the CSV holds all."""
    columns = []
    for name in table.data:
        values = table.data[name]
        number = is_numeric_dtype(values) and not is_bool_dtype(values)
        cells = _numbers(values.to_numpy(dtype=float)) if number else [_shown(value) for value in values]
        columns.append(Column(str(name), cells, number))
    return columns


def _shown(value: object) -> str:
    """The best of a column is bold, the second best underlined."""
    style = {1: "<strong>{}</strong>", 2: "<u>{}</u>"}.get(value.rank, "{}") if isinstance(value, Cell) else "{}"
    return Markup(style).format(str(value))


def _numbers(values: np.ndarray) -> list[str]:
    known = values[np.isfinite(values)]
    whole = bool((known == np.round(known)).all())
    largest = np.abs(known).max(initial=1e-6)
    decimals = 0 if whole else int(max(0, 3 - np.floor(np.log10(largest))))
    return [f"{value:.{decimals}f}" if np.isfinite(value) else "–" for value in values]


def _text(text: str) -> Markup:
    """Escaped, with the superscripts of E set as such."""
    return Markup(re.sub("⁽(.)⁾", lambda found: f"<sup>({SUPERSCRIPTS[found[1]]})</sup>", str(escape(text))))

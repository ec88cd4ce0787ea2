"""Write the page of the report and the folder of files beside it."""

from __future__ import annotations

import lzma
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from tqdm import tqdm

from nnunet_assft import __version__
from nnunet_assft.comparison.printed_table import Cell
from nnunet_assft.report.material import Material
from nnunet_assft.report.plot import Plot, label_colour
from nnunet_assft.report.sections.base import MAX_ROWS, Section, SectionTable
from nnunet_assft.report.sections.head import Head, head
from nnunet_assft.report.sections.order import build_sections
from nnunet_assft.runtime.csv_files import write_csv_table
from nnunet_assft.runtime.files import write_bytes, write_text
from nnunet_assft.runtime.writable import require_file, require_folder
from nnunet_assft.volumes.raw_dataset import RawDataset

ASSETS = Path(__file__).parent / "assets"
SUPERSCRIPTS = {"⁰": "0", "ⁱ": "i"}


def write_report(material: Material, file: Path) -> Path:
    """Write the report of an experiment, of a comparison, or of both. Returns `file`."""
    require_file(file, "The report")
    return write_page(file, head(material), build_sections(material), material.dataset)


def write_page(file: Path, top: Head, sections: Sequence[Section], dataset: RawDataset) -> Path:
    """Write the page `file` and, beside it, the folder STEM_files with every figure as PNG and SVG and all numbers as
    CSV. STEM is the name of the file without its ending. Returns `file`."""
    folder = file.with_name(f"{file.stem}_files")
    require_file(file, "The report")
    require_folder(folder, "The folder of figures")
    plots = [plot for section in sections for plot in section.plots]
    for plot in tqdm(plots, desc="figures", unit="figure", leave=False):
        _write_plot(plot, folder)
    for table in (table for section in sections for table in section.tables):
        write_csv_table(folder / f"{table.name}.csv", table.data)
    write_text(file, render(top, sections, folder.name, dataset))
    return file


def render(top: Head, sections: Sequence[Section], folder: str, dataset: RawDataset) -> str:
    """Return the HTML of the page.

    folder: name of the folder of files that its links point to; if it is empty, the page has no links and no date.
    dataset: whose structures the viewer shows.
    """
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"columns": columns_of, "inline_svg": lambda plot: Markup(plot.inline_svg()), "text": _text}
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # the pre-segmentation comes first
    viewer_cases = [asdict(case) for section in sections for case in section.viewer]
    return environment.get_template("report.html").render(
        head=top,
        sections=sections,
        folder=folder,
        max_rows=MAX_ROWS,
        viewer_cases=viewer_cases,
        colours=_label_colours(dataset.labels),
        legend=[(name, label_colour(value)) for name, value in dataset.structures.items()],
        niivue=Markup(niivue()) if viewer_cases else "",
        written=datetime.now().strftime("%Y-%m-%d %H:%M"),
        version=__version__,
    )


def niivue() -> str:
    """Return NiiVue's script, escaped so that it can be part of a script element."""
    text = lzma.decompress((ASSETS / "niivue.umd.js.xz").read_bytes()).decode()
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _label_colours(labels: Mapping[str, int]) -> dict[str, list[int] | list[str]]:
    """Return NiiVue's colour map for labels, with the colours of the pictures, in the order of the labels' values."""
    ordered = sorted(labels.items(), key=lambda item: item[1])
    colours = ["#000000", *(label_colour(value) for _, value in ordered[1:])]
    rgb = {channel: [int(c[1 + 2 * i : 3 + 2 * i], 16) for c in colours] for i, channel in enumerate("RGB")}
    opaque = [0, *[255] * (len(ordered) - 1)]
    return {**rgb, "A": opaque, "I": [value for _, value in ordered], "labels": [name for name, _ in ordered]}


def _write_plot(plot: Plot, folder: Path) -> None:
    write_text(folder / f"{plot.name}.svg", plot.svg())
    write_bytes(folder / f"{plot.name}.png", plot.png())
    write_csv_table(folder / f"{plot.name}.csv", plot.data)


@dataclass(frozen=True)
class Column:
    """A column of a table as it is shown. title: its name on the page. number: whether it holds numbers."""

    name: str
    title: str
    cells: Sequence[str]
    number: bool


def columns_of(table: SectionTable) -> list[Column]:
    """Format the cells of a table. All numbers of a column have the same number of decimals, chosen so that the largest
    one has four significant digits; the CSV file has all digits."""
    columns = []
    for name, values in table.data.items():  # two columns may have the same name
        number = is_numeric_dtype(values) and not is_bool_dtype(values)
        cells = _numbers(values.to_numpy(dtype=float)) if number else [_shown(value) for value in values]
        title = table.names.get(str(name), str(name).replace("_", " "))
        columns.append(Column(str(name), title, cells, number))
    return columns


def _shown(value: object) -> str:
    """Return the text of a cell; the best of a column is bold, the second best underlined."""
    style = {1: "<strong>{}</strong>", 2: "<u>{}</u>"}.get(value.rank, "{}") if isinstance(value, Cell) else "{}"
    return Markup(style).format(_text(str(value)))


def _numbers(values: np.ndarray) -> list[str]:
    known = values[np.isfinite(values)]
    whole = bool((known == np.round(known)).all())
    largest = np.abs(known).max(initial=1e-6)
    decimals = 0 if whole else int(max(0, 3 - np.floor(np.log10(largest))))
    return [f"{value:.{decimals}f}" if np.isfinite(value) else "∞" if value == np.inf else "–" for value in values]


def _text(text: str) -> Markup:
    """Escape a text, and replace the superscripts of E by HTML elements."""
    return Markup(re.sub("⁽([⁰ⁱ])⁾", lambda match: f"<sup>({SUPERSCRIPTS[match[1]]})</sup>", str(escape(text))))

"""A table as it is printed: Markdown, LaTeX and CSV."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nnunet_assft.runtime.csv_files import write_csv_table
from nnunet_assft.runtime.files import write_text


@dataclass(frozen=True)
class Cell:
    """A cell as printed. rank: 1 for the best of its column (bold), 2 for the second best (underlined), otherwise 0."""

    text: str
    rank: int = 0

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Table:
    """A table to print. name: the stem of its files. frame: strings and `Cell`s; the first column names the row."""

    name: str
    title: str
    caption: str
    frame: pd.DataFrame


def write_table(folder: Path, table: Table) -> None:
    """Write NAME.csv, NAME.md and NAME.tex into `folder`. The LaTeX table needs no package."""
    write_csv_table(folder / f"{table.name}.csv", table.frame)
    write_text(folder / f"{table.name}.md", markdown(table))
    write_text(folder / f"{table.name}.tex", latex(table))


def _rank(value: object) -> int:
    return value.rank if isinstance(value, Cell) else 0


_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "|*_"})


def markdown(table: Table) -> str:
    """Return the table as Markdown for GitHub and mkdocs, with its caption above it."""
    style = {0: "{}", 1: "**{}**", 2: "<u>{}</u>"}
    rows = [
        [style[_rank(value)].format(str(value).translate(_MARKDOWN)) for value in row] for row in table.frame.values
    ]
    header = [column.translate(_MARKDOWN) for column in table.frame.columns]
    lines = [f"| {' | '.join(line)} |\n" for line in (header, ["---"] * len(header), *rows)]
    return table.caption.replace("*", "\\*") + "\n\n" + "".join(lines)


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": "$<$",
        ">": "$>$",
        "±": r"$\pm$",
        "†": r"$^{\dagger}$",
        "τ": r"$\tau$",
    }
)


def latex(table: Table) -> str:
    """Return the table as a LaTeX `table` environment."""
    style = {0: "", 1: "textbf:--rwrap", 2: "underline:--rwrap"}

    def escaped(value: object) -> str:
        return str(value).translate(_LATEX)

    names = list(table.frame.columns)  # two columns may have the same name, which pandas cannot style
    frame = table.frame.set_axis(range(len(names)), axis="columns")
    lines = [{"selector": f"{name}rule", "props": ":hline"} for name in ("top", "mid", "bottom")]
    styler = frame.style.hide(axis="index").format(escaped)
    styler = styler.format_index(lambda i: escaped(names[i]), axis="columns")
    styler = styler.apply(lambda column: [style[_rank(value)] for value in column]).set_table_styles(lines)
    return str(
        styler.to_latex(
            column_format="l" * len(names),
            position_float="centering",
            caption=escaped(table.caption),
            label=f"tab:{table.name}",
        )
    )

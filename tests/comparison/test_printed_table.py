"""A table as Markdown, LaTeX and CSV."""

import csv

import pandas as pd
import pytest

from nnunet_assft.comparison.printed_table import Cell, Table, write_table


@pytest.fixture
def written(tmp_path):
    frame = pd.DataFrame(
        {
            "Method": ["a_b & c", "High ASD (τ = 1)", "x|y"],
            "5 %": [Cell("80.00*† ± 1.00", 1), Cell("70.00 ± 1.00 (n = 3)", 2), "-"],
        }
    )
    write_table(tmp_path, Table("my_table", "Title", "Mean ± SD, 5 % of #1; *: p < 0.01 {x_y}.", frame))
    return tmp_path


def test_csv(written):
    with open(written / "my_table.csv", encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["Method", "5 %"],
            ["a_b & c", "80.00*† ± 1.00"],
            ["High ASD (τ = 1)", "70.00 ± 1.00 (n = 3)"],
            ["x|y", "-"],
        ]


def test_markdown(written):
    assert (written / "my_table.md").read_text(encoding="utf-8").splitlines() == [
        r"Mean ± SD, 5 % of #1; \*: p < 0.01 {x_y}.",
        "",
        "| Method | 5 % |",
        "| --- | --- |",
        r"| a\_b & c | **80.00\*† ± 1.00** |",
        "| High ASD (τ = 1) | <u>70.00 ± 1.00 (n = 3)</u> |",
        r"| x\|y | - |",
    ]


def test_latex(written):
    lines = (written / "my_table.tex").read_text(encoding="utf-8").splitlines()
    assert lines == [
        r"\begin{table}",
        r"\centering",
        r"\caption{Mean $\pm$ SD, 5 \% of \#1; *: p $<$ 0.01 \{x\_y\}.}",
        r"\label{tab:my_table}",
        r"\begin{tabular}{ll}",
        r"\hline",
        r"Method & 5 \% \\",
        r"\hline",
        r"a\_b \& c & \textbf{80.00*$^{\dagger}$ $\pm$ 1.00} \\",
        r"High ASD ($\tau$ = 1) & \underline{70.00 $\pm$ 1.00 (n = 3)} \\",
        r"x|y & - \\",
        r"\hline",
        r"\end{tabular}",
        r"\end{table}",
    ]

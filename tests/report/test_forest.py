"""Forest plots of a comparison: the numbers that are drawn, and what is said of them."""

from __future__ import annotations

import math

import pandas as pd

from nnunet_assft.comparison.attribution import COLUMNS
from nnunet_assft.comparison.statistics import COMPARISON_COLUMNS
from nnunet_assft.report.forest import attribution_forest, aubc_forest


def statistics(*rows: tuple[object, ...]) -> pd.DataFrame:
    names = ["arm", "round", "n_cases", "difference", "ci_low", "ci_high", "verdict"]
    return pd.DataFrame(rows, columns=names).assign(reference="assft").reindex(columns=COMPARISON_COLUMNS)


def test_aubc_forest_has_a_row_per_arm_that_can_be_compared() -> None:
    plot = aubc_forest(
        statistics(
            ("random", 1, 5, 0.5, 0.4, 0.6, ""),
            ("random", "AUBC", 5, 0.02, 0.01, 0.03, "better"),
            ("entropy", "AUBC", 5, -0.01, -0.03, 0.01, "no difference shown"),
            ("cup", "AUBC", 5, 0.005, math.nan, math.nan, "no difference shown"),
            ("nnunet", "AUBC", 0, math.nan, math.nan, math.nan, "no difference shown"),
        )
    )
    assert plot is not None
    assert list(plot.data["label"]) == ["RAND", "ENPY", "CUP"]
    assert list(plot.data["shown"]) == [True, False, False]
    assert plot.alt == "Forest plot, in points of Dice: RAND +2.0 (+1.0 to +3.0); ENPY -1.0 (-3.0 to +1.0); CUP +0.5."
    assert plot.title == "Differences of ASSFT"
    assert "Without an interval" in plot.caption


def test_a_forest_without_rows_is_no_plot() -> None:
    assert aubc_forest(statistics(("random", 1, 5, 0.5, 0.4, 0.6, ""))) is None
    assert attribution_forest(pd.DataFrame(columns=COLUMNS)) is None


def test_attribution_forest_shows_the_parts_and_the_whole() -> None:
    rows = [("query", 0.004, -0.01, 0.02, 5, 9, 3, ""), ("all together", 0.041, 0.02, 0.06, 5, 9, 3, "")]
    plot = attribution_forest(pd.DataFrame(rows, columns=COLUMNS))
    assert plot is not None
    assert plot.alt.endswith("query +0.4 (-1.0 to +2.0); all together +4.1 (+2.0 to +6.0).")
    assert "Without an interval" not in plot.caption

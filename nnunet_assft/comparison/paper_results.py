"""The numbers that the ASSFT paper prints in its Tables 1-8, and its names of the methods."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import pandas as pd


def paper_results() -> pd.DataFrame:
    """Return one row per printed number, with the columns table, domain, method, arm, round, budget, mean, sd and p.

    mean, sd: Dice in points (0-100); the paper does not state what the SD is taken over. p: p value of the
    Mann-Whitney U test of selected against unselected cases in Table 8, NaN elsewhere. The bounds, which the paper
    repeats in every row of Tables 1, 2, 3 and 5, have one row per table (Table 4 has none), with round 0 and the last
    round. In Tables 1-5 the paper marks every mean of ASSFT with p < 0.01.
    """
    with files("nnunet_assft.comparison").joinpath("paper_results.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, float_precision="round_trip")


@cache
def paper_names() -> dict[str, str]:
    """Return the id of an arm -> the name that the paper prints, in the order of its tables."""
    paper = paper_results()
    return dict(zip(paper["arm"], paper["method"], strict=True))


@cache
def paper_strategies() -> tuple[str, ...]:
    """Return the eleven strategies of Tables 1 to 5, in their order."""
    paper = paper_results()
    arms = paper.loc[paper["table"] == 4, "arm"]  # the table without bounds
    return tuple(dict.fromkeys(arms))

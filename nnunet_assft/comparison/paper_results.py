"""The numbers that the ASSFT paper prints in its Tables 1-8, and the names that it gives to what it compares."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import pandas as pd


def paper_results() -> pd.DataFrame:
    """One row per printed number: table, domain, method, arm, round, budget, mean, sd, p.

    mean, sd: Dice in points (0-100); what the SD is over is not stated in the paper. p: Mann-Whitney U of Table 8,
    selected against unselected; NaN elsewhere. The bounds, which the paper repeats in every row of Tables 1, 2, 3 and
    5, are there once per table (Table 4 has none), with round 0 and the last round. In Tables 1-5 the paper marks every
    mean of ASSFT with p < 0.01.
    """
    with files("nnunet_assft.comparison").joinpath("paper_results.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


@cache
def paper_names() -> dict[str, str]:
    """Id of an arm -> the name that the paper prints, in the order of its tables."""
    paper = paper_results()
    return dict(zip(paper["arm"], paper["method"], strict=True))


@cache
def paper_strategies() -> tuple[str, ...]:
    """The eleven strategies of Tables 1 to 5, in their order."""
    paper = paper_results()
    arms = paper.loc[paper["table"] == 4, "arm"]  # which has no bounds
    return tuple(dict.fromkeys(arms))

"""The numbers that the ASSFT paper prints in its Tables 1-8, and the names it gives to what it compares."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files

import pandas as pd

# arm -> name, in the order of the paper's tables; then what the paper does not have
ARM_NAMES = {
    "random": "RAND",
    "entropy": "ENPY",
    "least_confidence": "LCON",
    "margin": "MMAR",
    "coreset": "Core-set",
    "badge": "BADGE",
    "sann": "SANN",
    "ugtst": "UGTST",
    "cup": "CUP",
    "dkd_asd": "DKD+ASD",
    "assft": "ASSFT",
    "dkd_high": "High DKD",
    "dkd_low": "Low DKD",
    "asd_high_tau1": "High ASD (τ = 1)",
    "asd_low_tau1": "Low ASD (τ = 1)",
    "asd_high": "High ASD (τ(r))",
    "asd_low": "Low ASD (τ(r))",
    "nnunet": "nnU-Net",
    "nnunet_finetuned": "nnU-Net, fine-tuned",
    "lower_bound": "Lower bound",
    "upper_bound": "Upper bound",
}


def name_of(arm: str) -> str:
    """The name to print: the paper's where it has one; `nnunet@assft` is "nnU-Net (cases of ASSFT)"."""
    arm, _, cases_of = arm.partition("@")
    return ARM_NAMES.get(arm, arm) + (f" (cases of {name_of(cases_of)})" if cases_of else "")


def ordered(arms: Iterable[str]) -> list[str]:
    """Each arm once, in the order of the paper's tables; arms the paper does not have come last, as they come."""
    order = {arm: i for i, arm in enumerate(ARM_NAMES)}
    return sorted(dict.fromkeys(arms), key=lambda arm: order.get(arm.partition("@")[0], len(order)))


def paper_results() -> pd.DataFrame:
    """One row per printed number: table, domain, method, arm, round, budget, mean, sd, p.

    mean, sd: Dice in points (0-100); what the SD is over is not stated in the paper. p: Mann-Whitney U of Table 8, selected
    against unselected; NaN elsewhere. The bounds, which the paper repeats in every row of Tables 1, 2, 3 and 5, are there once
    per table (Table 4 has none), with round 0 and the last round. In Tables 1-5 the paper marks every mean of ASSFT with
    p < 0.01.
    """
    with files("nnunet_assft.comparison").joinpath("paper_results.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)

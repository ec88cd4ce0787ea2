"""Results of a made-up comparison, small enough to work by hand."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest

COLUMNS = ["arm", "seed", "round", "n_labelled", "case", "structure", "dice", "nsd", "hd95_mm"]


@pytest.fixture
def results_of() -> Callable[..., pd.DataFrame]:
    """Rows of results.csv from {(arm, seed, round): {case: Dice}}: one structure; n_labelled is 1 + 2 r; HD95 is 10 (1 - Dice)."""

    def build(runs: dict[tuple[str, int, int], dict[str, float]]) -> pd.DataFrame:
        rows = [
            (arm, seed, r, 0 if arm == "lower_bound" else 1 + 2 * r, case, "liver", dice, dice, 10 * (1 - dice))
            for (arm, seed, r), cases in runs.items()
            for case, dice in cases.items()
        ]
        return pd.DataFrame(rows, columns=COLUMNS)

    return build


@pytest.fixture
def results(results_of) -> pd.DataFrame:
    """Two seeds, rounds 0 to 2, test cases a, b, c. In rounds 1 and 2 ASSFT is better than random in a and b, equal in c, and
    better than nnU-Net everywhere; in round 0 ASSFT and random are the same."""
    start = {"a": 0.2, "b": 0.3, "c": 0.4}
    runs = {(arm, seed, 0): start for arm in ("assft", "random", "nnunet") for seed in (0, 1)}
    for seed, shift in ((0, 0.0), (1, 0.02)):
        runs |= {
            ("lower_bound", seed, 0): {"a": 0.0, "b": 0.01, "c": 0.02},
            ("assft", seed, 1): {"a": 0.62 + shift, "b": 0.74 + shift, "c": 0.80 + shift},
            ("random", seed, 1): {"a": 0.60, "b": 0.70, "c": 0.80 + 2 * shift - 0.02 * seed},
            ("nnunet", seed, 1): {"a": 0.50, "b": 0.55, "c": 0.60},
            ("assft", seed, 2): {"a": 0.72, "b": 0.84, "c": 0.90},
            ("random", seed, 2): {"a": 0.70, "b": 0.80, "c": 0.90},
            ("nnunet", seed, 2): {"a": 0.60, "b": 0.65, "c": 0.70},
            ("upper_bound", seed, 2): {"a": 0.90, "b": 0.92, "c": 0.94},
        }
    return results_of(runs)

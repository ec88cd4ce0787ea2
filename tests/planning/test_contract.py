from __future__ import annotations

from typing import Any

import pytest

from nnunet_assft.planning.contract import deviations, input_of

PLAN: dict[str, Any] = {
    "spacing": [3.0, 0.7421875, 0.7421875],
    "patch_size": [32, 64, 64],
    "normalization_schemes": ["PercentileZScoreNormalization", "PercentileZScoreNormalization"],
}


@pytest.mark.parametrize(
    ("contract", "found"),
    [
        ({}, []),
        ({"spacing": None, "patch_size": None}, []),
        ({"spacing": [3.0, 0.74, 0.74], "patch_size": (32, 64, 64), "channels": ["ct", "PET"]}, []),  # 0.3 % apart
        ({"spacing": [3.0, 0.75, 0.75]}, ["spacing 3 x 0.742 x 0.742 mm (3 x 0.75 x 0.75 mm)"]),  # 1.05 % apart
        ({"patch_size": [64, 64, 64]}, ["patch 32 x 64 x 64 (64 x 64 x 64)"]),
        ({"normalization": ["PercentileZScoreNormalization"]}, []),
        (
            {"normalization": ["CTNormalization", "ZScoreNormalization"], "channels": ["CT"]},
            [
                "normalization PercentileZScoreNormalization (CTNormalization, ZScoreNormalization)",
                "channels CT, PET (CT)",
            ],
        ),
    ],
)
def test_what_differs_from_the_training_of_the_weights(contract: dict[str, Any], found: list[str]) -> None:
    given = input_of(PLAN, {"channel_names": {"0": "CT", "1": "PET"}})
    assert deviations(contract, given) == found

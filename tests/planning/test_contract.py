from __future__ import annotations

from typing import Any

import pytest

from nnunet_assft.errors import AssftError
from nnunet_assft.network.presets import ENCODERS
from nnunet_assft.planning.contract import (
    deviations,
    input_of,
    normalised_as_trained,
    normalization_of,
    options_to_adopt,
)

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
        ({"n_channels": 2}, []),
        ({"patch_size": [64, 64, 64], "n_channels": 1}, ["patch 32 x 64 x 64 (64 x 64 x 64)", "2 channels (1)"]),
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


NUMBERS = {"mean": 40.0, "std": 80.0, "percentile_00_5": -100.0, "percentile_99_5": 300.0}


@pytest.mark.parametrize(
    ("contract", "schemes", "numbers"),
    [
        ({"normalization": ["ZScoreNormalization"] * 3}, ["ZScoreNormalization"] * 2, {}),  # the same for all
        (
            {"normalization": ["CTNormalization", "ZScoreNormalization"], "intensities": [NUMBERS, {"mean": 1.0}]},
            ["CTNormalization", "ZScoreNormalization"],
            {"0": NUMBERS, "1": {"mean": 1.0}},
        ),
        (
            ENCODERS["suprem_segresnet"].contract,  # HU -175 to 250 mapped to 0 to 1
            ["CTNormalization"] * 2,
            {channel: {"mean": -175, "std": 425, "percentile_00_5": -175, "percentile_99_5": 250} for channel in "01"},
        ),
    ],
)
def test_the_normalisation_of_the_weights_is_put_into_the_plans(
    contract: dict[str, Any], schemes: list[str], numbers: dict[str, Any]
) -> None:
    of_plans = {channel: {"mean": 0.0} for channel in "01"}
    plans = {"foreground_intensity_properties_per_channel": of_plans, "configurations": {"3d_fullres": PLAN}}
    changed = normalised_as_trained(plans, contract)
    assert changed["configurations"] == {"3d_fullres": {**PLAN, "normalization_schemes": schemes}}
    assert changed["foreground_intensity_properties_per_channel"] == {**of_plans, **numbers}
    assert plans["configurations"] == {"3d_fullres": PLAN}


@pytest.mark.parametrize(
    "contract",
    [
        {},
        {"normalization": ["CTNormalization"]},  # without its numbers
        {"normalization": ["ZScoreNormalization", "CTNormalization", "ZScoreNormalization"]},
        {"normalization": ["MyNormalization"]},
    ],
)
def test_a_normalisation_that_is_not_known_is_refused(contract: dict[str, Any]) -> None:
    with pytest.raises(AssftError, match=r"it is not known how to apply that to 2 channels\. Use prior_input=same"):
        normalization_of(contract, 2)


@pytest.mark.parametrize(
    ("contract", "options"),
    [
        ({}, []),
        ({"spacing": [3.0, 0.74, 0.74], "normalization": ["PercentileZScoreNormalization"]}, []),
        (
            {"spacing": [2.5, 1.0, 0.8], "patch_size": [96, 160, 192], "normalization": ["ZScoreNormalization"]},
            ["--spacing 0.8 2.5 1", "--patch_size 96 160 192", "--normalization zscore"],
        ),
        ({"normalization": ["CTNormalization"], "channels": ["CT"]}, []),  # there are no such options
    ],
)
def test_the_options_that_adopt_the_input_of_the_weights(contract: dict[str, Any], options: list[str]) -> None:
    given = input_of(PLAN, {"channel_names": {"0": "CT", "1": "PET"}})
    assert options_to_adopt(contract, given, [2, 0, 1]) == options  # the last axis of the plan is the first of the file

"""A model in the form of stock nnU-Net: the same numbers, by nnU-Net's own classes wherever it has them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.preprocessing.normalization.default_normalization_schemes import CTNormalization
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunet_assft import __version__
from nnunet_assft.active.experiment import read_plans
from nnunet_assft.handover.stock_model import requirements, stock_checkpoint, stock_dataset_json, stock_plans
from nnunet_assft.network.presets import PRESETS
from nnunet_assft.planning.normalization import CTFMNormalization
from tests.conftest import Trained


def plans_of(preset: str, scheme: str) -> dict[str, Any]:
    """Plans with two channels, as far as they are looked at."""
    configuration = {"normalization_schemes": [scheme] * 2, "architecture": PRESETS[preset].architecture}
    properties = {"0": {"mean": 7.0}, "1": {"mean": 8.0}}
    return {
        "plans_name": "nnUNetASSFTPlans",
        "configurations": {"3d_fullres": configuration},
        "foreground_intensity_properties_per_channel": properties,
        "assft": {"seed": 0},
    }


def test_the_window_of_ctfm_is_the_ct_normalisation_of_nnunet() -> None:
    plans = stock_plans(plans_of("resenc_tiny", "CTFMNormalization"))
    assert plans["configurations"]["3d_fullres"]["normalization_schemes"] == ["CTNormalization"] * 2
    image = np.random.default_rng(0).uniform(-3000, 4000, (7, 8, 9)).astype(np.float32)
    expected = CTFMNormalization(False, {}).run(image.copy())
    for channel in ("0", "1"):
        window = plans["foreground_intensity_properties_per_channel"][channel]
        np.testing.assert_array_equal(CTNormalization(False, window).run(image.copy()), expected)


@pytest.mark.parametrize(
    ("preset", "scheme", "needs_us"),
    [
        ("resenc_tiny", "CTFMNormalization", False),
        ("resenc_tiny", "ZScoreNormalization", False),
        ("resenc_tiny", "PercentileZScoreNormalization", True),
        ("tiny", "CTFMNormalization", True),
        ("tiny", "PercentileZScoreNormalization", True),
    ],
)
def test_what_the_receiver_needs(preset: str, scheme: str, needs_us: bool) -> None:
    plans = stock_plans(plans_of(preset, scheme))
    assert "assft" not in plans
    assert requirements(plans)[1:] == ([f"nnunet_assft {__version__}"] if needs_us else [])
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    network = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        2,
        3,
        deep_supervision=False,
    )
    expected = "CTFMSegmentationNet" if preset == "tiny" else "ResidualEncoderUNet"
    assert type(network).__name__ == expected


def test_nothing_of_the_cases_is_handed_over(trained: Trained) -> None:
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1},
        "file_ending": ".nii.gz",
        "numTraining": 90,
        "dataset": {"meier_hans": {"images": ["/data/x.nii.gz"], "label": "/data/y.nii.gz"}},
    }
    assert stock_dataset_json(content, 12) == {**{k: content[k] for k in list(content)[:3]}, "numTraining": 12}
    text = json.dumps(stock_plans(read_plans(trained.experiment)))
    assert "case_" not in text
    assert str(trained.root) not in text


def test_a_checkpoint_that_nnunet_reads(tmp_path: Any) -> None:
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}
    content = stock_checkpoint(weights, 3)
    assert content == stock_checkpoint({name: tensor.clone() for name, tensor in weights.items()}, 3)
    (tmp_path / "checkpoint_final.pth").write_bytes(content)
    checkpoint = torch.load(tmp_path / "checkpoint_final.pth", weights_only=True)
    assert checkpoint["trainer_name"] == "nnUNetTrainer"
    assert checkpoint["init_args"] == {"configuration": "3d_fullres", "fold": 3}
    assert torch.equal(checkpoint["network_weights"]["a"], weights["a"])

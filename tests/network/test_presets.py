"""The rows of nnU-Net's own networks, held against the classes of dynamic_network_architectures built by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

from nnunet_assft.network import ENCODERS, PRESETS, build_network, ctfm_preset

SIX_LEVELS = (32, 64, 128, 256, 320, 320)
# as nnU-Net builds its networks: conv_bias, norm_op, its arguments, no dropout, nonlin and its arguments
OF_NNUNET = (True, nn.InstanceNorm3d, {"eps": 1e-5, "affine": True}, None, None, nn.LeakyReLU, {"inplace": True})
OWN: dict[str, Callable[[], nn.Module]] = {
    "resenc_l": lambda: ResidualEncoderUNet(
        1, 6, SIX_LEVELS, nn.Conv3d, 3, (1, 2, 2, 2, 2, 2), (1, 3, 4, 6, 6, 6), 3, 1, *OF_NNUNET
    ),
    "plain": lambda: PlainConvUNet(1, 6, SIX_LEVELS, nn.Conv3d, 3, (1, 2, 2, 2, 2, 2), 2, 3, 2, *OF_NNUNET),
    "resenc_tiny": lambda: ResidualEncoderUNet(
        1, 4, (4, 16, 32, 64), nn.Conv3d, 3, (1, 2, 2, 2), (1, 1, 2, 2), 3, 1, *OF_NNUNET
    ),
}


@pytest.mark.parametrize("preset", OWN)
def test_a_row_is_the_network_of_the_library(preset: str) -> None:
    torch.manual_seed(0)
    theirs, ours = OWN[preset]().eval(), build_network(PRESETS[preset].architecture, 1, 3).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    image = torch.randn(1, 1, 64, 32, 32)  # 2 x 1 x 1 voxels are left after five strides
    with torch.inference_mode():
        expected, found = theirs(image), ours(image)
    assert expected.shape == (1, 3, 64, 32, 32)
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_medium_and_large_are_one_network_for_other_gpus() -> None:
    assert PRESETS["resenc_m"].architecture == PRESETS["resenc_l"].architecture
    assert (PRESETS["resenc_m"].memory_gb, PRESETS["resenc_l"].memory_gb) == (8, 24)


@pytest.mark.parametrize(("preset", "millions"), [("resenc_l", 102.4), ("plain", 31.2), ("resenc_tiny", 0.59)])
def test_a_row_of_nnunet_has_its_size(preset: str, millions: float) -> None:
    with torch.device("meta"):
        network = build_network(PRESETS[preset].architecture, 1, 14)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("preset", PRESETS)
def test_an_architecture_is_a_copy_in_json_types(preset: str) -> None:
    architecture = PRESETS[preset].architecture
    assert json.loads(json.dumps(architecture)) == architecture
    architecture["arch_kwargs"]["strides"][0][0] = 5
    architecture["_kw_requires_import"].append("nothing")
    assert PRESETS[preset].architecture["arch_kwargs"]["strides"][0] == [1, 1, 1]
    assert "nothing" not in PRESETS[preset].requires_import
    assert PRESETS[preset].description


def test_only_encoders_that_compute_the_same_function_take_the_weights() -> None:
    taken = {encoder: [name for name, preset in PRESETS.items() if encoder in preset.encoders] for encoder in ENCODERS}
    assert taken.pop("nnunet_assft") == []  # such a file says itself which preset it is of
    resenc = ["resenc_l", "resenc_m"]
    assert taken == {
        "ct_fm": ["ctfm", "ctfm_dec1224", "tiny"],
        "nnssl": [*resenc, "resenc_tiny"],
        "vista3d": ["vista3d"],
        "suprem_segresnet": ["suprem"],
        "vocomni": ["plain"],
        "triad": ["plain"],
        "nnunet": list(PRESETS),
    }
    same: dict[str, Any] = {"widths": (1, 1), "n_blocks": (1, 1), "n_blocks_decoder": (1,)}
    assert ctfm_preset("", **same).encoders == ["ct_fm", "nnunet"]
    assert ctfm_preset("", **same, norm="instance").encoders == ["vista3d", "nnunet"]
    assert ctfm_preset("", **same, norm="instance", block="postactivation").encoders == ["nnunet"]
    for name in ("vista3d", "suprem"):
        encoder, _ = PRESETS[name].encoders
        assert PRESETS[name].arguments["widths"] == ENCODERS[encoder].widths


@pytest.mark.parametrize(
    ("preset", "divisors", "patch", "nearest"),
    [
        ("ctfm", (16, 16, 16), (96, 160, 160), [96, 160, 160]),
        ("ctfm", (16, 16, 16), (7, 23, 24), [16, 16, 32]),
        ("tiny", (16, 16, 16), (48, 160, 224), [48, 160, 224]),
        ("vista3d", (16, 16, 16), (7, 23, 40), [32, 32, 48]),  # instance norm refuses a single voxel
        ("suprem", (8, 8, 8), (7, 19, 21), [8, 16, 24]),
        ("resenc_l", (32, 32, 32), (96, 192, 160), [96, 192, 160]),
        ("resenc_l", (32, 32, 32), (48, 160, 224), [64, 160, 224]),  # a half is rounded up
        ("plain", (32, 32, 32), (20, 79, 80), [64, 64, 96]),  # two voxels at least at the deepest level
        ("resenc_tiny", (8, 8, 8), (18, 26, 3), [16, 24, 16]),
    ],
)
def test_the_nearest_patch(preset: str, divisors: tuple[int, ...], patch: tuple[int, ...], nearest: list[int]) -> None:
    assert PRESETS[preset].divisors == divisors
    assert PRESETS[preset].nearest_patch(patch) == nearest

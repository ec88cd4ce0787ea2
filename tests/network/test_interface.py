"""What the package asks of a network holds for every row of the table."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnunet_assft.errors import AssftError
from nnunet_assft.network import PRESETS
from nnunet_assft.network.interface import (
    build_network,
    encoder_of,
    is_slow_alone,
    last_layer,
    layers_of_deep_supervision,
)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_row_has_the_interface(preset: str) -> None:
    row = PRESETS[preset]
    patch = row.nearest_patch((1, 1, 1))
    n_levels = len(row.arguments["strides"])
    with torch.device("meta"):
        network = build_network(row.architecture, 2, 3)
        image = torch.empty(2, 2, *patch)
        levels = encoder_of(network)(image)
        logits = network(image)
        network.decoder.deep_supervision = True
        all_logits = network(image)
    sizes = [tuple(edge // 2**level for edge in patch) for level in range(n_levels)]
    assert [tuple(level.shape[2:]) for level in levels] == sizes
    assert sizes[-1] == (row.smallest_bottleneck,) * 3
    assert logits.shape == (2, 3, *patch)
    assert [tuple(x.shape[1:]) for x in all_logits] == [(3, *size) for size in sizes[:-1]]
    assert last_layer(network).in_channels == levels[0].shape[1]
    assert last_layer(network).out_channels == 3
    assert len(layers_of_deep_supervision(network)) == n_levels - 2
    assert last_layer(network) not in layers_of_deep_supervision(network)


@pytest.mark.parametrize("preset", ["tiny", "resenc_tiny"])
def test_without_deep_supervision_the_other_layers_get_no_gradient(preset: str) -> None:
    network = build_network(PRESETS[preset].architecture, 1, 2, initialise=True)
    network(torch.randn(2, 1, 16, 16, 32)).square().mean().backward()
    without = [module for module in network.modules() if getattr(module, "weight", None) is not None]
    without = [module for module in without if module.weight.grad is None]
    assert set(without) == set(layers_of_deep_supervision(network))


@pytest.mark.parametrize(
    ("preset", "patch", "slow"),
    [
        ("tiny", (16, 320, 8), True),  # 4 x 16 x 320 = 20480
        ("tiny", (16, 321, 8), False),
        ("resenc_tiny", (16, 320, 8), True),
        ("resenc_tiny", (16, 321, 8), False),
        ("plain", (64, 64, 64), False),
    ],
)
def test_narrow_networks_are_slow_alone(preset: str, patch: tuple[int, ...], slow: bool) -> None:
    with torch.device("meta"):
        assert is_slow_alone(build_network(PRESETS[preset].architecture, 1, 2), patch) is slow


class WithoutDecoder(nn.Module):
    def __init__(self, input_channels: int, num_classes: int, deep_supervision: bool) -> None:
        super().__init__()
        self.encoder = nn.Conv3d(input_channels, num_classes, 1)


def test_a_class_without_the_interface_is_refused() -> None:
    architecture = {
        "network_class_name": f"{__name__}.WithoutDecoder",
        "arch_kwargs": {},
        "_kw_requires_import": [],
    }
    with pytest.raises(AssftError, match=r"WithoutDecoder has no decoder.seg_layers and no decoder.deep_supervision;"):
        build_network(architecture, 1, 2)

"""What this package asks of a network, whatever its class. The interface is that of nnU-Net's own networks:

    network.encoder                     image -> list of the outputs of its levels, the bottleneck last
    network.decoder.seg_layers          the last layer of each decoder level, deepest level first
    network.decoder.deep_supervision    whether the outputs of all levels are returned, or the finest alone; nnU-Net
                                        sets it

All layers exist whether or not there is deep supervision, so that one state dict serves training and prediction. The
plans name the class and its arguments, so that stock nnU-Net builds the network as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from nnunet_assft.errors import AssftError

# in exported plans in place of a network class, which is then the argument `network_class`; see `handover.receiver`
RECEIVER = "nnunet_assft.handover.receiver.build_network"


def build_network(
    architecture: Mapping[str, Any], input_channels: int, num_classes: int, *, initialise: bool = False
) -> nn.Module:
    """Build a network without deep supervision.

    architecture: the entry of this name in the plans, see `Preset.architecture`. initialise: whether the network draws
    its first weights as its class prescribes; not needed if weights are loaded. Raises `AssftError` for a class that
    lacks a part of the interface.
    """
    network: nn.Module = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        input_channels,
        num_classes,
        allow_init=initialise,
        deep_supervision=False,
    )
    decoder = getattr(network, "decoder", None)
    parts = {
        "encoder": hasattr(network, "encoder"),
        "decoder.seg_layers": hasattr(decoder, "seg_layers"),
        "decoder.deep_supervision": hasattr(decoder, "deep_supervision"),
    }
    if missing := [name for name, there in parts.items() if not there]:
        raise AssftError(
            f"The network {architecture['network_class_name']} has no {' and no '.join(missing)}; expected the "
            "interface of nnU-Net's networks. Use another preset, or add what is missing to the class."
        )
    return network


def encoder_of(network: Any) -> nn.Module:
    """Return the encoder: (B, channels, z, y, x) -> list of the outputs of its levels, the bottleneck last."""
    encoder: nn.Module = network.encoder
    return encoder


def last_layer(network: Any) -> nn.Module:
    """Return the layer that computes the logits, a 1x1x1 convolution: (B, F, z, y, x) -> (B, C, z, y, x)."""
    layer: nn.Module = network.decoder.seg_layers[-1]
    return layer


def layers_of_deep_supervision(network: Any) -> list[nn.Module]:
    """Return the last layers of the coarser levels, which without deep supervision get no gradient."""
    return list(network.decoder.seg_layers[:-1])


def names_of_tensors(encoder: nn.Module) -> list[list[str]]:
    """Return the keys of the state dict of an encoder, those of one tensor together: nnU-Net's classes keep each tensor
    under two names."""
    names: dict[int, list[str]] = {}
    for name, tensor in encoder.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return list(names.values())


def first_convolution(encoder: nn.Module) -> nn.Conv3d:
    """Return the convolution that the image goes through first."""
    return next(module for module in encoder.modules() if isinstance(module, nn.Conv3d))


def is_slow_alone(network: Any, patch_size: Sequence[int]) -> bool:
    """Return whether torch would take its slow loop for the first convolutions of a single window on a CPU.

    torch uses that loop for a single image of at most 20480 elements, not counting the last axis. A batch of two takes
    a third of the time. This concerns only narrow networks such as the preset `tiny`.
    """
    return first_convolution(encoder_of(network)).out_channels * math.prod(patch_size[:2]) <= 20480

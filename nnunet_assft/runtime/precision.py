"""Precision and memory layout on a GPU, which environment variables choose, as they choose what is compiled.

| variable | value | effect on CUDA |
|---|---|---|
| `nnUNet_assft_autocast` | `fp16` | mixed precision with float16 and a gradient scaler: nnU-Net's own, the default |
| | `bf16` | mixed precision with bfloat16, which needs no scaler |
| | `off` | float32 |
| `nnUNet_assft_channels_last` | `1` | networks have the memory layout `channels_last_3d` |
| `nnUNet_compile` | nnU-Net's | `f`: trainings are not compiled; `t`: scoring and prediction are compiled, too |

On other devices, none of them has an effect.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from nnunet_assft.runtime.environment import AUTOCAST, CHANNELS_LAST, choice

GPU = "cuda"  # the kind of device on which all this has an effect
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "off": torch.float32}


def autocast(device: torch.device) -> torch.autocast:
    """Return the context in which networks are called on a device."""
    dtype = DTYPES[choice(AUTOCAST)]
    enabled = device.type == GPU and dtype != torch.float32
    return torch.autocast(device.type, dtype if enabled else None, enabled=enabled)


@contextmanager
def nnunet_autocast() -> Iterator[None]:
    """Let nnU-Net's own autocasts, which name no type, use the chosen one in this context. In float32 they change
    nothing."""
    before = torch.get_autocast_dtype(GPU)
    torch.set_autocast_dtype(GPU, DTYPES[choice(AUTOCAST)])
    try:
        yield
    finally:
        torch.set_autocast_dtype(GPU, before)


def scales_gradients(device: torch.device) -> bool:
    """Return whether trainings on a device need a gradient scaler: float16 loses small gradients otherwise."""
    return device.type == GPU and DTYPES[choice(AUTOCAST)] == torch.float16


def lay_out(network: nn.Module, device: torch.device) -> None:
    """Give the weights of a network for a GPU the chosen memory layout, which its activations then take."""
    if device.type == GPU and choice(CHANNELS_LAST) == "1":
        network.to(memory_format=torch.channels_last_3d)


def compiles(device: torch.device) -> bool:
    """Return whether a network that scores or predicts is compiled: nnU-Net's predictor does it only if told to."""
    return device.type == GPU and os.environ.get("nnUNet_compile", "").lower() in ("true", "1", "t")


def precision_of(device: torch.device) -> str:
    """Return the precision in words: `fp32`, `fp16` or `bf16`, and the memory layout if it is not torch's own."""
    if device.type != GPU:
        return "fp32"
    layout = ", channels last" if choice(CHANNELS_LAST) == "1" else ""
    return choice(AUTOCAST).replace("off", "fp32") + layout


def identity(device: torch.device) -> dict[str, str]:
    """Return what distinguishes results of another precision than nnU-Net's own from these; empty for its own."""
    other = device.type == GPU and choice(AUTOCAST) != "fp16"
    return {"autocast": choice(AUTOCAST)} if other else {}

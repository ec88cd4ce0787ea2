"""The networks: CT-FM's encoder with a decoder, the presets, and strict loading of pre-trained encoders.

Importing the tables does not import torch. Names that need torch are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nnunet_assft.network.presets import (
    ENCODERS,
    PRESETS,
    EncoderSpec,
    Preset,
    ctfm_preset,
    plain_preset,
    residual_encoder_preset,
)

if TYPE_CHECKING:
    from nnunet_assft.network.architecture import CTFMSegmentationNet
    from nnunet_assft.network.interface import build_network
    from nnunet_assft.network.pretrained import load_pretrained_encoder
    from nnunet_assft.network.weight_files import EncoderReport, PretrainedEncoderError

__all__ = [
    "ENCODERS",
    "PRESETS",
    "CTFMSegmentationNet",
    "EncoderReport",
    "EncoderSpec",
    "Preset",
    "PretrainedEncoderError",
    "build_network",
    "ctfm_preset",
    "load_pretrained_encoder",
    "plain_preset",
    "residual_encoder_preset",
]

_WITH_TORCH = {
    "CTFMSegmentationNet": "architecture",
    "EncoderReport": "weight_files",
    "PretrainedEncoderError": "weight_files",
    "build_network": "interface",
    "load_pretrained_encoder": "pretrained",
}


def __getattr__(name: str) -> Any:
    if name in _WITH_TORCH:
        return getattr(import_module(f"nnunet_assft.network.{_WITH_TORCH[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

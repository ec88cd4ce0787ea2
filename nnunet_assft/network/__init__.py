"""The network: CT-FM's encoder with a symmetric decoder, its presets, and strict loading of pre-trained encoders."""

from nnunet_assft.network.architecture import PRESETS, CTFMSegmentationNet, Preset
from nnunet_assft.network.pretrained import (
    ENCODERS,
    EncoderReport,
    EncoderSpec,
    PretrainedEncoderError,
    load_pretrained_encoder,
)

__all__ = [
    "ENCODERS",
    "PRESETS",
    "CTFMSegmentationNet",
    "EncoderReport",
    "EncoderSpec",
    "Preset",
    "PretrainedEncoderError",
    "load_pretrained_encoder",
]

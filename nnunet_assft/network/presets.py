"""The tables of network presets and of known pre-trained encoders. This module does not import torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nnunet_assft.network.encoder_file import OWN
from nnunet_assft.runtime.tables import Table

BlockOrder = Literal["preactivation", "postactivation"]
NormName = Literal["batch", "instance"]


def level_strides(n_levels: int) -> list[list[int]]:
    """Return the strides of all levels, as nnU-Net's plans have them: 1 at the finest level, then 2 on every axis."""
    return [[1, 1, 1], *([2, 2, 2] for _ in range(n_levels - 1))]


def divisors_of(strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return what each axis of a patch must be divisible by, (z, y, x). strides: three numbers per level."""
    return tuple(math.prod(axis) for axis in zip(*strides, strict=True))


@dataclass(frozen=True)
class Preset:
    """A named network, and what planning has to know of it.

    network_class: dotted name of a class with the interface that `network.interface` describes. arguments: its keyword
    arguments besides input_channels, num_classes and deep_supervision, in JSON types. `strides` must be among them,
    with three numbers per level, finest level first. requires_import: the arguments that are dotted names of classes.
    smallest_bottleneck: how many voxels each axis of the deepest level needs at least. memory_gb: memory of the GPU for
    which nnU-Net plans the patch. patch_size: the patch of the network, None for one planned by nnU-Net. The patch of
    the domain, if it sets one, takes precedence over both.
    """

    description: str
    network_class: str
    arguments: Mapping[str, Any]
    requires_import: tuple[str, ...] = ()
    smallest_bottleneck: int = 1
    memory_gb: float = 8
    patch_size: tuple[int, ...] | None = None

    @property
    def architecture(self) -> dict[str, Any]:
        """The entry `architecture` of nnU-Net's plans: a copy, which may be changed."""
        arguments = json.loads(json.dumps(dict(self.arguments)))
        return {
            "network_class_name": self.network_class,
            "arch_kwargs": arguments,
            "_kw_requires_import": list(self.requires_import),
        }

    @property
    def divisors(self) -> tuple[int, ...]:
        """What each axis of a patch must be divisible by, (z, y, x): the product of its strides."""
        return divisors_of(self.arguments["strides"])

    @property
    def encoders(self) -> list[str]:
        """The rows of ENCODERS whose function the encoder computes, so that their files of equal widths are loaded."""
        name = self.network_class.rsplit(".", 1)[-1]
        return [row for row, spec in ENCODERS.items() if spec.fits(name, self.arguments)]

    def nearest_patch(self, patch_size: Sequence[int]) -> list[int]:
        """Return the patch size nearest to `patch_size`, (z, y, x), that the network can take."""
        return [
            divisor * max(self.smallest_bottleneck, int(edge / divisor + 0.5))
            for edge, divisor in zip(patch_size, self.divisors, strict=True)
        ]


# six parameters: those of the network
def ctfm_preset(
    description: str,
    *,
    widths: Sequence[int],
    n_blocks: Sequence[int],
    n_blocks_decoder: Sequence[int],
    norm: NormName = "batch",
    block: BlockOrder = "preactivation",
) -> Preset:
    """Return a preset of `CTFMSegmentationNet`, which explains the parameters."""
    return Preset(
        description,
        "nnunet_assft.network.CTFMSegmentationNet",
        {
            "widths": widths,
            "n_blocks": n_blocks,
            "n_blocks_decoder": n_blocks_decoder,
            "norm": norm,
            "block": block,
            "strides": level_strides(len(widths)),
        },
    )


def residual_encoder_preset(
    description: str, *, widths: Sequence[int], n_blocks: Sequence[int], memory_gb: float = 8
) -> Preset:
    """Return a preset of nnU-Net's ResidualEncoderUNet. n_blocks: residual blocks of the encoder per level."""
    return _nnunet_preset(
        description,
        "ResidualEncoderUNet",
        widths,
        {"n_blocks_per_stage": n_blocks, "n_conv_per_stage_decoder": [1] * (len(widths) - 1)},
        memory_gb,
    )


def plain_preset(description: str, *, widths: Sequence[int]) -> Preset:
    """Return a preset of nnU-Net's PlainConvUNet, with two convolutions per level in encoder and decoder."""
    convolutions = {"n_conv_per_stage": [2] * len(widths), "n_conv_per_stage_decoder": [2] * (len(widths) - 1)}
    return _nnunet_preset(description, "PlainConvUNet", widths, convolutions)


def _nnunet_preset(
    description: str, name: str, widths: Sequence[int], convolutions: Mapping[str, Sequence[int]], memory_gb: float = 8
) -> Preset:
    return Preset(
        description,
        f"dynamic_network_architectures.architectures.unet.{name}",
        {  # what nnU-Net plans for isotropic images
            "n_stages": len(widths),
            "features_per_stage": widths,
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * len(widths),
            "strides": level_strides(len(widths)),
            **convolutions,
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        ("conv_op", "norm_op", "dropout_op", "nonlin"),
        smallest_bottleneck=2,  # instance norm in training refuses a single voxel
        memory_gb=memory_gb,
    )


PRESETS: Table[Preset] = Table(
    "nnunet_assft.presets",
    Preset,
    {
        "ctfm": ctfm_preset(
            "CT-FM's own network, with one residual block per decoder level; accepts the CT-FM weights (default)",
            widths=(32, 64, 128, 256, 512),
            n_blocks=(1, 2, 2, 4, 4),
            n_blocks_decoder=(1, 1, 1, 1),
        ),
        "ctfm_dec1224": ctfm_preset(
            "CT-FM's encoder with the decoder printed in the ASSFT paper, of 4, 2, 2, 1 blocks from deepest to finest; "
            "accepts the CT-FM weights",
            widths=(32, 64, 128, 256, 512),
            n_blocks=(1, 2, 2, 4, 4),
            n_blocks_decoder=(4, 2, 2, 1),
        ),
        "assft_paper": ctfm_preset(
            "widths 32..1024 and block order exactly as printed in the ASSFT paper; starts at random, because CT-FM's "
            "weights have widths 32..512 and pre-activation blocks and do not fit",
            widths=(32, 64, 256, 512, 1024),
            n_blocks=(1, 2, 2, 4, 4),
            n_blocks_decoder=(4, 2, 2, 1),
            block="postactivation",
        ),
        "tiny": ctfm_preset(
            "a small network for a CPU, used by the demo and the tests; accepts only encoder files of its own widths",
            widths=(4, 16, 32, 64, 64),
            n_blocks=(1, 1, 2, 2, 2),
            n_blocks_decoder=(1, 1, 1, 1),
        ),
        "resenc_l": residual_encoder_preset(
            "nnU-Net's U-Net with a residual encoder of six levels; its patch is planned for a GPU of 24 GB",
            widths=(32, 64, 128, 256, 320, 320),
            n_blocks=(1, 3, 4, 6, 6, 6),
            memory_gb=24,
        ),
        "resenc_m": residual_encoder_preset(
            "the network of resenc_l; its patch is planned for a GPU of 8 GB",
            widths=(32, 64, 128, 256, 320, 320),
            n_blocks=(1, 3, 4, 6, 6, 6),
        ),
        "plain": plain_preset(
            "nnU-Net's default U-Net, with six levels of two convolutions", widths=(32, 64, 128, 256, 320, 320)
        ),
        "resenc_tiny": residual_encoder_preset(
            "a small network of the class of resenc_l for a CPU, used by the tests",
            widths=(4, 16, 32, 64),
            n_blocks=(1, 1, 2, 2),
        ),
    },
)


@dataclass(frozen=True)
class EncoderSpec:
    """A pre-trained encoder: the layout of its files, and the input that it expects.

    network_class, arguments: class, and some of its arguments, of the networks whose encoders compute its function.
    With others, weights of equal names and shapes would compute another one. width_of_level: key of a tensor with one
    value per feature map of a level, whose number stands in place of {}. hu_window: intensities are clipped to it, then
    mapped linearly to intensity_range. It, the range and the orientation are None if they differ between files.
    """

    source: str
    licence: str
    prefixes: tuple[str, ...]  # before the key names of the encoder, one per file layout
    ignored: tuple[str, ...]  # prefixes of keys in those files that are not part of the encoder
    widths: tuple[int, ...]  # feature maps per level of the released weights
    orientation: str | None  # direction of the axes (Z, Y, X)
    hu_window: tuple[float, float] | None
    intensity_range: tuple[float, float] | None
    network_class: str = "CTFMSegmentationNet"
    arguments: Mapping[str, Any] = field(default_factory=lambda: {"norm": "batch", "block": "preactivation"})
    width_of_level: str = "layers.{}.blocks.0.norm1.weight"

    def fits(self, network_class: str, arguments: Mapping[str, Any]) -> bool:
        """Return whether the encoder of a network computes its function, by class and arguments of the network."""
        return network_class == self.network_class and all(
            arguments.get(name) == value for name, value in self.arguments.items()
        )


ENCODERS: Table[EncoderSpec] = Table(
    "nnunet_assft.encoders",
    EncoderSpec,
    {
        "ct_fm": EncoderSpec(
            source="CT-FM (Pai et al., 2025): project-lighter/ct_fm_feature_extractor on the Hugging Face hub",
            licence="weights Apache-2.0, code MIT",
            # in the files of the feature extractor, the segmentation network and the Lightning checkpoint
            prefixes=("", "encoder.", "model.backbone."),
            ignored=("up_layers.", "decoder.", "model.projection_head."),
            widths=(32, 64, 128, 256, 512),
            orientation="SPL",
            hu_window=(-1024.0, 2048.0),
            intensity_range=(0.0, 1.0),
        ),
        "nnssl": EncoderSpec(
            source="nnssl (Wald et al., 2025): checkpoints of ResEnc L, pre-trained on OpenMind by MAE and others",
            licence="that of the checkpoint, CC BY 4.0 or CC BY-SA 4.0",
            prefixes=("encoder.", ""),
            ignored=("decoder.",),
            widths=(32, 64, 128, 256, 320, 320),
            orientation=None,
            hu_window=None,
            intensity_range=None,
            network_class="ResidualEncoderUNet",
            arguments={},
            width_of_level="stages.{}.blocks.0.conv1.norm.weight",
        ),
        OWN: EncoderSpec(
            source="nnUNetv2_assft_pretrain: the encoder of any preset, pre-trained on images of one's own",
            licence="its licence is that of the images",
            prefixes=("",),
            ignored=(),
            widths=(),
            orientation=None,
            hu_window=None,
            intensity_range=None,
            network_class="",  # that of the preset: these files are recognised by their header, not by their keys
            width_of_level="",
        ),
    },
)

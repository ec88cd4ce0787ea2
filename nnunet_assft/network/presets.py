"""The tables of network presets and of known pre-trained encoders. This module does not import torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nnunet_assft.network.encoder_file import OWN
from nnunet_assft.runtime.tables import Table

CT_NORMALIZATION = "CTNormalization"  # nnU-Net's, which needs the numbers of `EncoderSpec.contract`
NNUNET = "nnunet"  # the row of ENCODERS of checkpoints with plans of their own
HU = "HU "  # the beginning of a normalisation that a window describes
IMITATED = "files of this layout with random weights, no released one"  # what most rows of ENCODERS were tested on

BlockOrder = Literal["preactivation", "postactivation"]
NormName = Literal["batch", "instance", "group"]


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
        smallest_bottleneck=2 if norm == "instance" else 1,  # in training it refuses a single voxel
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
            "widths 32..1024 and block order exactly as printed in the ASSFT paper; CT-FM's weights do not fit, "
            "because they have widths 32..512 and pre-activation blocks",
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
        "vista3d": ctfm_preset(
            "CT-FM's network with the widths and the instance norm of VISTA3D, whose weights it accepts",
            widths=(48, 96, 192, 384, 768),
            n_blocks=(1, 2, 2, 4, 4),
            n_blocks_decoder=(1, 1, 1, 1),
            norm="instance",
        ),
        "suprem": ctfm_preset(
            "CT-FM's network with four levels and the group norm of SuPreM's SegResNet, whose weights it accepts",
            widths=(16, 32, 64, 128),
            n_blocks=(1, 2, 2, 4),
            n_blocks_decoder=(1, 1, 1),
            norm="group",
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

    source: who made it, and where its files are. domain: the images that it was trained on. tested: the files with
    which loading was tried.

    The layout. prefixes: what may stand before the key names of the encoder. ignored: beginnings of keys, after such a
    prefix if they have it, that are not part of the encoder. renamed: text in the keys of the files -> text in those of
    the network. marker: name of an entry that only these files have, beside the weights; "" if there is none.

    The network. network_classes, arguments: classes, and some of the arguments, of the networks whose encoders compute
    the same function. With others, weights of equal names and shapes would compute another one. widths: feature maps
    per level of the released weights. width_of_level: keys of a tensor with one value per feature map of a level, whose
    number stands in place of {}; one per class.

    The input; None for what differs between files or is not known. orientation: directions of the axes of an image, the
    first axis first. spacing: mm along these axes. hu_window: intensities are clipped to it, then mapped linearly to
    intensity_range. normalization: name of one of nnU-Net's schemes that gives this input.
    """

    source: str
    licence: str
    prefixes: tuple[str, ...]
    ignored: tuple[str, ...]
    widths: tuple[int, ...]
    orientation: str | None = None
    hu_window: tuple[float, float] | None = None
    intensity_range: tuple[float, float] | None = None
    spacing: tuple[float, ...] | None = None
    normalization: str | None = None
    domain: str = "not said"
    tested: str = "not said"
    network_classes: tuple[str, ...] = ("CTFMSegmentationNet",)
    arguments: Mapping[str, Any] = field(default_factory=lambda: {"norm": "batch", "block": "preactivation"})
    width_of_level: tuple[str, ...] = ("layers.{}.blocks.0.norm1.weight",)
    renamed: tuple[tuple[str, str], ...] = ()
    marker: str = ""

    def fits(self, network_class: str, arguments: Mapping[str, Any]) -> bool:
        """Return whether the encoder of a network computes its function, by class and arguments of the network."""
        return network_class in self.network_classes and all(
            arguments.get(name) == value for name, value in self.arguments.items()
        )

    @property
    def contract(self) -> dict[str, Any]:
        """The input that it expects, as far as it is known, in the form of `EncoderReport.contract`."""
        scheme, intensities = self.normalization, None
        if scheme is None and self.hu_window is not None and self.intensity_range is not None:
            (low, high), (lowest, highest) = self.hu_window, self.intensity_range
            scheme = f"{HU}{low:g} to {high:g} mapped to {lowest:g} to {highest:g}"
            scale = (high - low) / (highest - lowest)
            numbers = {"mean": low - lowest * scale, "std": scale, "percentile_00_5": low, "percentile_99_5": high}
            intensities = [numbers]  # clip to the percentiles, subtract the mean, divide by the SD
        known = {
            "spacing": self.spacing and list(self.spacing),
            "normalization": scheme and [scheme],
            "intensities": intensities,
        }
        return {name: value for name, value in known.items() if value}


# the names of MONAI's SegResNet, and those of CTFMSegmentationNet; both have one numbering per level
_SEGRESNET = (
    ("convInit.conv.", "conv_init."),
    *((f"down_layers.{level}.0.conv.", f"layers.{level - 1}.downsample.") for level in (1, 2, 3)),
    *(
        (f"down_layers.{level}.{block + 1}.", f"layers.{level}.blocks.{block}.")
        for level in range(4)
        for block in range(4)
    ),
    (".conv1.conv.", ".conv1."),
    (".conv2.conv.", ".conv2."),
)
_PLAIN_UNET: dict[str, Any] = {
    "prefixes": ("encoder.", ""),
    "ignored": ("decoder.",),
    "widths": (32, 64, 128, 256, 320, 320),
    "network_classes": ("PlainConvUNet",),
    "arguments": {},
    "width_of_level": ("stages.{}.0.convs.0.norm.weight",),
    "normalization": "ZScoreNormalization",
    "tested": IMITATED,
}

ENCODERS: Table[EncoderSpec] = Table(
    "nnunet_assft.encoders",
    EncoderSpec,
    {
        "ct_fm": EncoderSpec(
            source="CT-FM (Pai et al., 2025): project-lighter/ct_fm_feature_extractor on the Hugging Face hub",
            licence="weights Apache-2.0, code MIT",
            domain="CT of all regions",
            tested=IMITATED,
            # in the files of the feature extractor, the segmentation network and the Lightning checkpoint
            prefixes=("", "encoder.", "model.backbone."),
            ignored=("up_layers.", "decoder.", "model.projection_head."),
            widths=(32, 64, 128, 256, 512),
            orientation="SPL",
            spacing=(3.0, 1.0, 1.0),
            hu_window=(-1024.0, 2048.0),
            intensity_range=(0.0, 1.0),
            normalization="CTFMNormalization",
        ),
        "nnssl": EncoderSpec(
            source="nnssl (Wald et al., 2025): ResEnc L by MAE and others, of MIC-DKFZ on the Hugging Face hub",
            licence="that of the checkpoint, CC BY 4.0 or CC BY-SA 4.0",
            domain="MR of the head (OpenMind), CT and others, by checkpoint",
            tested=IMITATED,
            prefixes=("encoder.", "", "online_encoder."),
            ignored=("decoder.", "target_encoder."),
            widths=(32, 64, 128, 256, 320, 320),
            network_classes=("ResidualEncoderUNet",),
            arguments={},
            width_of_level=("stages.{}.blocks.0.conv1.norm.weight",),
            marker="nnssl_adaptation_plan",
        ),
        "vista3d": EncoderSpec(
            source="VISTA3D (He et al., 2024): model.pt, see Project-MONAI/VISTA on GitHub",
            licence="NVIDIA's, whose pages contradict each other about commercial use; read it",
            domain="CT of all regions",
            tested=IMITATED,
            prefixes=("image_encoder.encoder.", "encoder.", ""),
            ignored=("image_encoder.up_layers", "point_head.", "class_head."),
            widths=(48, 96, 192, 384, 768),
            orientation="RAS",
            spacing=(1.5, 1.5, 1.5),
            hu_window=(-963.82, 1053.68),
            intensity_range=(0.0, 1.0),
            arguments={"norm": "instance", "block": "preactivation"},
        ),
        "suprem_segresnet": EncoderSpec(
            source="SuPreM (Li et al., 2024): the SegResNet of MrGiovanni/SuPreM on GitHub",
            licence="CC BY-NC-ND 4.0 in the repository, another one on the hub; read both",
            domain="CT of the abdomen",
            tested=IMITATED,
            prefixes=("backbone.", ""),
            ignored=("up_", "conv_final."),
            widths=(16, 32, 64, 128),
            orientation="RAS",
            spacing=(1.5, 1.5, 1.5),
            hu_window=(-175.0, 250.0),
            intensity_range=(0.0, 1.0),
            arguments={"norm": "group", "block": "preactivation"},
            renamed=_SEGRESNET,
        ),
        "vocomni": EncoderSpec(
            source="VoCo (Wu et al., 2024): VoComni_nnunet.pt",
            licence="Apache-2.0 in the repository",
            domain="CT of all regions",
            **_PLAIN_UNET,
        ),
        "triad": EncoderSpec(
            source="Triad (Wang et al., 2025): its PlainConvUNet",
            licence="not stated",
            domain="MR",
            **_PLAIN_UNET,
        ),
        NNUNET: EncoderSpec(
            source="checkpoints of nnU-Net v2 and of experiments: TotalSegmentator, MultiTalent, your own",
            licence="that of the model",
            domain="that of the model",
            tested="small models that nnU-Net trained in a test, no published one",
            prefixes=("encoder.",),
            ignored=("decoder.",),
            widths=(32, 64, 128, 256, 320, 320),
            network_classes=("PlainConvUNet", "ResidualEncoderUNet", "CTFMSegmentationNet"),
            arguments={},
            width_of_level=(
                "stages.{}.0.convs.0.norm.weight",
                "stages.{}.blocks.0.conv1.norm.weight",
                "layers.{}.blocks.0.norm1.weight",
            ),
            marker="init_args",
        ),
        OWN: EncoderSpec(
            source="nnUNetv2_assft_pretrain: the encoder of any preset, pre-trained on your own images",
            licence="up to you, as the images are yours",
            domain="that of the images",
            tested="files that the command has written",
            prefixes=("",),
            ignored=(),
            widths=(),
            network_classes=(),  # the header of these files names the preset; they are not recognised by their keys
            width_of_level=(),
        ),
    },
)


def licence_of(encoder: str) -> str:
    """Return the licence of the files of a row of ENCODERS, which may be that of a package no longer installed."""
    row = ENCODERS.get(encoder)
    return row.licence if row else "that of another package"

"""The tables of network presets and of known pre-trained encoders. This module does not import torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nnunet_assft.runtime.tables import Table

BlockOrder = Literal["preactivation", "postactivation"]
NormName = Literal["batch", "instance"]


def level_strides(n_levels: int) -> list[list[int]]:
    """Return the strides of all levels, as nnU-Net's plans have them: 1 at the finest level, then 2 on every axis."""
    return [[1, 1, 1], *([2, 2, 2] for _ in range(n_levels - 1))]


@dataclass(frozen=True)
class Preset(Mapping[str, Any]):
    """A named architecture.

    As a mapping, it holds the keyword arguments of CTFMSegmentationNet in JSON types, as nnU-Net's plans store them:
    `CTFMSegmentationNet(1, 3, **PRESETS["tiny"])`.
    """

    description: str
    widths: tuple[int, ...]
    n_blocks: tuple[int, ...]
    n_blocks_decoder: tuple[int, ...]  # deepest first
    norm: NormName = "batch"
    block: BlockOrder = "preactivation"

    def _arguments(self) -> dict[str, Any]:
        return {
            "widths": list(self.widths),
            "n_blocks": list(self.n_blocks),
            "n_blocks_decoder": list(self.n_blocks_decoder),
            "norm": self.norm,
            "block": self.block,
            "strides": level_strides(len(self.widths)),
        }

    def __getitem__(self, name: str) -> Any:
        return self._arguments()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arguments())

    def __len__(self) -> int:
        return len(self._arguments())

    @property
    def accepts_pretrained_encoder(self) -> bool:
        """Whether the encoder computes the function of CT-FM, so that encoder files of equal widths can be loaded."""
        return self.norm == "batch" and self.block == "preactivation"


PRESETS: Table[Preset] = Table(
    "nnunet_assft.presets",
    Preset,
    {
        "ctfm": Preset(
            "CT-FM's own network, with one residual block per decoder level; accepts the CT-FM weights (default)",
            widths=(32, 64, 128, 256, 512),
            n_blocks=(1, 2, 2, 4, 4),
            n_blocks_decoder=(1, 1, 1, 1),
        ),
        "ctfm_dec1224": Preset(
            "CT-FM's encoder with the decoder printed in the ASSFT paper, of 4, 2, 2, 1 blocks from deepest to finest; "
            "accepts the CT-FM weights",
            widths=(32, 64, 128, 256, 512),
            n_blocks=(1, 2, 2, 4, 4),
            n_blocks_decoder=(4, 2, 2, 1),
        ),
        "assft_paper": Preset(
            "widths 32..1024 and block order exactly as printed in the ASSFT paper; starts at random, because CT-FM's "
            "weights have widths 32..512 and pre-activation blocks and do not fit",
            widths=(32, 64, 256, 512, 1024),
            n_blocks=(1, 2, 2, 4, 4),
            n_blocks_decoder=(4, 2, 2, 1),
            block="postactivation",
        ),
        "tiny": Preset(
            "a small network for a CPU, used by the demo and the tests; accepts only encoder files of its own widths",
            widths=(4, 16, 32, 64, 64),
            n_blocks=(1, 1, 2, 2, 2),
            n_blocks_decoder=(1, 1, 1, 1),
        ),
    },
)


@dataclass(frozen=True)
class EncoderSpec:
    """A pre-trained encoder: the layout of its files, and the input that it expects."""

    source: str
    licence: str
    prefixes: tuple[str, ...]  # before the key names of the encoder, one per file layout
    ignored: tuple[str, ...]  # prefixes of keys in those files that are not part of the encoder
    widths: tuple[int, ...]  # feature maps per level of the released weights
    orientation: str  # direction of the axes (Z, Y, X)
    hu_window: tuple[float, float]  # intensities are clipped to it, then mapped linearly to intensity_range
    intensity_range: tuple[float, float]


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
    },
)

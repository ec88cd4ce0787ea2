"""Masked auto-encoding: most blocks of a patch are hidden, and the network fills them in from what is left.

The recipe is that of He et al. (2022) in the form that is usual for 3D U-Nets: the hidden blocks are those of the
grid of the bottleneck, they are 0 in the input, and the error is the squared difference in the hidden voxels alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nnunet_assft.network.interface import build_network, encoder_of, last_layer, layers_of_deep_supervision
from nnunet_assft.network.presets import Preset
from nnunet_assft.pretraining.patches import Patches

HIDDEN = 0.75  # share of the blocks
EXAMPLES = ("image", "hidden", "inside", "reconstruction")
FEWEST_BLOCKS = 196  # of a patch, as in He et al.; in a small patch, blocks are smaller than voxels of the bottleneck


def block_size(patch_size: Sequence[int], divisors: Sequence[int]) -> tuple[int, ...]:
    """Return the edges of a block in voxels, (z, y, x): those of a voxel of the bottleneck, halved until there are
    FEWEST_BLOCKS. divisors: see `Preset.divisors`."""
    block = list(divisors)
    while math.prod(n // edge for n, edge in zip(patch_size, block, strict=True)) < FEWEST_BLOCKS and max(block) > 1:
        block = [max(1, edge // 2) for edge in block]
    return tuple(block)


def hidden_blocks(patch_size: Sequence[int], block: Sequence[int], rng: np.random.Generator) -> Tensor:
    """Draw HIDDEN of the blocks of a patch, and return (1, z, y, x) bool, True in their voxels."""
    grid = [n // edge for n, edge in zip(patch_size, block, strict=True)]
    n = math.prod(grid)
    blocks = np.zeros(n, bool)
    blocks[rng.permutation(n)[: round(HIDDEN * n)]] = True
    return torch.from_numpy(np.kron(blocks.reshape(grid), np.ones(block, bool)))[None]


def masked_error(predicted: Tensor, image: Tensor, where: Tensor) -> Tensor:
    """Return the mean squared difference over all channels of the voxels `where` of a patch, averaged over the patches.

    predicted, image: (B, C, z, y, x). where: (B, 1, z, y, x) bool. A patch without such voxels counts as 0.
    """
    squared = ((predicted.float() - image) ** 2 * where).flatten(1).sum(1)
    of_patch: Tensor = squared / (where.flatten(1).sum(1) * image.shape[1]).clamp(min=1)
    return of_patch.mean()


@dataclass(frozen=True)
class MaskedPatches(torch.utils.data.Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Item i: the image, (C, z, y, x); the hidden voxels, and those that are inside of an image, (1, z, y, x) bool."""

    patches: Patches
    block: tuple[int, ...]

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        patch = self.patches[number]
        rng = np.random.default_rng([self.patches.seed, number, 1])
        return patch.image, hidden_blocks(self.patches.patch_size, self.block, rng), patch.inside


def masked_patches(patches: Patches, preset: Preset) -> MaskedPatches:
    """Return the samples for a preset."""
    return MaskedPatches(patches, block_size(patches.patch_size, preset.divisors))


class MaskedAutoencoder(nn.Module):
    """The network of a preset with one output per channel.

    forward: a batch of `MaskedPatches` -> the error of its reconstruction.
    """

    def __init__(self, architecture: dict[str, Any], n_channels: int) -> None:
        super().__init__()
        self.network = build_network(architecture, n_channels, n_channels, initialise=True)
        for layer in layers_of_deep_supervision(self.network):
            layer.requires_grad_(False)  # they get no gradient
        for parameter in last_layer(self.network).parameters():
            nn.init.zeros_(parameter)  # so that it starts from the mean of a normalised image

    @property
    def encoder(self) -> nn.Module:
        return encoder_of(self.network)

    def forward(self, image: Tensor, hidden: Tensor, inside: Tensor) -> Tensor:
        return masked_error(self.reconstruct(image, hidden), image, hidden & inside)

    def reconstruct(self, image: Tensor, hidden: Tensor) -> Tensor:
        """Return the output of the network, (B, C, z, y, x), that is shown the voxels which are not hidden."""
        output: Tensor = self.network(image.masked_fill(hidden, 0))
        return output


def examples(module: MaskedAutoencoder, image: Tensor, hidden: Tensor, inside: Tensor) -> list[np.ndarray]:
    """Return the EXAMPLES of one patch, (z, y, x), of its first channel."""
    filled = torch.where(hidden, module.reconstruct(image, hidden), image)
    return [tensor[0, 0].cpu().numpy() for tensor in (image, hidden, inside, filled)]

"""Contrastive pre-training: two views of a crop are to have similar features, and other crops of the scan other ones.

The recipe is that of CT-FM (Pai et al., 2025), after SimCLR (Chen et al., 2020): the negatives of a view are both views
of the other crops of the same scan, so that the encoder learns where in the body a crop is, not from whom it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from nnunet_assft.network.interface import build_network, encoder_of
from nnunet_assft.network.presets import Preset
from nnunet_assft.pretraining.patches import Patches, cut
from nnunet_assft.runtime.seeding import seed_generators
from nnunet_assft.trainers.assft_trainers import intensity_augmentation, patch_to_cut, spatial_augmentation

CROPS = 15  # of a scan
TEMPERATURE = 0.1
WIDTHS = (256, 128)  # of the head, after the bottleneck
EXAMPLES = ("positive", "negative", "nearest")


def contrastive_loss(projected: Tensor) -> Tensor:
    """Return the mean cross-entropy with which a view finds the other view of its crop among all views of its scan.

    projected: (scans, crops, 2, d). The logits are cosines, divided by TEMPERATURE.
    """
    cosines = similarities(projected) / TEMPERATURE
    itself = torch.eye(cosines.shape[-1], dtype=torch.bool, device=cosines.device)
    cosines = cosines.masked_fill(itself, -torch.inf)
    loss: Tensor = F.cross_entropy(cosines.flatten(0, 1), other_view(cosines))
    return loss


def similarities(projected: Tensor) -> Tensor:
    """Return the cosines of all pairs of views of a scan, (scans, views, views). View 2 i + j is view j of crop i."""
    unit = F.normalize(projected.float().flatten(1, 2), dim=-1)
    return unit @ unit.transpose(1, 2)


def other_view(cosines: Tensor) -> Tensor:
    """Return the index of the other view of the same crop, for every view of every scan, (scans * views,)."""
    n_scans, n_views, _ = cosines.shape
    return (torch.arange(n_views, device=cosines.device) ^ 1).repeat(n_scans)


@dataclass(frozen=True)
class CropPairs(torch.utils.data.Dataset[tuple[Tensor]]):
    """Item i: two views of each of CROPS crops of a scan, (crops, 2, C, z, y, x). crop_size: (z, y, x)."""

    patches: Patches
    crop_size: tuple[int, ...]

    def __getitem__(self, number: int) -> tuple[Tensor]:
        seed = self.patches.seed
        rng = np.random.default_rng([seed, number])
        file = self.patches.files[rng.integers(len(self.patches.files))]
        size = [int(edge) for edge in patch_to_cut(self.crop_size)]
        crops = [cut(file, self.crop_size, size, rng).image for _ in range(CROPS)]
        views = [[self._view(crop, [seed, number, i, j]) for j in (0, 1)] for i, crop in enumerate(crops)]
        return (torch.stack([torch.stack(pair) for pair in views]),)

    def _view(self, crop: Tensor, seed: Sequence[int]) -> Tensor:
        """Return the crop as the trainer might show it to the network: rotated, scaled, mirrored, noisy, brighter."""
        seed_generators(seed)  # the transforms draw from the global generators
        view: Tensor = self._augmentation(
            image=crop.clone(), segmentation=torch.zeros_like(crop[:1], dtype=torch.int16)
        )["image"]
        return view.contiguous()

    @cached_property
    def _augmentation(self) -> ComposeTransforms:
        return ComposeTransforms([*spatial_augmentation(self.crop_size), *intensity_augmentation()])


class ContrastiveEncoder(nn.Module):
    """The encoder of a preset, and a head on the mean of its bottleneck.

    forward: a batch of `CropPairs` -> the loss.
    """

    def __init__(self, architecture: dict[str, Any], n_channels: int) -> None:
        super().__init__()
        self.encoder = encoder_of(build_network(architecture, n_channels, 2, initialise=True))
        *_, last = (layer for layer in self.encoder.modules() if isinstance(layer, nn.Conv3d))
        hidden, out = WIDTHS
        self.head = nn.Sequential(nn.Linear(last.out_channels, hidden), nn.ReLU(), nn.Linear(hidden, out))

    def forward(self, views: Tensor) -> Tensor:
        return contrastive_loss(self.project(views))

    def project(self, views: Tensor) -> Tensor:
        """Return the output of the head for each view, (scans, crops, 2, d). views: (scans, crops, 2, C, z, y, x)."""
        bottleneck = self.encoder(views.flatten(0, 2))[-1]
        projected: Tensor = self.head(bottleneck.mean(dim=(2, 3, 4))).unflatten(0, views.shape[:3])
        return projected


def crop_pairs(patches: Patches, preset: Preset) -> CropPairs:
    """Return the samples for a preset. The edges of a crop are half as long as those of a patch, rounded to what the
    network can take."""
    return CropPairs(patches, tuple(preset.nearest_patch([edge // 2 for edge in patches.patch_size])))


def examples(module: ContrastiveEncoder, views: Tensor) -> list[np.ndarray]:
    """Return the EXAMPLES of one scan: the cosines of its positive and of its negative pairs, and for each view whether
    the most similar one is the other view of its crop."""
    cosines = similarities(module.project(views))
    other, n = other_view(cosines), cosines.shape[-1]
    itself = torch.eye(n, dtype=torch.bool, device=cosines.device)
    is_pair = torch.zeros_like(itself)
    is_pair[torch.arange(n), other] = True
    upper = torch.ones_like(itself).triu(1)  # each pair once
    nearest = cosines[0].masked_fill(itself, -torch.inf).argmax(-1) == other
    found = (cosines[0][is_pair & upper], cosines[0][~is_pair & upper], nearest)
    return [values.cpu().numpy() for values in found]

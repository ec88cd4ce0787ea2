"""Patches of preprocessed images, as the trainer shows them to the network, each determined by the seed and its number.

So it does not matter which process makes a patch, and a training that is resumed sees the patches that it would have
seen without the interruption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import blosc2
import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from torch import Tensor

from nnunet_assft.runtime.seeding import seed_generators
from nnunet_assft.trainers.assft_trainers import patch_to_cut, spatial_augmentation


class Patch(NamedTuple):
    """image: (channels, z, y, x) float32. inside: (1, z, y, x) bool, False where there is no image behind a voxel."""

    image: Tensor
    inside: Tensor


@dataclass(frozen=True)
class Patches(torch.utils.data.Dataset[Patch]):
    """Draws patches.

    files: preprocessed images, each drawn with the same probability. patch_size: (z, y, x).
    """

    files: tuple[Path, ...]
    patch_size: tuple[int, ...]
    seed: int

    def __getitem__(self, number: int) -> Patch:
        """Return the patch with this number: from a random place, rotated, scaled and mirrored as in the trainer."""
        rng = np.random.default_rng([self.seed, number])
        file = self.files[rng.integers(len(self.files))]
        patch = cut(file, self.patch_size, [int(edge) for edge in patch_to_cut(self.patch_size)], rng)
        seed_generators([self.seed, number])  # the transforms draw from the global generators
        augmented = self._augmentation(image=patch.image, segmentation=patch.inside.to(torch.int16) - 1)
        return Patch(augmented["image"].contiguous(), (augmented["segmentation"] == 0).contiguous())

    @cached_property
    def _augmentation(self) -> ComposeTransforms:
        return ComposeTransforms(spatial_augmentation(self.patch_size))


def cut(file: Path, patch_size: Sequence[int], size: Sequence[int], rng: np.random.Generator) -> Patch:
    """Cut a patch of `size` out of an image at a random place. What is outside of the image is 0.

    Its centre of `patch_size` is inside of the image, or contains it where it is larger.
    """
    image = blosc2.open(urlpath=str(file), mode="r", dparams={"nthreads": 1}, mmap_mode="r")
    box, known = [], []
    for edge, inner, outer in zip(image.shape[1:], patch_size, size, strict=True):
        low, high = sorted((0, edge - inner))
        start = int(rng.integers(low, high, endpoint=True)) - (outer - inner) // 2
        box.append([start, start + outer])
        places = torch.arange(start, start + outer)
        known.append((places >= 0) & (places < edge))
    z, y, x = known
    inside = z[:, None, None] & y[:, None] & x
    return Patch(torch.from_numpy(crop_and_pad_nd(image, box, 0)).float(), inside[None])

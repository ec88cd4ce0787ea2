"""The table of the methods of pre-training: network and loss, what they are shown, and how they are optimised."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn
from torch.utils.data import Dataset

from nnunet_assft.network.presets import Preset
from nnunet_assft.pretraining import contrastive, masked
from nnunet_assft.pretraining.patches import Patches


def polynomial(epoch: int, epochs: int) -> float:
    """Return the share of the first learning rate in an epoch: a polynomial decay, as in the trainer."""
    return (1 - epoch / epochs) ** 0.9


def cosine_after_warm_up(epoch: int, epochs: int) -> float:
    """Return the share of the learning rate in an epoch: it rises for ten epochs, or a tenth of all, then falls."""
    warm_up = min(10, epochs // 10)
    if epoch < warm_up:
        return (epoch + 1) / (warm_up + 1)
    return (1 + math.cos(math.pi * (epoch - warm_up) / (epochs - warm_up))) / 2


@dataclass(frozen=True)
class Recipe:
    """One row of the table.

    module: class of the network, made of an architecture and a number of channels; it has an `encoder`, and returns the
    loss of a batch of samples. samples: makes them for a preset. weight_decay: of AdamW. rate: (epoch, epochs) -> share
    of the learning rate. examples: names of the arrays for the report, and take: makes those of one sample, as a batch.
    """

    module: Callable[[dict[str, Any], int], nn.Module]
    samples: Callable[[Patches, Preset], Dataset[Any]]
    weight_decay: float
    rate: Callable[[int, int], float]
    examples: tuple[str, ...]
    take: Callable[..., list[np.ndarray]]


RECIPES = {
    "mae": Recipe(
        module=masked.MaskedAutoencoder,
        samples=masked.masked_patches,
        weight_decay=3e-5,
        rate=polynomial,
        examples=masked.EXAMPLES,
        take=masked.examples,
    ),
    "contrastive": Recipe(
        module=contrastive.ContrastiveEncoder,
        samples=contrastive.crop_pairs,
        weight_decay=1e-6,
        rate=cosine_after_warm_up,
        examples=contrastive.EXAMPLES,
        take=contrastive.examples,
    ),
}

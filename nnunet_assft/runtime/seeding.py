"""Seeding of every generator that a training draws from."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch


def seed_generators(key: Sequence[int]) -> None:
    """Seed the global generators of Python, numpy and torch by a key of integers, each with another number."""
    words = np.random.SeedSequence(list(key)).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))  # noqa: NPY002 - nnU-Net and batchgenerators draw from the global generator
    torch.manual_seed(int(words[2]))

"""Views of a preprocessed image, (channels, z, y, x): mirror images, and copies with altered intensities."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform

MIRRORINGS = [
    axes for n in (1, 2, 3) for axes in itertools.combinations((1, 2, 3), n)
]  # with the image itself: 8 views
INTENSITY_VIEWS = 8
SHORTEST_AXIS = 4  # voxels; shorter axes are padded, because the blur reflects up to three voxels


def _noise_sd(image: torch.Tensor, *_: Any, **__: Any) -> float:
    return 0.05 * float(image.max() - image.min())


# The changes of HiLab-git/UGTST (code_oa/tools.py: intensity_augmentor) that batchgeneratorsv2 offers, each with its
# probability of 0.5. The ranges are the same, except that the SD of the blur starts at 0.1 instead of 0. An inverted
# image is inverted back after the gamma transform; the release leaves it inverted.
_INTENSITIES = ComposeTransforms(
    [
        RandomTransform(transform, apply_probability=0.5)
        for transform in (
            ContrastTransform((0.8, 1.2), preserve_range=True, synchronize_channels=True),
            GammaTransform(
                (0.7, 1.5), p_invert_image=0.5, synchronize_channels=True, p_per_channel=1, p_retain_stats=0
            ),
            GaussianBlurTransform((0.1, 1.0), synchronize_channels=True, synchronize_axes=True),
            GaussianNoiseTransform(_noise_sd, synchronize_channels=True),
        )
    ]
)


def intensity_views(image: np.ndarray, seed: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield INTENSITY_VIEWS copies of the image with random contrast, gamma, blur and noise, fixed by the seed."""
    for words in np.random.SeedSequence(seed).generate_state(2 * INTENSITY_VIEWS).reshape(-1, 2):
        copy = np.pad(image, [(0, 0), *((0, max(0, SHORTEST_AXIS - n)) for n in image.shape[1:])], mode="edge")
        with _global_generators(int(words[0]), int(words[1])):
            view = _INTENSITIES(image=torch.from_numpy(copy))["image"]
        yield view[tuple(slice(n) for n in image.shape)].numpy()


@contextmanager
def _global_generators(numpy_seed: int, torch_seed: int) -> Iterator[None]:
    """Seed the global generators, from which batchgeneratorsv2 draws, and restore their state afterwards."""
    state = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        np.random.seed(numpy_seed)  # noqa: NPY002
        torch.default_generator.manual_seed(torch_seed)  # torch.manual_seed would seed all GPUs too
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002

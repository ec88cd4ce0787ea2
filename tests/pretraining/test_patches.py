"""Patches: where they are cut, and that they depend on nothing but the seed and their number."""

from __future__ import annotations

from pathlib import Path

import blosc2
import numpy as np
import pytest
import torch

from nnunet_assft.pretraining.patches import Patches, cut


def write(file: Path, image: np.ndarray) -> Path:
    blosc2.asarray(image, urlpath=str(file), mode="w")
    return file


@pytest.fixture
def coordinates(tmp_path: Path) -> Path:
    """An image of 20 x 6 x 10 voxels whose three channels are the coordinates of each voxel, from 1 on."""
    grid = np.stack(np.meshgrid(*(np.arange(1, n + 1) for n in (20, 6, 10)), indexing="ij")).astype(np.float32)
    return write(tmp_path / "a.b2nd", grid)


def test_the_centre_of_a_patch_is_inside_of_the_image_or_contains_it(coordinates: Path) -> None:
    starts = set()
    for seed in range(60):
        patch = cut(coordinates, (8, 8, 8), (12, 12, 12), np.random.default_rng(seed))
        centre = patch.image[:, 2:10, 2:10, 2:10]
        z, y, x = (sorted({int(value) for value in channel[channel > 0]}) for channel in centre)
        assert z == list(range(z[0], z[0] + 8))  # eight neighbours of the twenty
        assert y == [1, 2, 3, 4, 5, 6]  # all
        assert x == list(range(x[0], x[0] + 8))
        assert torch.equal(patch.inside[0], patch.image[0] > 0)
        starts.add(z[0])
    assert starts == set(range(1, 14))  # every place is possible, those at the border as well


def test_a_patch_is_determined_by_seed_and_number(coordinates: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "b.b2nd", np.full((3, 9, 9, 9), 50, np.float32))
    patches = Patches((coordinates, other), (8, 8, 8), seed=3)
    drawn = [patches[number] for number in range(40)]
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - the global generator, from which the transforms draw
    again = Patches((coordinates, other), (8, 8, 8), seed=3)
    for number in (17, 3, 39, 0):
        assert torch.equal(again[number].image, drawn[number].image)
        assert torch.equal(again[number].inside, drawn[number].inside)
    of_first = [patch.image.numpy().tobytes() for patch in drawn if not (patch.image == 50).any()]
    assert len(set(of_first)) == len(of_first)
    assert not torch.equal(Patches((coordinates, other), (8, 8, 8), seed=4)[0].image, drawn[0].image)
    assert 8 < len(of_first) < 32  # each image is drawn as often as the other


def test_patches_are_rotated_and_mirrored_like_those_of_the_trainer(coordinates: Path) -> None:
    patches = Patches((coordinates,), (8, 8, 8), seed=0)
    drawn = [patches[number] for number in range(60)]
    down = [patch.image[0, :, 4, 4].diff() for patch in drawn if patch.inside[0, :, 4, 4].all()]
    assert any((step < -0.99).all() for step in down)
    assert any((step > 0.99).all() for step in down)
    assert any(((step % 1).abs() > 0.01).any() for step in down)  # rotated or scaled
    assert all(patch.image.shape == (3, 8, 8, 8) and patch.inside.shape == (1, 8, 8, 8) for patch in drawn)
    assert all(not patch.image[:, ~patch.inside[0]].abs().gt(25).any() for patch in drawn)

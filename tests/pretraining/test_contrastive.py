"""Contrastive pre-training: the loss by hand, which pairs are compared, and what the views of a crop are."""

from __future__ import annotations

from math import exp, log
from pathlib import Path

import blosc2
import numpy as np
import pytest
import torch

from nnunet_assft.network import PRESETS
from nnunet_assft.pretraining import contrastive
from nnunet_assft.pretraining.contrastive import (
    ContrastiveEncoder,
    contrastive_loss,
    crop_pairs,
    examples,
)
from nnunet_assft.pretraining.patches import Patches

# two crops with two views each, in the plane; the cosines are 0.6, 0, -1 and so on, whatever the lengths
FIRST = [[[2.0, 0.0], [3.0, 4.0]], [[0.0, 5.0], [-1.0, 0.0]]]
COSINES = {(0, 1): 0.6, (0, 2): 0.0, (0, 3): -1.0, (1, 2): 0.8, (1, 3): -0.6, (2, 3): 0.0}


def by_hand() -> float:
    """Minus the logarithm of the softmax at the other view of the crop, over the three other views of the scan."""
    cosine = {**COSINES, **{(b, a): value for (a, b), value in COSINES.items()}}
    losses = []
    for view, other in ((0, 1), (1, 0), (2, 3), (3, 2)):
        weights = {each: exp(cosine[view, each] / 0.1) for each in range(4) if each != view}
        losses.append(-log(weights[other] / sum(weights.values())))
    return sum(losses) / 4


def test_the_loss_by_hand() -> None:
    views = torch.tensor([FIRST])
    assert float(contrastive_loss(views)) == pytest.approx(by_hand(), rel=1e-5)
    # such as, for the second view, log(exp(6) + exp(8) + exp(-6)) - 6, because the third one is nearest to it
    assert by_hand() == pytest.approx((0.0025 + 2.1269 + 8.0007 + 0.0025) / 4, abs=1e-3)
    alike = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]]])
    assert float(contrastive_loss(alike)) == pytest.approx(log(1 + 2 * exp(-10)), rel=1e-3)
    same = torch.ones(1, 3, 2, 4)  # nothing can be told apart from the five other views
    assert float(contrastive_loss(same)) == pytest.approx(log(5))


def test_negatives_are_those_of_the_same_scan() -> None:
    one, other = torch.tensor([FIRST]), torch.randn(1, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    both = contrastive_loss(torch.cat([one, other]))
    assert float(both) == pytest.approx((float(contrastive_loss(one)) + float(contrastive_loss(other))) / 2, rel=1e-5)


@pytest.fixture
def patches(tmp_path: Path) -> Patches:
    """Two images of 40 x 36 x 48 voxels, whose two channels are their coordinates along the first two axes,
    far apart from those of the other image."""
    z, y, _ = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in (40, 36, 48)), indexing="ij")
    files = []
    for i in range(2):
        blosc2.asarray(np.stack([z, y]) + (100, 900)[i], urlpath=str(tmp_path / f"{i}.b2nd"), mode="w")
        files.append(tmp_path / f"{i}.b2nd")
    return Patches(tuple(files), (32, 32, 64), seed=3)


def test_crops_are_half_as_long_as_a_patch(patches: Patches) -> None:
    assert crop_pairs(patches, PRESETS["tiny"]).crop_size == (16, 16, 32)
    assert crop_pairs(patches, PRESETS["resenc_l"]).crop_size == (64, 64, 64)  # its smallest


def test_a_sample_is_two_views_of_crops_of_one_scan(patches: Patches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive, "CROPS", 4)
    samples = crop_pairs(patches, PRESETS["tiny"])
    drawn = [samples[number][0] for number in range(12)]
    assert {views.shape for views in drawn} == {(4, 2, 2, 16, 16, 32)}
    torch.manual_seed(99)
    assert torch.equal(samples[7][0], drawn[7])  # whatever was drawn before
    medians = torch.stack([views.flatten(3).median(-1).values for views in drawn])[..., 0]  # sample, crop, view
    of_second = medians.flatten(1) > 400
    assert set(of_second.sum(1).tolist()) == {0, 8}  # all crops of a sample are of one image
    apart = (medians[:, :, 0] - medians[:, :, 1]).abs().median()  # views of one crop, mostly unscaled
    of_crops = (medians[:, 0] - medians[:, 1]).abs().median()
    assert apart < 1 < of_crops
    assert not any(torch.equal(views[:, 0], views[:, 1]) for views in drawn)


def test_the_encoder_is_that_of_the_preset_and_learns(patches: Patches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive, "CROPS", 3)
    torch.manual_seed(0)
    module = ContrastiveEncoder(PRESETS["tiny"].architecture, 2)
    assert module.project(torch.zeros(1, 3, 2, 2, 16, 16, 16)).shape == (1, 3, 2, 128)
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3)
    samples = crop_pairs(patches, PRESETS["tiny"])
    losses = []
    for number in range(12):
        loss = module((samples[number][0][None] - 120) / 30)
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in module.parameters())  # as several GPUs need it
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-4:]) < np.mean(losses[:4])


def test_examples_are_the_pairs_of_a_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ContrastiveEncoder(PRESETS["tiny"].architecture, 1)
    monkeypatch.setattr(module, "project", lambda views: torch.tensor([FIRST]))
    positive, negative, nearest = examples(module, torch.empty(0))
    assert sorted(positive.tolist()) == pytest.approx([0, 0.6], abs=1e-6)
    assert sorted(negative.tolist()) == pytest.approx([-1, -0.6, 0, 0.8], abs=1e-6)
    assert nearest.tolist() == [True, False, False, True]

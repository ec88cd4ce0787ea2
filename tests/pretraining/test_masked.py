"""Masked auto-encoding: which voxels are hidden, and the error in them, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnunet_assft.network import PRESETS
from nnunet_assft.pretraining.masked import MaskedAutoencoder, block_size, hidden_blocks, masked_error


@pytest.mark.parametrize(
    ("patch", "divisors", "block"),
    [
        ((96, 160, 160), (16, 16, 16), (16, 16, 16)),  # 6 x 10 x 10 blocks
        ((128, 128, 128), (32, 32, 32), (16, 16, 16)),  # 64 blocks of 32 voxels are too few
        ((48, 64, 48), (16, 16, 16), (8, 8, 8)),  # 36 are too few, 6 x 8 x 6 are not
        ((32, 224, 224), (4, 32, 32), (4, 32, 32)),  # 8 x 7 x 7
        ((4, 4, 4), (4, 4, 4), (1, 1, 1)),  # there are no smaller blocks
    ],
)
def test_blocks_are_voxels_of_the_bottleneck_or_smaller(
    patch: tuple[int, ...], divisors: tuple[int, ...], block: tuple[int, ...]
) -> None:
    assert block_size(patch, divisors) == block


def test_three_quarters_of_the_blocks_are_hidden_as_a_whole() -> None:
    hidden = hidden_blocks((8, 12, 4), (4, 3, 2), np.random.default_rng(5)).numpy()
    assert hidden.shape == (1, 8, 12, 4)
    blocks = hidden[0].reshape(2, 4, 4, 3, 2, 2).transpose(0, 2, 4, 1, 3, 5).reshape(16, 24)
    assert sorted(blocks.sum(1)) == [0] * 4 + [24] * 12
    other = hidden_blocks((8, 12, 4), (4, 3, 2), np.random.default_rng(6)).numpy()
    assert (hidden != other).any()


def test_the_error_is_that_of_the_hidden_voxels_alone() -> None:
    image = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 5.0, 5.0]]).reshape(1, 2, 1, 1, 4)
    predicted = torch.tensor([[9.0, 2.5, 3.0, 1.0], [9.0, 2.0, 5.0, 6.0]]).reshape(1, 2, 1, 1, 4)
    where = torch.tensor([False, True, False, True]).reshape(1, 1, 1, 1, 4)
    # of the first channel 0.5^2 and 3^2, of the second one 2^2 and 1^2, over four values
    assert float(masked_error(predicted, image, where)) == (0.25 + 9 + 4 + 1) / 4
    assert float(masked_error(predicted, image, torch.zeros_like(where))) == 0
    one_channel = torch.cat([image, image])[:, :1], torch.cat([predicted, predicted])[:, :1]
    where = torch.cat([where, torch.tensor([False, True, True, False]).reshape(where.shape)])
    # each patch counts the same
    assert float(masked_error(*one_channel, where)) == ((0.25 + 9) / 2 + (0.25 + 0) / 2) / 2


def test_the_network_is_not_shown_what_is_hidden() -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(PRESETS["tiny"].architecture, 1).eval()
    last = model.network.decoder.seg_layers[-1]
    assert not last.weight.any()
    torch.nn.init.ones_(last.weight)
    image = torch.randn(1, 1, 16, 16, 16)
    hidden = hidden_blocks((16, 16, 16), (4, 4, 4), np.random.default_rng(0))[None]
    with torch.inference_mode():
        expected = model.reconstruct(image, hidden)
        assert torch.equal(model.reconstruct(torch.where(hidden, 77.0, image), hidden), expected)
        assert not torch.equal(model.reconstruct(torch.where(hidden, image, 77.0), hidden), expected)


def test_the_first_error_is_the_variance_of_what_is_hidden() -> None:
    """The last layer starts at zero."""
    model = MaskedAutoencoder(PRESETS["tiny"].architecture, 2)
    image = torch.randn(2, 2, 16, 16, 16)
    hidden, inside = (torch.rand(2, 1, 16, 16, 16) < 0.5 for _ in range(2))
    expected = [(patch[:, where[0]] ** 2).mean() for patch, where in zip(image, hidden & inside, strict=True)]
    assert model(image, hidden, inside).item() == pytest.approx(float(sum(expected)) / 2, rel=1e-5)

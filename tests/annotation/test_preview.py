"""The suggested slice, in images whose axes lie as they like, and the entropy behind it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_assft.active.scoring.voxel_statistics import entropy_map
from nnunet_assft.annotation.overlay import Overlay
from nnunet_assft.annotation.preview import Preview, describe
from nnunet_assft.volumes.segmentations import InFileAxes

LABELS = {"background": 0, "liver": 1, "spleen": 2}


def seen(mask: bool = True) -> Preview:
    """Voxels (z, y, x) of 3 x 4 x 5. The most uncertain plane across x is x = 3; the spleen is more uncertain than the
    liver."""
    entropy = np.full((3, 4, 5), 0.01)
    entropy[:, :, 3] = 0.5
    segmentation = np.zeros((3, 4, 5), np.uint8)
    segmentation[:, :2, 1], segmentation[:, :1, 3] = 1, 2
    return Preview(InFileAxes(segmentation), InFileAxes(entropy), InFileAxes(np.full((3, 4, 5), mask)))


def image(head: int) -> sitk.Image:
    """The first voxel axis runs towards the head (+1) or the feet (-1), 2 mm a step, from z = 100 mm."""
    volume = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32))
    volume.SetSpacing((2.0, 1.0, 3.0))
    volume.SetDirection((0, 1, 0, 0, 0, 1, head, 0, 0))
    volume.SetOrigin((0.0, 0.0, 100.0))
    return volume


@pytest.mark.parametrize(("head", "s_mm"), [(1, 106.0), (-1, 94.0)])
@pytest.mark.parametrize("mask", [True, False])
def test_the_slice_is_axial_wherever_the_axes_point(head: int, s_mm: float, mask: bool, tmp_path: Path) -> None:
    """Index 3 along x is number 4, 6 mm from the origin. Without any foreground the whole entropy decides."""
    found = describe(seen(mask), image(head), LABELS)
    assert (found["slice"], found["slice_axis"], found["slice_s_mm"]) == (4, "x", s_mm)
    assert found["volumes_ml"] == pytest.approx({"liver": 6 * 0.006, "spleen": 3 * 0.006})  # voxels of 6 mm3
    assert found["entropies"] == pytest.approx({"liver": 0.01, "spleen": 0.5})
    assert found["most_uncertain"] == "spleen"
    Overlay("case", seen(mask), image(head), LABELS, None, contours=True).save(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_a_model_that_finds_nothing_has_no_most_uncertain_structure() -> None:
    nothing = Preview(*(InFileAxes(np.zeros((3, 4, 5), dtype)) for dtype in (np.uint8, float, bool)))
    found = describe(nothing, image(1), LABELS)
    assert found["most_uncertain"] is None
    assert found["entropies"] == {}


def test_entropy_and_mask_worked_by_hand() -> None:
    """Voxel 0: (1/2, 1/2, 0), ln 2. Voxel 1: (0.6, 0.3, 0.1): foreground only if 0.6 / tau < 0.3."""
    p = torch.tensor([[0.5, 0.6], [0.5, 0.3], [1e-30, 0.1]])
    logits = p.log().reshape(3, 1, 1, 2)
    entropy, mask = entropy_map(logits, 2.5)
    assert entropy.flatten().tolist() == pytest.approx([0.6931472, 0.8979457], abs=1e-6)
    assert mask.flatten().tolist() == [True, True]
    assert entropy_map(logits, 1.5)[1].flatten().tolist() == [True, False]
    assert entropy.shape == mask.shape == (1, 1, 2)

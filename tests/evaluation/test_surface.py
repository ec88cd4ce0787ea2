"""NSD and HD95: worked by hand on cubes, lines and single voxels, and against MONAI and google-deepmind's
surface-distance.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nnunet_assft.evaluation.surface import hausdorff_distance_95, normalized_surface_distance, surface_distances

SPACINGS = [(1.0, 1.0, 1.0), (5.0, 0.7, 0.7), (0.5, 2.0, 1.25)]


def box(shape, *ranges) -> np.ndarray:
    """A mask that is true in the box of (start, stop) per axis."""
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*r) for r in ranges)] = True
    return mask


def both(reference, prediction, spacing, tolerance=1.0):
    distances = surface_distances(reference, prediction, spacing)
    return normalized_surface_distance(distances, tolerance), hausdorff_distance_95(distances)


CUBE = box((9, 8, 8), (2, 6), (2, 6), (2, 6))  # 64 voxels, 56 of them on the surface
SHIFTED = box((9, 8, 8), (3, 7), (2, 6), (2, 6))


def test_a_cube_against_itself_shifted_by_one_voxel():
    # Of the 56: the lower face (16) is 1 off the lower face of the other cube; of the upper face the ring (12) lies on
    # a side of the other cube and the inner 4 are 1 off; the two rings between (24) lie on its sides. The other way
    # round it is the same.
    for distances in surface_distances(CUBE, SHIFTED, (1, 1, 1)):
        assert sorted(distances) == [0.0] * 36 + [1.0] * 20
    assert both(CUBE, SHIFTED, (1, 1, 1), 0.5) == (pytest.approx(36 / 56), 1.0)
    assert both(CUBE, SHIFTED, (1, 1, 1), 1.0) == (1.0, 1.0)  # a distance equal to the tolerance is within


def test_spacing_is_of_the_axes_of_the_array():
    for distances in surface_distances(CUBE, SHIFTED, (2.5, 1, 1)):
        assert (
            sorted(distances) == [0.0] * 36 + [1.0] * 4 + [2.5] * 16
        )  # the inner 4 are nearer to the ring beside them
    assert both(CUBE, SHIFTED, (2.5, 1, 1)) == (pytest.approx(40 / 56), 2.5)
    assert both(CUBE, SHIFTED, (1, 2.5, 2.5)) == (1.0, 1.0)


def test_hd95_is_the_larger_directed_percentile_interpolated():
    line, end = box((1, 1, 25), (0, 1), (0, 1), (2, 22)), box((1, 1, 25), (0, 1), (0, 1), (2, 3))
    # From the line to its end: 0, 1, ..., 19, whose 95th percentile is at position 0.95 * 19. From the end: 0.
    assert both(line, end, (1, 1, 1))[1] == both(end, line, (1, 1, 1))[1] == pytest.approx(18.05)  # pooled: 18.0
    assert both(line, end, (1, 1, 1))[0] == pytest.approx((2 + 1) / 21)  # of the 20 and the 1: within 1 mm


def test_one_voxel_each():
    a, b = np.zeros((5, 6, 7), bool), np.zeros((5, 6, 7), bool)
    a[1, 1, 1] = b[2, 3, 4] = True
    distance = math.hypot(1 * 2.0, 2 * 0.5, 3 * 1.0)
    assert both(a, b, (2.0, 0.5, 1.0)) == (0.0, pytest.approx(distance))
    assert both(a, b, (2.0, 0.5, 1.0), distance + 1e-9)[0] == 1.0
    assert both(a, a, (2.0, 0.5, 1.0)) == (1.0, 0.0)


def test_outside_of_the_image_is_background():
    whole = np.ones((4, 4, 4), bool)
    to_itself = surface_distances(whole, whole, (1, 1, 1))
    assert [len(d) for d in to_itself] == [56, 56]  # the voxels at the border of the image are its surface
    assert hausdorff_distance_95(to_itself) == 0.0
    touching, moved = CUBE[2:, 2:, 2:], SHIFTED[2:, 2:, 2:]  # at the border of the image
    for at_border, inside in zip(
        surface_distances(touching, moved, (3, 1, 2)), surface_distances(CUBE, SHIFTED, (3, 1, 2)), strict=True
    ):
        np.testing.assert_array_equal(at_border, inside)


def test_the_inside_of_a_mask_is_no_surface():
    hole = CUBE.copy()
    hole[3:5, 3:5, 3:5] = False  # now every voxel of the cube is beside background
    to_solid, from_solid = surface_distances(hole, CUBE, (1, 1, 1))
    assert len(to_solid) == len(from_solid) == 56
    thick = box((9, 9, 9), (1, 8), (1, 8), (1, 8))
    hole = thick.copy()
    hole[4, 4, 4] = False
    to_solid, from_solid = surface_distances(hole, thick, (1, 1, 1))
    assert len(to_solid) - len(from_solid) == 6  # the 6 neighbours of the hole, each 3 - 1 from the outer surface
    assert sorted(to_solid)[-6:] == [2.0] * 6


@pytest.mark.parametrize("tolerance", [0.0, 1.0])
def test_absent_structures(tolerance):
    nothing = np.zeros_like(CUBE)
    assert all(math.isnan(value) for value in both(nothing, nothing, (1, 1, 1), tolerance))
    assert both(CUBE, nothing, (1, 1, 1), tolerance) == (0.0, math.inf)
    assert both(nothing, CUBE, (1, 1, 1), tolerance) == (0.0, math.inf)
    to_nothing, from_nothing = surface_distances(CUBE, nothing, (1, 1, 1))
    assert to_nothing.tolist() == [math.inf] * 56
    assert from_nothing.size == 0


def test_two_dimensions():
    square, shifted = box((6, 6), (1, 4), (1, 4)), box((6, 6), (1, 4), (2, 5))
    # 8 of 9 pixels are contour; the column of 3 that is not shared is 1 off, and so is the inner pixel of the last one.
    assert sorted(surface_distances(square, shifted, (1, 1))[0]) == [0.0] * 4 + [1.0] * 4


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match="uint8"):
        surface_distances(CUBE.astype(np.uint8), CUBE, (1, 1, 1))
    with pytest.raises(ValueError, match=r"\(8, 8, 8\)"):
        surface_distances(CUBE[:8], CUBE, (1, 1, 1))
    for spacing in ((1, 1), (1, 0, 1), (1, math.nan, 1)):
        with pytest.raises(ValueError, match="3 positive lengths"):
            surface_distances(CUBE, CUBE, spacing)


def blob(seed: int, shape=(24, 30, 28), *, smooth=3.0) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), smooth)
    return noise > np.quantile(noise, 0.8)  # touches the border of the image


def near(mask: np.ndarray, seed: int) -> np.ndarray:
    """A mask whose surface is a little off."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=mask.shape), 2)
    return ndimage.gaussian_filter(mask.astype(float), 1) + 2 * noise > 0.5


masks = st.integers(0, 2**31).map(lambda seed: np.random.default_rng(seed).random((3, 4, 5)) < 0.3)


@settings(max_examples=60, deadline=None)
@given(masks, masks, st.sampled_from(SPACINGS))
def test_distances_are_those_of_all_pairs_of_surface_voxels(a, b, spacing):
    def surface(mask):
        padded = np.pad(mask, 1)
        beside = [np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1] for axis in range(3) for step in (1, -1)]
        return np.argwhere(mask & ~np.logical_and.reduce(beside)) * spacing

    a_points, b_points = surface(a), surface(b)
    pairs = np.linalg.norm(a_points[:, None] - b_points[None], axis=-1)
    to_b, to_a = surface_distances(a, b, spacing)
    np.testing.assert_allclose(to_b, pairs.min(axis=1, initial=math.inf), rtol=1e-12)
    np.testing.assert_allclose(to_a, pairs.min(axis=0, initial=math.inf), rtol=1e-12)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_monai_agrees(spacing):
    metrics = pytest.importorskip("monai.metrics")
    import torch

    one_voxel = box((24, 30, 28), (5, 6), (0, 1), (9, 10))
    for seed in range(4):
        reference = blob(seed)
        for prediction in (near(reference, seed + 100), blob(seed + 200), one_voxel):
            batch = [torch.from_numpy(mask)[None, None] for mask in (prediction, reference)]
            options = {"include_background": True, "spacing": spacing}
            nsd, hd95 = both(reference, prediction, spacing, 1.5)
            assert nsd == pytest.approx(float(metrics.compute_surface_dice(*batch, [1.5], **options)), abs=1e-6)
            assert hd95 == pytest.approx(
                float(metrics.compute_hausdorff_distance(*batch, percentile=95, **options)), rel=1e-5
            )


@pytest.mark.parametrize("spacing", SPACINGS)
def test_deepmind_agrees_up_to_its_areas(spacing):
    oracle = pytest.importorskip("surface_distance")
    for seed in range(4):
        reference = blob(seed)
        prediction = near(reference, seed + 100)
        distances = oracle.compute_surface_distances(reference, prediction, spacing)
        nsd, hd95 = both(reference, prediction, spacing, 2 * max(spacing))
        assert nsd == pytest.approx(oracle.compute_surface_dice_at_tolerance(distances, 2 * max(spacing)), abs=0.01)
        assert hd95 == pytest.approx(oracle.compute_robust_hausdorff(distances, 95), abs=np.linalg.norm(spacing) / 2)


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_deepmind_has_the_same_hd95_of_a_shifted_slab(shift):
    oracle = pytest.importorskip("surface_distance")
    slab, shifted = (box((20, 16, 16), (start, start + 6), (2, 14), (2, 14)) for start in (4, 4 + shift))
    theirs = oracle.compute_robust_hausdorff(oracle.compute_surface_distances(slab, shifted, (2.0, 0.5, 0.5)), 95)
    ours = both(slab, shifted, (2.0, 0.5, 0.5))[1]
    assert ours == pytest.approx(theirs)

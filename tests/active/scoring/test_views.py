"""Views of an image: the same for the same seed, whatever else draws random numbers, and without a trace."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform

from nnunet_assft.active.scoring.views import INTENSITY_VIEWS, MIRRORINGS, intensity_views


@pytest.fixture
def image() -> np.ndarray:
    """Two channels, of different size along every axis."""
    return np.random.default_rng(0).normal(size=(2, 9, 10, 11)).astype(np.float32)


def global_state() -> tuple:
    name, keys, *position = np.random.get_state()  # noqa: NPY002
    return name, keys.tobytes(), position, torch.get_rng_state().tolist()


def test_mirrorings_are_the_seven_subsets_of_the_axes_but_the_empty_one():
    assert sorted(MIRRORINGS) == [(1,), (1, 2), (1, 2, 3), (1, 3), (2,), (2, 3), (3,)]


def test_eight_finite_views_of_the_same_kind(image: np.ndarray):
    views = list(intensity_views(image, (0, 1)))
    assert len(views) == INTENSITY_VIEWS == 8
    for view in views:
        assert (view.shape, view.dtype) == (image.shape, np.float32)
        assert np.isfinite(view).all()
        assert not np.shares_memory(view, image)


def test_the_image_is_left_alone(image: np.ndarray):
    before = image.copy()
    for view in intensity_views(image, (0, 1)):
        view[:] = 0
        np.testing.assert_array_equal(image, before)


def test_each_view_draws_its_own_changes(image: np.ndarray):
    """Each of four changes is applied to half of the views, so that about one in sixteen is the image itself."""
    views = [view for seed in range(8) for view in intensity_views(image, (seed, 1))]
    changed = [view for view in views if not np.array_equal(view, image)]
    assert 50 <= len(changed) < len(views) == 64
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(changed, 2))


def test_same_seed_same_views_and_other_seed_other_views(image: np.ndarray):
    first = np.stack(list(intensity_views(image, (0, 1))))
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    np.testing.assert_array_equal(np.stack(list(intensity_views(image, (0, 1)))), first)
    for other in [(0, 2), (1, 1), (1, 0)]:
        assert not np.array_equal(np.stack(list(intensity_views(image, other))), first)


def test_views_do_not_depend_on_what_is_drawn_while_they_are_used(image: np.ndarray):
    undisturbed = list(intensity_views(image, (0, 1)))
    for view, expected in zip(intensity_views(image, (0, 1)), undisturbed, strict=True):
        np.testing.assert_array_equal(view, expected)
        np.random.random(7)  # noqa: NPY002
        torch.rand(7)


@pytest.mark.parametrize(
    "use", [list, next, lambda views: (next(views), views.close())], ids=["all", "one", "one and close"]
)
def test_global_generators_are_put_back(image: np.ndarray, use: Callable):
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(4)
    before = global_state()
    use(intensity_views(image, (0, 1)))
    assert global_state() == before


def test_global_generators_are_put_back_after_a_failure(image: np.ndarray):
    before = global_state()
    with pytest.raises(RuntimeError):
        list(intensity_views(image.astype(np.int64), (0, 1)))  # no intensities to change
    assert global_state() == before


@pytest.mark.parametrize("noise", [True, False])
def test_only_noise_leaves_the_range_of_the_image(image: np.ndarray, monkeypatch: pytest.MonkeyPatch, noise: bool):
    """Contrast keeps the range, gamma maps it onto itself, blur averages; noise has an SD of 5 % of it."""
    if not noise:
        monkeypatch.setattr(GaussianNoiseTransform, "_apply_to_image", lambda self, img, **_: img)
    image *= 10
    views = np.stack([view for seed in range(4) for view in intensity_views(image, (seed,))])
    size = image.max() - image.min()
    below, above = image.min() - views.min(), views.max() - image.max()
    if noise:
        assert 0.05 * size < max(below, above) < 0.3 * size
    else:
        assert max(below, above) < 1e-5 * size


def test_views_of_a_constant_image_are_that_image():
    for view in intensity_views(np.full((1, 8, 8, 8), 2.5, np.float32), (0,)):
        np.testing.assert_allclose(view, 2.5, rtol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_an_image_of_few_slices_has_views(n):
    image = np.random.default_rng(0).normal(size=(1, n, 16, 16)).astype(np.float32)
    assert len([view for seed in range(8) for view in intensity_views(image, (seed,))]) == 64


def test_global_generators_are_as_they_were_while_a_view_is_used():
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 8)).astype(np.float32)
    before = str(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002
    for _ in intensity_views(image, (0, 1)):
        assert str(np.random.get_state()) == before[0]  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), before[1])

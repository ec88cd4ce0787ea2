from __future__ import annotations

import numpy as np
import pytest

from nnunet_assft.planning.normalization import CTFMNormalization, PercentileZScoreNormalization


def normalise(cls: type, image: np.ndarray) -> np.ndarray:
    return cls(use_mask_for_norm=False, intensityproperties={}).run(image.copy(), np.zeros(image.shape, np.int8))


def test_percentile_zscore_worked_by_hand():
    # 0, 1, ..., 20: the 5th percentile is 1, the 95th is 19. Clipped: 1 1 2 3 ... 18 19 19, mean 10,
    # variance (2 * (2 * 81 + 64 + 49 + 36 + 25 + 16 + 9 + 4 + 1)) / 21 = 732 / 21
    image = np.arange(21, dtype=np.float32).reshape(3, 7, 1)
    result = normalise(PercentileZScoreNormalization, image).ravel()
    sd = np.sqrt(732 / 21)
    np.testing.assert_allclose(result[[0, 1, 2, 10, 19, 20]], np.array([-9, -9, -8, 0, 9, 9]) / sd, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_percentile_zscore_is_the_literal_formula(scale: float):
    image = (np.random.default_rng(0).gamma(2.0, 1.0, (17, 23, 19)) * scale).astype(np.float32)
    x = image.astype(np.float64)
    clipped = np.clip(x, np.percentile(x, 5), np.percentile(x, 95))
    expected = (clipped - clipped.mean()) / clipped.std()
    result = normalise(PercentileZScoreNormalization, image)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=2e-6)


def test_percentile_zscore_does_not_depend_on_the_scanner_scale():
    image = np.random.default_rng(1).normal(size=(9, 11, 13)).astype(np.float32)
    first, second = (normalise(PercentileZScoreNormalization, x) for x in (image, image * 250 + 1000))
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_percentile_zscore_is_not_moved_by_five_percent_of_outliers():
    image = np.random.default_rng(2).normal(size=(10, 10, 10)).astype(np.float32)
    order = np.argsort(image.ravel())
    spoilt = image.copy()
    spoilt.ravel()[order[-40:]] = 1e6
    np.testing.assert_array_equal(*(normalise(PercentileZScoreNormalization, x) for x in (image, spoilt)))


@pytest.mark.parametrize("value", [0.0, -1024.0, 0.1, 1e6 + 0.3, 3e-30])
def test_a_constant_volume_becomes_zeros(value: float):
    result = normalise(PercentileZScoreNormalization, np.full((5, 6, 7), value, np.float32))
    np.testing.assert_array_equal(result, np.zeros((5, 6, 7)))


def test_no_label_has_a_say_in_it():
    image = np.random.default_rng(3).normal(size=(6, 6, 6)).astype(np.float32)
    labels = (np.zeros((6, 6, 6)), np.random.default_rng(4).integers(-1, 5, (6, 6, 6)), None)
    for cls in (PercentileZScoreNormalization, CTFMNormalization):
        results = [cls(use_mask_for_norm=False, intensityproperties={}).run(image.copy(), label) for label in labels]
        np.testing.assert_array_equal(results[0], results[1])
        np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize(
    ("hu", "expected"),
    [(-1024, 0.0), (-3000, 0.0), (2048, 1.0), (3071, 1.0), (512, 0.5), (50, 1074 / 3072), (0, 1 / 3)],
)
def test_ctfm_window(hu: int, expected: float):
    result = normalise(CTFMNormalization, np.full((2, 2, 2), hu, np.int16))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-7)

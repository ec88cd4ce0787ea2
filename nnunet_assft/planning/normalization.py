"""Intensity normalisation of the paper, per volume and channel, and of CT-FM's pre-training.

nnU-Net calls `run` once per channel after cropping to the nonzero region and before resampling, so that
percentiles, mean and SD are those of the cropped volume.

nnU-Net preprocesses in spawned workers, which do not import this package. They always receive a pickled
`ConfigurationManager`. Registering with `copyreg` how it is rebuilt makes each worker import this module, and with it
our schemes.
"""

from __future__ import annotations

import copyreg

import numpy as np
from nnunetv2.preprocessing.normalization import default_normalization_schemes
from nnunetv2.preprocessing.normalization.default_normalization_schemes import ImageNormalization
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from nnunet_assft.nnunet_names import known_to

CTFM_WINDOW_HU = (-1024.0, 2048.0)


@known_to(default_normalization_schemes)
class PercentileZScoreNormalization(ImageNormalization):
    """Clip at the 5th and 95th percentile of the volume, then z-score (paper, section 4.1).

    It uses neither other cases nor labels. A constant volume becomes zeros.
    """

    leaves_pixels_outside_mask_at_zero_if_use_mask_for_norm_is_true = False

    def run(self, image: np.ndarray, seg: np.ndarray | None = None) -> np.ndarray:
        """Return one channel of a cropped volume, (z, y, x), normalised. seg is not used."""
        image = image.astype(self.target_dtype, copy=False)
        low, high = np.percentile(image, (5.0, 95.0))
        np.clip(image, low, high, out=image)
        # float64: in float32 the mean of 1e8 voxels loses digits
        mean, std = image.mean(dtype=np.float64), image.std(dtype=np.float64)
        image -= np.float32(mean)
        image /= np.float32(max(std, 1e-8))
        return image


@known_to(default_normalization_schemes)
class CTFMNormalization(ImageNormalization):
    """Scale CT as in CT-FM's pre-training: (clip(HU, -1024, 2048) + 1024) / 3072. Only for CT in Hounsfield units."""

    leaves_pixels_outside_mask_at_zero_if_use_mask_for_norm_is_true = False

    def run(self, image: np.ndarray, seg: np.ndarray | None = None) -> np.ndarray:
        """Return one channel of a cropped volume, (z, y, x), scaled to [0, 1]. seg is not used."""
        low, high = CTFM_WINDOW_HU
        image = image.astype(self.target_dtype, copy=False)
        np.clip(image, low, high, out=image)
        image -= low
        image /= high - low
        return image


def configuration_manager(configuration: dict) -> ConfigurationManager:
    """Rebuild a pickled `ConfigurationManager`. Unpickling imports this module first."""
    return ConfigurationManager(configuration)


copyreg.pickle(ConfigurationManager, lambda manager: (configuration_manager, (manager.configuration,)))

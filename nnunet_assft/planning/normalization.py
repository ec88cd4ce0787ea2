"""Intensity normalisation: the paper's (per volume and channel) and that of CT-FM's pretraining.

nnU-Net calls `run` once per channel after cropping to the nonzero region and before resampling, so percentiles, mean
and SD are those of the cropped volume.

nnU-Net preprocesses in spawned workers, which import nothing of ours. What they are always sent is a
`ConfigurationManager`; declaring with `copyreg` how to rebuild it makes the worker import this module, and with it our
schemes.
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

    Reads nothing of other cases and nothing of labels. A constant volume becomes zeros.
    """

    leaves_pixels_outside_mask_at_zero_if_use_mask_for_norm_is_true = False

    def run(self, image: np.ndarray, seg: np.ndarray | None = None) -> np.ndarray:
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
    """(clip(HU, -1024, 2048) + 1024) / 3072: the input of CT-FM's pretraining. For CT in Hounsfield units only."""

    leaves_pixels_outside_mask_at_zero_if_use_mask_for_norm_is_true = False

    def run(self, image: np.ndarray, seg: np.ndarray | None = None) -> np.ndarray:
        low, high = CTFM_WINDOW_HU
        image = image.astype(self.target_dtype, copy=False)
        np.clip(image, low, high, out=image)
        image -= low
        image /= high - low
        return image


def configuration_manager(configuration: dict) -> ConfigurationManager:
    """What a pickled `ConfigurationManager` is rebuilt with: as it was, in a process that has imported this module."""
    return ConfigurationManager(configuration)


copyreg.pickle(ConfigurationManager, lambda manager: (configuration_manager, (manager.configuration,)))

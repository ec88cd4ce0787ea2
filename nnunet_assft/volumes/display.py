"""How grey values of images are displayed."""

from __future__ import annotations

import numpy as np

from nnunet_assft.volumes.raw_dataset import RawDataset

CT_WINDOW = (-160.0, 240.0)  # HU: soft tissue
PERCENTILES = (1, 99)  # of images that have no window
FITS = 0.8  # a window is used if more than this share of the voxels of interest lies inside it


def window_of(dataset: RawDataset) -> tuple[float, float] | None:
    """Return the window for the first channel of a dataset: that of soft tissue for CT, otherwise None."""
    return CT_WINDOW if str(dataset.dataset_json["channel_names"].get("0", "")).upper() == "CT" else None


def grey_range(
    image: np.ndarray, window: tuple[float, float] | None, foreground: np.ndarray | None = None
) -> tuple[float, float]:
    """Return the values that are shown as black and as white.

    foreground: mask of the region of interest. The window is used if most of the foreground, or of the image if there
    is no foreground, lies inside it. Otherwise, for example for an MR image whose channel is named CT, the percentiles
    of the image are used.
    """
    inside = image[foreground] if foreground is not None and foreground.any() else image
    if window is not None and ((inside > window[0]) & (inside < window[1])).mean() > FITS:
        return window
    low, high = np.percentile(image, PERCENTILES)
    return float(low), float(high)

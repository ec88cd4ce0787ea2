"""Grey values as they are shown to people."""

from __future__ import annotations

import numpy as np

from nnunet_assft.volumes.raw_dataset import RawDataset

CT_WINDOW = (-160.0, 240.0)  # HU: soft tissue
PERCENTILES = (1, 99)  # of images that have no window
FITS = 0.8  # share of the voxels of interest that must lie inside a window


def window_of(dataset: RawDataset) -> tuple[float, float] | None:
    """The window for the first channel of a dataset: that of soft tissue if the channel is named CT, otherwise None."""
    return CT_WINDOW if str(dataset.dataset_json["channel_names"].get("0", "")).upper() == "CT" else None


def grey_range(
    image: np.ndarray, window: tuple[float, float] | None, foreground: np.ndarray | None = None
) -> tuple[float, float]:
    """The values that are shown as black and as white.

    foreground: mask of what people look at. The window is taken if most of the foreground lies inside it, or most of
    the image if there is no foreground; it does not in an MR image that is named CT. Otherwise the percentiles are
    taken.
    """
    inside = image[foreground] if foreground is not None and foreground.any() else image
    if window is not None and ((inside > window[0]) & (inside < window[1])).mean() > FITS:
        return window
    low, high = np.percentile(image, PERCENTILES)
    return float(low), float(high)

"""Which grey values are black and white."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnunet_assft.volumes.display import CT_WINDOW, grey_range, window_of
from nnunet_assft.volumes.raw_dataset import read_dataset
from tests.conftest import write_dataset


@pytest.mark.parametrize(("channel", "window"), [("CT", CT_WINDOW), ("ct", CT_WINDOW), ("MRI", None)])
def test_a_ct_has_a_window(nnunet_folders: Path, channel: str, window: tuple[float, float] | None) -> None:
    folder = write_dataset(nnunet_folders / "nnUNet_raw", n_pool=1, n_test=0)
    content = json.loads((folder / "dataset.json").read_text()) | {"channel_names": {"0": channel}}
    (folder / "dataset.json").write_text(json.dumps(content))
    assert window_of(read_dataset(folder)) == window


def test_the_foreground_decides_whether_the_window_fits() -> None:
    """Nine tenths of air at -1000 HU, one tenth of tissue at 50 HU, as in a CT; then the same numbers times ten."""
    image = np.full((10, 10), -1000.0)
    image[0] = 50
    tissue = image > 0
    assert grey_range(image, CT_WINDOW, tissue) == CT_WINDOW
    assert grey_range(10 * image, CT_WINDOW, tissue) == (-10_000, 500)  # no Hounsfield units
    assert grey_range(image, CT_WINDOW) == (-1000, 50)
    assert grey_range(image, None, tissue) == (-1000, 50)

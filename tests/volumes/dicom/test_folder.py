"""Which series of a folder a model takes, by the name of its channel."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed (extra dicom)")

from nnunet_assft.volumes.dicom.folder import series_below
from tests.volumes.dicom.series_files import affine_of, scan, write_series

MODALITIES = {"1.2.1": "CT", "1.2.2": "MR"}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CT series and an MR series."""
    folder = tmp_path_factory.mktemp("export")
    for uid, modality in MODALITIES.items():
        write_series(folder / modality, scan(), affine_of(), modality=modality, SeriesInstanceUID=uid)
    return folder


@pytest.mark.parametrize("channel", ["CT", "ct", "CT_venous", "low dose CT", "CTA", "CBCT"])
def test_a_channel_whose_name_says_ct_takes_ct(both: Path, channel: str) -> None:
    found = series_below(both, {"channel_names": {"0": channel}})
    assert list(found.usable) == ["1.2.1"]
    reason = f"it is MR; expected CT, because the channel of the model is called {channel!r}"
    assert found.refused == {"1.2.2": reason}


@pytest.mark.parametrize("channel", ["MRI", "mr", "T1", "t2w", "FLAIR", "ADC", "T1 subtraction", "PD", "post T1c"])
def test_a_channel_whose_name_says_mr_takes_mr(both: Path, channel: str) -> None:
    found = series_below(both, {"channel_names": {"0": channel}})
    assert list(found.usable) == ["1.2.2"]
    reason = f"it is CT; expected MR, because the channel of the model is called {channel!r}"
    assert found.refused == {"1.2.1": reason}


@pytest.mark.parametrize("channel", ["noNorm", "rescale_to_0_1", "zscore", "image", "fraction", "pdac"])
def test_a_name_that_says_no_modality_takes_both(both: Path, channel: str) -> None:
    found = series_below(both, {"channel_names": {"0": channel}})
    assert (sorted(found.usable), found.refused) == (["1.2.1", "1.2.2"], {})

"""The picture of a case whose names hold what matplotlib takes for formulas."""

from __future__ import annotations

from pathlib import Path

import pytest
import SimpleITK as sitk
from matplotlib.figure import Figure

from nnunet_assft.annotation.overlay import Overlay, draw_scale_bar
from nnunet_assft.annotation.preview import Preview
from nnunet_assft.volumes.segmentations import InFileAxes
from tests.annotation.annotators import like
from tests.conftest import blob_case, write_volume


@pytest.mark.parametrize(("width_mm", "length_mm"), [(300, 100), (299, 50), (24, 5), (7, 2), (0.9, 0.2)])
def test_the_scale_bar_has_a_round_length_and_is_as_long_as_it_says(width_mm: float, length_mm: float) -> None:
    axes = Figure().subplots()
    draw_scale_bar(axes, width_mm)
    (bar,), (text,) = axes.lines, axes.texts
    left, right = (float(x) for x in bar.get_xdata())
    assert (right - left) * width_mm == pytest.approx(length_mm)
    assert text.get_text() == f"{length_mm:g} mm"


@pytest.mark.parametrize("name", ["$\\frac{$", "_$x", "a$b$c", "<script>", 'so-called "cyst"', "line\nbreak"])
def test_names_are_drawn_as_they_are(tmp_path: Path, name: str) -> None:
    grey, label = blob_case(0)
    write_volume(tmp_path / "image.nii.gz", grey)
    image = like(grey, sitk.ReadImage(str(tmp_path / "image.nii.gz")))
    seen = Preview(InFileAxes(label), InFileAxes(label * 0.5), InFileAxes(label > 0))
    labels = {"background": 0, name: 1, "box": 2}
    Overlay(f"{name}, rank 1", seen, image, labels, None, contours=True).save(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")

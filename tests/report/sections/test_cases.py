"""Pictures and viewer of the queried cases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_assft.annotation.preview import ENTROPY_STEPS
from nnunet_assft.report.images import QueriedCase, queried_cases
from nnunet_assft.report.material import Material
from nnunet_assft.report.sections import cases, viewer
from nnunet_assft.report.sections.viewer import viewer_cases
from nnunet_assft.volumes.raw_dataset import RawDataset
from tests.conftest import write_volume
from tests.report.conftest import NASTY, Report


def damaged(material: Material, folder: Path) -> Material:
    """The image of case_3 is no image."""
    file = folder / "no_image.nii.gz"
    file.write_bytes(b"no image")
    images = {**material.dataset.images, "case_3": (file,)}
    return replace(material, dataset=replace(material.dataset, images=images))


def test_a_damaged_image_costs_its_picture_only(material: Material, tmp_path: Path) -> None:
    material = damaged(material, tmp_path)
    pictures, shown = cases.section(material), viewer.section(material)
    assert pictures.missing[0].startswith("case_3: no picture could be made (")
    assert [plot.title for plot in pictures.plots] == [NASTY, "case_0"]
    assert shown.missing == ("1 case does not fit into the page or cannot be read.",)
    assert [case.case for case in shown.viewer] == [NASTY, "case_0"]


def test_a_case_that_was_labelled_at_the_start_was_not_queried(material: Material) -> None:
    given = replace(material, experiment=replace(material.experiment, labelled_at_start=("case_0",)))
    captions = {plot.title: plot.caption for plot in cases.section(given).plots}
    assert captions["case_0"].startswith("Labelled at the start, so it was not queried. Contours: ")
    assert captions[NASTY].startswith("Queried in round 1 with rank 1.")


def test_a_missing_pre_segmentation_is_said(material: Material) -> None:
    elsewhere = replace(material, experiment=replace(material.experiment, name="other"))  # nothing is kept there
    found = cases.section(elsewhere)
    assert found.missing == (
        "There is no pre-segmentation and no entropy of 2 of these cases; add --prelabel to compute them.",
    )
    assert [list(plot.data["segmentation"].unique()) for plot in found.plots] == [["label"]] * 3


def test_the_entropy_is_drawn_where_it_is_largest(material: Material) -> None:
    """Half of the largest entropy in one voxel: slice 3 of 12 from the feet, 6 from the front, 9 from the right."""
    chosen = queried_cases(material)
    image = sitk.ReadImage(str(chosen[0].image))
    lps = sitk.DICOMOrient(image, "LPS")
    steps = np.zeros(lps.GetSize()[::-1], np.uint8)
    steps[2, 5, 8] = ENTROPY_STEPS // 2
    volume = sitk.GetImageFromArray(steps)
    volume.CopyInformation(lps)
    chosen[0].entropy.parent.mkdir()
    sitk.WriteImage(volume, str(chosen[0].entropy))
    plots = cases.section(material).plots
    chosen[0].entropy.unlink()
    assert [plot.name for plot in plots] == ["case_01", "entropy_01", "case_02", "case_03"]
    assert plots[1].title == f"{NASTY}: entropy"
    assert list(plots[1].data["slice"]) == [3, 6, 9]
    assert list(plots[1].data["largest"]) == [0.5, 0.5, 0.5]


def test_grey_values_are_named(report: Report) -> None:
    assert "Grey values: percentiles 1 to 99 of the scan." in report.page.texts["cases"]
    content = {**report.material.dataset.dataset_json, "channel_names": {"0": "CT"}}
    of_ct = replace(report.material, dataset=replace(report.material.dataset, dataset_json=content))
    assert "soft-tissue window, -160 to 240 HU" in cases.section(of_ct).text[0]


def test_no_pictures_of_images_that_another_reader_reads(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RawDataset, "reader", object())
    material = replace(material, dataset=replace(material.dataset))  # has not looked for its reader yet
    for section in (cases.section(material), viewer.section(material)):
        assert section.missing[0].startswith(
            "There are no pictures, because the images are read with nnU-Net's object; "
        )
        assert not section.plots
        assert not section.viewer


def test_the_viewer_holds_as_many_cases_as_fit(material: Material) -> None:
    chosen = queried_cases(material)
    first = viewer_cases(chosen[:1], None)[0]
    size = len(first.image) + sum(map(len, first.layers.values()))
    assert viewer_cases(chosen, None, max_bytes=size) == [first]
    assert viewer_cases(chosen, None, max_bytes=size - 1) == []


def test_a_large_volume_is_made_smaller_for_the_viewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_volume(tmp_path / "image.nii.gz", np.random.default_rng(0).random((20, 30, 40)).astype(np.float32))
    chosen = [QueriedCase("a", 1, 1, tmp_path / "image.nii.gz", {}, tmp_path / "none")]
    whole = viewer_cases(chosen, None)[0]
    monkeypatch.setattr(viewer, "MAX_VIEWER_VOXELS", 3000)
    assert len(viewer_cases(chosen, None)[0].image) < len(whole.image) / 4

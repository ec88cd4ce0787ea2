"""Pictures of cases: orientation, size, grey values, contours, colours, and which files are opened."""

from __future__ import annotations

import base64
import gzip
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from nnunet_assft.annotation.work_folder import itksnap_labels
from nnunet_assft.report.images import (
    MAX_CASES,
    QueriedCase,
    Volume,
    load_volume,
    nifti_base64,
    queried_cases,
    to_grey,
)
from nnunet_assft.report.material import Material
from nnunet_assft.report.overlay import overlay_plot
from nnunet_assft.report.plot import label_colour
from nnunet_assft.volumes.display import CT_WINDOW
from nnunet_assft.volumes.structures import colour
from tests.conftest import write_volume
from tests.report.conftest import NASTY


def test_pictures_are_oriented_as_radiologists_look_at_them(tmp_path: Path) -> None:
    """One voxel near the patient's left, back and head, in a file whose axes run otherwise."""
    array = np.zeros((4, 6, 8), np.float32)  # RAS file: z up, y to the front, x to the right
    array[3, 1, 2] = 100
    volume = sitk.GetImageFromArray(array)
    volume.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    volume.SetSpacing((2.0, 1.0, 3.0))
    sitk.WriteImage(volume, str(tmp_path / "image.nii.gz"))
    label = sitk.GetImageFromArray((array > 0).astype(np.uint8))
    label.CopyInformation(volume)
    sitk.WriteImage(label, str(tmp_path / "label.nii.gz"))
    queried = QueriedCase("a", 1, 1, tmp_path / "image.nii.gz", {"label": tmp_path / "label.nii.gz"}, tmp_path / "none")
    seen = load_volume(queried.image, queried.segmentations, 1000, (0.0, 101.0))
    assert np.argwhere(seen.image).tolist() == [[3, 4, 5]]  # x and y are turned: LPS
    assert np.argwhere(seen.segmentations["label"]).tolist() == [[3, 4, 5]]
    assert seen.spacing == pytest.approx((2.0, 1.0, 3.0))
    nifti = nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(nifti_base64(seen.image, seen))))
    world = nifti.affine @ [5, 4, 3, 1]
    expected = volume.TransformIndexToPhysicalPoint((2, 1, 3))  # LPS
    np.testing.assert_allclose(world[:3], [-expected[0], -expected[1], expected[2]], atol=1e-4)
    assert nifti.get_data_dtype() == np.uint8


def test_volumes_are_made_small(tmp_path: Path) -> None:
    array = np.tile(np.arange(40, dtype=np.float32)[:, None, None], (1, 60, 50))
    write_volume(tmp_path / "image.nii.gz", array, (1.0, 1.0, 4.0))
    seen = load_volume(tmp_path / "image.nii.gz", {}, 20_000, None)
    assert 0.8 * 20_000 < seen.image.size <= 20_000
    assert seen.image.shape[0] == 40  # the thick slices stay
    np.testing.assert_allclose(np.array(seen.image.shape) * seen.spacing[::-1], [160, 60, 50])
    assert (np.diff(seen.image[:, 5, 5].astype(int)) >= 0).all()


def test_more_than_255_structures_are_told_apart(tmp_path: Path) -> None:
    label = np.zeros((4, 5, 6), np.uint16)
    label[1, 2, 3], label[2, 2, 3] = 44, 300  # 300 is 44 in 8 bits
    write_volume(tmp_path / "image.nii.gz", np.zeros(label.shape, np.float32))
    write_volume(tmp_path / "label.nii.gz", label)
    seen = load_volume(tmp_path / "image.nii.gz", {"label": tmp_path / "label.nii.gz"}, 1000, None)
    shown = nibabel.Nifti1Image.from_bytes(
        gzip.decompress(base64.b64decode(nifti_base64(seen.segmentations["label"], seen)))
    )
    for values in (seen.segmentations["label"], np.asanyarray(shown.dataobj)):
        assert np.unique(values).tolist() == [0, 44, 300]


def test_a_segmentation_of_another_size_is_refused(tmp_path: Path) -> None:
    write_volume(tmp_path / "image.nii.gz", np.zeros((4, 5, 6), np.float32))
    write_volume(tmp_path / "label.nii.gz", np.zeros((4, 5, 5), np.uint8))
    queried = QueriedCase("a", 1, 1, tmp_path / "image.nii.gz", {"label": tmp_path / "label.nii.gz"}, tmp_path / "none")
    with pytest.raises(ValueError, match=r"label.nii.gz has \(5, 5, 4\) voxels; its image has \(6, 5, 4\)"):
        load_volume(queried.image, queried.segmentations, 1000, None)


# Grey values --------------------------------------------------------------------------------------------------------


def test_grey_values_are_cut_off_at_black_and_white() -> None:
    assert to_grey(np.array([-1000.0, -160, 40, 240, 3000]), CT_WINDOW).tolist() == [0, 0, 128, 255, 255]
    assert to_grey(np.full(3, 7.0), (7.0, 7.0)).tolist() == [0, 0, 0]


# Contours and colours -----------------------------------------------------------------------------------------------


def test_contours_are_on_the_edges_of_the_voxels() -> None:
    label = np.zeros((6, 8, 10), np.uint8)
    label[1:3, 2:6, 3:8] = 1  # z, y, x
    volume = Volume(np.zeros((6, 8, 10), np.uint8), {"label": label}, (1.0, 2.0, 5.0), (0.0, 0.0, 0.0))
    plot = overlay_plot("case", "case", "", volume, {"box": 1})
    axial, _, coronal, sagittal = plot.figure.axes
    for axes, across, up in (
        (axial, (3.0, 8.0), (4.0, 12.0)),
        (coronal, (3.0, 8.0), (5.0, 15.0)),
        (sagittal, (4.0, 12.0), (5.0, 15.0)),
    ):
        vertices = axes.collections[0].get_paths()[0].vertices
        np.testing.assert_allclose(vertices.min(axis=0), [across[0], up[0]])
        np.testing.assert_allclose(vertices.max(axis=0), [across[1], up[1]])
    assert axial.get_ylim() == (16.0, 0.0)  # the front is above
    assert coronal.get_ylim() == sagittal.get_ylim() == (0.0, 30.0)  # the head is above
    assert plot.data[["plane", "slice", "pixels"]].to_numpy().tolist() == [
        ["axial", 2, 20],
        ["coronal", 3, 10],
        ["sagittal", 4, 8],
    ]


def test_structures_have_the_colours_of_the_annotators_work_folder() -> None:
    label = np.zeros((4, 4, 4), np.uint8)
    label[1:3, 1:3, 1:3] = 3
    volume = Volume(np.zeros((4, 4, 4), np.uint8), {"label": label}, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    axial = overlay_plot("case", "case", "", volume, {"box": 3}).figure.axes[0]
    np.testing.assert_allclose(axial.collections[0].get_edgecolor()[0, :3], colour(3), atol=1 / 255)
    rgb = [round(255 * part) for part in to_rgb(label_colour(3))]
    assert [int(n) for n in itksnap_labels({"box": 3}).splitlines()[-1].split()[1:4]] == rgb


@pytest.mark.parametrize(("n", "numbers"), [(7, []), (8, ["8"])])
def test_numbers_tell_more_structures_apart_than_colours_do(n: int, numbers: list[str]) -> None:
    label = np.zeros((4, 4, 4), np.uint8)
    label[1:3, 1:3, 1:3] = n
    both = {"label": label, "pre-segmentation": label}
    volume = Volume(np.zeros((4, 4, 4), np.uint8), both, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    axial = overlay_plot("case", "case", "", volume, {f"s{i}": i for i in range(1, n + 1)}).figure.axes[0]
    assert [text.get_text() for text in axial.texts] == [*numbers, "R", "L", "A", "P", "1 mm"]
    start, end = axial.lines[-1].get_xdata()  # of the scale bar, as shares of the width of 4 mm
    assert end - start == pytest.approx(0.25)


def of_all_values(n: int, array: np.ndarray) -> Volume:
    """A volume with the structures 1 to n in its label, on an image."""
    label = np.resize(np.arange(n + 1, dtype=np.uint8), array.shape)
    return Volume(array, {"label": label}, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))


@pytest.mark.parametrize("n", [12, 25])
def test_the_names_of_all_structures_stay_in_the_figure_and_off_its_planes(n: int) -> None:
    volume = of_all_values(n, np.zeros((20, 20, 20), np.uint8))
    figure = overlay_plot("case", "case", "", volume, {f"left_adrenal_gland_{i}": i for i in range(1, n + 1)}).figure
    figure.draw_without_rendering()
    axial, quarter, coronal, sagittal = figure.axes
    (legend,) = figure.legends or [quarter.get_legend()]
    box = legend.get_window_extent()
    assert len(legend.get_texts()) == n
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
    for plane in (axial, coronal, sagittal):
        assert not box.overlaps(plane.get_window_extent())
        assert plane.get_window_extent().width > 0.4 * figure.bbox.width


@pytest.mark.parametrize(
    ("kinds", "value", "entries"),
    [
        (["label"], 1, ["box"]),
        (["label", "segmentation"], 1, ["box", "label", "segmentation"]),
        (["label"], 0, None),
    ],
)
def test_the_legend_names_the_kinds_of_lines_if_there_are_two(
    kinds: list[str], value: int, entries: list[str] | None
) -> None:
    array = np.full((4, 4, 4), value, np.uint8)
    volume = Volume(array, dict.fromkeys(kinds, array), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    legend = overlay_plot("case", "case", "", volume, {"box": 1}).figure.axes[1].get_legend()
    assert (legend and [text.get_text() for text in legend.get_texts()]) == entries


def test_marks_can_be_read_on_a_white_image() -> None:
    volume = of_all_values(1, np.full((20, 20, 20), 255, np.uint8))
    figure = overlay_plot("case", "case", "", volume, {"box": 1}).figure
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    for plane in (figure.axes[0], figure.axes[2], figure.axes[3]):
        for text in plane.texts:
            x0, y0, x1, y1 = text.get_window_extent().extents.round().astype(int)
            around = pixels[pixels.shape[0] - y1 : pixels.shape[0] - y0, x0:x1]
            assert np.median(around) < 160, text.get_text()


# Which cases --------------------------------------------------------------------------------------------------------


def test_the_best_ranked_cases_of_the_last_rounds_are_shown(material: Material) -> None:
    chosen = queried_cases(material)
    assert [(q.case, q.round, q.rank) for q in chosen] == [(NASTY, 1, 1), ("case_3", 1, 2), ("case_0", 0, 1)]
    assert len(chosen) <= MAX_CASES
    assert len(queried_cases(material, 2)) == 2
    assert sorted(chosen[0].segmentations) == ["label", "pre-segmentation"]


def test_the_label_of_an_unlabelled_case_is_not_opened(material: Material) -> None:
    first, second = material.rounds
    waiting = replace(second, labelled=("case_0",))  # queried, but its labels have not come
    chosen = queried_cases(replace(material, rounds=(first, waiting)))
    assert {q.case: sorted(q.segmentations) for q in chosen} == {
        NASTY: ["pre-segmentation"],
        "case_3": ["pre-segmentation"],
        "case_0": ["label"],
    }

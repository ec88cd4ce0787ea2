"""Segmentations side by side: which cases, which arms, where the planes and the box are, and what is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from nnunet_assft.active.history import Change
from nnunet_assft.comparison.arms import Comparison, parse_arms
from nnunet_assft.report.images import Volume
from nnunet_assft.report.material import FinishedComparison, Material
from nnunet_assft.report.plot import Plot
from nnunet_assft.report.sections import qualitative
from nnunet_assft.report.sections.base import Section
from nnunet_assft.report.sections.qualitative import Choice, arms_compared, choose_cases, what_is_shown
from nnunet_assft.report.side_by_side import BOX, STRIP, Column, SideBySide, largest_component
from nnunet_assft.volumes.structures import colour
from tests.conftest import write_volume
from tests.report.conftest import TEST, Report

PAIR = ("assft", "random")


# Which cases --------------------------------------------------------------------------------------------------------


def results(dice: dict[tuple[str, int, str], Sequence[float]], r: int = 2) -> pd.DataFrame:
    """dice: (arm, seed, case) -> Dice of each structure."""
    rows = [
        (arm, seed, r, 5, case, f"s{i}", value)
        for (arm, seed, case), values in dice.items()
        for i, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "round", "n_labelled", "case", "structure", "dice"])


def against_one_half(differences: dict[str, float]) -> pd.DataFrame:
    """One seed and structure; random has 0.5 everywhere."""
    dice = {("random", 0, case): [0.5] for case in differences}
    return results({**dice, **{("assft", 0, case): [0.5 + value] for case, value in differences.items()}})


def test_cases_are_chosen_by_the_mean_over_structures_and_seeds() -> None:
    table = results(
        {
            ("assft", 0, "a"): (0.8, 0.6),  # 0.7
            ("assft", 1, "a"): (0.9, 0.7),  # 0.8
            ("random", 0, "a"): (0.6, 0.6),
            ("random", 1, "a"): (0.6, math.nan),  # absent, so that 0.6 is the mean: 0.15
            ("assft", 0, "b"): (0.5, 0.5),
            ("assft", 1, "b"): (0.7, 0.7),
            ("random", 0, "b"): (0.7, 0.7),
            ("random", 1, "b"): (0.6, 0.6),  # -0.2 and 0.1: -0.05
            ("assft", 0, "c"): (0.9, 0.9),
            ("assft", 1, "c"): (0.9, 0.9),
            ("random", 0, "c"): (0.6, 0.6),
            ("random", 1, "c"): (0.6, 0.6),  # 0.3
            ("assft", 0, "d"): (0.6, 0.6),
            ("assft", 1, "d"): (0.6, 0.6),
            ("random", 0, "d"): (0.5, 0.6),
            ("random", 1, "d"): (0.5, 0.6),  # 0.05, the lower one of the middle two
        }
    )
    noise = [results({("entropy", 0, "a"): [1.0]}), table.assign(round=1, dice=0.5)]
    assert choose_cases(pd.concat([table, *noise]), PAIR, 2) == [
        Choice("median", "d", 0.05),
        Choice("best", "c", 0.3),
        Choice("worst", "b", -0.05),
    ]


def test_of_equal_differences_the_smaller_case_id_is_chosen_and_none_twice() -> None:
    chosen = choose_cases(against_one_half({"c": 0.1, "b": 0.1, "a": 0.1, "d": 0.1}), PAIR, 2)
    assert [choice[:2] for choice in chosen] == [("median", "a"), ("best", "b"), ("worst", "c")]
    rounding = against_one_half({"b": 0.1 + 0.2, "a": 0.3, "c": 0.0, "d": 0.0, "e": 0.1})  # 0.1 + 0.2 is more than 0.3
    assert [choice.case for choice in choose_cases(rounding, PAIR, 2)] == ["e", "a", "c"]


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ({"a": math.nan}, []),
        ({"a": 0.1}, [("median", "a")]),
        ({"a": 0.1, "b": -0.1}, [("median", "b"), ("best", "a")]),
        ({"a": 0.1, "b": -0.1, "c": 0.0}, [("median", "c"), ("best", "a"), ("worst", "b")]),
        ({"a": 0.1, "b": math.nan}, [("median", "a")]),
    ],
)
def test_fewer_than_three_cases_give_fewer_rows(differences: dict[str, float], expected: list[tuple[str, str]]) -> None:
    assert [choice[:2] for choice in choose_cases(against_one_half(differences), PAIR, 2)] == expected


def test_a_seed_of_one_arm_only_does_not_count() -> None:
    table = against_one_half({"a": 0.1, "b": 0.2, "c": 0.3})
    alone = results({("assft", 1, case): [value] for case, value in (("a", 0.9), ("b", 0.0), ("c", 0.0))})
    assert choose_cases(pd.concat([table, alone]), PAIR, 2) == choose_cases(table, PAIR, 2)


# Which arms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategies", "references", "expected"),
    [
        (["entropy", "random", "assft"], ["upper_bound"], ("assft", "random")),
        (["assft", "entropy", "margin"], ["nnunet"], ("assft", "entropy")),
        (["entropy", "margin"], ["none"], ("entropy", "margin")),
        (["random", "margin"], ["none"], ("random", "margin")),
        (["assft"], ["lower_bound", "nnunet@assft"], ("assft", "nnunet@assft")),
        (["assft"], ["lower_bound", "upper_bound"], ()),
    ],
)
def test_which_two_arms_are_compared(
    compared: FinishedComparison, strategies: list[str], references: list[str], expected: tuple[str, ...]
) -> None:
    assert arms_compared(replace(compared.spec, arms=parse_arms(strategies, references))) == expected


@pytest.fixture
def compared(material: Material) -> FinishedComparison:
    assert material.comparison is not None
    return material.comparison


def with_arms(compared: FinishedComparison, strategies: list[str], references: list[str]) -> Comparison:
    return replace(compared.spec, arms=parse_arms(strategies, references))


def test_the_columns_are_the_two_arms_and_then_the_others_in_the_order_of_the_paper(
    compared: FinishedComparison,
) -> None:
    spec = with_arms(compared, ["assft", "ugtst", "random", "entropy"], ["lower_bound", "upper_bound", "nnunet"])
    shown = what_is_shown(replace(compared, spec=spec))
    assert shown is not None
    assert (shown.pair, shown.seed, shown.round) == (PAIR, 0, 1)
    assert list(shown.folders) == ["assft", "random", "entropy", "ugtst", "nnunet"]
    assert [arm for arm, folder in shown.folders.items() if folder] == ["assft", "random"]
    assert shown.dice["assft", "test_0"] == pytest.approx(0.6)  # of seed 0
    assert shown.dice["upper_bound", "test_0"] == pytest.approx(0.9)


def test_the_round_is_the_last_one_of_both_arms_with_the_first_seed(compared: FinishedComparison) -> None:
    second = replace(compared, spec=replace(compared.spec, seeds=(1,)))  # random has no round 1 with it
    assert what_is_shown(second) is None
    assert what_is_shown(replace(compared, spec=with_arms(compared, ["assft"], ["none"]))) is None


# The section --------------------------------------------------------------------------------------------------------


@pytest.fixture
def found(report: Report) -> Section:
    return report.sections["qualitative"]


def test_three_cases_of_the_comparison(report: Report, found: Section) -> None:
    assert [plot.name for plot in found.plots] == ["qualitative_median", "qualitative_best", "qualitative_worst"]
    assert [plot.title for plot in found.plots] == [
        f"{case}, the {rule} case" for case, rule in zip(TEST, ("median", "best", "worst"), strict=True)
    ]
    text = report.page.texts["qualitative"]
    for plot in found.plots:
        assert plot.caption in text
        assert plot.caption.startswith(
            f"The {plot.title.split()[-2]} difference in Dice, ASSFT minus RAND, mean over structures and seeds: "
            "+0.100. Round 1, seed 0. "
        )
    assert found.plots[0].caption.endswith("in which they differ: 0.06 ml.")  # 60 voxels of 1 mm3
    assert titles(found.plots[0]) == ["Reference", "ASSFT\nDice 0.600", "RAND\nDice 0.500"]


def test_a_segmentation_that_is_not_there_is_missing(found: Section) -> None:
    last = found.plots[2]
    assert [text.get_text() for text in last.figure.axes[0].texts].count("missing") == 3  # planes
    assert boxes(last.figure.axes[0]) == []
    assert last.caption.endswith("There is no box, because a segmentation is missing.")
    assert set(last.data["column"][last.data["pixels"].isna()]) == {"RAND Dice 0.500"}
    for plot in found.plots[:2]:
        assert not plot.data["pixels"].isna().any()
        assert len(boxes(plot.figure.axes[0])) == 9  # panels


def test_the_upper_bound_is_a_column_if_it_has_segmentations(report: Report, tmp_path: Path) -> None:
    material = report.material
    assert material.comparison is not None
    shown = what_is_shown(material.comparison)
    assert shown is not None
    assert "upper_bound" not in shown.folders
    write_volume(tmp_path / "test_0.nii.gz", np.zeros((18, 26, 24), np.uint8))
    more = replace(shown, folders={**shown.folders, "upper_bound": tmp_path})
    plot = qualitative.case_plot(Choice("best", "test_0", 0.1), more, material.dataset, None)
    assert titles(plot)[-1] == "Upper bound\nDice 0.900"


def test_an_image_that_cannot_be_read_costs_its_figure_only(material: Material, tmp_path: Path) -> None:
    (tmp_path / "no_image.nii.gz").write_bytes(b"no image")
    images = {"test_1": (tmp_path / "no_image.nii.gz",), "test_2": material.dataset.test_images["test_2"]}
    found = qualitative.section(replace(material, dataset=replace(material.dataset, test_images=images)))
    assert found is not None
    assert [plot.title for plot in found.plots] == ["test_2, the worst case"]
    assert found.missing[0] == "test_0: no picture could be made (Dataset905_Report no longer has it)."
    assert found.missing[1].startswith("test_1: no picture could be made (")


def test_a_withdrawn_case_is_not_shown(material: Material) -> None:
    experiment = material.experiment
    change = Change(2, False, 2, 2, experiment.permutation, withdrawn=("test_0",))
    found = qualitative.section(replace(material, experiment=replace(experiment, history=(change,))))
    assert found is not None
    assert [plot.title for plot in found.plots] == ["test_1, the median case", "test_2, the best case"]
    assert found.missing == ()


def test_what_cannot_be_shown_is_said(material: Material, compared: FinishedComparison) -> None:
    assert qualitative.section(replace(material, comparison=None)) is None
    alone = replace(compared, spec=with_arms(compared, ["assft"], ["none"]))
    without_dice = replace(compared, results=compared.results.assign(dice=math.nan))
    for other in (alone, without_dice):
        found = qualitative.section(replace(material, comparison=other))
        assert found is not None
        assert found.missing == (
            "There are no two arms with the Dice of a case after the same round and with the first seed.",
        )
        assert not found.plots


# The figure ---------------------------------------------------------------------------------------------------------


def titles(plot: Plot) -> list[str]:
    return [text.get_text() for text in plot.figure.axes[0].texts if text.get_va() == "bottom"]


def boxes(axes: Axes) -> list[tuple[float, float, float, float]]:
    """(left, right, top, bottom) in inches of every red box."""
    found = [patch.get_bbox() for patch in axes.patches if to_hex(patch.get_edgecolor()) == BOX]
    return [(box.x0, box.x1, box.y0, box.y1) for box in found]


def panels(image: np.ndarray) -> list[tuple[int, int]]:
    """(first, end) of the pixels across of every panel; what is between them is transparent."""
    edges = np.diff(image[..., 3].any(axis=0).astype(int), prepend=0, append=0)
    return list(zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True))


def worked_example() -> SideBySide:
    """Two segmentations that differ in 7 voxels, and in one voxel elsewhere; the voxels are 5 x 2 x 1 mm."""
    reference = np.zeros((6, 8, 10), np.uint8)
    reference[1:5, 1:7, 2:8] = 1
    other = reference.copy()
    other[2:4, 3:6, 4] = 0
    other[3, 3, 5] = 2
    other[1, 1, 7] = 0
    image = np.full(reference.shape, 100, np.uint8)
    columns = [Column("Reference", reference), Column("A", reference, bold=True), Column("B", other, bold=True)]
    region = largest_component(reference != other)
    assert region.sum() == 7
    return SideBySide(Volume(image, {}, (1.0, 2.0, 5.0), (0.0, 0.0, 0.0)), columns, region, {"a": 1, "b": 2})


def test_the_largest_component_is_connected_by_faces() -> None:
    mask = np.array(
        [[1, 0, 1, 1], [0, 1, 0, 1], [0, 1, 0, 0]], bool
    )  # sizes 1, 3 and 2, of which 1 touches by a corner
    assert np.argwhere(largest_component(mask)).tolist() == [[0, 2], [0, 3], [1, 3]]
    assert np.argwhere(largest_component(np.array([1, 0, 1], bool))).tolist() == [[0]]
    assert not largest_component(np.zeros((2, 2, 2), bool)).any()


def test_planes_and_boxes_of_a_worked_example() -> None:
    drawn = worked_example()
    assert drawn.slices == {"axial": 3, "coronal": 3, "sagittal": 4}
    assert drawn.size.tolist() == [30, 16, 10]  # everything: the margin is 0.08 x 20 mm, and voxels are whole
    margin = 0.03 * 30
    assert drawn.box("axial") == pytest.approx((4 - margin, 6 + margin, 6 - margin, 12 + margin))
    assert drawn.box("coronal") == pytest.approx(
        (4 - margin, 6 + margin, 10 - margin, 20 + margin)
    )  # the head is above
    assert drawn.box("sagittal") == pytest.approx((6 - margin, 12 + margin, 10 - margin, 20 + margin))
    pixels = drawn.pixels().set_index(["column", "plane", "structure"])["pixels"]
    assert [pixels["Reference", plane, "a"] for plane in drawn.slices] == [36, 24, 24]
    assert [pixels["B", plane, "a"] for plane in drawn.slices] == [32, 21, 18]
    assert pixels["B", "axial", "b"] == 1
    assert drawn.pixels()["slice"].unique().tolist() == [4, 5]


def test_the_box_is_at_the_same_place_in_every_panel_and_panels_have_the_aspect_of_the_body() -> None:
    drawn = worked_example()
    figure = drawn.figure()
    (axes,) = figure.axes
    assert np.ptp(axes.get_xlim()) == pytest.approx(figure.get_figwidth())  # one unit is one inch, in both directions
    assert np.ptp(axes.get_ylim()) == pytest.approx(figure.get_figheight())
    scales = []
    by_plane = np.reshape(boxes(axes), (3, 3, 4))  # plane, column, edge
    for plane, image, of_plane in zip(drawn.slices, axes.images, by_plane, strict=True):
        left, right, bottom, top = image.get_extent()
        step = (right - left) / image.get_array().shape[1]
        width, height = {"axial": (10, 16), "coronal": (10, 30), "sagittal": (16, 30)}[plane]  # of a panel in mm
        scales.append((bottom - top) / height)  # inches per mm
        expected = drawn.box(plane)
        assert expected is not None
        for (first, end), (x0, x1, y0, y1) in zip(panels(image.get_array()), of_plane, strict=True):
            scales.append((end - first) * step / width)
            corner = STRIP + first * step
            found = (x0 - corner, x1 - corner, y0 - top, y1 - top)
            assert np.array(found) / scales[0] == pytest.approx(np.array(expected))
    assert scales == pytest.approx([scales[0]] * 12)


def test_structures_are_drawn_over_the_image_in_their_colours() -> None:
    drawn = worked_example()
    axial = drawn.figure().axes[0].images[0].get_array()
    first, end = panels(axial)[2]  # of B
    panel = axial[:, first : end : (end - first) // 10]  # voxel by voxel
    assert panel[0, 0].tolist() == [100, 100, 100, 255]  # background
    for y, x, value in ((1, 2, 1), (3, 5, 2)):
        np.testing.assert_allclose(panel[y, x, :3], 50 + 127.5 * np.array(colour(value)), atol=0.51)
    assert panel[3, 4].tolist() == [100, 100, 100, 255]


def test_the_head_is_above() -> None:
    drawn = worked_example()
    drawn.volume.image[5] = 200
    for plane in ("coronal", "sagittal"):
        image = drawn.figure().axes[0].images[list(drawn.slices).index(plane)].get_array()
        seen = image[:, image[0, :, 3] == 255, 0]
        assert seen[0].tolist() == [200] * seen.shape[1]
        assert (seen[-1] == 100).all()


def test_panels_are_cut_to_what_is_segmented() -> None:
    empty = np.zeros((40, 40, 40), np.uint8)
    one, two = empty.copy(), empty.copy()
    one[10:20, 12:20, 30:38] = 1
    two[14:18, 20:22, 32] = 1
    volume = Volume(empty, {}, (1.0, 1.0, 2.0), (0.0, 0.0, 0.0))
    drawn = SideBySide(volume, [Column("Reference", one), Column("A", two), Column("B", None)], one > 1, {"a": 1})
    assert drawn.view.tolist() == [[9, 21], [10, 24], [28, 40]]  # 0.08 x 20 mm around it, and never outside
    assert drawn.slices == {"axial": 10, "coronal": 12, "sagittal": 30}  # without a region: of the reference
    assert boxes(drawn.figure().axes[0]) == []
    nothing = SideBySide(volume, [Column("Reference", empty), Column("A", empty)], empty > 0, {"a": 1})
    assert nothing.view.tolist() == [[0, 40]] * 3
    assert nothing.pixels().empty
    assert len(nothing.figure().axes[0].images) == 3


def test_fourteen_arms_take_two_rows_that_start_with_the_reference() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (100, 200, 200)).astype(np.uint8)  # noise, which cannot be compressed
    segmentation = np.zeros(image.shape, np.uint8)
    segmentation[10:90, 20:180, 20:180] = 1
    columns = [Column("Reference", segmentation)]
    for i in range(14):
        other = segmentation.copy()
        other[40:50, 40 : 60 + 2 * i, 40:60] = 0
        columns.append(Column(f"nnU-Net, fine-tuned (cases of DKD+ASD {i})\nDice 0.5", other))
    volume = Volume(image, {}, (2.0, 2.0, 4.0), (0.0, 0.0, 0.0))
    drawn = SideBySide(volume, columns, segmentation != columns[1].segmentation, {"organ": 1})
    plot = Plot("q", "", "", "", drawn.pixels(), drawn.figure(), full=True)
    shown = titles(plot)
    assert len(shown) == 16
    assert [i for i, title in enumerate(shown) if title == "Reference"] == [0, 8]
    assert max(len(line) for title in shown for line in title.splitlines()) < 20
    assert plot.figure.get_figwidth() <= 9.6
    assert len(plot.inline_svg()) < 1_000_000


@pytest.mark.parametrize(("n", "numbers"), [(7, 0), (8, 3)])
def test_numbers_tell_more_structures_apart_than_colours_do(n: int, numbers: int) -> None:
    drawn = replace(worked_example(), structures={"a": 1, **{f"s{i}": i + 1 for i in range(1, n)}})
    texts = [text.get_text() for text in drawn.figure().axes[0].texts]
    assert texts.count("1") == numbers  # in the reference, in each plane

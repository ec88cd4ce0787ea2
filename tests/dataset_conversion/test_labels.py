"""Structures are related by name, whatever their spelling and their ids."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_assft.dataset_conversion.datasets import ABDOMEN_ATLAS_STRUCTURES, AMOS_STRUCTURES, DATASETS
from nnunet_assft.dataset_conversion.labels import canonical_name, map_labels, read_label_table
from nnunet_assft.dataset_conversion.voxels import renumbered


@pytest.mark.parametrize(
    "names",
    [
        ("aorta", "arota", "Aorta"),
        ("left kidney", "kidney_left", "Kidney-Left"),
        ("postcava", "inferior vena cava", "inferior_vena_cava", "IVC"),
        ("gall bladder", "gallbladder", "gall_bladder", "Gall-Bladder"),
        ("right adrenal gland", "adrenal_gland_right"),
        ("prostate/uterus", "prostate_uterus"),
        ("esophagus", "Oesophagus"),
    ],
)
def test_spellings_of_one_structure(names: tuple[str, ...]) -> None:
    assert len({canonical_name(name) for name in names}) == 1


@pytest.mark.parametrize("structures", [row.labels for row in DATASETS.values()], ids=DATASETS)
def test_no_two_structures_of_a_dataset_are_taken_for_one(structures: tuple[str, ...]) -> None:
    assert len({canonical_name(name) for name in structures}) == len(structures)


@pytest.mark.parametrize(
    "names", [("bladder", "gall bladder"), ("left kidney", "right kidney"), ("prostate", "prostate/uterus")]
)
def test_structures_that_must_not_be_confused(names: tuple[str, str]) -> None:
    assert canonical_name(names[0]) != canonical_name(names[1])


def test_left_and_right_are_not_swapped_between_datasets() -> None:
    """AMOS has the right kidney as 2 and the left as 3, AbdomenAtlas the left as 3 and the right as 4."""
    source = {"background": 0, "right kidney": 2, "left kidney": 3}
    target = {name: i for i, name in enumerate(("background", *ABDOMEN_ATLAS_STRUCTURES))}
    assert map_labels(source, target).ids == {0: 0, 2: 4, 3: 3}


def test_dropped_structures_become_background_and_unknown_ones_are_refused() -> None:
    row = DATASETS["amos_mri"]
    mapped = map_labels(row.source_labels, row.target_labels, row.dropped)
    assert mapped.ids == {**{i: i for i in range(14)}, 14: 0, 15: 0}
    assert mapped.dropped == {14, 15}
    with pytest.raises(ValueError, match=r"'prostate/uterus'.*spleen"):
        map_labels(row.source_labels, row.target_labels, ("bladder",))


def test_a_label_table_is_read_in_either_direction() -> None:
    table = {"background": 0, "spleen": 1}
    assert read_label_table(table) == read_label_table({"0": "background", "1": "spleen"}) == table
    for wrong in (["spleen"], {"spleen": [1, 2]}, {"0": {}, "x": None}, 3):
        with pytest.raises(ValueError, match="expected names and integers"):
            read_label_table(wrong)


def test_renumbering_by_hand() -> None:
    mapped = map_labels({"background": 0, "liver": 7, "spleen": 2}, {"background": 0, "spleen": 1, "liver": 2})
    array = np.array([[[0, 2, 7], [7, 7, 2]]])
    for dtype in (np.uint8, np.int16, np.float32):
        result = renumbered(array.astype(dtype), mapped)
        assert result.dtype == np.uint8
        assert result.tolist() == [[[0, 1, 2], [2, 2, 1]]]


def test_amos_has_the_official_order() -> None:
    assert (AMOS_STRUCTURES.index("right kidney"), AMOS_STRUCTURES.index("aorta"), len(AMOS_STRUCTURES)) == (1, 7, 15)


@pytest.mark.parametrize(("n", "kind"), [(255, np.uint8), (256, np.uint16), (300, np.uint16)])
def test_more_structures_than_a_byte_can_count(n: int, kind: type[np.generic]) -> None:
    target = {f"structure {value}": value for value in range(1, n + 1)}
    mapped = map_labels({name: n + 1 - value for name, value in target.items()}, target)
    label = renumbered(np.array([[[0, 1, n]]], np.int16), mapped)
    assert label.dtype == kind
    assert label.tolist() == [[[0, n, 1]]]

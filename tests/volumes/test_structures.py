"""Structures, left and right, and their colours."""

from __future__ import annotations

from nnunet_assft.volumes.structures import colour, pairs, structures


def test_structures_are_neither_background_nor_the_ignore_label() -> None:
    assert structures({"background": 0, "liver": 2, "spleen": 1, "ignore": 3}) == {"liver": 2, "spleen": 1}


def test_pairs_of_left_and_right() -> None:
    assert pairs({"background": 0, "kidney_right": 1, "kidney_left": 2}) == [("kidney_left", "kidney_right")]
    assert pairs({"background": 0, "Left Lung": 1, "right lung": 2, "left_ear": 3}) == [("Left Lung", "right lung")]


def test_neighbouring_labels_differ_in_hue() -> None:
    """Worked by hand: hue 0.618 is a blue, 0.236 a green; 0 is the background."""
    assert [tuple(round(255 * c) for c in colour(value)) for value in range(3)] == [
        (0, 0, 0),
        (36, 96, 242),
        (182, 242, 97),
    ]
    assert len({colour(value) for value in range(105)}) == 105

"""The structures of a dataset: their labels, pairs of left and right structures, and their colours."""

from __future__ import annotations

from collections.abc import Mapping
from colorsys import hsv_to_rgb

GOLDEN_RATIO = 0.618034  # steps of the hue: each label is far from those before it


def structures(labels: Mapping[str, int]) -> dict[str, int]:
    """Return name -> value of every label except background and the ignore label."""
    return {name: value for name, value in labels.items() if value != 0 and name != "ignore"}


def pairs(labels: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return the pairs (left, right) of structures whose names differ only in these words."""
    by_name = {name.lower(): name for name in labels}
    mirrored = {name: name.lower().replace("left", "right") for name in labels if "left" in name.lower()}
    return [(name, by_name[other]) for name, other in mirrored.items() if other in by_name]


def colour(value: int) -> tuple[float, float, float]:
    """Return the colour of a label, red, green and blue in [0, 1], for all figures; the background, 0, is black."""
    return hsv_to_rgb((value * GOLDEN_RATIO) % 1, 0.85 if value % 2 else 0.6, 0.95) if value else (0.0, 0.0, 0.0)

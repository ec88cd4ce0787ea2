"""The tables of docs/encoders.md are those of the code."""

from __future__ import annotations

import re

import torch

from nnunet_assft.network import ENCODERS, PRESETS, build_network
from nnunet_assft.planning.domains import DOMAINS
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "encoders.md"


def test_every_encoder_has_its_row_and_its_presets() -> None:
    rows = [line.split("|")[1:-1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert [cells[0].strip(" `") for cells in rows] == list(ENCODERS)
    for cells in rows:
        named = re.findall("`(.+?)`", cells[2])
        presets = [name for name, preset in PRESETS.items() if cells[0].strip(" `") in preset.encoders]
        assert named == [name for name in presets if "tiny" not in name] or not named  # of nnU-Net's: any


def test_the_sizes_of_every_preset() -> None:
    """The memory is counted by the code on the page, which takes minutes."""
    (table,) = blocks(PAGE, "text")
    head, *lines = [line.split() for line in table.text.splitlines()]
    assert head[4:] == [name for name, domain in DOMAINS.items() if domain.patch_size]
    assert [line[0] for line in lines] == list(PRESETS)
    for name, divisor, million, *numbers in lines:
        with torch.device("meta"):
            network = build_network(PRESETS[name].architecture, 1, 16)
        assert int(divisor) == PRESETS[name].divisors[0]
        assert float(million) == round(sum(weights.numel() for weights in network.parameters()) / 1e6, 1)
        assert len(numbers) == 1 + len(head[4:])

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from nnunet_assft.report.material import Embeddings, Material
from nnunet_assft.report.sections.embeddings import embedding_map, section
from tests.report.conftest import NASTY, Report, with_settings


def test_points_on_a_line() -> None:
    rows = np.outer([0.0, 1.0, 3.0], [3.0, 4.0])  # 5 apart along (3, 4): distances are kept, the second component is 0
    marks = {"queried": ["c"], "labelled": ["c", "a"]}
    plot = embedding_map("map", "", Embeddings(("a", "b", "c"), rows), marks, "")
    assert sorted(np.abs(np.diff(plot.data["pc1"]))) == pytest.approx([5, 10])
    np.testing.assert_allclose(plot.data["pc2"], 0, atol=1e-12)
    assert list(plot.data["mark"]) == ["labelled", "unlabelled", "queried"]


def test_dots_are_what_the_csv_has(report: Report) -> None:
    plot = report.plots["embeddings_round_01"]
    dots = np.concatenate([np.asarray(found.get_offsets()) for found in plot.figure.axes[0].collections])
    np.testing.assert_allclose(np.sort(dots, axis=0), np.sort(plot.data[["pc1", "pc2"]], axis=0))
    assert plot.data["mark"].value_counts().to_dict() == {
        "unlabelled": 3,
        "queried": 2,
        "pseudo-labelled": 2,
        "labelled": 1,
    }


def test_every_dot_says_its_case_and_its_state(report: Report) -> None:
    plot = report.plots["embeddings_round_01"]
    assert plot.dots["queried"] == [f"{NASTY}, queried", "case_3, queried"]
    titles = re.findall(r"<title>([^<]+)</title>", plot.inline_svg())
    assert sorted(titles) == sorted(f"{row.case}, {row.mark}" for row in plot.data.itertuples())
    queried = plot.inline_svg().split('<g id="embeddings_round_01-queried">')[1].split("<g id=")[0]
    assert re.findall(r"<title>([^<]+)</title>", queried) == plot.dots["queried"]


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")
def test_equal_embeddings_are_one_point() -> None:
    plot = embedding_map("map", "", Embeddings(("a", "b"), np.ones((2, 3))), {}, "")
    np.testing.assert_allclose(plot.data[["pc1", "pc2"]], 0, atol=1e-12)


def test_why_there_is_no_map(material: Material) -> None:
    without = replace(with_settings(material, strategy="random"), embeddings={}, pretrained=None)
    assert section(without).missing == ("Strategy random computes no embeddings.",)
    first = replace(without, rounds=material.rounds[:1])
    assert section(first).missing == ("No round with a query is finished.",)


def test_before_the_first_query_there_is_the_map_before_adaptation(material: Material) -> None:
    (plot,) = section(replace(material, embeddings={}, rounds=material.rounds[:1])).plots
    assert plot.name == "embeddings_pretrained"
    assert "marked as they are after round 0." in plot.caption

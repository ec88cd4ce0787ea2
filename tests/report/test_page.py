"""The page as a whole: all sections, one file, nothing from outside, nothing from a name."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from nnunet_assft.comparison.printed_table import Cell
from nnunet_assft.report.page import columns_of, niivue, render
from nnunet_assft.report.plot import CSS
from nnunet_assft.report.sections.base import SectionTable, dkd_is_random, uses_dkd
from nnunet_assft.report.sections.head import head
from nnunet_assft.report.sections.order import build_sections
from nnunet_assft.report.sections.query_scores import DKD_COLUMNS
from tests.report.conftest import BALL, NASTY, STRUCTURES, Report, with_settings


def test_all_sections_of_a_whole_experiment(report: Report) -> None:
    order = ["learning", "structures", "test_cases", "query", "cases", "viewer", "embeddings", "pseudo_labels"]
    order += ["training", "comparison", "qualitative", "methods", "provenance"]
    assert [attributes["id"] for tag, attributes in report.page.tags if tag == "section"] == order
    # the run that the comparison lacks, the segmentations of three test cases, and NSD and HD95
    assert report.html.count('class="missing"') == 5
    assert "nnU-Net" in report.page.texts["training"]
    assert re.search(r"ASSFT experiment report, written on \d{4}-\d\d-\d\d", report.page.texts["head"])
    assert report.page.texts["head"].count(report.material.experiment.dataset) == 2  # the title of the page, and h1


# The random encoder -------------------------------------------------------------------------------------------------


def test_a_random_encoder_is_told_once_and_named_in_every_axis_and_column_of_dkd(report: Report) -> None:
    assert "because the experiment was planned without pre-trained weights" in report.page.texts["head"]
    assert report.html.count('class="note"') == 2  # that, and which arms of the comparison it concerns
    assert [name for name, section in report.sections.items() if section.warning] == ["comparison"]
    assert "E⁽⁰⁾ random" in report.plots["scores_round_01"].svg()  # in the file itself, too
    assert report.plots["embeddings_pretrained"].title.endswith("(random)")
    marked = 0
    for table in (table for section in report.sections.values() for table in section.tables):
        columns = set(table.data) & set(DKD_COLUMNS)
        assert set(table.marked) == columns
        marked += len(columns)
    assert marked == 2 * len(DKD_COLUMNS)
    assert len(re.findall(r"<small>E<sup>\(0\)</sup> random</small>", report.html)) == marked


def test_a_pre_trained_encoder_is_not_called_random(report: Report) -> None:
    material = with_settings(report.material, encoder="/somewhere/ct_fm.safetensors")
    assert not dkd_is_random(material)
    for section in build_sections(replace(material, comparison=None)):
        shown = [*section.text, section.warning, *section.missing]
        shown += [text for plot in section.plots for text in (plot.title, plot.caption, plot.svg())]
        shown += [text for t in section.tables for text in (*t.marked.values(), t.data.to_csv())]
        for said in ("is a random encoder", "(random)", "⁾ random", "/somewhere"):
            assert said not in " ".join(shown)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("assft", True), ("dkd_asd", True), ("dkd_low", True), ("random", False), ("entropy", False), ("gone", False)],
)
def test_which_strategies_use_dkd(strategy: str, expected: bool) -> None:
    assert uses_dkd(strategy) is expected


# One file, nothing from outside, nothing from a name ----------------------------------------------------------------


def test_nothing_is_loaded_from_outside(report: Report) -> None:
    html, tags = report.html, report.page.tags
    for tag, attributes in tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert "src" not in attributes
        for name in ("href", "xlink:href", "data", "action", "poster", "srcset"):
            assert re.match(r"#|data:image/png;base64,|r_files/", attributes.get(name) or "#"), (tag, name, attributes)
        assert "url(" not in (attributes.get("style") or "").replace("url(#", "")
    style = html[html.index("<style>") : html.index("</style>")]
    assert not re.search(r"@import|url\(", style)
    policy = next(attributes["content"] or "" for _, attributes in tags if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"http|\*|self", policy)
    links = [str(attributes["href"]) for tag, attributes in tags if tag == "a"]
    files = {link for link in links if link.startswith("r_files/")}
    assert len(files) > 40
    assert all((report.root / file).is_file() for file in files)


def test_links_to_the_files_hold_for_any_name_of_their_folder(report: Report) -> None:
    html = render(
        head(report.material), list(report.sections.values()), "javascript:a#1?_files", report.material.dataset
    )
    assert 'href="javascript%3Aa%231%3F_files/learning_curve.png"' in html
    assert 'href="javascript:' not in html


def test_names_stay_text(report: Report) -> None:
    page = report.page
    assert not [tag for tag, _ in page.tags if tag in ("img", "b", "i")]
    assert NASTY in page.texts["query"]
    assert NASTY in page.texts["cases"]
    assert BALL in page.texts["structures"]
    cases = json.loads(report.html.split('id="viewer_cases">')[1].split("</script>")[0])
    assert cases[0]["case"] == NASTY
    assert list(cases[0]["layers"]) == ["pre-segmentation", "label"]
    colours = json.loads(report.html.split('id="viewer_colours">')[1].split("</script>")[0])
    assert colours["labels"] == ["background", *STRUCTURES]


def test_every_figure_has_its_own_ids_and_says_what_it_shows(report: Report) -> None:
    html, tags = report.html, report.page.tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', html.split('id="niivue"')[0])) <= set(ids)
    pictures = [attributes for tag, attributes in tags if tag == "svg"]
    assert len(pictures) == html.count("<figure") > 10
    assert all(picture["role"] == "img" and len(str(picture["aria-label"])) > 20 for picture in pictures)
    fixed = [colour for colour in CSS if f": {colour}" in html.split("<body>")[1].split('class="legend"')[0]]
    assert not fixed  # colours follow light and dark


def test_niivue_cannot_close_its_script_element() -> None:
    assert "</script" not in niivue()
    assert niivue().startswith("(function(")
    assert len(niivue()) > 2_000_000


# Tables -------------------------------------------------------------------------------------------------------------


def test_cells_of_a_column_have_the_same_decimals() -> None:
    frame = pd.DataFrame(
        {"a": [0.5, 12.25, np.nan], "b": [1.0, 2.0, np.nan], "c": ["x", "1.0", "y"], "d": [True, False, True]}
    )
    columns = {column.name: column for column in columns_of(SectionTable("t", "", frame))}
    assert columns["a"].cells == ["0.50", "12.25", "–"]
    assert columns["b"].cells == ["1", "2", "–"]
    assert columns["c"].cells == ["x", "1.0", "y"]
    assert [column.number for column in columns.values()] == [True, True, False, False]
    (hd95,) = columns_of(SectionTable("t", "", pd.DataFrame({"HD95": [1.5, np.inf, np.nan]})))
    assert hd95.cells == ["1.500", "∞", "–"]  # a structure that is missed is not one that is not known


def test_the_best_of_a_column_is_bold_and_the_second_best_underlined() -> None:
    frame = pd.DataFrame({"a": [Cell("<1>", 1), Cell("2", 2), Cell("3")]})
    (column,) = columns_of(SectionTable("t", "", frame))
    assert column.cells == ["<strong>&lt;1&gt;</strong>", "<u>2</u>", "3"]

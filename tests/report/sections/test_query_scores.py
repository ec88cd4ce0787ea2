from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd

from nnunet_assft.report.material import Material
from nnunet_assft.report.page import columns_of
from nnunet_assft.report.sections.base import MAX_ROWS
from nnunet_assft.report.sections.query_scores import scores_plot, section
from tests.report.conftest import NASTY, Report

SCORES = pd.DataFrame({"case": ["a", "b", "c"], "query_rank": [np.nan, 1.0, np.nan], "entropy": [0.2, 0.9, 0.4]})


def test_dots_are_what_the_csv_has(report: Report) -> None:
    plot = report.plots["scores_round_01"]
    dots = np.concatenate([np.asarray(found.get_offsets()) for found in plot.figure.axes[0].collections])
    np.testing.assert_allclose(np.sort(dots, axis=0), np.sort(plot.data[["dkd_rank", "asd_rank"]], axis=0))


def test_the_queried_cases_come_first_and_by_rank(report: Report) -> None:
    queried, rest = report.sections["query"].tables
    assert list(queried.data["case"]) == [NASTY, "case_3"]
    assert rest.data["q"].is_monotonic_decreasing
    assert (queried.folded, rest.folded) == (False, True)


def test_another_strategy_shows_its_first_score(report: Report) -> None:
    plot = scores_plot(2, SCORES, random=False)
    assert plot is not None
    assert list(plot.data["case"]) == ["b", "c", "a"]
    assert list(plot.data["order"]) == [1, 2, 3]
    assert "queried: b." in plot.alt


def test_only_an_axis_of_dkd_says_that_its_encoder_is_random() -> None:
    plot = scores_plot(2, SCORES.rename(columns={"entropy": "dkd"}), random=True)
    other = scores_plot(2, SCORES, random=True)
    assert plot is not None
    assert other is not None
    labels = [of.figure.axes[0].get_ylabel() for of in (plot, other)]
    assert labels == ["DKD (E⁽⁰⁾ random)", "entropy"]


def test_dots_say_their_case_and_its_rank() -> None:
    plot = scores_plot(2, SCORES, random=False)
    assert plot is not None
    assert plot.dots == {"queried": ["b, rank 1"], "rest": ["c, not queried", "a, not queried"]}
    assert re.findall(r"<title>([^<]+)</title>", plot.svg()) == ["c, not queried", "a, not queried", "b, rank 1"]


def test_columns_have_names_that_can_be_read_and_files_those_of_the_scores(report: Report) -> None:
    table = report.sections["query"].tables[0]
    assert [column.title for column in columns_of(table)][-3:] == ["Q", "ASD", "rank of ASD"]
    written = pd.read_csv(report.root / "r_files" / f"{table.name}.csv")
    assert list(written)[-3:] == ["q", "asd", "asd_rank"]


def test_scores_that_do_not_vary_have_no_plot() -> None:
    assert scores_plot(2, SCORES.assign(entropy=1.0), random=False) is None


def test_a_long_table_says_what_it_leaves_out(material: Material) -> None:
    n = MAX_ROWS + 1
    scores = pd.DataFrame({"case": map(str, range(n + 1)), "query_rank": [1.0, *[np.nan] * n], "entropy": range(n + 1)})
    _, rest = section(replace(material, scores={1: scores})).tables
    assert rest.caption == "The first 200 of 201 cases; the CSV has all."
    assert len(rest.data) == n


def test_what_is_missing_is_said(material: Material) -> None:
    assert "There are no scores, because" in section(replace(material, scores={})).missing[0]
    third = replace(material.rounds[1], round=2)
    found = section(replace(material, rounds=(*material.rounds, third)))
    assert found.missing == ("The scores of round 2 are missing (scores_round_02.csv).",)
    assert len(found.plots) == 1

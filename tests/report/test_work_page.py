"""The page of a work folder: one file that needs no other, in which every text is escaped."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nnunet_assft.active.annotation import AnnotationRequest
from nnunet_assft.active.context import open_context
from nnunet_assft.active.state import Experiment
from nnunet_assft.annotation.export import Export
from nnunet_assft.annotation.preview import Prelabels
from nnunet_assft.report import work_page
from nnunet_assft.report.work_page import write_work_page
from nnunet_assft.runtime.csv_files import write_csv
from tests.conftest import CPU, blob_case, write_volume
from tests.report.conftest import Page
from tests.report.test_browser import browse, needs_chromium

NASTY = "<script>alert(1)</script>"
CASES = ("case_03", "case_05")


def write(experiment: Experiment, folder: Path, r: int = 1) -> str:
    """The page of a round that has queried two cases; their labels stand for pre-segmentations."""
    context = open_context(experiment, CPU)
    prelabels = Prelabels(context, r, folder / "prelabels", experiment.initial_model) if r else None
    rows: list[dict[str, object]] = []
    for rank, case in enumerate(CASES, 1):
        row = {"case": case, "rank": rank, "suggested_slice": 9, "slice_axis": "z", "most_uncertain": "ball"}
        rows.append({**row, "remarks": NASTY} if r else {"case": case, "rank": rank})
        if r:
            write_volume(folder / f"prelabels/{case}.nii.gz", blob_case(int(case[-2:]))[1])
    scores = [{"case": case, "query_rank": i, "dkd_rank": 0.75, "asd_rank": 0.5} for i, case in enumerate(CASES)]
    write_csv(experiment.paths.scores_file(1), scores)
    (folder / "README.txt").write_text(f"Open worklist.html.\n\n  Draw {NASTY}.\n")
    request = AnnotationRequest(r, CASES, dict.fromkeys(CASES, ()))
    remarks = {CASES[0]: [NASTY]} if r else {}
    return write_work_page(context, folder, Export(request, prelabels, (), tuple(rows), remarks)).read_text()


def test_what_to_do_why_and_pictures(planned: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_page, "MAX_PICTURES", 1)
    html = write(planned, tmp_path)
    page = Page(html)
    assert [attributes["id"] for tag, attributes in page.tags if tag == "section"] == [
        "first",
        "list",
        "cases",
        "viewer",
    ]
    assert page.texts["first"].split() == ["What", "to", "do", "Draw", *f"{NASTY}.".split()]
    why = "of the other cases of the query pool, 75% have changed less in the features of the network (DKD)"
    assert page.texts["list"].count(why) == 2
    assert "9 along z" in page.texts["list"]
    assert "Only the first 1 of 2 cases have pictures." in page.texts["cases"]
    assert f"Rank 1; {why}, and the network is surer of 50% (ASD); {NASTY}." in page.texts["cases"]
    assert html.count("<figure") == 1
    found = re.search(r'id="viewer_cases">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    assert [(case["case"], list(case["layers"])) for case in json.loads(found[1])] == [
        (case, ["pre-segmentation"]) for case in CASES
    ]


def test_nothing_of_it_comes_from_elsewhere_or_is_taken_for_html(planned: Experiment, tmp_path: Path) -> None:
    html = write(planned, tmp_path)
    assert NASTY not in html
    for tag, attributes in Page(html).tags:
        for name in ("src", "href"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), (tag, value)
    assert "default-src 'none'" in html
    assert write(planned, tmp_path) == html  # without a date, so that the same export gives the same file


def test_round_0_has_images_only(planned: Experiment, tmp_path: Path) -> None:
    page = Page(write(planned, tmp_path, r=0))
    assert "one of the first cases of the experiment" in page.texts["list"]
    assert "begin with slice" not in page.texts["list"]


@needs_chromium
@pytest.mark.slow
def test_the_page_opens_in_chromium_without_a_network(planned: Experiment, tmp_path: Path) -> None:
    write(planned, tmp_path)
    dom, console, urls = browse(f"{(tmp_path / work_page.PAGE).as_uri()}#viewer", tmp_path, "--dump-dom")
    assert (console, urls) == ([], set())
    drawn = re.search(r'data-drawn="(\d+)"', dom)
    assert drawn is not None
    assert int(drawn[1]) > 10_000

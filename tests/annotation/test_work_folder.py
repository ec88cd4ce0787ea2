"""The label tables as Slicer and ITK-SNAP read them, with names that people and programs come up with; and scores."""

from __future__ import annotations

import re

import pytest

from nnunet_assft.active.annotation import AnnotationRequest
from nnunet_assft.active.state import Experiment
from nnunet_assft.annotation.work_folder import itksnap_labels, scores_of, slicer_colours
from nnunet_assft.runtime.cached import cached
from nnunet_assft.runtime.csv_files import csv_text
from tests.conftest import save_by_spreadsheet

NAMES = [
    "left kidney",
    'so-called "cyst"',
    "line\nbreak",
    "carriage\r\nreturn",
    "tab\tbed",
    " blanks  at the ends ",
    "# no comment",
    "em\u2003space",
    "\x1b[31mred\x07",
    "niere_größe",
    "=1+1",
]


@pytest.mark.parametrize("name", NAMES)
def test_each_label_is_one_line_of_both_tables(name: str) -> None:
    labels = {"background": 0, name: 1, "spleen": 2}
    slicer = [line.split() for line in slicer_colours(labels).splitlines() if not line.startswith("#")]
    assert [(row[0], len(row)) for row in slicer] == [("0", 6), ("1", 6), ("2", 6)]
    assert slicer[2][1] == "spleen"
    # ITK-SNAP reads seven numbers and then what is between the first two quotes
    row = re.compile(r' +(\d+)(?: +\d+){6} +"([^"]*)"')
    snap = [row.fullmatch(line) for line in itksnap_labels(labels).splitlines() if not line.startswith("#")]
    assert [match and match[1] for match in snap] == ["0", "1", "2"]
    assert snap[2] is not None
    assert snap[2][2] == "spleen"
    for text in (slicer_colours(labels), itksnap_labels(labels)):
        assert all(character.isprintable() for character in text.replace("\n", ""))


def test_names_as_they_are_written() -> None:
    labels = {"background": 0, 'a "b" c': 1, "d\ne": 2}
    assert [line.split()[1] for line in slicer_colours(labels).splitlines()[3:]] == ['a_"b"_c', "d_e"]
    assert [line.split('    "')[1] for line in itksnap_labels(labels).splitlines()[6:]] == ["a 'b' c\"", 'd\\ne"']


def test_scores_that_a_spreadsheet_has_saved_are_written_again(planned: Experiment) -> None:
    file, request = planned.paths.scores_file(1), AnnotationRequest(1, ("case_01",), {"case_01": ()})
    table = csv_text([{"case": "case_01", "query_rank": 1, "q": 1.5}])
    cached(planned.paths.step_file(1, "query"), {}, lambda: {"queried": ["case_01"], "excluded": [], "table": table})
    assert scores_of(planned, request) == {"case_01": {"q": "1.5"}}  # also if the file is not there
    save_by_spreadsheet(file)
    assert scores_of(planned, request) == {"case_01": {"q": "1.5"}}
    assert file.read_text() == table

"""Tables of times as people send them: what is read, and the one line about every other."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_assft.annotation.minutes import Times
from nnunet_assft.errors import AssftError


@pytest.mark.parametrize(
    "content",
    [
        b"case,annotator,minutes\ncase_1,anna,31.5\ncase_2,,\n",
        b"\xef\xbb\xbfcase,annotator,minutes\r\ncase_1,anna,31.5\r\ncase_2,,\r\n",  # Excel, CSV UTF-8
        b"minutes,case,annotator\n31.5,case_1,anna\n,case_2,\n",
        b" case , annotator , minutes \n case_1 , anna , 31.5 \ncase_2\n",
        b"case,annotator,minutes\n\ncase_1,anna,31.5\n,,\ncase_2,,\n,,\n",  # empty lines at the end of a sheet
        b'case,annotator,minutes,remark\ncase_1,anna,31.5,"a, b"\ncase_2,,,\n',
        b"case,annotator,minutes\n'=x,anna,1\ncase_1,anna,31.5\ncase_2,,\n",
    ],
)
def test_tables_that_are_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "times.csv").write_bytes(content)
    times = Times.read(tmp_path / "times.csv", minutes=7)
    assert times.of("case_1", "anna") == 31.5
    assert times.of("case_2", None) == 7
    assert times.cases - {"=x"} == {"case_1", "case_2"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no columns; expected the columns case, annotator, minutes"),
        (b"id,time\n", "has 'id', 'time'; expected"),
        (b"case\tannotator\tminutes\ncase_1\tanna\t3\n", "expected .* separated by commas or semicolons"),
        (b"case\tminutes\n", "has 'case.tminutes'; expected"),
        (b"case,minutes,case\n", "has 'case', 'minutes', 'case'; expected"),
        (b"PK\x03\x04\xff\xfe" + bytes(40), "cannot be read"),  # a workbook of Excel
        ("case,minutes\nM\u00fcller,3\n".encode("latin1"), "cannot be read"),
        ("case,minutes\ncase_1,3\n".encode("utf-16"), "cannot be read"),
        (b"case,minutes\ncase_1,-4\n", "line 2: minutes '-4'; expected a number"),
        (b"case,minutes\ncase_1,nan\n", "line 2: minutes 'nan'; expected a number"),
        (b"case,minutes\ncase_1,inf\n", "line 2: minutes 'inf'; expected a number"),
        (b"case,minutes\ncase_1,25 min\n", "line 2: minutes '25 min'; expected a number"),
        (b"case,minutes\ncase_1,00:25\n", "line 2: minutes '00:25'; expected a number"),
        (b'case,minutes\ncase_1,"12,5"\n', "line 2: minutes '12,5'; expected a number"),
        (b"case,minutes\ncase_1,12,5\n", "line 2: 3 cells; expected 2, .* Write minutes with a point: 12.5"),
        (b"case,minutes\ncase_1,1\ncase_1,2\n", "line 3: case_1 is listed twice"),
        (b"case,minutes\n,3\n", "line 2: no case is named"),
        (b"case,minutes\n" + b"x" * 200_000 + b",3\n", "cannot be read"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "times.csv").write_bytes(content)
    with pytest.raises(AssftError, match=message) as caught:
        Times.read(tmp_path / "times.csv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.csv", "."])
def test_what_is_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(AssftError, match="cannot be read"):
        Times.read(tmp_path / name)


def test_decisions(tmp_path: Path) -> None:
    file = tmp_path / "times.csv"
    file.write_text("case,minutes,decision,annotator\na,2,Accept,\nb,,fix,anna\nb,,,bert\nc,1,,\n")
    times = Times.read(file)
    assert times.decisions == {("a", ""): "accept", ("b", "anna"): "fix"}
    assert times.decision_of("a", None) == times.decision_of("a", "carl") == "accept"
    assert [times.decision_of("b", name) for name in ("anna", "bert", None)] == ["fix", None, None]
    file.write_text("case,minutes,decision\na,2,ok\n")
    with pytest.raises(AssftError, match="line 2: decision 'ok'; expected accept, fix, reject or nothing"):
        Times.read(file)


def test_a_table_of_a_european_spreadsheet(tmp_path: Path) -> None:
    file = tmp_path / "times.csv"
    file.write_bytes(b"\xef\xbb\xbfcase;annotator;minutes\r\ncase_1;anna;12,5\r\ncase_2;;\r\n")
    times = Times.read(file)
    assert times.rows == {("case_1", "anna"): 12.5, ("case_2", ""): None}

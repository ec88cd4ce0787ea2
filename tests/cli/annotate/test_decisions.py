"""Decisions about pre-segmentations: accepted without a file, corrected, rejected, and what contradicts them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_assft.annotation.records import annotation_minutes, rejected_by
from nnunet_assft.extension import Wish, extend
from nnunet_assft.runtime.sealed import read_sealed, write_sealed
from tests.annotation.annotators import save_itksnap
from tests.cli.annotate.experiment import Call, image_of, label_file, label_of, record_of, the_experiment, truth


def decide(work: Path, *rows: str) -> list[object]:
    """Arguments of an import that takes these rows of the table of times."""
    (work / "times.csv").write_text("\n".join(["case,annotator,minutes,decision", *rows, ""]))
    return [work, "--times", work / "times.csv", "--accept_warnings"]


def prelabel(work: Path, case: str) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(work / f"prelabels/{case}.nii.gz")))


def test_one_is_accepted_one_rejected_and_one_corrected(root: Path, work: Path, call: Call) -> None:
    arguments = decide(work, "case_03,,1.5,accept", "case_01,,0.5,reject", "case_06,,12,fix")
    code, out, lines = call("import", *arguments)
    assert (code, len(lines)) == (1, 1)
    assert lines[0].endswith("case_06: its decision is fix, but no label was returned. Save it first.")
    assert "case_03: the label imported" in out
    assert "case_01: the pre-segmentation was rejected; draw it from scratch" in out
    assert "Missing labels: case_01, case_06" in out
    np.testing.assert_array_equal(label_of(root, "case_03"), prelabel(work, "case_03"))
    (entry,) = record_of(root, "case_03")["readings"]
    assert (entry["minutes"], entry["decision"], entry["file"]) == (1.5, "accept", "case_03.nii.gz")
    assert "it is the pre-segmentation, unchanged" not in entry["accepted"]
    (entry,) = record_of(root, "case_01")["readings"]
    assert (entry["minutes"], entry["decision"], entry["label_sha256"]) == (0.5, "reject", None)
    file = the_experiment().paths.annotation_file("case_01")
    assert rejected_by(file, 1) == [None]
    assert rejected_by(file, 2) == []  # a later round has another pre-segmentation
    assert rejected_by(file, 1, second_look=True) == []
    _, out, _ = call("status")
    assert "case_01  -  0.5  pre-segmentation rejected, to be drawn from scratch" in out
    # a new work folder has no pre-segmentation of the rejected case
    call("export", "-o", root / "again", "-device", "cpu")
    assert [file.name for file in sorted((root / "again/prelabels").iterdir())] == ["case_03.nii.gz", "case_06.nii.gz"]
    with open(root / "again/worklist.csv") as file:
        remarks = {row["case"]: row["remarks"] for row in csv.DictReader(file)}
    assert remarks["case_01"].startswith("its pre-segmentation was rejected; draw it from scratch")
    # the others arrive; the rejection stays on record, and a table may correct the minutes
    for case in ("case_01", "case_06"):
        save_itksnap(work / f"annotations/{case}.nii.gz", truth(case), image_of(root, case))
    code, out, lines = call("import", *decide(work, "case_03,,2,accept", "case_01,,30,", "case_06,,12,fix"))
    assert (code, lines) == (0, [])
    decisions = {case: record_of(root, case)["readings"][0]["decision"] for case in ("case_03", "case_01", "case_06")}
    assert decisions == {"case_03": "accept", "case_01": "reject", "case_06": "fix"}
    minutes = {"case_03": 2, "case_01": 30, "case_06": 12}
    assert annotation_minutes(the_experiment().paths.annotations) == minutes
    np.testing.assert_array_equal(label_of(root, "case_01"), truth("case_01"))
    # a corrected label is no longer the accepted pre-segmentation; it was drawn from scratch as before
    for case in ("case_03", "case_01"):
        label = truth(case)
        label[0, 0, 0] = 1
        save_itksnap(work / f"annotations/{case}.nii.gz", label, image_of(root, case))
    code, out, _ = call("import", work, "--replace", "--accept_warnings")
    assert code == 0
    assert out.count("what was recorded of the label is replaced: the decision accept)") == 1
    assert out.count("what was recorded") == 1
    decisions = {case: record_of(root, case)["readings"][0]["decision"] for case in minutes}
    assert decisions == {"case_03": None, "case_01": "reject", "case_06": "fix"}
    assert annotation_minutes(the_experiment().paths.annotations) == minutes


def test_decisions_that_contradict_what_came_back(root: Path, work: Path, call: Call) -> None:
    save_itksnap(work / "annotations/case_03.nii.gz", truth("case_03"), image_of(root, "case_03"))
    code, _, lines = call("import", *decide(work, "case_03,,1,accept", "case_04,,1,accept"))
    assert (code, len(lines)) == (1, 2)
    assert "case_04: nobody is asked for this case, so its decision accept is void" in lines[0]
    assert "it is not the pre-segmentation, but its decision is accept. Write fix, or remove the file." in lines[1]
    assert not label_file(root, "case_03").exists()


def test_an_accepted_label_with_warnings_needs_consent(root: Path, work: Path, call: Call) -> None:
    """The segmentations of the untrained network are far larger than the labels so far."""
    code, _, lines = call("import", *decide(work, "case_03,,1,accept")[:-1])
    assert code == 1
    assert all("warning: case_03 (" in line for line in lines)
    assert any("kidney_left has " in line for line in lines)
    assert not any("unchanged" in line for line in lines)
    assert not label_file(root, "case_03").exists()


def test_a_pre_segmentation_that_was_saved_over_is_noticed(root: Path, work: Path, call: Call) -> None:
    """As with Ctrl+S in ITK-SNAP. The same voxels in other bytes are no change."""
    changed, same = work / "prelabels/case_01.nii.gz", work / "prelabels/case_06.nii.gz"
    save_itksnap(changed, truth("case_01"), image_of(root, "case_01"))
    before = same.read_bytes()
    save_itksnap(same, prelabel(work, "case_06"), image_of(root, "case_06"))
    assert same.read_bytes() != before
    code, _, lines = call("import", *decide(work, "case_01,,1,accept"))
    assert (code, len(lines)) == (1, 1)
    assert f"case_01 ({changed}): the pre-segmentation was saved over" in lines[0]
    assert lines[0].endswith(f"move it to {work / 'annotations/case_01.nii.gz'}.")
    assert not label_file(root, "case_01").exists()
    changed.rename(work / "annotations/case_01.nii.gz")
    code, _, lines = call("import", *decide(work, "case_01,,1,fix"))
    assert (code, lines) == (0, [])
    np.testing.assert_array_equal(label_of(root, "case_01"), truth("case_01"))


@pytest.mark.parametrize("other", [{"round": 0}, {"experiment": "random"}])
def test_a_decision_is_about_the_pre_segmentation_that_was_shown(
    root: Path, work: Path, call: Call, other: dict[str, object]
) -> None:
    """An earlier round or another experiment had asked for the case, too, and its work folder comes back."""
    write_sealed(work / "export.json", {**read_sealed(work / "export.json"), **other})
    save_itksnap(work / "prelabels/case_03.nii.gz", truth("case_03"), image_of(root, "case_03"))
    code, _, lines = call("import", *decide(work, "case_03,,1,accept"))
    assert (code, len(lines)) == (1, 1)
    assert f"case_03: its decision accept is void, because the pre-segmentations in {work} are not those of" in lines[0]
    assert not label_file(root, "case_03").exists()


def test_each_annotator_decides_about_the_cases_that_are_assigned(root: Path, work: Path, call: Call) -> None:
    options = ("--annotators", "anna", "bert", "--double_read", "0.3", "--uncertainty", "-device", "cpu")
    call("export", "-o", work, *options)  # case_03: anna, case_01: both, case_06: bert
    rows = ("case_03,carl,1,accept", "case_01,anna,2,accept", "case_01,bert,3,accept", "case_06,,4,accept")
    code, out, lines = call("import", *decide(work, *rows))
    assert (code, len(lines)) == (1, 1)
    assert "case_03: it is annotated by anna, not by carl. Correct the annotator in the table of times." in lines[0]
    assert "case_01: second reading by bert imported" in out
    assert "case_06: the label by bert imported" in out
    assert "mean 1.000" in out  # both have accepted the same
    minutes = {entry["annotator"]: entry["minutes"] for entry in record_of(root, "case_01")["readings"]}
    assert minutes == {"anna": 2, "bert": 3}


def test_a_rejection_is_that_of_the_annotator_who_made_it(root: Path, work: Path, call: Call) -> None:
    both = ["anna", "bert"]
    write_sealed(the_experiment().paths.annotators_file(1), {"case_01": both, "case_03": both})

    def save(name: str, case: str) -> None:
        save_itksnap(work / f"annotations/{name}/{case}.nii.gz", truth(case), image_of(root, case))

    def decisions(case: str) -> dict[str, str | None]:
        return {entry["annotator"]: entry["decision"] for entry in record_of(root, case)["readings"]}

    # the first rejects, the second draws without a word, and then the first draws
    assert call("import", *decide(work, "case_01,anna,3,reject"))[0] == 0
    save("bert", "case_01")
    assert call("import", work)[0] == 0
    assert decisions("case_01") == {"anna": "reject", "bert": None}
    out = call("status")[1]
    assert "case_01  anna  3  pre-segmentation rejected, to be drawn from scratch" in out
    assert "case_01  bert  -  second reading, imported" in out
    save("anna", "case_01")
    assert call("import", work)[0] == 0
    assert decisions("case_01") == {"anna": "reject", "bert": None}
    # the second rejects when the label of the first is there already, and says that a label was saved which was not
    save("anna", "case_03")
    assert (
        "case_03: the pre-segmentation was rejected by bert"
        in call("import", *decide(work, "case_03,bert,1,reject"))[1]
    )
    assert decisions("case_03") == {"anna": None, "bert": "reject"}
    out = call("status")[1]
    assert "case_03  anna  -  imported" in out
    assert "case_03  bert  1  second reading, rejected (the round does not wait for it)" in out
    code, _, lines = call("import", *decide(work, "case_03,bert,1,fix"))
    assert (code, len(lines)) == (1, 1)
    assert lines[0].endswith("case_03: its decision is fix, but no label was returned. Save it first.")


def test_a_line_by_nobody_who_annotates_the_case_is_named(root: Path, work: Path, call: Call) -> None:
    """It would otherwise be lost without a word, or two people would contradict each other."""
    code, out, lines = call("import", *decide(work, "case_03,anna,3,accept", "case_03,bert,1,reject"))
    assert (code, len(lines)) == (1, 1)
    assert lines[0].endswith("case_03: the table of times has 2 decisions about it (accept, reject). Keep one.")
    assert "case_03" not in out.partition("Missing labels")[0]
    annotators = {"case_03": ["anna"], "case_01": ["anna", "bert"]}
    write_sealed(the_experiment().paths.annotators_file(1), annotators)
    save_itksnap(work / "annotations/anna/case_03.nii.gz", truth("case_03"), image_of(root, "case_03"))
    code, _, lines = call("import", *decide(work, "case_03,Anna,30,", "case_03,anna,,", "case_01,,1,reject"))
    assert (code, len(lines)) == (1, 2)
    assert "case_03: it is annotated by anna, not by Anna. Correct the annotator in the table of times." in lines[0]
    assert "case_01: it is annotated by anna and bert, and the table of times does not say who has decided." in lines[1]


def test_a_table_that_was_written_before_a_case_was_withdrawn(root: Path, work: Path, call: Call) -> None:
    extend(the_experiment(), Wish(withdrawn=["case_06"]))
    save_itksnap(work / "annotations/case_03.nii.gz", truth("case_03"), image_of(root, "case_03"))
    code, out, lines = call("import", *decide(work, "case_03,,7,fix", "case_06,,,"))
    assert (code, lines) == (0, [])
    assert "case_03: the label imported" in out
    code, _, lines = call("import", *decide(work, "case_06,,1,accept"))
    assert (code, len(lines)) == (1, 1)
    assert lines[0].endswith("case_06: nobody is asked for this case, so its decision accept is void.")

"""Decisions about pre-segmentations: accepted without a file, corrected, rejected, and what contradicts them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_assft.annotation.records import annotation_minutes, is_rejected
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
    assert is_rejected(file, 1)
    assert not is_rejected(file, 2)  # a later round has another pre-segmentation
    assert not is_rejected(file, 1, second_look=True)
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
    assert annotation_minutes(the_experiment().paths.annotations) == {"case_03": 2, "case_01": 30, "case_06": 12}
    np.testing.assert_array_equal(label_of(root, "case_01"), truth("case_01"))


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

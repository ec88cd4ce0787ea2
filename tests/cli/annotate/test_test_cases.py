"""Test cases that annotators are asked for: what they get, where their labels go, and when they count."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_assft.active.state import finished_rounds
from nnunet_assft.cli.extend import main as extend_main
from nnunet_assft.cli.plan import main as plan_main
from nnunet_assft.runtime.files import sha256_file
from tests.annotation.annotators import save_itksnap
from tests.cli.annotate.experiment import (
    DATASET,
    QUERIED,
    TOP_FILES,
    Call,
    image_of,
    label_file,
    plan_round_1,
    record_of,
    the_experiment,
    truth,
)
from tests.conftest import blob_case, set_folders, write_dataset, write_volume

WANTED = ("case_11", "case_12")


@pytest.fixture
def asked(root: Path) -> Path:
    """The root of the experiment of this package, which has three test cases, with two images more in imagesTs."""
    for case in WANTED:
        write_volume(root / f"nnUNet_raw/{DATASET}/imagesTs/{case}_0000.nii.gz", blob_case(int(case[-2:]))[0])
    return root


def image_in_test(root: Path, case: str) -> sitk.Image:
    return sitk.ReadImage(str(root / f"nnUNet_raw/{DATASET}/imagesTs/{case}_0000.nii.gz"))


def label_in_test(root: Path, case: str) -> Path:
    return root / f"nnUNet_raw/{DATASET}/labelsTs/{case}.nii.gz"


def voxels(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def extend(*words: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        extend_main(["-d", "901", *words])
    return int(exit_.value.code or 0)


def test_the_work_folder_has_nothing_by_a_model_and_no_label_is_read(asked: Path, call: Call) -> None:
    """In round 1, in which a model exists. The labels of other test cases are noise that no reader takes."""
    for file in (asked / f"nnUNet_raw/{DATASET}/labelsTs").iterdir():
        file.write_bytes(b"hidden")
    work = asked / "work"
    code, out, lines = call("export", "--test", "-o", work, "--uncertainty", "-device", "cpu")
    assert (code, lines) == (0, [])
    assert f"test cases: 2 cases to annotate in {work}: case_11, case_12\n" in out
    assert (
        "There are no pre-segmentations and no uncertainty maps, so that these labels do not depend on a model" in out
    )
    assert {str(file.relative_to(work)) for file in work.rglob("*") if file.is_file()} == {
        "images/case_11_0000.nii.gz",
        "images/case_12_0000.nii.gz",
        *TOP_FILES,
    }
    assert (work / "times.csv").read_text().splitlines() == ["case,annotator,minutes", "case_11,,", "case_12,,"]
    assert (work / "worklist.csv").read_text().splitlines() == ["case,rank", "case_11,1", "case_12,2"]
    readme = (work / "README.txt").read_text()
    assert readme.startswith("2 test cases to annotate, in the order")
    assert "The network will be measured by these labels, so there is no pre-segmentation." in readme
    assert sha256_file(work / "images/case_11_0000.nii.gz") == sha256_file(
        asked / f"nnUNet_raw/{DATASET}/imagesTs/case_11_0000.nii.gz"
    )


def test_labels_pass_the_gate_into_labels_ts_and_count_once_they_have_joined(
    asked: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    work, labels_ts = asked / "work", asked / f"nnUNet_raw/{DATASET}/labelsTs"
    finished = {file: sha256_file(file) for file in labels_ts.iterdir()}
    call("export", "--test", "-o", work, "--annotators", "anna", "-device", "cpu")
    assert "Missing labels of test cases: case_11, case_12." in call("status")[1]
    save_itksnap(work / "annotations/anna/case_11.nii.gz", truth("case_11"), image_in_test(asked, "case_11"))
    save_itksnap(work / "annotations/anna/case_12.nii.gz", 9 * truth("case_12"), image_in_test(asked, "case_12"))
    code, out, (refused,) = call("import", work)
    assert code == 1
    assert refused.startswith("nnUNetv2_assft_annotate: error: case_12 (")
    assert "case_11: the label by anna imported, kidney_right" in out
    assert "Missing labels of test cases: case_12." in out
    join = "nnUNetv2_assft_extend -d 901 --test case_11"
    assert f"1 label of test cases can be used. To measure the next rounds by them: {join}\n" in out
    assert "Missing labels: case_03, case_01, case_06. Next" in out  # the round waits for its own cases
    np.testing.assert_array_equal(voxels(label_in_test(asked, "case_11")), truth("case_11"))
    assert (
        sitk.ReadImage(str(label_in_test(asked, "case_11"))).GetOrigin() == image_in_test(asked, "case_11").GetOrigin()
    )
    record = record_of(asked, "case_11")
    assert (record["round"], record["readings"][0]["annotator"]) == (None, "anna")
    assert {file: sha256_file(file) for file in finished} == finished

    state = call("status")[1]
    assert f"test cases of {DATASET}, experiment 'assft': 2 cases to annotate" in state
    assert re.search(r"^case_11  anna  -  imported\ncase_12  anna  -  missing$", state, re.MULTILINE)
    (work / "annotations/anna/case_12.nii.gz").unlink()
    code, out, lines = call("import", work)
    assert (code, lines) == (0, [])
    assert "case_11: the label by anna has been imported already" in out

    before = the_experiment().now
    capsys.readouterr()
    assert extend("--test", *WANTED, "-np", "1") == 1
    assert "nnUNetv2_assft_annotate export -d 901 --test -o WORK asks annotators for those" in capsys.readouterr().err
    assert extend("--test", "case_11", "-np", "1") == 0
    assert the_experiment().now.test == (*before.test, "case_11")
    assert the_experiment().now.pool == before.pool
    assert "2 cases to annotate" not in call("status")[1]
    assert call("export", "--test", "-o", asked / "again", "-device", "cpu")[1].startswith(
        f"test cases: 1 case to annotate in {asked / 'again'}: case_12\n"
    )


def test_a_test_case_of_the_experiment_is_not_touched(asked: Path, call: Call) -> None:
    """Neither one that finished rounds were measured by, nor one that annotators drew; not even with --replace."""
    call("export", "--test", "-o", asked / "work", "-device", "cpu")
    for case in WANTED:
        save_itksnap(asked / f"work/annotations/{case}.nii.gz", truth(case), image_in_test(asked, case))
    call("import", asked / "work")
    extend("--test", "case_11", "-np", "1")
    for case in ("case_08", "case_11", "case_12"):
        save_itksnap(asked / f"other/{case}.nii.gz", truth("case_01"), image_in_test(asked, case))
    labels = {case: sha256_file(label_in_test(asked, case)) for case in ("case_08", "case_11", "case_12")}
    code, _, lines = call("import", asked / "other", "--replace", "--accept_warnings")
    assert (code, len(lines)) == (1, 2)
    for case, line in zip(("case_08", "case_11"), lines, strict=True):
        assert f"error: {case} (" in line
        assert "it is a test case of the experiment already, and its label stays as it is" in line
        assert sha256_file(label_in_test(asked, case)) == labels[case]
    np.testing.assert_array_equal(voxels(label_in_test(asked, "case_12")), truth("case_01"))  # which may be replaced
    assert sha256_file(the_experiment().paths.annotations / "replaced" / f"case_12_{labels['case_12'][:8]}.nii.gz")


def test_what_nobody_is_asked_for(root: Path, asked: Path, call: Call) -> None:
    save_itksnap(root / "back/case_11.nii.gz", truth("case_11"), image_in_test(root, "case_11"))
    code, _, (line,) = call("import", root / "back")
    assert code == 1
    assert "nobody is asked for this case" in line
    assert "nnUNetv2_assft_annotate export -d 901 --test -o WORK asks for test cases without a label." in line
    assert not label_in_test(root, "case_11").exists()
    for case in WANTED:
        (root / f"nnUNet_raw/{DATASET}/imagesTs/{case}_0000.nii.gz").unlink()
    code, _, (line,) = call("export", "--test", "-o", root / "work", "-device", "cpu")
    assert code == 1
    assert (
        f"There is no image without a label in {root / f'nnUNet_raw/{DATASET}/imagesTs'}. Put the scans there" in line
    )


def test_a_work_folder_of_a_round_does_not_become_one_of_test_cases(work: Path, asked: Path, call: Call) -> None:
    code, _, (line,) = call("export", "--test", "-o", work, "-device", "cpu")
    assert code == 1
    assert f"{work} holds an export of round 1 of {DATASET}" in line
    assert not list(asked.rglob("readers_test.json"))  # so that nothing was asked for


def test_two_annotators_of_a_test_case_are_compared(asked: Path, call: Call) -> None:
    two = ("--annotators", "anna", "bert", "--double_read", "1")
    call("export", "--test", "-o", asked / "work", *two, "-device", "cpu")
    for name in ("anna", "bert"):
        save_itksnap(
            asked / f"work/annotations/{name}/case_11.nii.gz", truth("case_11"), image_in_test(asked, "case_11")
        )
    code, out, lines = call("import", asked / "work")
    assert (code, lines) == (0, [])
    assert f"Agreement between two annotators, Dice ({the_experiment().paths.results / 'agreement_test.csv'})" in out
    assert "  case_11  anna bert  kidney_right 1.000  kidney_left 1.000  mean 1.000" in out


def test_after_the_last_round_labels_still_come_in_and_none_is_asked_for(asked: Path, call: Call) -> None:
    call("export", "--test", "-o", asked / "work", "-device", "cpu")
    experiment = the_experiment()
    (done,) = finished_rounds(experiment)
    for r, queried in ((1, tuple(QUERIED)), (2, ("case_04", "case_05"))):
        labelled = (*done.labelled, *queried)
        unlabelled = tuple(case for case in experiment.pool if case not in labelled)
        done = replace(done, round=r, labelled=labelled, unlabelled=unlabelled, queried=queried)
        done.save(experiment.paths)
    save_itksnap(asked / "work/annotations/case_11.nii.gz", truth("case_11"), image_in_test(asked, "case_11"))
    for case in (*QUERIED, "case_04", "case_05"):
        save_itksnap(label_file(asked, case), truth(case), image_of(asked, case))
    code, out, lines = call("import", asked / "work")
    assert (code, lines) == (0, [])
    assert "case_11: the label imported" in out
    assert out.endswith("--test case_11\nAll rounds are done.\n")
    code, _, (line,) = call("export", "--test", "-o", asked / "more", "-device", "cpu")
    assert code == 1
    assert "All rounds are done, so none would be measured on new test cases." in line
    assert "Run nnUNetv2_assft_extend -d 901 --rounds 3 first." in line


def test_a_damaged_request_is_named_with_what_to_do(asked: Path, call: Call) -> None:
    the_experiment().paths.annotators_file(None).write_text('{"case_11": []}')
    code, _, (line,) = call("status")
    assert code == 1
    assert "readers_test.json is damaged" in line
    assert "Delete it, and run annotate export --test with the same" in line


def test_a_label_lies_on_its_image_whatever_its_orientation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    """With a reader that turns images, in which the axes of the file and those of the array differ."""

    def stored(image: sitk.Image) -> sitk.Image:
        return sitk.DICOMOrient(image, "PIR")

    plan_round_1(tmp_path, monkeypatch, reader="NibabelIOWithReorient", store=stored)
    image, drawn = tmp_path / f"nnUNet_raw/{DATASET}/imagesTs/case_11_0000.nii.gz", tmp_path / "drawn.nii.gz"
    for file, array in zip((image, drawn), blob_case(11), strict=True):
        write_volume(file, array)
        sitk.WriteImage(stored(sitk.ReadImage(str(file))), str(file))
    call("export", "--test", "-o", tmp_path / "work", "-device", "cpu")
    shutil.copy(drawn, tmp_path / "work/annotations/case_11.nii.gz")
    assert call("import", tmp_path / "work")[0] == 0
    label, expected = nibabel.load(label_in_test(tmp_path, "case_11")), nibabel.load(drawn)
    np.testing.assert_array_equal(np.asarray(label.dataobj), np.asarray(expected.dataobj))
    np.testing.assert_allclose(label.affine, nibabel.load(image).affine, atol=1e-4)
    (tmp_path / "again").mkdir()
    sitk.WriteImage(sitk.ReadImage(str(drawn)), str(tmp_path / "again/case_11.nrrd"))
    code, _, lines = call("import", tmp_path / "again")  # the same voxels in another file, so nothing to replace
    assert (code, lines) == (0, [])


def test_plan_points_to_the_command_and_a_plan_after_the_import_to_extend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], call: Call
) -> None:
    """Without any label: nothing is measured until annotators have drawn test cases."""
    set_folders(tmp_path, monkeypatch)
    folder = write_dataset(tmp_path / "nnUNet_raw", n_pool=3, n_test=1)
    for file in folder.glob("labels*/*"):
        file.unlink()
    (folder / "labelsTs").rmdir()

    def plan(*words: str) -> tuple[str, str]:
        capsys.readouterr()
        small = "--preset tiny --rounds 1 --budget 1 --epochs 1 --iterations_per_epoch 1 --initial_lr 1e-3 -np 1"
        with pytest.raises(SystemExit):
            plan_main(["-d", "901", "--annotator", "human", *small.split(), *words])
        return capsys.readouterr()

    export = "nnUNetv2_assft_annotate export -d 901 --test -o WORK"
    out, _ = plan()
    assert f"imagesTs has 1 image without a label; {export} asks annotators for them.\n" in out
    assert "There are no test cases, so no Dice is measured.\n" in out
    call("export", "--test", "-o", tmp_path / "work", "-device", "cpu")
    save_itksnap(tmp_path / "work/annotations/case_03.nii.gz", truth("case_03"), image_in_test(tmp_path, "case_03"))
    code, out, lines = call("import", tmp_path / "work")
    assert (code, lines) == (0, [])
    assert "case_03: the label imported" in out
    _, err = plan()
    assert "(test was 0 cases, now 1 case)" in err
    assert "nnUNetv2_assft_extend -d 901 --test case_03 adds test cases." in err
    assert extend("--test", "case_03", "-np", "1") == 0
    out, _ = plan()
    assert "3 cases in the pool, 1 test case (" in out
    assert "no Dice" not in out

    (folder / "imagesTs/case_03_0000.nii.gz").unlink()
    out, _ = plan("-e", "other")
    assert (
        "There are no test cases, so no Dice is measured. Put scans into imagesTs that are not in the pool, and" in out
    )

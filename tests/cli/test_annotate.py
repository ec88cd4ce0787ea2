"""The human's part of a round: work folder, the gate for what comes back, several readers, partial rounds, any kill."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_assft.active.annotation import labels_to_come, open_request
from nnunet_assft.active.context import open_context
from nnunet_assft.active.rounds import run_round
from nnunet_assft.active.scoring.prediction import open_scorer
from nnunet_assft.active.state import Experiment, Round, finished_rounds
from nnunet_assft.cli.annotate import main as annotate_main
from nnunet_assft.cli.round import main as round_main
from nnunet_assft.errors import AssftError, WaitingForAnnotation
from nnunet_assft.evaluation.dice import mean_of
from nnunet_assft.planning.preprocessing import load_image
from nnunet_assft.runtime.cached import cached
from nnunet_assft.runtime.files import read_json, sha256_file, write_csv
from tests.active.test_rounds import SETTINGS
from tests.annotation.annotators import REFUSED, WARNED, Scene, save_itksnap, save_slicer, segments_of
from tests.conftest import SHARED_DATA, blob_case, needs_hippocampus, plan_experiment, write_dataset, write_volume
from tests.kills import before_replace, is_killed

CPU = torch.device("cpu")
KIDNEYS = {"background": 0, "kidney_right": 1, "kidney_left": 2}  # the box lies to the left of the ball
PROGRESS = re.compile(r"\d+%\||\d+case \[")
QUERIED = ["case_03", "case_01", "case_06"]

Call = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """(exit code, stdout, lines of stderr that are no progress bar) of `annotate WHAT ...`."""

    def run_command(what: str, *arguments: object) -> tuple[int, str, list[str]]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            annotate_main([what, "-d", "901", *map(str, arguments)])
        out, err = capsys.readouterr()
        lines = [part.strip() for part in err.replace("\r", "\n").split("\n")]
        return int(exit_.value.code or 0), out, [line for line in lines if line and not PROGRESS.search(line)]

    return run_command


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of an experiment in round 1, which has queried three cases; its model is the untrained network. Read-only."""
    root = tmp_path_factory.mktemp("planned")
    with pytest.MonkeyPatch.context() as monkeypatch:
        plan_round_1(root, monkeypatch)
    return root


def plan_round_1(root: Path, monkeypatch: pytest.MonkeyPatch, stored: str | None = None) -> None:
    """stored: the axes of all images, such as LPS, for nnU-Net's reorienting reader."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (root / name).mkdir(parents=True)
        monkeypatch.setenv(name, str(root / name))
    folder = write_dataset(root / "nnUNet_raw")
    content = json.loads((folder / "dataset.json").read_text()) | {"labels": KIDNEYS}
    for file in (folder / "labelsTr").iterdir():
        file.unlink()
    for case in ("case_00", "case_02"):  # labelled already
        write_volume(folder / "labelsTr" / f"{case}.nii.gz", blob_case(int(case[-2:]))[1])
    if stored:
        content["overwrite_image_reader_writer"] = "NibabelIOWithReorient"
        for file in folder.rglob("*.nii.gz"):
            sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(file)), stored), str(file))
    (folder / "dataset.json").write_text(json.dumps(content))
    experiment = plan_experiment(901, annotator="human", **SETTINGS)
    done = Round(
        round=0,
        labelled=("case_00", "case_02"),
        unlabelled=tuple(c for c in experiment.pool if c not in ("case_00", "case_02")),
        queried=("case_00", "case_02"),
        excluded=(),
        pseudo_labelled=(),
        reliability={},
        test=experiment.test,
        model=experiment.initial_model,
        dice={"mean": None, "sd": None, "n_cases": 0, "per_structure": {}, "per_case": {}},
    )
    done.save(experiment.paths)
    cached(experiment.paths.step_file(1, "query"), {}, lambda: {"queried": QUERIED, "excluded": []})
    scores = [{"case": case, "query_rank": i + 1, "q": 2 - i / 2, "dkd": 0.5} for i, case in enumerate(QUERIED)]
    write_csv(experiment.paths.scores_file(1), scores)


@pytest.fixture
def root(planned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it."""
    shutil.copytree(planned, tmp_path, dirs_exist_ok=True)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path


def the_experiment() -> Experiment:
    return Experiment.load(plan_experiment(901, annotator="human", **SETTINGS).paths)


def truth(case: str) -> np.ndarray:
    return blob_case(int(case[-2:]))[1]


def image_of(root: Path, case: str) -> sitk.Image:
    return sitk.ReadImage(str(root / f"nnUNet_raw/Dataset901_Blobs/imagesTr/{case}_0000.nii.gz"))


def label_file(root: Path, case: str) -> Path:
    return root / f"nnUNet_raw/Dataset901_Blobs/labelsTr/{case}.nii.gz"


def label_of(root: Path, case: str) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(label_file(root, case))))


def record_of(root: Path, case: str) -> dict:
    return read_json(root / f"nnUNet_results/Dataset901_Blobs/assft/assft/annotations/{case}.json")


# Export ---------------------------------------------------------------------------------------------------------------


def test_the_work_folder(root: Path, call: Call) -> None:
    work = root / "work"
    code, out, lines = call("export", "-o", work, "--uncertainty", "-device", "cpu")
    assert (code, lines) == (0, [])
    assert "3 cases to annotate" in out
    assert {file.name for file in work.iterdir()} == {
        "images",
        "prelabels",
        "overlays",
        "uncertainty",
        "annotations",
        "labels.ctbl",
        "labels_itksnap.txt",
        "worklist.csv",
        "README.txt",
        "export.json",
    }
    image_file = work / "images/case_03_0000.nii.gz"
    assert os.path.samefile(image_file, root / "nnUNet_raw/Dataset901_Blobs/imagesTr/case_03_0000.nii.gz")
    image = sitk.ReadImage(str(image_file))
    for kind in ("prelabels", "uncertainty"):
        volume = sitk.ReadImage(str(work / kind / "case_03.nii.gz"))
        for geometry in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(volume, geometry)() == getattr(image, geometry)()
    assert (work / "overlays/case_03.png").read_bytes().startswith(b"\x89PNG")
    assert (work / "labels.ctbl").read_text().splitlines()[2:4] == [
        "0 background 0 0 0 0",
        "1 kidney_right 36 96 242 255",
    ]
    assert (
        '    2   182  242   97        1  1  1    "kidney_left"'
        in (work / "labels_itksnap.txt").read_text().splitlines()
    )
    with open(work / "worklist.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["rank"], row["q"], row["dkd"]) for row in rows] == [
        ("case_03", "1", "2.0", "0.5"),
        ("case_01", "2", "1.5", "0.5"),
        ("case_06", "3", "1.0", "0.5"),
    ]
    prelabel = sitk.GetArrayFromImage(sitk.ReadImage(str(work / "prelabels/case_03.nii.gz")))
    for name, value in (("kidney_right", 1), ("kidney_left", 2)):
        assert float(rows[0][f"predicted_ml_{name}"]) == pytest.approx(
            (prelabel == value).sum() / 1000, abs=1e-3
        )  # voxels of 1 mm3
    assert f"{int(rows[0]['suggested_slice']) - 1 + 7.5}" == rows[0]["slice_s_mm"]  # origin 7.5, spacing 1


def test_the_suggested_slice_and_structure_are_the_most_uncertain_ones(root: Path, call: Call) -> None:
    """Recomputed from the network's output by definition."""
    work = root / "work"
    call("export", "-o", work, "--uncertainty", "-device", "cpu")
    context = open_context(the_experiment(), CPU)
    entropy = sitk.GetArrayFromImage(sitk.ReadImage(str(work / "uncertainty/case_06.nii.gz")))
    scorer = open_scorer(context, the_experiment().initial_model)
    p = torch.softmax(scorer.logits(load_image(context.image_folder, "case_06")).float(), 0).numpy().astype(float)
    expected = -(p * np.log(np.maximum(p, 1e-300))).sum(0)
    np.testing.assert_allclose(
        entropy, expected, atol=2e-3
    )  # spacing 1 mm, nothing cropped: the network grid is the image's
    mask = p[0] / 3 < p[1:].max(0)  # tau of round 1
    slices = np.where(mask, expected, 0).sum((1, 2))
    prelabel = sitk.GetArrayFromImage(sitk.ReadImage(str(work / "prelabels/case_06.nii.gz")))
    with open(work / "worklist.csv") as file:
        row = list(csv.DictReader(file))[2]
    assert int(row["suggested_slice"]) == slices.argmax() + 1
    means = {
        name: entropy[prelabel == value].mean()
        for name, value in KIDNEYS.items()
        if value and (prelabel == value).any()
    }
    assert row["most_uncertain"] == max(means, key=lambda name: means[name])


def test_export_again_keeps_what_is_there_and_what_somebody_changed(
    root: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = root / "work"
    call("export", "-o", work, "-device", "cpu")
    save_itksnap(work / "prelabels/case_01.nii.gz", truth("case_01"), image_of(root, "case_01"))
    (work / "prelabels/case_03.nii.gz").unlink()
    before = {file: file.stat().st_mtime_ns for file in (work / "overlays").iterdir()}
    mine = sha256_file(work / "prelabels/case_01.nii.gz")
    monkeypatch.setattr("nnunet_assft.annotation.export.open_scorer", None)  # no forward pass is needed any more
    code, out, lines = call("export", "-o", work, "-device", "cpu")
    assert (code, lines) == (0, [])
    assert "case_01: the pre-segmentation in" in out
    assert sha256_file(work / "prelabels/case_01.nii.gz") == mine
    assert (work / "prelabels/case_03.nii.gz").is_file()
    assert {file: file.stat().st_mtime_ns for file in (work / "overlays").iterdir()} == before


def test_no_prelabel_leaves_it_out(root: Path, call: Call) -> None:
    call("export", "-o", root / "work", "--no_prelabel", "-device", "cpu")
    assert not (root / "work/prelabels").exists()
    assert (root / "work/overlays/case_01.png").is_file()
    assert "left out on purpose" in (root / "work/README.txt").read_text()


def test_a_folder_that_holds_something_else_is_not_touched(root: Path, call: Call) -> None:
    (root / "work").mkdir()
    (root / "work/thesis.docx").write_text("mine")
    code, _, lines = call("export", "-o", root / "work", "-device", "cpu")
    assert code == 1
    assert "is not empty and is no export" in lines[0]
    assert [file.name for file in (root / "work").iterdir()] == ["thesis.docx"]
    call("export", "-o", root / "other", "-device", "cpu")
    content = read_json(root / "other/export.json")
    (root / "other/export.json").write_text(json.dumps({**content, "round": 0}))
    code, _, lines = call("export", "-o", root / "other", "-device", "cpu")
    assert code == 1
    assert "holds the export of round 0 of Dataset901_Blobs" in lines[0]


def test_an_export_killed_again_and_again_is_completed(root: Path, call: Call) -> None:
    """Killed before every file it renames."""
    work = root / "work"
    arguments = ["export", "-d", "901", "-o", str(work), "-device", "cpu"]
    kills = 0
    while is_killed(partial(before_replace, 1 + 2 * kills), partial(annotate_main, arguments)):
        kills += 1
        assert kills < 60
    assert kills >= 5
    whole = root / "whole"
    call("export", "-o", whole, "-device", "cpu")
    names = {str(file.relative_to(whole)) for file in whole.rglob("*") if file.is_file()}
    assert {
        str(f.relative_to(work)) for f in work.rglob("*") if f.is_file() and not f.name.startswith(".partial")
    } == names
    for name in names:
        if not name.startswith("overlays"):
            assert sha256_file(work / name) == sha256_file(whole / name), name


def test_images_stored_in_any_orientation_for_the_reorienting_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    """As converted datasets are. However an image is stored, the work folder shows the same in space, and labels come back to it."""
    shown: dict[str, list[np.ndarray]] = {}
    slices: dict[str, str] = {}
    for stored in ("LPS", "PIR"):
        root = tmp_path / stored
        plan_round_1(root, monkeypatch, stored)
        assert call("export", "-o", root / "work", "--uncertainty", "-device", "cpu")[0] == 0
        image = image_of(root, "case_03")
        volumes = [sitk.ReadImage(str(root / f"work/{kind}/case_03.nii.gz")) for kind in ("prelabels", "uncertainty")]
        for volume in volumes:
            assert volume.GetSize() == image.GetSize()
            assert volume.GetDirection() == image.GetDirection()
            assert volume.GetOrigin() == pytest.approx(image.GetOrigin())
        shown[stored] = [sitk.GetArrayFromImage(sitk.DICOMOrient(volume, "LPS")) for volume in volumes]
        with open(root / "work/worklist.csv") as file:
            slices[stored] = next(csv.DictReader(file))["slice_s_mm"]
        shutil.copy(root / "work/prelabels/case_03.nii.gz", root / "work/annotations")
        assert any("it is the pre-segmentation, unchanged" in line for line in call("import", root / "work")[2])
        label = sitk.GetImageFromArray(truth("case_03"))
        label.CopyInformation(sitk.DICOMOrient(image, "LPS"))
        drawn = sitk.GetArrayFromImage(sitk.DICOMOrient(label, stored))
        save_itksnap(root / "work/annotations/case_03.nii.gz", drawn, image)
        assert call("import", root / "work")[0] == 0
        np.testing.assert_array_equal(label_of(root, "case_03"), drawn)
        context = open_context(the_experiment(), CPU)
        context.checked_label("case_03", label_file(root, "case_03"))
        seen = context.dataset.reader.read_seg(str(label_file(root, "case_03")))[0][0]
        np.testing.assert_array_equal(seen, truth("case_03")[:, ::-1, ::-1])  # LPS to RAS
    np.testing.assert_array_equal(shown["LPS"][0], shown["PIR"][0])
    np.testing.assert_allclose(shown["LPS"][1], shown["PIR"][1], atol=1e-5)
    assert slices["LPS"] == slices["PIR"]
    assert len(np.unique(shown["LPS"][0])) > 1


def test_an_image_that_itk_refuses_is_named(root: Path, call: Call) -> None:
    """Axes that are not at right angles, which nnU-Net's reorienting reader takes."""
    file = root / "nnUNet_raw/Dataset901_Blobs/imagesTr/case_01_0000.nii.gz"
    affine = np.eye(4)
    affine[0, 1] = 0.3
    array = np.asarray(nibabel.load(file).dataobj)
    nibabel.save(nibabel.Nifti1Image(array, affine), file)
    code, _, lines = call("export", "-o", root / "work", "-device", "cpu")
    assert (code, len(lines)) == (1, 1)
    assert f"ITK cannot open the image {file}" in lines[0]
    save_itksnap(root / "back/case_01.nii.gz", truth("case_01"), image_of(root, "case_03"))
    save_itksnap(root / "back/case_03.nii.gz", truth("case_03"), image_of(root, "case_03"))
    code, out, lines = call("import", root / "back")
    assert (code, len(lines)) == (1, 1)
    assert f"ITK cannot open the image {file}" in lines[0]
    assert "case_03: the label" in out


# Import ---------------------------------------------------------------------------------------------------------------


def spoiled_scene(root: Path, folder: Path, case: str = "case_03") -> Scene:
    prelabel = root / f"nnUNet_results/Dataset901_Blobs/assft/assft/prelabels_round_01/{case}.nii.gz"
    prelabel_array = sitk.GetArrayFromImage(sitk.ReadImage(str(prelabel))) if prelabel.is_file() else truth(case)
    folder.mkdir(parents=True, exist_ok=True)
    return Scene(folder, case, image_of(root, case), truth(case), KIDNEYS, prelabel_array)


def test_every_bad_return_is_refused_with_its_own_message_and_the_good_one_beside_it_taken(
    root: Path, call: Call
) -> None:
    messages = set()
    for kind, (spoil, expected) in REFUSED.items():
        folder = root / "back" / kind
        spoil(spoiled_scene(root, folder))
        save_itksnap(folder / "case_01.nii.gz", truth("case_01"), image_of(root, "case_01"))
        code, out, lines = call("import", folder)
        assert code == 1, kind
        assert len(lines) == 1, (kind, lines)
        assert lines[0].startswith("nnUNetv2_assft_annotate: error: case_03"), kind
        assert re.search(expected, lines[0]), (kind, lines[0])
        assert "case_01: the label" in out
        assert "missing: case_03, case_06" in out
        assert not label_file(root, "case_03").exists()
        messages.add(lines[0].split("): ", 1)[1])
    assert len(messages) == len(REFUSED)
    np.testing.assert_array_equal(label_of(root, "case_01"), truth("case_01"))


def test_every_doubtful_return_is_taken_with_consent_only(root: Path, call: Call) -> None:
    call("export", "-o", root / "work", "-device", "cpu")
    for kind, (spoil, expected) in WARNED.items():
        folder = root / "back" / kind
        spoil(spoiled_scene(root, folder))
        code, out, lines = call("import", folder)
        assert code == 1, kind
        assert all(line.startswith("nnUNetv2_assft_annotate: warning: case_03 (") for line in lines), lines
        assert any(re.search(expected, line) for line in lines), (kind, lines)
        assert not label_file(root, "case_03").exists()
        code, out, lines = call("import", folder, "--accept", "case_03")
        assert (code, lines) == (0, []), kind
        assert re.search(expected, out)
        assert any(re.search(expected, warning) for warning in record_of(root, "case_03")["readings"][0]["accepted"])
        label_file(root, "case_03").unlink()


def test_left_and_right_swapped(root: Path, call: Call) -> None:
    swapped = np.array([0, 2, 1], np.uint8)[truth("case_03")]
    save_itksnap(root / "back/case_03.nii.gz", swapped, image_of(root, "case_03"))
    code, _, lines = call("import", root / "back")
    assert code == 1
    assert any("kidney_left and kidney_right look swapped" in line for line in lines)


def test_labels_of_slicer_and_itksnap_arrive_with_name_and_minutes(root: Path, call: Call) -> None:
    back = root / "back"
    save_slicer(back / "case_03.seg.nrrd", segments_of(truth("case_03"), KIDNEYS), image_of(root, "case_03"))
    save_itksnap(back / "case_01.nii.gz", truth("case_01"), image_of(root, "case_01"))
    (back / "case_01.nii.gz").rename(back / "case_01.NII.GZ")
    (back / "notes.txt").write_text("not a label")
    (root / "times.csv").write_text("case,annotator,minutes\ncase_03,anna,31.5\n")
    code, out, lines = call("import", back, "--times", root / "times.csv", "--minutes", "7")
    assert (code, lines) == (0, [])
    for case in ("case_03", "case_01"):
        np.testing.assert_array_equal(label_of(root, case), truth(case))
        assert sitk.ReadImage(str(label_file(root, case))).GetOrigin() == image_of(root, case).GetOrigin()
    record = record_of(root, "case_03")
    (entry,) = record["readings"]
    assert (record["round"], entry["annotator"], entry["minutes"], entry["file"]) == (
        1,
        "anna",
        31.5,
        "case_03.seg.nrrd",
    )
    assert entry["label_sha256"] == sha256_file(label_file(root, "case_03"))
    assert entry["volumes_ml"] == pytest.approx(
        {"kidney_right": (truth("case_03") == 1).sum() / 1000, "kidney_left": 0.12}
    )  # 4 x 6 x 5
    assert record_of(root, "case_01")["readings"][0]["minutes"] == 7
    _, out, _ = call("status")
    assert "case_03  anna  31.5  imported" in out
    assert "case_06  -  -  missing" in out
    assert "38.5 minutes so far" in out


def test_name_and_minutes_of_a_later_import_are_said_of_new_labels_only(root: Path, call: Call) -> None:
    """The table says it of those that are in already, too; and what nobody said can be said later."""

    def recorded() -> dict[str, list[tuple[str | None, float | None]]]:
        return {
            case: [(entry["annotator"], entry["minutes"]) for entry in record_of(root, case)["readings"]]
            for case in cases
        }

    cases = []
    for case, options in (
        ("case_03", "--annotator_name anna --minutes 12"),
        ("case_01", ""),
        ("case_06", "--annotator_name bert --minutes 30"),
    ):
        cases.append(case)
        save_itksnap(root / f"back/{case}.nii.gz", truth(case), image_of(root, case))
        assert call("import", root / "back", *options.split())[0] == 0
        if case == "case_01":
            assert recorded() == {"case_03": [("anna", 12)], "case_01": [(None, None)]}
    assert recorded() == {"case_03": [("anna", 12)], "case_01": [("bert", 30)], "case_06": [("bert", 30)]}
    (root / "times.csv").write_text("case,annotator,minutes\ncase_03,carl,15\ncase_06,bert,25\n")
    code, _, _ = call("import", root / "back", "--times", root / "times.csv", "--minutes", "99")
    assert code == 0
    assert recorded() == {"case_03": [("carl", 15)], "case_01": [("bert", 30)], "case_06": [("bert", 25)]}


def test_a_label_that_is_there_is_replaced_on_request_only_and_the_old_one_kept(root: Path, call: Call) -> None:
    first, second = truth("case_03"), truth("case_03")
    second[0, 0, :5] = 1
    save_itksnap(root / "a/case_03.nii.gz", first, image_of(root, "case_03"))
    save_itksnap(root / "b/case_03.nii.gz", second, image_of(root, "case_03"))
    call("import", root / "a")
    code, _, lines = call("import", root / "b")
    assert code == 1
    assert "a label is there already and differs in 5 voxels" in lines[0]
    np.testing.assert_array_equal(label_of(root, "case_03"), first)
    code, out, _ = call("import", root / "b", "--replace")
    assert code == 0
    np.testing.assert_array_equal(label_of(root, "case_03"), second)
    (kept,) = record_of(root, "case_03")["replaced"]
    old = root / "nnUNet_results/Dataset901_Blobs/assft/assft/annotations/replaced" / kept
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(old))), first)
    assert len(list((root / "nnUNet_raw/Dataset901_Blobs/labelsTr").iterdir())) == 3
    code, out, _ = call("import", root / "b")
    assert (code, "is in already" in out) == (0, True)


def test_a_label_of_an_earlier_round_needs_replace(root: Path, call: Call) -> None:
    save_itksnap(root / "a/case_02.nii.gz", truth("case_02") * 0 + (truth("case_02") == 1), image_of(root, "case_02"))
    code, _, lines = call("import", root / "a")
    assert code == 1
    assert "round 1 does not ask for this case; expected case_01, case_03, case_06" in lines[0]
    code, _, _ = call("import", root / "a", "--replace")
    assert code == 0
    assert record_of(root, "case_02")["round"] == 0


def test_labels_of_cases_nobody_asked_for_are_never_read(root: Path, call: Call) -> None:
    """Files that no reader could read, in place of the labels of all other cases."""
    for case in ("case_04", "case_05", "case_07"):
        label_file(root, case).write_bytes(b"nobody may open this")
    assert call("export", "-o", root / "work", "-device", "cpu")[0] == 0
    save_itksnap(root / "work/annotations/case_03.nii.gz", truth("case_03"), image_of(root, "case_03"))
    assert call("import", root / "work")[0] == 0
    assert call("status")[0] == 0


@pytest.mark.parametrize("replace", [False, True])
def test_an_import_killed_again_and_again_completes_and_never_leaves_half_a_label(root: Path, replace: bool) -> None:
    """With labels there before: the old one, the new one and the record are renamed; else the last two."""
    old = {case: np.roll(truth(case), 1, axis=0) for case in QUERIED}
    for case in QUERIED:
        save_itksnap(root / f"back/{case}.nii.gz", truth(case), image_of(root, case))
        if replace:
            save_itksnap(label_file(root, case), old[case], image_of(root, case))
    arguments = [
        "import",
        "-d",
        "901",
        str(root / "back"),
        "--annotator_name",
        "anna",
        "--minutes",
        "3",
        *["--replace"][:replace],
    ]
    kills = 0
    while is_killed(partial(before_replace, 1 + kills), partial(annotate_main, arguments)):
        kills += 1
        assert kills < 20
        for case in QUERIED:
            if label_file(root, case).is_file():
                assert any((label_of(root, case) == whole).all() for whole in (truth(case), old[case]))
    assert kills >= 3
    assert labels_to_come(the_experiment(), 1) == []
    for case in QUERIED:
        np.testing.assert_array_equal(label_of(root, case), truth(case))
        (entry,) = record_of(root, case)["readings"]
        assert (entry["annotator"], entry["minutes"]) == ("anna", 3)
        for name in record_of(root, case)["replaced"]:
            kept = sitk.ReadImage(str(the_experiment().paths.annotations / "replaced" / name))
            np.testing.assert_array_equal(sitk.GetArrayFromImage(kept), old[case])
        assert len(record_of(root, case)["replaced"]) == replace
        assert entry["label_sha256"] == sha256_file(label_file(root, case))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is not a folder"),
        (["empty"], "holds no label; expected files named CASE.seg.nrrd or"),
        (["back", "--accept", "case_99"], "--accept names case_99; the dataset has no such case"),
        (["back", "--minutes", "long"], "--minutes: minutes 'long'; expected a number"),
        (["back", "--times", "no.csv"], "--times no.csv cannot be read"),
        (["back", "--times", "bad.csv"], "bad.csv has the columns id, time; expected case, annotator, minutes"),
        (["back", "--times", "twice.csv"], "twice.csv, line 3: case_03 is there twice"),
        (["back", "--times", "negative.csv"], "line 2: minutes '-4'; expected a number"),
    ],
)
def test_wrong_arguments_of_import(
    arguments: list[str], message: str, root: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    save_itksnap(root / "back/case_03.nii.gz", truth("case_03"), image_of(root, "case_03"))
    (root / "empty").mkdir()
    (root / "bad.csv").write_text("id,time\n")
    (root / "twice.csv").write_text("case,annotator,minutes\ncase_03,a,1\ncase_03,a,2\n")
    (root / "negative.csv").write_text("case,annotator,minutes\ncase_03,a,-4\n")
    code, _, lines = call("import", *arguments)
    assert (code, len(lines)) == (1, 1)
    assert message in lines[0]
    assert not label_file(root, "case_03").exists()


def test_nothing_is_asked_of_a_human_by_an_oracle(root: Path, call: Call) -> None:
    for i in range(8):
        write_volume(label_file(root, f"case_{i:02d}"), truth(f"case_{i:02d}"))
    plan_experiment(901, name="bench", **SETTINGS)
    code, _, lines = call("export", "-e", "bench", "-o", root / "work")
    assert code == 1
    assert "Experiment 'bench' has annotator 'oracle'" in lines[0]


# Several readers ------------------------------------------------------------------------------------------------------


def test_two_readers_agree_by_dice_and_the_first_one_counts(root: Path, call: Call) -> None:
    work = root / "work"
    code, out, _ = call("export", "-o", work, "--annotators", "anna", "bert", "--double_read", "0.3", "-device", "cpu")
    assert code == 0
    assert "the label is that of the annotator named first" in out
    assert open_request(the_experiment()).annotators == {
        "case_03": ("anna",),
        "case_01": ("anna", "bert"),
        "case_06": ("bert",),
    }
    first = truth("case_01")
    second = np.where((first == 2) & (np.indices(first.shape)[0] % 2 == 0), 0, first)  # every other slice of the box
    save_itksnap(work / "annotations/bert/case_01.nii.gz", second, image_of(root, "case_01"))
    code, out, _ = call("import", work)
    assert code == 0
    assert "second reading by bert imported" in out
    assert "missing: case_03, case_01, case_06" in out  # bert's reading is not the label
    save_itksnap(work / "annotations/anna/case_01.nii.gz", first, image_of(root, "case_01"))
    code, out, _ = call("import", work)
    assert code == 0
    np.testing.assert_array_equal(label_of(root, "case_01"), first)
    with open(root / "nnUNet_results/Dataset901_Blobs/assft/assft/agreement_round_01.csv") as file:
        (row,) = csv.DictReader(file)
    # the box has four slices, two of them are left: 2 * 2 / (4 + 2)
    assert (row["reader_1"], row["reader_2"], float(row["kidney_right"])) == ("anna", "bert", 1.0)
    assert float(row["kidney_left"]) == pytest.approx(2 / 3)
    assert float(row["mean"]) == pytest.approx(mean_of([1.0, 2 / 3]))
    assert re.search(r"case_01  anna bert  kidney_right 1.000  kidney_left 0.667  mean 0.833", out)
    assert [entry["annotator"] for entry in record_of(root, "case_01")["readings"]] == ["bert", "anna"]


def test_whose_label_it_is_must_be_clear(root: Path, call: Call) -> None:
    call("export", "-o", root / "work", "--annotators", "anna", "bert", "--double_read", "0.3", "-device", "cpu")
    back = root / "back"
    save_itksnap(back / "case_01.nii.gz", truth("case_01"), image_of(root, "case_01"))
    save_itksnap(back / "carl" / "case_03.nii.gz", truth("case_03"), image_of(root, "case_03"))
    save_itksnap(back / "anna" / "case_06.nii.gz", truth("case_06"), image_of(root, "case_06"))
    code, _, lines = call("import", back)
    assert code == 1
    assert "annotated by anna and bert; put it into a folder of that name" in lines[0]
    assert any("the folder carl is named after no annotator; expected anna, bert" in line for line in lines)
    assert any("it is annotated by bert, not by anna" in line for line in lines)
    shutil.rmtree(back / "carl")
    shutil.rmtree(back / "anna")
    code, out, _ = call("import", back, "--annotator_name", "bert")
    assert (code, "second reading by bert" in out) == (0, True)


def test_sharing_out_anew_is_possible_until_the_first_label(root: Path, call: Call) -> None:
    export = partial(call, "export", "-o", root / "work", "-device", "cpu", "--annotators")
    export("anna", "bert")
    assert export("bert", "anna")[0] == 0
    save_itksnap(root / "work/annotations/bert/case_03.nii.gz", truth("case_03"), image_of(root, "case_03"))
    assert call("import", root / "work")[0] == 0
    code, _, lines = export("anna", "bert")
    assert code == 1
    assert "was shared out differently, and labels have come in" in lines[0]
    assert call("export", "-o", root / "work", "-device", "cpu")[0] == 0
    assert open_request(the_experiment()).annotators["case_03"] == ("bert",)


# Partial rounds -------------------------------------------------------------------------------------------------------


def test_a_partial_round_counts_the_labelled_cases_and_gives_the_others_back(
    nnunet_folders: Path,
) -> None:
    folder = write_dataset(nnunet_folders / "nnUNet_raw", n_pool=6, n_test=1)
    truth_folder = nnunet_folders / "truth"
    shutil.move(folder / "labelsTr", truth_folder)
    experiment = plan_experiment(901, annotator="human", **{**SETTINGS, "epochs": 1, "iterations_per_epoch": 1})
    (first,) = open_request(experiment).cases
    (folder / "labelsTr").mkdir()
    shutil.copy(truth_folder / f"{first}.nii.gz", folder / "labelsTr")
    run_round(experiment, 0, CPU)
    with pytest.raises(WaitingForAnnotation, match="A round cannot go on without any label"):
        run_round(experiment, 1, CPU, proceed_with_partial=True)
    taken, left = open_request(experiment).cases
    shutil.copy(truth_folder / f"{taken}.nii.gz", folder / "labelsTr")
    with pytest.raises(
        WaitingForAnnotation, match=f"annotation of 1 of 2 cases: {left}.*annotate export -d 901 -o WORK"
    ):
        run_round(experiment, 1, CPU)
    with pytest.raises(SystemExit) as exit_:
        round_main(["-d", "901", "-r", "1", "--proceed_with_partial", "-device", "cpu"])
    assert not exit_.value.code
    done = finished_rounds(experiment)[1]
    assert done.queried == (taken,)
    assert done.labelled == tuple(sorted((first, taken)))
    assert left in done.unlabelled
    decision = read_json(experiment.paths.step_file(1, "annotate"))["result"]
    assert decision == {"annotated": [taken], "given_back": [left]}
    # the decision stands: the label that comes too late changes nothing, also if the round was cut off
    shutil.copy(truth_folder / f"{left}.nii.gz", folder / "labelsTr")
    experiment.paths.round_file(1).unlink()
    assert open_request(experiment).cases == (taken,)
    assert run_round(experiment, 1, CPU) == done
    with pytest.raises(WaitingForAnnotation):
        run_round(experiment, 2, CPU)
    assert set(open_request(experiment).cases) <= set(
        done.unlabelled
    )  # the case that was given back can be asked for again


def test_a_decision_holds_for_its_query_only(root: Path) -> None:
    experiment = the_experiment()
    cached(
        experiment.paths.step_file(1, "annotate"),
        {"queried": ["case_99"]},
        lambda: {"annotated": [], "given_back": ["case_99"]},
    )
    assert open_request(experiment).cases == tuple(QUERIED)


def test_nothing_is_asked_for_before_the_query(root: Path) -> None:
    experiment = the_experiment()
    experiment.paths.step_file(1, "query").unlink()
    with pytest.raises(
        AssftError, match=r"Round 1 has not chosen its cases yet. Run nnUNetv2_assft_round -d 901 -r 1"
    ):
        open_request(experiment)


# Real images ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_hippocampus
def test_the_round_trip_on_real_images(nnunet_folders: Path, call: Call) -> None:
    """Slicer's annotator returns every other case, ITK-SNAP's the others; each kind of bad return is tried first."""
    source, folder = SHARED_DATA / "hippocampus", nnunet_folders / "nnUNet_raw/Dataset901_Hippocampus"
    (folder / "imagesTr").mkdir(parents=True)
    cases = [file.name.removesuffix(".nii.gz") for file in sorted((source / "imagesTr").glob("*.nii.gz"))[:10]]
    for case in cases:
        shutil.copy(source / f"imagesTr/{case}.nii.gz", folder / f"imagesTr/{case}_0000.nii.gz")
    labels = {"background": 0, "anterior": 1, "posterior": 2}
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": len(cases), "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))  # no labelsTr at all
    experiment = plan_experiment(901, annotator="human", **SETTINGS)
    tried: dict[str, str] = {}

    def scene(case: str, back: Path) -> Scene:
        back.mkdir(parents=True, exist_ok=True)
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(source / f"labelsTr/{case}.nii.gz"))).astype(np.uint8)
        prelabel = experiment.paths.previews(1) / f"{case}.nii.gz"
        return Scene(
            back,
            case,
            sitk.ReadImage(str(source / f"imagesTr/{case}.nii.gz")),
            label,
            labels,
            sitk.GetArrayFromImage(sitk.ReadImage(str(prelabel))) if prelabel.is_file() else label,
        )

    for r in range(3):
        with pytest.raises(WaitingForAnnotation) as waiting:
            run_round(experiment, r, CPU)
        work = nnunet_folders / f"work_{r}"
        code, out, _ = call("export", "-o", work, "-device", "cpu")
        assert code == 0
        assert ("No model is trained yet" in out) == (r == 0)
        asked = open_request(experiment).cases
        assert all(case in str(waiting.value) for case in asked)
        if r == 2:
            for kind, (spoil, expected) in {**REFUSED, **WARNED}.items():
                back = nnunet_folders / "back" / kind
                bad = scene(asked[0], back)
                if kind == "unchanged":
                    shutil.copy(work / f"prelabels/{asked[0]}.nii.gz", back)
                else:
                    spoil(bad)
                code, _, lines = call("import", back)
                assert code == 1, kind
                said = next((line for line in lines if re.search(expected, line)), None)
                assert said, (kind, lines)
                tried[kind] = said
                assert labels_to_come(experiment, r) == list(asked)
        for i, case in enumerate(asked):
            good = scene(case, work / "annotations")
            if i % 2:
                save_itksnap(good.folder / f"{case}.nii.gz", good.label, good.image)
            else:
                good.slicer()
        code, out, lines = call("import", work, "--annotator_name", "anna", "--minutes", "20", "--accept_warnings")
        assert (code, lines) == (0, [])
        for case in asked:
            mine = sitk.ReadImage(str(folder / f"labelsTr/{case}.nii.gz"))
            original = sitk.ReadImage(str(source / f"labelsTr/{case}.nii.gz"))
            np.testing.assert_array_equal(sitk.GetArrayFromImage(mine), sitk.GetArrayFromImage(original))
            assert mine.GetOrigin() == pytest.approx(original.GetOrigin())
        done = run_round(experiment, r, CPU)
        assert done.queried == asked
    assert len(tried) >= 15
    assert len({re.sub(r"\(.*?\): ", "", line) for line in tried.values()}) == len(tried)
    print("\n".join(f"| {kind} | {line.split('): ', 1)[-1]} |" for kind, line in tried.items()))

"""The work folder: what is in it, that it is completed, and that nothing of anybody is overwritten."""

from __future__ import annotations

import csv
import os
import shlex
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_assft.active.context import open_context
from nnunet_assft.active.scoring.prediction import open_scorer
from nnunet_assft.cli.annotate import main as annotate_main
from nnunet_assft.planning.preprocessing import load_image
from nnunet_assft.runtime.files import sha256_file
from nnunet_assft.runtime.sealed import read_sealed, write_sealed
from tests.annotation.annotators import save_itksnap
from tests.cli.annotate.experiment import (
    KIDNEYS,
    TOP_FILES,
    Call,
    image_of,
    the_experiment,
    truth,
)
from tests.kills import before_replace, is_killed

CPU = torch.device("cpu")


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
        *TOP_FILES,
    }
    image_file = work / "images/case_03_0000.nii.gz"
    original = root / "nnUNet_raw/Dataset901_Blobs/imagesTr/case_03_0000.nii.gz"
    assert image_file.read_bytes() == original.read_bytes()
    assert not os.path.samefile(image_file, original)  # so that nobody can save over it
    assert (work / "times.csv").read_text().splitlines() == [
        "case,annotator,minutes,decision",
        *(f"{case},,," for case in ("case_03", "case_01", "case_06")),
    ]
    assert "open prelabels/CASE.nii.gz as the segmentation" in (work / "README.txt").read_text()
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
        ("case_03", "1", "2", "0.5"),
        ("case_01", "2", "1.5", "0.5"),
        ("case_06", "3", "1", "0.5"),
    ]
    prelabel = sitk.GetArrayFromImage(sitk.ReadImage(str(work / "prelabels/case_03.nii.gz")))
    for name, value in (("kidney_right", 1), ("kidney_left", 2)):
        assert float(rows[0][f"predicted_ml_{name}"]) == pytest.approx(
            (prelabel == value).sum() / 1000, abs=1e-3
        )  # voxels of 1 mm3
    assert f"{int(rows[0]['suggested_slice']) - 1 + 7.5}" == rows[0]["slice_s_mm"]  # origin 7.5, spacing 1


def test_the_suggested_slice_and_structure_are_the_most_uncertain_ones(work: Path) -> None:
    """Recomputed from the network's output by definition."""
    context = open_context(the_experiment(), CPU)
    entropy = sitk.GetArrayFromImage(sitk.ReadImage(str(work / "uncertainty/case_06.nii.gz")))
    scorer = open_scorer(context, the_experiment().initial_model)
    p = torch.softmax(scorer.logits(load_image(context.image_folder, "case_06")).float(), 0).numpy().astype(float)
    expected = -(p * np.log(np.maximum(p, 1e-300))).sum(0)
    # spacing 1 mm, nothing cropped: the network grid is the image's
    np.testing.assert_allclose(entropy, expected, atol=2e-3)
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
    root: Path, work: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_itksnap(work / "prelabels/case_01.nii.gz", truth("case_01"), image_of(root, "case_01"))
    (work / "prelabels/case_03.nii.gz").unlink()
    before = {file: file.stat().st_mtime_ns for file in (work / "overlays").iterdir()}
    mine = sha256_file(work / "prelabels/case_01.nii.gz")
    monkeypatch.setattr(
        "nnunet_assft.annotation.export.open_scorer", lambda *_: pytest.fail("no forward pass is needed")
    )
    code, out, lines = call("export", "-o", work, "-device", "cpu")
    assert (code, lines) == (0, [])
    assert "case_01: the pre-segmentation in" in out
    assert sha256_file(work / "prelabels/case_01.nii.gz") == mine
    assert (work / "prelabels/case_03.nii.gz").is_file()
    assert {file: file.stat().st_mtime_ns for file in (work / "overlays").iterdir()} == before


@pytest.mark.slow
def test_two_processes_write_the_same_files(root: Path, call: Call, exported: Path) -> None:
    work, expected = root / "work", exported / "work"
    options = ("--uncertainty", "-device", "cpu", "--engine", "local", "--parts", "2")
    code, out, _ = call("export", "-o", work, *options)
    assert code == 0
    assert "3 cases to annotate" in out
    made = [*work.glob("prelabels/*"), *work.glob("overlays/*"), *work.glob("uncertainty/*"), work / "worklist.csv"]
    assert len(made) == 3 * 3 + 1
    assert [f for f in made if f.read_bytes() != (expected / f.relative_to(work)).read_bytes()] == []


def test_no_prelabel_leaves_it_out(root: Path, call: Call) -> None:
    call("export", "-o", root / "work", "--no_prelabel", "-device", "cpu")
    assert not (root / "work/prelabels").exists()
    assert (root / "work/overlays/case_01.png").is_file()
    assert "the export was made with --no_prelabel" in (root / "work/README.txt").read_text()


def test_a_folder_that_holds_something_else_is_not_touched(root: Path, call: Call) -> None:
    (root / "work").mkdir()
    (root / "work/thesis.docx").write_text("mine")
    code, _, lines = call("export", "-o", root / "work", "--annotators", "ada", "-device", "cpu")
    assert code == 1
    assert "is not empty and is not a work folder" in lines[0]
    assert [file.name for file in (root / "work").iterdir()] == ["thesis.docx"]
    assert list(root.rglob("readers_round*")) == []
    call("export", "-o", root / "other", "-device", "cpu")
    content = read_sealed(root / "other/export.json")
    write_sealed(root / "other/export.json", {**content, "round": 0})
    code, _, lines = call("export", "-o", root / "other", "-device", "cpu")
    assert code == 1
    held, asked = (f"an export of round {r} of Dataset901_Blobs, experiment 'assft'" for r in (0, content["round"]))
    assert f"holds {held}, not {asked}. Give an empty folder with -o." in lines[0]
    write_sealed(root / "other/export.json", {**content, "cases": ["others"]})
    code, _, lines = call("export", "-o", root / "other", "-device", "cpu")
    assert code == 1
    assert f"holds {asked}, that was made with another model, other cases or another --no_prelabel" in lines[0]


@pytest.mark.parametrize("content", ["", "[1]", "null", "{"])
def test_a_damaged_stamp_is_named(root: Path, call: Call, content: str) -> None:
    (root / "my work").mkdir()
    (root / "my work/export.json").write_text(content)
    code, _, lines = call("export", "-o", root / "my work", "-device", "cpu")
    assert (code, len(lines)) == (1, 1)
    assert "my work/export.json is damaged" in lines[0]


def test_a_folder_that_is_a_file_or_leads_elsewhere(root: Path, call: Call) -> None:
    (root / "file").touch()
    code, _, lines = call("export", "-o", root / "file", "-device", "cpu")
    assert (code, len(lines)) == (1, 1)
    assert f"{root / 'file'} is a file; expected a folder" in lines[0]
    for name in ("elsewhere", "work"):
        (root / name).mkdir()
    (root / "work/images").symlink_to("../elsewhere")
    code, _, lines = call("export", "-o", root / "work", "-device", "cpu")
    assert (code, len(lines)) == (1, 1)
    assert f"{root / 'work/images'} is a link that leads out of the work folder, to {root / 'elsewhere'}" in lines[0]
    assert not list((root / "elsewhere").iterdir())


def test_the_next_command_can_be_typed_for_any_folder(root: Path, call: Call) -> None:
    """Printed for a shell: quoted where it needs quotes."""
    work = root / 'the annotator\'s "work" $HOME'
    _, out, _ = call("export", "-o", work, "--no_prelabel", "-device", "cpu")
    command = out.splitlines()[-1].removeprefix("Next: ")
    assert shlex.split(command) == ["nnUNetv2_assft_annotate", "import", "-d", "901", str(work)]


def test_an_export_killed_again_and_again_is_completed(root: Path, call: Call) -> None:
    """Killed before every second file it renames."""
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


def test_an_image_that_itk_refuses_is_named(root: Path, call: Call) -> None:
    """Axes that are not at right angles, which nnU-Net's reorienting reader takes."""
    file = root / "nnUNet_raw/Dataset901_Blobs/imagesTr/case_01_0000.nii.gz"
    affine = np.eye(4)
    affine[0, 1] = 0.3
    array = np.asarray(nibabel.load(file).dataobj)
    nibabel.save(nibabel.Nifti1Image(array, affine), file)
    code, _, lines = call("export", "-o", root / "work", "-device", "cpu")
    assert (code, len(lines)) == (1, 1)
    assert "case_01: ITK refuses its header (ITK only supports orthonormal" in lines[0]

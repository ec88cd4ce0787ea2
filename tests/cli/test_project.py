"""A laboratory's project by its commands, from the first labels to a prediction on another machine.

Labels at hand, two rounds with readers, new scans, another budget, a withdrawn case, labels that lack a structure, a
reader whose segments overlap, a second look at pseudo-labels, the hand-over.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.state import Experiment, Round
from nnunet_assft.annotation.records import load_readings
from nnunet_assft.runtime.files import read_json, write_json
from nnunet_assft.trainers.stage_file import read_stage_file
from tests.annotation.annotators import save_itksnap, save_slicer
from tests.conftest import LABELS, SHARED_DATA, blob_case, needs_hippocampus, set_folders, write_volume
from tests.handover.test_stock_commands import IN_PROCESSES, STOCK, command, voxels

WAITING = 3  # exit code of a round without its labels
NAME = "Dataset950_Project"


@dataclass
class Project:
    """The readers' side of a project: all scans, and what a reader would draw on each. structures: name -> value."""

    root: Path
    scans: dict[str, Path]
    truth: dict[str, Path]
    structures: dict[str, int]

    @property
    def raw(self) -> Path:
        return self.root / "nnUNet_raw" / NAME

    def arrive(self, cases: list[str]) -> None:
        for case in cases:
            shutil.copy(self.scans[case], self.raw / f"imagesTr/{case}_0000.nii.gz")

    def image(self, case: str) -> sitk.Image:
        return sitk.ReadImage(str(self.scans[case]))

    def label(self, case: str) -> np.ndarray:
        return sitk.GetArrayFromImage(sitk.ReadImage(str(self.truth[case])))


def project(root: Path, scans: dict[str, Path], truth: dict[str, Path], structures: dict[str, int]) -> Project:
    """A dataset with 16 scans in the pool, six of them with labels, and two test cases."""
    made = Project(root, scans, truth, structures)
    for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (made.raw / folder).mkdir(parents=True)
    cases = sorted(scans)
    made.arrive(cases[:16])
    for case in cases[:6]:
        shutil.copy(truth[case], made.raw / f"labelsTr/{case}.nii.gz")
    for case in cases[-2:]:
        shutil.copy(scans[case], made.raw / f"imagesTs/{case}_0000.nii.gz")
        shutil.copy(truth[case], made.raw / f"labelsTs/{case}.nii.gz")
    labels = {"background": 0, **structures}
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 16, "file_ending": ".nii.gz"}
    write_json(made.raw / "dataset.json", content)
    return made


@pytest.fixture
def of_blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    set_folders(tmp_path, monkeypatch)
    scans, truth = {}, {}
    for i in range(28):
        case, (image, label) = f"case_{i:02d}", blob_case(i)
        scans[case], truth[case] = tmp_path / f"scans/{case}.nii.gz", tmp_path / f"truth/{case}.nii.gz"
        write_volume(scans[case], image)
        write_volume(truth[case], label)
    return project(tmp_path, scans, truth, {name: value for name, value in LABELS.items() if value})


@pytest.fixture
def of_hippocampus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    set_folders(tmp_path, monkeypatch)
    source = SHARED_DATA / "hippocampus"
    scans = {file.name.removesuffix(".nii.gz"): file for file in sorted((source / "imagesTr").iterdir())[:28]}
    truth = {}
    for case in scans:  # one of these labels is stored in floating point, which our own label files are not
        label = sitk.Cast(sitk.ReadImage(str(source / f"labelsTr/{case}.nii.gz")), sitk.sitkUInt8)
        truth[case] = tmp_path / f"truth/{case}.nii.gz"
        truth[case].parent.mkdir(exist_ok=True)
        sitk.WriteImage(label, str(truth[case]))
    return project(tmp_path, scans, truth, {"Anterior": 1, "Posterior": 2})


Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    """(exit code, what was printed) of a command of the project: its name without nnUNetv2_assft_, and its options."""

    def run(name: str, *words: object) -> tuple[int, str]:
        first, *others = name.split()
        with pytest.raises(SystemExit) as exit_:
            import_module(f"nnunet_assft.cli.{first}").main([*others, "-d", "950", *map(str, words)])
        out, err = capfd.readouterr()
        return int(exit_.value.code or 0), out + err

    return run


def finished(r: int) -> Round:
    return Round.load(ExperimentPaths(NAME, "assft"), r)


def tell_the_story(lab: Project, call: Call) -> None:
    small, large = lab.structures
    work, options = lab.root / "work", ("-device", "cpu")
    tiny = ("--preset", "tiny", "--epochs", 2, "--iterations_per_epoch", 4, "--initial_lr", "1e-3")

    # six labels at hand; round 0 trains on them, and round 1 asks for three more
    code, printed = call("plan", "--annotator", "human", "--rounds", 2, "--budget", 3, *tiny)
    assert code == 0, printed
    assert call("run", *options)[0] == WAITING
    assert len(finished(0).labelled) == 6

    # two readers, of whom one had no time for the second structure
    code, printed = call("annotate export", "-o", work / "round_01", "--annotators", "anna", "bert", *options)
    assert code == 0, printed
    asked = read_json(ExperimentPaths(NAME, "assft").results / "readers_round_01.json")
    of_anna, of_bert = ([case for case, names in asked.items() if names == [name]] for name in ("anna", "bert"))
    assert of_anna
    assert of_bert
    for case in of_anna:
        save_itksnap(work / f"round_01/annotations/anna/{case}.nii.gz", lab.label(case), lab.image(case))
    for case in of_bert:
        partial = np.where(lab.label(case) == lab.structures[large], 0, lab.label(case))
        save_itksnap(work / f"round_01/annotations/bert/{case}.nii.gz", partial, lab.image(case))
    for name, more in (("anna", ()), ("bert", ("--not_annotated", large))):
        folder = work / "round_01/annotations" / name
        code, printed = call("annotate import", folder, "--annotator_name", name, "--accept_warnings", *more)
        assert code == 0, printed
    assert read_json(lab.raw / "not_annotated.json") == {case: [large] for case in of_bert}

    # round 1 is trained, and round 2 asks; meanwhile ten scans arrive, time gets short, and a patient withdraws
    assert call("run", *options)[0] == WAITING
    trained_on = read_stage_file(ExperimentPaths(NAME, "assft").trained_on(1, "supervised"))["cases"]
    assert {case for case, entry in trained_on.items() if "not_annotated" in entry} == set(of_bert)
    withdrawn = next(case for case in finished(1).unlabelled if case not in _asked(call))
    lab.arrive(sorted(lab.scans)[16:26])
    code, printed = call("extend", "--rounds", 3, "--budget", 2, "--withdraw", withdrawn)
    assert code == 0, printed
    now = Experiment.load(ExperimentPaths(NAME, "assft")).now
    assert (len(now.pool), now.n_query) == (16 + 10 - 1, 2)

    # a reader who works with prompts: two segments overlap, and the smaller one keeps the voxels
    code, printed = call("annotate export", "-o", work / "round_02", *options)
    assert code == 0, printed
    cases = _asked(call)
    for case in cases:
        segments = {name: lab.label(case) == value for name, value in lab.structures.items()}
        segments[large] = segments[large] | segments[small]
        file = work / f"round_02/annotations/{case}.seg.nrrd"
        save_slicer(file, segments, lab.image(case), layers={small: 0, large: 1})
    code, printed = call("annotate import", work / "round_02", "--accept_warnings")
    assert code == 1
    assert "overlap in" in printed
    code, printed = call("annotate import", work / "round_02", "--accept_warnings", "--overlap", "smaller")
    assert code == 0, printed
    for case in cases:
        (entry,) = load_readings(ExperimentPaths(NAME, "assft").annotation_file(case))
        assert entry["overlap"] == "smaller"
    code, printed = call("round", "-r", 2, *options)
    assert code == 0, printed
    assert len(finished(2).labelled) == 6 + 3 + 3
    assert withdrawn not in {*finished(2).labelled, *finished(2).unlabelled}

    # a second look at the most doubtful pseudo-label; the last round asks for two more, as the budget is now
    code, printed = call("annotate review", "-o", work / "look_02", "-n", 1, *options)
    assert code == 0, printed
    (doubtful,) = (file.name.removesuffix(".nii.gz") for file in (work / "look_02/prelabels").iterdir())
    times = work / "look_02/times.csv"
    times.write_text(f"case,annotator,minutes,decision\n{doubtful},,2,accept\n")
    code, printed = call("annotate import", work / "look_02", "--times", times, "--accept_warnings")
    assert code == 0, printed
    assert call("run", *options)[0] == WAITING
    code, printed = call("annotate export", "-o", work / "round_03", *options)
    assert code == 0, printed
    cases = _asked(call)
    assert len(cases) == 2
    for case in cases:
        save_itksnap(work / f"round_03/annotations/{case}.nii.gz", lab.label(case), lab.image(case))
    assert call("annotate import", work / "round_03", "--accept_warnings")[0] == 0
    code, printed = call("run", *options)
    assert code == 0, printed
    assert {*cases, doubtful} < set(finished(3).labelled)
    code, printed = call("status", "--verify")
    assert (code, "0 findings" in printed) == (0, True), printed

    hand_over(lab, call)


def _asked(call: Call) -> list[str]:
    """The cases without a label, from `annotate status`."""
    _, printed = call("annotate status")
    (line,) = (line for line in printed.splitlines() if line.startswith("Missing labels: "))
    return line.removeprefix("Missing labels: ").partition(". ")[0].split(", ")


def hand_over(lab: Project, call: Call) -> None:
    """Stock nnU-Net, with a folder of its own, installs the zip and predicts what `nnUNetv2_assft_predict` does."""
    scans, zipped, elsewhere = lab.raw / "imagesTs", lab.root / "model.zip", lab.root / "elsewhere"
    code, printed = call("export", "-o", zipped)
    assert code == 0, printed
    code, ours = call("predict", "-i", scans, "-o", lab.root / "ours", "-npp", 0, "-nps", 0, "-device", "cpu")
    assert code == 0, ours
    results = {"nnUNet_results": str(elsewhere / "nnUNet_results")}
    (elsewhere / "nnUNet_results").mkdir(parents=True)
    command(elsewhere, STOCK["install"], zipped, **results)
    (line,) = (line for line in printed.splitlines() if "nnUNetv2_predict" in line)
    folders = {"IMAGES": str(scans), "SEGMENTATIONS": str(elsewhere / "stock")}
    arguments = [folders.get(word, word) for word in line.split()[1:]]
    command(elsewhere, STOCK["predict"], *arguments, *IN_PROCESSES, **results)
    pairs = list(zip(voxels(lab.root / "ours"), voxels(elsewhere / "stock"), strict=True))
    assert len(pairs) == 2
    for found, expected in pairs:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_a_project_on_a_phantom(of_blobs: Project, call: Call) -> None:
    tell_the_story(of_blobs, call)


@pytest.mark.slow
@needs_hippocampus
def test_a_project_on_real_scans(of_hippocampus: Project, call: Call) -> None:
    tell_the_story(of_hippocampus, call)

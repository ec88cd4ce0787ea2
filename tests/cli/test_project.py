"""A laboratory's project by the commands of docs/project.md, from the first labels to a prediction on another machine.

Labels at hand, two rounds with readers, new scans, another budget, a withdrawn case, labels of which half lack a
structure, a reader whose segments overlap, a second look at pseudo-labels, the hand-over.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
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
from tests.conftest import SHARED_DATA, blob_case, needs_hippocampus, set_folders, write_volume
from tests.docs.pages import ROOT, blocks, commands_of, shell_lines
from tests.handover.test_stock_commands import IN_PROCESSES, STOCK, command, voxels

PAGE = ROOT / "docs/project.md"
STRUCTURES = {"Anterior": 1, "Posterior": 2}
N_POOL, N_SCANS = 18, 30
NAME = "Dataset950_Project"


@dataclass
class Project:
    """The readers' side of a project: all scans, and what a reader would draw on each."""

    root: Path
    scans: dict[str, Path]
    truth: dict[str, Path]

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


def project(root: Path, scans: dict[str, Path], truth: dict[str, Path]) -> Project:
    """A dataset with 18 scans in the pool, six of them with labels, and two test cases."""
    made = Project(root, scans, truth)
    for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (made.raw / folder).mkdir(parents=True)
    cases = sorted(scans)
    made.arrive(cases[:N_POOL])
    for case in cases[:6]:
        shutil.copy(truth[case], made.raw / f"labelsTr/{case}.nii.gz")
    for case in cases[-2:]:
        shutil.copy(scans[case], made.raw / f"imagesTs/{case}_0000.nii.gz")
        shutil.copy(truth[case], made.raw / f"labelsTs/{case}.nii.gz")
    labels = {"background": 0, **STRUCTURES}
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": N_POOL, "file_ending": ".nii.gz"}
    write_json(made.raw / "dataset.json", content)
    return made


@pytest.fixture
def of_blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    set_folders(tmp_path, monkeypatch)
    scans, truth = {}, {}
    for i in range(N_SCANS):
        case, (image, label) = f"case_{i:02d}", blob_case(i)
        scans[case], truth[case] = tmp_path / f"scans/{case}.nii.gz", tmp_path / f"truth/{case}.nii.gz"
        write_volume(scans[case], image)
        write_volume(truth[case], label)
    return project(tmp_path, scans, truth)


@pytest.fixture
def of_hippocampus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    set_folders(tmp_path, monkeypatch)
    source = SHARED_DATA / "hippocampus"
    scans = {file.name.removesuffix(".nii.gz"): file for file in sorted((source / "imagesTr").iterdir())[:N_SCANS]}
    truth = {}
    for case in scans:  # one of these labels is stored in floating point, which our own label files are not
        label = sitk.Cast(sitk.ReadImage(str(source / f"labelsTr/{case}.nii.gz")), sitk.sitkUInt8)
        truth[case] = tmp_path / f"truth/{case}.nii.gz"
        truth[case].parent.mkdir(exist_ok=True)
        sitk.WriteImage(label, str(truth[case]))
    return project(tmp_path, scans, truth)


Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    """(exit code, what was printed) of a command of the project: its name without nnUNetv2_assft_, and its words."""

    def run(name: str, *words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as exit_:
            import_module(f"nnunet_assft.cli.{name}").main([*words])
        out, err = capfd.readouterr()
        return int(exit_.value.code or 0), out + err

    return run


class Page:
    """The commands of the page, one after the other, each with the exit code that a comment behind it says.

    printed: whether each line that the page shows below its commands must have been printed by them, apart from numbers
    and cases, which differ between machines.
    """

    def __init__(self, call: Call, *, printed: bool) -> None:
        self.call, self.printed = call, printed
        self.instead: dict[str, str] = {}
        self._lines = self._walk()
        self._out = ""

    def _walk(self) -> Iterator[str]:
        for block in blocks(PAGE, "bash", "text"):
            if block.language == "bash":
                self._out = ""
                yield from shell_lines(block)
            elif self.printed:
                out = masked(self._out).splitlines()
                for line in masked(block.text).splitlines():
                    assert any(found.endswith(line.removeprefix("... ")) for found in out), (line, self._out)

    def next(self, name: str, *more: str) -> str:
        """Run the next command, which must be `name` without nnUNetv2_assft_, and return what it printed. more: options
        that the page does not have."""
        line = next(self._lines)
        for old, new in self.instead.items():
            line = line.replace(old, new)
        (words,) = commands_of(line.partition(" # ")[0])
        command_ = f"{words[0].removeprefix('nnUNetv2_assft_')} {' '.join(words[1:])}"
        assert command_.startswith(name), f"the page has {command_}; expected {name}"
        expected = re.search(r" # exit code (\d)", line)
        code, printed = self.call(*name.split(), *command_.removeprefix(name).split(), *more)
        assert code == (int(expected[1]) if expected else 0), (line, printed)
        self._out += printed
        return printed

    def end(self) -> None:
        """Check that the page has no further command, and the lines below the last one."""
        assert next(self._lines, None) is None


def masked(text: str) -> str:
    text = re.sub(r"\b[0-9a-f]{64}\b", "SHA256", re.sub(r"\x1b\[\d*m", "", text))
    return re.sub(r"\d[\d.,:e+-]*", "0", re.sub(r"\b(hippocampus|case)_\d+", "CASE", text))


def finished(r: int) -> Round:
    return Round.load(ExperimentPaths(NAME, "assft"), r)


def tell_the_story(lab: Project, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = STRUCTURES
    work, accept = lab.root / "work", "--accept_warnings"  # labels of other cases than on the page may have warnings
    monkeypatch.chdir(lab.root)

    # six labels at hand; round 0 trains on them, and round 1 asks for four more
    page.next("plan")
    page.next("run")
    assert len(finished(0).labelled) == 6

    # two readers, of whom one had no time for the second structure: half of the labels lack it
    page.next("annotate export")
    asked = read_json(ExperimentPaths(NAME, "assft").results / "readers_round_01.json")
    of_anna, of_bert = ([case for case, names in asked.items() if names == [name]] for name in ("anna", "bert"))
    assert len(of_anna) == len(of_bert) == 2
    for case in of_anna:
        save_itksnap(work / f"round_01/annotations/anna/{case}.nii.gz", lab.label(case), lab.image(case))
    for case in of_bert:
        partial = np.where(lab.label(case) == STRUCTURES[large], 0, lab.label(case))
        save_itksnap(work / f"round_01/annotations/bert/{case}.nii.gz", partial, lab.image(case))
    page.next("annotate import", accept)
    page.next("annotate import", accept)
    assert read_json(lab.raw / "not_annotated.json") == {case: [large] for case in of_bert}

    # round 1 is trained, and round 2 asks; meanwhile ten scans arrive, time gets short, and a patient withdraws
    page.next("run")
    trained_on = read_stage_file(ExperimentPaths(NAME, "assft").trained_on(1, "supervised"))["cases"]
    assert {case for case, entry in trained_on.items() if "not_annotated" in entry} == set(of_bert)
    (of_page,) = re.findall(r"--withdraw (\w+)$", PAGE.read_text(), re.MULTILINE)
    may_withdraw = [case for case in finished(1).unlabelled if case not in _asked(page.call)]
    withdrawn = of_page if of_page in may_withdraw else may_withdraw[0]
    page.instead[of_page] = withdrawn
    lab.arrive(sorted(lab.scans)[N_POOL : N_POOL + 10])
    page.next("extend")
    now = Experiment.load(ExperimentPaths(NAME, "assft")).now
    assert (len(now.pool), now.n_query) == (N_POOL + 10 - 1, 2)

    # a reader who works with prompts: two segments overlap, and the smaller one keeps the voxels
    page.next("annotate export")
    cases = _asked(page.call)
    for case in cases:
        segments = {name: lab.label(case) == value for name, value in STRUCTURES.items()}
        segments[large] = segments[large] | segments[small]
        file = work / f"round_02/annotations/{case}.seg.nrrd"
        save_slicer(file, segments, lab.image(case), layers={small: 0, large: 1})
    assert "overlap in" in page.next("annotate import", accept)
    page.next("annotate import", accept)
    for case in cases:
        (entry,) = load_readings(ExperimentPaths(NAME, "assft").annotation_file(case))
        assert entry["overlap"] == "smaller"
    page.next("round")
    assert len(finished(2).labelled) == 6 + 4 + 4
    assert withdrawn not in {*finished(2).labelled, *finished(2).unlabelled}

    # a second look at the most doubtful pseudo-label; the last round asks for two more, as the budget is now
    page.next("annotate review")
    (doubtful,) = (file.name.removesuffix(".nii.gz") for file in (work / "look_02/prelabels").iterdir())
    (work / "look_02/times.csv").write_text(f"case,annotator,minutes,decision\n{doubtful},,2,accept\n")
    page.next("annotate import", accept)
    page.next("run")
    page.next("annotate export")
    cases = _asked(page.call)
    assert len(cases) == 2
    for case in cases:
        save_itksnap(work / f"round_03/annotations/{case}.nii.gz", lab.label(case), lab.image(case))
    page.next("annotate import", accept)
    page.next("run")
    assert {*cases, doubtful} < set(finished(3).labelled)
    page.next("status")
    hand_over(lab, page)
    page.end()
    code, printed = page.call("status", "-d", "950", "--verify")
    assert (code, "0 findings" in printed) == (0, True), printed


def _asked(call: Call) -> list[str]:
    """The cases without a label, from `annotate status`."""
    _, printed = call("annotate", "status", "-d", "950")
    (line,) = (line for line in printed.splitlines() if line.startswith("Missing labels: "))
    return line.removeprefix("Missing labels: ").partition(". ")[0].split(", ")


def hand_over(lab: Project, page: Page) -> None:
    """Stock nnU-Net, with a folder of its own, installs the zip and predicts what `nnUNetv2_assft_predict` does."""
    scans, zipped, elsewhere = lab.raw / "imagesTs", lab.root / "model.zip", lab.root / "elsewhere"
    printed, here = page.next("export"), ("-npp", "0", "-nps", "0", "-device", "cpu")
    code, ours = page.call("predict", "-d", "950", "-i", str(scans), "-o", str(lab.root / "ours"), *here)
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
def test_a_project_on_a_phantom(of_blobs: Project, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    tell_the_story(of_blobs, Page(call, printed=False), monkeypatch)


@pytest.mark.slow
@needs_hippocampus
def test_a_project_on_real_scans(of_hippocampus: Project, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    tell_the_story(of_hippocampus, Page(call, printed=True), monkeypatch)

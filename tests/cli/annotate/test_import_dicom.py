"""DICOM segmentations that come back for cases that came from DICOM: which case they are of, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydicom.dataset import FileDataset

from nnunet_assft.annotation.segments import OVERLAPS
from nnunet_assft.cli.annotate import parser
from nnunet_assft.volumes.dicom import key_file
from nnunet_assft.volumes.dicom.key_file import KeyFile, identity
from nnunet_assft.volumes.dicom.slices import find_slices
from nnunet_assft.volumes.dicom.stack import Stack, stack
from tests.cli.annotate.experiment import DATASET, KIDNEYS, Call, label_of, record_of, truth
from tests.volumes.dicom.seg_files import save_seg
from tests.volumes.dicom.series_files import headers, save

CASE = "case_03"


@pytest.fixture
def series(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[FileDataset]:
    """The slices of the series that case_03 was made from; the key file is root/key.json."""
    image = nibabel.load(root / f"nnUNet_raw/{DATASET}/imagesTr/{CASE}_0000.nii.gz")
    made = headers(np.asarray(image.dataobj).astype(np.int16), image.affine, modality="MR")
    save(root / "export", made)
    monkeypatch.setattr(key_file, "CASE", re.compile("case_[0-9]{2}"))  # the experiment of these tests has other ids
    found = find_slices([root / "export"], 1).slices
    volume = stack(found)
    assert isinstance(volume, Stack)
    keys = KeyFile(root / "key.json", entries={CASE: {"identity": list(identity(found))}})
    keys.describe(CASE, found, volume.files, "a case of the dataset")
    keys.save()
    return made


def drawn(label: np.ndarray) -> dict[str, np.ndarray]:
    """label: (z, y, x), whose slices are in the order of the series."""
    return {name: label == value for name, value in KIDNEYS.items() if value}


@pytest.mark.parametrize("name", ["Meier^Hans.dcm", "IMG0001", "case_01_of_another_name.DCM"])
def test_the_series_says_which_case_a_segmentation_is_of(
    root: Path, series: list[FileDataset], call: Call, name: str
) -> None:
    save_seg(root / "back" / name, series, drawn(truth(CASE)))
    save(root / "back", series, 1)  # the scan itself, which the annotator has sent along
    code, out, lines = call("import", root / "back", "--key_file", root / "key.json", "--annotator_name", "anna")
    assert (code, lines) == (0, [])
    assert f"{CASE}: the label by anna imported" in out
    np.testing.assert_array_equal(label_of(root, CASE), truth(CASE))
    (entry,) = record_of(root, CASE)["readings"]
    assert (entry["file"], entry["overlap"], entry["notes"]) == (None, None, [])  # the name may be the patient's


def test_what_is_no_segmentation_of_a_case_is_named(root: Path, series: list[FileDataset], call: Call) -> None:
    other = headers(np.zeros((26, 24, 18), np.int16), np.eye(4))
    save_seg(root / "back/other.dcm", other, {"kidney_left": np.ones((18, 24, 26), bool)})
    save(root / "back", other[:1], 2)
    (root / "back/none.dcm").write_bytes(b"x" * 200)
    code, _, lines = call("import", root / "back", "--key_file", root / "key.json")
    assert (code, len(lines)) == (1, 3)
    assert "it is DICOM of the kind 'CT Image Storage'; expected a DICOM SEG" in lines[0]
    assert "none.dcm: it is called a DICOM file, but is none" in lines[1]
    assert "other.dcm: it is a DICOM SEG of a series that is not in the key file, or of several" in lines[2]


def test_without_a_key_file_dicom_is_refused_with_the_option(root: Path, series: list[FileDataset], call: Call) -> None:
    save_seg(root / "back/case_03.dcm", series, drawn(truth(CASE)))
    code, _, lines = call("import", root / "back")
    assert (code, len(lines)) == (1, 1)
    assert lines[0].endswith(".gipl, or --key_file for a DICOM SEG.")
    code, _, lines = call("import", root / "back", "--key_file", root / "no.json")
    assert (code, len(lines)) == (1, 1)
    assert "no.json does not exist. Give the key file that nnUNetv2_assft_convert dicom wrote" in lines[0]


def test_the_consent_to_an_overlap_is_recorded(root: Path, series: list[FileDataset], call: Call) -> None:
    segments = drawn(truth(CASE))
    (small, large) = sorted(segments, key=lambda name: int(segments[name].sum()))
    segments[large] = segments[large] | segments[small]
    save_seg(root / "back/a.dcm", series, segments)
    command = ("import", root / "back", "--key_file", root / "key.json")
    n = int(segments[small].sum())
    code, _, lines = call(*command)
    assert (code, len(lines)) == (1, 1)
    assert f"overlap in {n} voxels; a voxel can have only one label." in lines[0]
    code, out, lines = call(*command, "--overlap", "smaller")
    assert (code, lines) == (0, [])
    np.testing.assert_array_equal(label_of(root, CASE), truth(CASE))
    (entry,) = record_of(root, CASE)["readings"]
    assert entry["overlap"] == "smaller"
    sentence = f"its segments overlapped, and --overlap smaller decided: '{small}' took {n} voxels of '{large}'"
    assert entry["notes"] == [sentence]
    assert sentence in out
    for again in ((), ("--overlap", "smaller")):  # the label is in, and says how
        code, out, _ = call(*command, *again)
        assert (code, "has been imported already" in out) == (0, True)
    other = "first" if next(iter(segments)) == large else "last"
    code, _, lines = call(*command, "--overlap", other)
    assert code == 1
    assert "--replace" in lines[0]


def test_pre_segmentations_go_out_as_dicom_and_come_back(
    root: Path, work: Path, series: list[FileDataset], call: Call
) -> None:
    """The case that came from DICOM has one; it is not written anew; and without its scan, the case is named."""
    export = ("export", "-o", work, "--key_file", root / "key.json", "-device", "cpu")
    assert call(*export)[0] == 0
    assert [file.name for file in (work / "prelabels").glob("*.dcm")] == [f"{CASE}.dcm"]
    assert "Save yours as DICOM SEG in annotations/, under any name" in (work / "README.txt").read_text()
    time = (work / f"prelabels/{CASE}.dcm").stat().st_mtime_ns
    assert call(*export)[0] == 0
    assert (work / f"prelabels/{CASE}.dcm").stat().st_mtime_ns == time
    (work / f"prelabels/{CASE}.dcm").rename(work / "annotations/edited.dcm")
    code, _, lines = call("import", work, "--key_file", root / "key.json")
    assert (code, "it is the pre-segmentation, unchanged" in lines[0]) == (1, True)
    next(file for file in (root / "export").iterdir() if file.is_file()).unlink()
    code, _, lines = call(*export)
    assert (code, len(lines)) == (1, 1)
    assert f"The pre-segmentation of case {CASE} cannot be written as DICOM: the DICOM files of its series" in lines[0]


def test_the_rules_of_the_command_are_those_of_the_package() -> None:
    for rule in OVERLAPS:
        assert parser().parse_args(["import", "-d", "1", "x", "--overlap", rule]).overlap == rule

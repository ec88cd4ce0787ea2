"""Which files of a returned folder are labels, of which case and by whom, and what is said of all others."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nnunet_assft.annotation.minutes import Times
from nnunet_assft.annotation.returned import Asked, find_returned

ASKED = ("case_01", "case_02", "case_07", "case_12")
POOL = (*ASKED, "case_03")


def find(
    folder: Path, asked: tuple[str, ...] = ASKED, pool: tuple[str, ...] = POOL, **annotators: tuple[str, ...]
) -> tuple[dict[str, str], list[str]]:
    """Return (name of the file -> its case, problems)."""
    now = SimpleNamespace(pool=pool, test=("case_99",))
    dataset = SimpleNamespace(test_images={})
    experiment = cast(Any, SimpleNamespace(now=now, withdrawn=frozenset(), raw_dataset=lambda: dataset))
    requests = {case: Asked(1, annotators.get(case, ())) for case in asked}
    returned, problems = find_returned(experiment, folder, requests, Times())
    return {str(entry.file.relative_to(folder)): entry.case for entry in returned}, problems


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem", "meant"),
    [
        ("case_01_0000", "case_01"),  # the name of the image
        ("case_01_0001", "case_01"),
        ("case_01_0000-label", "case_01"),
        ("case_01_0000 (1)", "case_01"),
        ("case_07_seg", "case_07"),
        ("Segmentation_case_07", "case_07"),
        ("case_07.label", "case_07"),
        ("case_12 (1)", "case_12"),  # a second download
        ("Copy of case_12", "case_12"),
        ("CASE_02", "case_02"),
        ("csae_02", "case_02"),
        ("case_2", "case_02"),
        ("case02", "case_02"),
        ("case_03_seg", None),  # another patient, who is not asked for
        ("case_99_0000", None),
        ("case_05", None),
        ("case_10", None),
        ("case_21", None),
        ("case_011", None),
        ("case_01_02", None),
        ("case_01_case_02", None),
        ("Segmentation", None),
        ("labels", None),
        ("0000", None),
    ],
)
def test_a_wrong_name_is_refused_and_the_hint_is_that_patient_or_none(
    tmp_path: Path, stem: str, meant: str | None
) -> None:
    (tmp_path / f"{stem}.seg.nrrd").touch()
    returned, (problem,) = find(tmp_path)
    assert returned == {}
    assert f"the dataset has no case '{stem}'; expected case_01, case_02, case_07, case_12." in problem
    assert problem.partition("Did you mean ")[2] == (f"{meant}? Then rename it." if meant else "")


@pytest.mark.parametrize(
    ("pool", "stem", "meant"),
    [
        (("FLARE22_Tr_0001", "FLARE22_Tr_0002"), "FLARE22_Tr_0001_0000", "FLARE22_Tr_0001"),
        (("FLARE22_Tr_0001", "FLARE22_Tr_0002"), "FLARE22_Tr_0003", None),
        (("0001", "0002"), "0002_0000", "0002"),
        (("pat_1", "pat_12", "pat_112"), "pat_12_seg", "pat_12"),
        (("anna", "hanna"), "anna_seg", "anna"),
        (("anna", "hanna"), "hannah", None),  # both are in it
        (("anna", "bert"), "anne", "anna"),
        (("lung_a", "lung_b"), "lung_c", None),  # both are near
        (("s1_t1", "s1_t2"), "s1_t1_seg", "s1_t1"),
        (("s1_t1", "s1_t2"), "s1", None),
    ],
)
def test_hints_for_other_ids(tmp_path: Path, pool: tuple[str, ...], stem: str, meant: str | None) -> None:
    (tmp_path / f"{stem}.nii.gz").touch()
    _, (problem,) = find(tmp_path, asked=pool, pool=pool)
    assert problem.partition("Did you mean ")[2] == (f"{meant}? Then rename it." if meant else "")


def test_accents_that_a_mac_has_taken_apart(tmp_path: Path) -> None:
    """The name in the dataset has one character for an u with dots, the name of the file two."""
    (tmp_path / "Mu\u0308ller.nii.gz").touch()
    returned, problems = find(tmp_path, asked=("M\u00fcller",), pool=("M\u00fcller",))
    assert (list(returned.values()), problems) == (["M\u00fcller"], [])


def test_several_labels_of_one_case_are_all_refused(tmp_path: Path) -> None:
    for ending in (".nii.gz", ".seg.nrrd", ".mha"):
        (tmp_path / f"case_01{ending}").touch()
    (tmp_path / "case_02.nii").touch()
    returned, (problem,) = find(tmp_path)
    assert returned == {"case_02.nii": "case_02"}
    assert "case_01.mha and case_01.nii.gz and case_01.seg.nrrd are labels of the same case" in problem


# Formats --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ending",
    [".seg.nrrd", ".nrrd", ".nii.gz", ".nii", ".mha", ".gipl", ".NII.GZ", ".Seg.Nrrd", ".MHA"],
)
def test_formats_that_are_taken(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"case_01{ending}").touch()
    assert find(tmp_path) == ({f"case_01{ending}": "case_01"}, [])


@pytest.mark.parametrize(
    ("names", "what"),
    [
        ("case_01.nhdr case_01.hdr case_01.img case_01.mhd case_01.raw x.zraw X.HDR", "one of two files"),
        ("case_01.dcm IM0001.dcm 1.IMA", "DICOM"),
        ("scene.mrml case_01.mrb case_01.mitk work.itksnap", "a scene or project"),
        ("case_01.seg.vtm liver.stl case_01.vtk", "a surface"),
        ("labels.zip case_01.nii.gz.7z back.tar.gz", "an archive that must be unpacked"),
        ("case_01.mgz seg.h5 case_02.npz", "of a format that is not read"),
        ("case_01 case_01.png case_01.txt case_01.nii.gz.part case_01.seg.nrrd.crdownload", "not read"),
    ],
)
def test_formats_that_are_named(tmp_path: Path, names: str, what: str) -> None:
    for name in names.split():
        (tmp_path / name).touch()
    returned, problems = find(tmp_path)
    assert returned == {}
    assert len(problems) == len(names.split())
    for problem in problems:
        assert what in problem
        remedy = ", or --key_file for a DICOM SEG" if what == "DICOM" else ""
        assert problem.endswith(f"expected a file that ends with .seg.nrrd, .nrrd, .nii.gz, .nii, .mha, .gipl{remedy}.")


def test_files_that_are_no_labels_are_passed_over(tmp_path: Path) -> None:
    names = "notes.txt worklist.csv screenshot.png Thumbs.db ._case_01.nii.gz .DS_Store .case_02.nii.gz"
    for name in [*names.split(), "case_01.nii.gz"]:
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    assert find(tmp_path) == ({"case_01.nii.gz": "case_01"}, [])


# Folders, links and special files -------------------------------------------------------------------------------------


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _outside(path: Path) -> None:
    (path.parents[1] / "secret.nii.gz").touch()
    path.symlink_to("../secret.nii.gz")


def _chain_outside(path: Path) -> None:
    (path.parents[1] / "secret.nii.gz").touch()
    (path.parent / ".hidden").symlink_to("../secret.nii.gz")
    path.symlink_to(".hidden")


def _folder_outside(path: Path) -> None:
    (path.parents[1] / "elsewhere").mkdir()
    (path.parents[1] / "elsewhere/case_01.nii.gz").touch()
    path.symlink_to("../elsewhere")


def _nowhere(path: Path) -> None:
    path.symlink_to("nowhere")


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "IM0001").touch()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_fifo, r"it is a named pipe \(FIFO\) and is not opened"),
        (_device, r"it is a link that leads out of .*, to /dev/zero\. Put a copy there instead"),
        (_outside, r"it is a link that leads out of .*, to .*secret\.nii\.gz"),
        (_chain_outside, r"it is a link that leads out of .*, to .*secret\.nii\.gz"),
        (_folder_outside, r"it is a link that leads out of .*, to .*elsewhere"),
        (_nowhere, r"it is a link that leads nowhere"),
        (_loop, r"it is a link that leads nowhere"),
    ],
)
@pytest.mark.parametrize("name", ["case_01.nii.gz", "other"])
def test_what_is_no_file_of_this_folder_is_not_opened(
    tmp_path: Path, make: Callable[[Path], None], message: str, name: str
) -> None:
    folder = tmp_path / "back"
    folder.mkdir()
    make(folder / name)
    (folder / "case_02.nii.gz").touch()
    returned, (problem,) = find(folder)
    assert returned == {"case_02.nii.gz": "case_02"}
    assert problem.startswith(f"{folder / name}: ")
    assert re.search(message, problem)


def test_links_inside_of_the_folder_are_labels(tmp_path: Path) -> None:
    """In a work folder, the link may lead to its other folders."""
    for name in ("prelabels", "annotations"):
        (tmp_path / name).mkdir()
    (tmp_path / "export.json").write_text("{}")
    (tmp_path / "prelabels/case_01.nii.gz").touch()
    (tmp_path / "annotations/case_01.nii.gz").symlink_to("../prelabels/case_01.nii.gz")
    (tmp_path / "annotations/case_02.nii.gz").symlink_to("../prelabels/case_01.nii.gz")
    assert find(tmp_path)[0] == {"annotations/case_01.nii.gz": "case_01", "annotations/case_02.nii.gz": "case_02"}
    (tmp_path.parent / "link").unlink(missing_ok=True)
    (tmp_path.parent / "link").symlink_to(tmp_path)
    assert len(find(tmp_path.parent / "link")[0]) == 2


def test_folders_in_folders_are_named(tmp_path: Path) -> None:
    _folder(tmp_path / "case_01")
    (tmp_path / "anna/round_1").mkdir(parents=True)
    (tmp_path / "anna/round_1/case_02.nii.gz").touch()
    (tmp_path / "anna/case_07.nii.gz").touch()
    returned, problems = find(tmp_path, case_07=("anna",))
    assert returned == {"anna/case_07.nii.gz": "case_07"}
    assert [problem.split(": ")[0] for problem in problems] == [
        str(tmp_path / "case_01"),
        str(tmp_path / "anna/round_1"),
    ]

"""A folder of NIfTI files that is no public dataset: some images, labels of some of them, in a lab's own names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from nnunet_assft.dataset_conversion.nifti import nifti_row
from nnunet_assft.dataset_conversion.source_cases import collect
from nnunet_assft.errors import AssftError
from nnunet_assft.volumes.raw_dataset import read_dataset
from tests.dataset_conversion.conftest import Convert, Result, check_by_nnunet
from tests.dataset_conversion.downloads import AFFINE, SHAPE, ct, label, mr, save
from tests.dataset_conversion.test_layouts import files_of, touch

USUAL = "-d 300 --labels liver,spleen --channels CT"


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """Four CT without channel number, and labels of two of them."""
    for i, name in enumerate(("anna", "ben", "carl", "dora")):
        save(tmp_path / f"lab/images/{name}.nii.gz", ct(i))
    save(tmp_path / "lab/labels/anna.nii.gz", label(1, 2))
    save(tmp_path / "lab/labels/ben.nii.gz", label(1))
    return tmp_path / "lab"


def convert_lab(convert: Convert, lab: Path, options: str = USUAL) -> Result:
    return convert("nifti", lab / "images", options=f"{options} -l {lab / 'labels'}")


def test_images_and_the_labels_that_exist_become_a_dataset(convert: Convert, lab: Path) -> None:
    result = convert_lab(convert, lab)
    assert (result.code, result.errors, result.folder.name) == (0, [], "Dataset300_NIfTI")
    assert result.cases("imagesTr") == ["anna", "ben", "carl", "dora"]
    assert result.cases("labelsTr") == ["anna", "ben"]
    assert result.findings() == [("info", "not_annotated", "carl"), ("info", "not_annotated", "dora")]
    content = result.dataset_json()
    assert content["channel_names"] == {"0": "CT"}
    assert content["labels"] == {"background": 0, "liver": 1, "spleen": 2}
    assert content["numTraining"] == 4
    assert list(read_dataset(result.folder).images) == ["anna", "ben", "carl", "dora"]
    assert "info     not_annotated              2  an image that nobody has annotated yet" in result.out
    assert result.out.splitlines()[-1] == "Next: nnUNetv2_assft_plan -d 300 --annotator human"
    checked = convert("check", result.folder)
    assert (checked.code, checked.errors) == (0, [])
    verified = convert("nifti", options="--verify_only -d 300")
    assert (verified.code, "4 cases" in verified.out) == (0, True)


def test_a_dataset_whose_images_are_all_labelled_passes_nnunets_own_check(convert: Convert, lab: Path) -> None:
    for name in ("carl", "dora"):
        (lab / f"images/{name}.nii.gz").unlink()
    result = convert_lab(convert, lab, f"{USUAL.replace('300', 'Dataset300_Livers')} --mode copy")
    assert (result.folder.name, result.dataset_json()["converted_from"]) == ("Dataset300_Livers", "NIfTI")
    check_by_nnunet(result.folder)
    assert result.out.splitlines()[-1] == "Next: nnUNetv2_assft_plan -d 300"


def test_labels_on_a_disk_to_which_no_hard_link_leads_are_linked(
    convert: Convert, lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def refuse(source: str, target: Path) -> None:
        if Path(source).parent.name == "labels":
            raise OSError(18, "Invalid cross-device link", source)
        link(source, target)

    monkeypatch.setattr(os, "link", refuse)
    result = convert_lab(convert, lab, f"{USUAL} --mode hardlink")
    assert (result.code, result.cases("labelsTr")) == (0, ["anna", "ben"])
    assert "--mode hardlink is not possible" in result.out
    assert "--mode link instead" in result.out


def test_without_labels_there_are_only_images(convert: Convert, lab: Path) -> None:
    result = convert("nifti", lab / "images", options=f"{USUAL} --mode reference")
    assert (result.code, result.cases("labelsTr"), result.cases("imagesTr")) == (0, [], [])
    assert result.dataset_json()["dataset"]["carl"] == {
        "images": [str(lab / "images/carl.nii.gz")],
        "label": str(result.folder / "labelsTr/carl.nii.gz"),  # where annotators will put it
    }


def test_other_values_in_the_label_files_become_the_ids_of_the_dataset(convert: Convert, lab: Path) -> None:
    """Two structures that one spelling would make the same, with the values 6 and 255."""
    save(lab / "labels/anna.nii.gz", label(6, 255))
    save(lab / "labels/ben.nii.gz", label(255))
    result = convert_lab(convert, lab, "-d 300 --labels lesion+=255,lesion-=6 --channels ct")
    assert (result.code, result.errors) == (0, [])
    assert result.dataset_json()["labels"] == {"background": 0, "lesion+": 1, "lesion-": 2}
    assert np.array_equal(result.values("labelsTr/anna.nii.gz"), label(2, 1))
    assert np.array_equal(result.values("labelsTr/ben.nii.gz"), label(1))
    rows = {(row["source"], row["old_id"], row["new_id"]) for row in result.json()["labels"]}
    assert rows == {("background", 0, 0), ("lesion-", 6, 2), ("lesion+", 255, 1)}


def test_several_channels_have_the_number_or_the_name_of_the_channel_at_the_end(
    convert: Convert, tmp_path: Path
) -> None:
    for i, name in enumerate(("p1_T1.nii.gz", "p1_flair.nii.gz", "p2_T1.nii.gz", "p2_flair.nii.gz")):
        save(tmp_path / "lab/images" / name, mr(i))
    result = convert("nifti", tmp_path / "lab/images", options="-d 301 --labels lesion --channels FLAIR,T1")
    assert (result.code, result.errors) == (0, [])
    assert result.dataset_json()["channel_names"] == {"0": "FLAIR", "1": "T1"}
    assert np.array_equal(result.values("imagesTr/p1_0000.nii.gz"), mr(1))
    assert np.array_equal(result.values("imagesTr/p1_0001.nii.gz"), mr(0))


def test_a_channel_on_another_grid_and_a_label_that_does_not_fit_are_left_out_by_name(
    convert: Convert, lab: Path
) -> None:
    moved = AFFINE.copy()
    moved[0, 3] = 40  # mm
    save(lab / "labels/anna.nii.gz", label(1, 2), moved)
    save(lab / "labels/ben.nii.gz", label(1, 3))
    save(lab / "labels/carl.nii.gz", label(1, shape=(*SHAPE[:2], 9)))
    save(lab / "labels/emil.nii.gz", label(1))
    result = convert_lab(convert, lab)
    assert result.code == 1
    assert result.findings()[:4] == [
        ("error", "affine_differs", "anna"),
        ("error", "unexpected_labels", "ben"),
        ("error", "shape_mismatch", "carl"),
        ("error", "missing_image", "emil"),
    ]
    assert result.message("affine_differs").startswith("image and label lie 40.00 mm apart")
    assert result.message("unexpected_labels") == "ben.nii.gz holds 3 (10 voxels); expected ids 0 to 2"
    assert result.cases("imagesTr") == ["dora"]
    save(lab / "images/anna_0001.nii.gz", ct(9), moved)
    (lab / "images/anna.nii.gz").rename(lab / "images/anna_0000.nii.gz")
    two = convert("nifti", lab / "images", options="-d 302 --labels liver --channels a,b")
    assert "The first reason: anna: image and anna_0001.nii.gz lie 40.00 mm apart" in two.errors[0]


def test_new_images_join_and_labels_by_annotators_stay(convert: Convert, lab: Path) -> None:
    folder = convert_lab(convert, lab).folder
    drawn = save(folder / "labelsTr/carl.nii.gz", label(2)).read_bytes()  # as `annotate import` puts it there
    save(lab / "images/emil.nii.gz", ct(7))
    again = convert_lab(convert, lab)
    assert (again.code, again.errors, again.cases("imagesTr")[-1]) == (0, [], "emil")
    assert (folder / "labelsTr/carl.nii.gz").read_bytes() == drawn
    save(lab / "labels/carl.nii.gz", label(1))
    refused = convert_lab(convert, lab, f"{USUAL} --overwrite")
    assert refused.code == 1
    assert "carl.nii.gz was added after the conversion, and there is now another label" in refused.errors[0]
    assert (folder / "labelsTr/carl.nii.gz").read_bytes() == drawn


def test_another_order_of_the_structures_is_refused(convert: Convert, lab: Path) -> None:
    convert_lab(convert, lab)
    other = convert_lab(convert, lab, "-d 300 --labels spleen,liver --channels CT")
    assert other.code == 1
    assert "was converted with labels {'background': 0, 'liver': 1, 'spleen': 2} (now" in other.errors[0]


def test_a_split_file_chooses_test_cases(convert: Convert, lab: Path, tmp_path: Path) -> None:
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"pool": ["ben", "carl", "dora"], "test": ["anna"]}))
    result = convert_lab(convert, lab, f"{USUAL} --split_file {split}")
    assert (result.cases("imagesTs"), result.cases("labelsTs")) == (["anna"], ["anna"])
    assert result.dataset_json()["numTraining"] == 3


# names only -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "channels", "cases"),
    [
        # four digits at the end are the channel only if some image has channel 0000
        (["scan_0001", "scan_0002"], "CT", {"scan_0001": ["scan_0001"], "scan_0002": ["scan_0002"]}),
        (["a_0000", "b"], "CT", {"a": ["a_0000"], "b": ["b"]}),
        (["a_0001", "a_0000"], "T1 T2", {"a": ["a_0000", "a_0001"]}),
        (["a_T1", "a_T1ce"], "T1 T1ce", {"a": ["a_T1", "a_T1ce"]}),
        (["a_ce_T1", "a_T1"], "T1 ce_T1", {"a": ["a_T1", "a_ce_T1"]}),  # the longest name counts
        (["deep/er/a", "b"], "CT", {"a": ["deep/er/a"], "b": ["b"]}),
    ],
)
def test_names_say_which_case_and_channel_an_image_is(
    names: list[str], channels: str, cases: dict[str, list[str]], tmp_path: Path
) -> None:
    root = touch(tmp_path / "images", *(f"{name}.nii.gz" for name in names))
    sources = collect(nifti_row(["liver"], channels.split(), []), [root])
    assert sources.findings == []
    assert files_of(sources, root) == {
        case: tuple(f"{name}.nii.gz" for name in images) for case, images in cases.items()
    }


@pytest.mark.parametrize(
    ("names", "channels", "finding"),
    [
        (["1/a", "2/a"], "CT", "several_files a: there are {}/1/a.nii.gz and {}/2/a.nii.gz"),
        (
            ["a_0000", "a_0001"],
            "CT",
            "missing_image a: there is a_0000.nii.gz, a_0001.nii.gz; expected one image for each case, and the channel "
            "0000 only",
        ),
        (
            ["a_T1"],
            "T1 T2",
            "missing_image a: there is a_T1.nii.gz; expected one image per channel, whose name ends with _0000 or _T1, "
            "_0001 or _T2",
        ),
        (
            ["a"],
            "T1 T2",
            "missing_image a: there is a.nii.gz; expected one image per channel, whose name ends with _0000 or _T1, "
            "_0001 or _T2",
        ),
    ],
)
def test_images_that_are_too_many_or_too_few_leave_the_case_out(
    names: list[str], channels: str, finding: str, tmp_path: Path
) -> None:
    root = touch(tmp_path / "images", "fine_0000.nii.gz" if "_0000" in names[0] else "fine.nii.gz")
    if " " in channels:
        touch(root, "fine_T1.nii.gz", "fine_T2.nii.gz")
        (root / "fine.nii.gz").unlink()
    touch(root, *(f"{name}.nii.gz" for name in names))
    label_folder = touch(tmp_path / "labels", "a.nii.gz", "fine.nii.gz")
    sources = collect(nifti_row(["liver"], channels.split(), [label_folder]), [root])
    assert [f"{found.code} {found.case}: {found.message}" for found in sources.findings] == [finding.format(root, root)]
    assert list(sources.cases) == ["fine"]


def test_ids_that_differ_in_case_only_are_one_case_as_for_planning(tmp_path: Path) -> None:
    root = touch(tmp_path / "images", "Anna.nii.gz", "anna.nii.gz", "ben.nii.gz")
    sources = collect(nifti_row(["liver"], ["CT"], []), [root])
    assert [(found.code, found.case) for found in sources.findings] == [("bad_name", "'anna'")]
    assert "the case id differs from 'Anna' in upper and lower case only" in sources.findings[0].message
    assert list(sources.cases) == ["Anna", "ben"]


def test_two_labels_of_a_case_leave_it_out(tmp_path: Path) -> None:
    root = touch(tmp_path, "images/a.nii.gz", "images/b.nii.gz", "images/labels/a.nii", "images/labels/a.nii.gz")
    sources = collect(nifti_row(["liver"], ["CT"], [root / "images/labels"]), [root / "images"])
    assert [(found.code, found.case) for found in sources.findings] == [("several_files", "a")]
    assert list(sources.cases) == ["b"]


def test_labels_with_other_names_and_folders_without_images_are_refused(tmp_path: Path) -> None:
    root = touch(tmp_path, "images/a.nii.gz", "labels/a-seg.nii.gz", "other/a.nrrd", "other/b.nrrd")
    with pytest.raises(AssftError, match="None of 1 label has the name of an image: the first label is 'a-seg', the"):
        collect(nifti_row(["liver"], ["CT"], [root / "labels"]), [root / "images"])
    with pytest.raises(AssftError, match=r"other holds no file that ends with .nii.gz or .nii, but 2 other files"):
        collect(nifti_row(["liver"], ["CT"], []), [root / "other"])
    touch(root, "images/b.nrrd", "images/a.json")
    (finding,) = collect(nifti_row(["liver"], ["CT"], []), [root / "images"]).findings
    assert (finding.code, finding.message) == ("not_nifti", "-i: 1 with .json, 1 with .nrrd; expected .nii.gz or .nii")


@pytest.mark.parametrize("labels", [["liver=1", "spleen"], ["liver=0"], ["liver=1", "spleen=1"], ["liver=x"]])
def test_values_of_structures_are_given_for_all_or_none(labels: list[str]) -> None:
    with pytest.raises(AssftError, match="expected NAME=VALUE for every structure or for none, with the different"):
        nifti_row(labels, ["CT"], [])


@pytest.mark.parametrize("labels", [["liver", "liver"], ["liver=1", "liver=2"]])
def test_a_structure_is_named_once(labels: list[str]) -> None:
    with pytest.raises(AssftError, match="a structure is named twice"):
        nifti_row(labels, ["CT"], [])


def test_a_channel_has_its_own_name() -> None:
    with pytest.raises(AssftError, match="--channels T1,t1: a channel is named twice"):
        nifti_row(["liver"], ["T1", "t1"], [])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ("--labels liver", "nifti needs -d, --channels"),
        ("-d 300 --labels liver --channels CT --key_file k", "argument --key_file: only dicom takes it"),
    ],
)
def test_what_the_command_needs(convert: Convert, lab: Path, options: str, error: str) -> None:
    result = convert("nifti", lab / "images", options=options)
    assert (result.code, result.errors[-1].partition("error: ")[2]) == (2, error)

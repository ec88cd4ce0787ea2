"""Checking a raw dataset, ours or not: report only."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from nnunet_assft.errors import AssftError
from tests.dataset_conversion import downloads
from tests.dataset_conversion.conftest import Convert, Result
from tests.dataset_conversion.downloads import AFFINE, ct, label, mr, save


@pytest.fixture
def dataset(nnunet_folders: Path) -> Path:
    """Two channels, three training cases, one labelled and one unlabelled test case; not written by this package."""
    folder = nnunet_folders / "nnUNet_raw/Dataset050_Other"
    for i in range(5):
        part = "Tr" if i < 3 else "Ts"
        save(folder / f"images{part}/c{i}_0000.nii.gz", ct(i))
        save(folder / f"images{part}/c{i}_0001.nii.gz", mr(i))
        if i < 4:
            save(folder / f"labels{part}/c{i}.nii.gz", label(1, 2))
    content = {
        "channel_names": {"0": "CT", "1": "MRI"},
        "labels": {"background": 0, "a": 1, "b": 2},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def checked(convert: Convert, folder: Path, options: str = "") -> Result:
    result = convert("check", folder, options=options)
    result.folder = folder
    return result


def test_a_good_dataset_of_somebody_else(convert: Convert, dataset: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in dataset.rglob("*") if file.is_file()}
    result = checked(convert, dataset)
    assert (result.code, result.findings("check_report")) == (0, [])
    assert result.counts("check_report") == {
        "training cases": (3, 3),
        "labelled test cases": (None, 1),
        "test images without label": (None, 1),
    }
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert convert("check", options="-d 50").code == 0


def test_headers_only_writes_nothing(convert: Convert, dataset: Path) -> None:
    assert checked(convert, dataset, "--dry_run").code == 0
    assert not (dataset / "check_report.json").exists()


def test_what_is_wrong_is_found(convert: Convert, dataset: Path) -> None:
    (dataset / "imagesTr/c0_0001.nii.gz").unlink()
    save(dataset / "labelsTr/c1.nii.gz", label(1, 7))
    save(dataset / "imagesTr/c2_0001.nii.gz", mr(2), AFFINE + np.array([[0, 0, 0, 3.0]] + [[0] * 4] * 3))
    save(dataset / "labelsTr/c9.nii.gz", label(1))
    result = checked(convert, dataset)
    assert result.code == 1
    assert result.findings("check_report") == [
        ("error", "missing_image", "c0"),
        ("error", "unexpected_labels", "c1"),
        ("error", "affine_differs", "c2"),
        ("error", "missing_image", "c9"),
    ]
    assert "lie 3.00 mm apart" in result.message("affine_differs", "check_report")
    assert "numTraining is 3, but 2 training cases" in result.message("count_differs", "check_report")


def test_a_label_that_a_round_would_refuse_is_an_error_however_close_it_is(convert: Convert, dataset: Path) -> None:
    for case, shift in (("c1", 0.2), ("c2", 0.01)):  # mm; below half a voxel, and rounding
        moved = AFFINE + np.array([[0, 0, 0, shift]] + [[0] * 4] * 3)
        save(dataset / f"labelsTr/{case}.nii.gz", label(1, 2), moved)
    result = checked(convert, dataset)
    assert (result.code, result.findings("check_report")) == (
        1,
        [("error", "affine_differs", "c1"), ("info", "affine_differs", "c2")],
    )
    assert "it is shifted by 0.2 mm" in result.message("affine_differs", "check_report")


def test_two_orientations_matter_to_a_reader_that_does_not_reorient(convert: Convert, dataset: Path) -> None:
    save(dataset / "labelsTr/c1.nii.gz", *downloads.reoriented(label(1, 2), "LPS"))
    result = checked(convert, dataset)
    assert [finding[0] for finding in result.findings("check_report")] == ["error"]
    assert "stored in another order or direction (LPS)" in result.message("affine_differs", "check_report")
    content = json.loads((dataset / "dataset.json").read_text()) | {
        "overwrite_image_reader_writer": "NibabelIOWithReorient"
    }
    (dataset / "dataset.json").write_text(json.dumps(content))
    assert checked(convert, dataset).findings("check_report") == [("info", "orientation_differs", "c1")]


def test_skewed_axes_are_an_error_if_the_reader_of_the_dataset_refuses_them(convert: Convert, dataset: Path) -> None:
    skewed = AFFINE + np.array([[0, 0.3, 0, 0]] + [[0] * 4] * 3)
    for case in ("c0", "c1"):  # the first file does not decide about the reader
        for file in (f"imagesTr/{case}_0000", f"imagesTr/{case}_0001", f"labelsTr/{case}"):
            save(dataset / f"{file}.nii.gz", {"l": label(1, 2)}.get(file[0], ct(int(case[1]))), skewed)
    assert {f[:2] for f in checked(convert, dataset).findings("check_report")} >= {("error", "non_orthonormal")}
    content = json.loads((dataset / "dataset.json").read_text()) | {"overwrite_image_reader_writer": "NibabelIO"}
    (dataset / "dataset.json").write_text(json.dumps(content))
    severities = [f[0] for f in checked(convert, dataset).findings("check_report") if f[1] == "non_orthonormal"]
    assert set(severities) == {"warning"}


def test_a_dataset_by_reference(convert: Convert, tmp_path: Path) -> None:
    converted = convert("abdominal_mri", downloads.mr_annotator(tmp_path / "download"), options="--mode reference")
    result = checked(convert, converted.folder)
    assert (result.code, result.findings("check_report")) == (0, [])


def test_the_ignore_label_is_expected_and_need_not_occur(convert: Convert, dataset: Path) -> None:
    content = json.loads((dataset / "dataset.json").read_text())
    content["labels"] |= {"ignore": 3}
    (dataset / "dataset.json").write_text(json.dumps(content))
    assert checked(convert, dataset).findings("check_report") == []
    save(dataset / "labelsTr/c1.nii.gz", label(1, 2, 3))
    assert checked(convert, dataset).findings("check_report") == []


def test_structures_that_nobody_drew_are_listed(convert: Convert, dataset: Path) -> None:
    """Each label has voxels of both structures; that of c1 is without b."""
    save(dataset / "labelsTr/c1.nii.gz", label(1))
    (dataset / "not_annotated.json").write_text('{"c1": ["b"], "c3": ["a"]}')
    result = checked(convert, dataset)
    assert result.findings("check_report") == [
        ("warning", "structure_not_annotated", "c3"),
        ("info", "structure_not_annotated", "c1"),
    ]
    assert "its label has voxels of a, which are not used" in result.message("structure_not_annotated", "check_report")


def test_structures_that_no_label_has_are_named(convert: Convert, dataset: Path) -> None:
    content = json.loads((dataset / "dataset.json").read_text())
    content["labels"] |= {"c": 3, "d": 4}
    (dataset / "dataset.json").write_text(json.dumps(content))
    result = checked(convert, dataset)
    assert (result.code, result.findings("check_report")) == (0, [("warning", "absent_structure", "")])
    text = "2 of 4 structures occur in none of 4 labels: c, d"
    assert result.message("absent_structure", "check_report") == text
    save(dataset / "labelsTs/c3.nii.gz", label(1, 2, 4))
    assert checked(convert, dataset).message("absent_structure", "check_report").startswith("1 of 4 structures")


COMPOSED, DECOMPOSED = "M\u00fcller", "Mu\u0308ller"


@pytest.mark.parametrize(
    ("old", "new", "finding", "words"),
    [
        ("imagesTr/c1_0000.nii.gz", "imagesTr/c1.nii.gz", "bad_name", "'c1.nii.gz': it has no channel number"),
        ("imagesTr/c1_0000.nii.gz", "imagesTr/c1_0000.NII.GZ", "bad_name", "rename it to end with .nii.gz"),
        ("imagesTr/c1_0000.nii.gz", "imagesTr/c 1_0000.nii.gz", "bad_name", "contains a blank (U+0020)"),
        ("imagesTr/c1_0000.nii.gz", "imagesTr/c1_0000.nii", "missing_image", "imagesTr/c1_0000.nii.gz is missing"),
        ("labelsTr/c1.nii.gz", "labelsTr/c1_0000.nii.gz", "missing_label", "labels have no channel number"),
        ("labelsTr/c1.nii.gz", "labelsTr/c1.NII.GZ", "missing_label", "spelled with different case"),
        ("labelsTr/c1.nii.gz", "labelsTr/c1.seg.nrrd", "missing_label", "a segmentation of 3D Slicer"),
        ("labelsTs/c3.nii.gz", "labelsTs/c3_0000.nii.gz", "missing_label", "labels have no channel number"),
    ],
)
def test_a_file_under_another_name_is_named(
    convert: Convert, dataset: Path, old: str, new: str, finding: str, words: str
) -> None:
    (dataset / old).rename(dataset / new)
    result = checked(convert, dataset, "--dry_run")
    assert result.code == 1
    line = next(line for line in result.errors if f"[{finding}]" in line and words in line)
    assert line.isprintable()
    assert "Download" not in line  # the advice is to rename it


def test_names_that_look_the_same_but_differ_in_their_code_points(convert: Convert, dataset: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        for file in (dataset / folder).glob("c1*"):
            name = DECOMPOSED if folder == "labelsTr" else COMPOSED
            file.rename(file.with_name(file.name.replace("c1", name)))
    errors = checked(convert, dataset, "--dry_run").errors
    assert any(
        f"{COMPOSED}: there is the image {COMPOSED}_0000.nii.gz, but no label. There is 'Mu\\u0308ller.nii.gz', which "
        "is spelled with different code points that look the same." in line
        for line in errors
    )


def test_files_of_macos_are_passed_over(convert: Convert, dataset: Path) -> None:
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (dataset / folder / "._c1_0000.nii.gz").write_bytes(b"\0\5\26\7")
        (dataset / folder / ".DS_Store").write_bytes(b"x")
    assert checked(convert, dataset).findings("check_report") == []


def test_a_pool_without_images_is_an_error(convert: Convert, dataset: Path) -> None:
    for file in (dataset / "imagesTr").iterdir():
        file.rename(file.with_suffix(""))
    result = convert("check", dataset)
    assert (result.code, len(result.errors)) == (1, 1)
    assert "it holds 'c0_0000.nii', 'c0_0001.nii', 'c1_0000.nii' and 3 more. The pool is empty" in result.errors[0]


def test_a_dataset_that_cannot_be_written_to_is_checked_all_the_same(
    convert: Convert, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("nnunet_assft.dataset_conversion.report.write_json", read_only)
    save(dataset / "labelsTr/c1.nii.gz", label())
    result = convert("check", dataset)
    assert result.code == 0
    assert "c1: c1.nii.gz holds background only" in result.out
    assert "No report was written: " in result.out
    assert "Read-only file system" in result.out


@pytest.mark.parametrize("wanted", ["٥٠", "51", "../Dataset050_Other", "Dataset050_Nobody", "", "a\nb"])
def test_an_id_or_name_of_no_dataset_is_one_line(convert: Convert, dataset: Path, wanted: str) -> None:
    from nnunet_assft.dataset_conversion.convert import existing_folder

    assert existing_folder(dataset.parent, "50") == existing_folder(dataset.parent, "050") == dataset
    with pytest.raises(AssftError) as caught:
        existing_folder(dataset.parent, wanted)
    assert str(caught.value).startswith("-d")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "line",
    [
        "check",
        "check -i a b",
        "check -i a -d 5",
        "flare21",
        "nothing -i a",
        "flare21 -i a --mode move",
        "flare21 -i a --tolerance_mm a b",
        "flare21 -i a --tolerance_spacing 0.1 1",  # no longer an option
    ],
)
def test_wrong_usage_is_exit_code_2(line: str, capsys: pytest.CaptureFixture[str], nnunet_folders: Path) -> None:
    from nnunet_assft.cli import convert as command

    with pytest.raises(SystemExit) as exit_:
        command.main(line.split())
    assert exit_.value.code == 2


def test_without_nnunet_raw_is_one_line(convert: Convert, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("nnUNet_raw")
    result = convert("flare21", tmp_path)
    assert result.code == 1
    assert "nnUNet_raw is not set" in result.errors[0]

"""Every code of a finding is produced by a damaged download.

The case is named, and an error leaves only that case out.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from nnunet_assft.dataset_conversion.datasets import ABDOMEN_ATLAS_STRUCTURES
from nnunet_assft.dataset_conversion.findings import CODES
from nnunet_assft.volumes.labels import find_misfit
from nnunet_assft.volumes.raw_dataset import read_dataset
from tests.dataset_conversion import downloads
from tests.dataset_conversion.conftest import Convert, ConvertedOnce, check_by_nnunet
from tests.dataset_conversion.downloads import AFFINE, SHAPE, ct, label, mr, save

HUGE = [3, 5000, 5000, 5000, 1, 1, 1, 1]  # what a header can say, whatever follows it
IMAGE, LABEL = "TrainingImg/part2/train_001_0000.nii.gz", "TrainingMask/train_001.nii.gz"


def shifted(mm: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[1, 3] += mm
    return affine


def spaced(percent: float) -> np.ndarray:
    return AFFINE @ np.diag([1 + percent / 100, 1, 1, 1])


def turned(degrees: float) -> np.ndarray:
    """Turned about the z axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ AFFINE


def skewed(degrees: float) -> np.ndarray:
    """The y axis leans towards the x axis."""
    affine = AFFINE.copy()
    affine[:2, 1] = 4 * np.sin(np.radians(degrees)), 4 * np.cos(np.radians(degrees))
    return affine


def with_value(array: np.ndarray, value: float, n: int = 1) -> np.ndarray:
    """The first n voxels replaced."""
    array = array.copy()
    array.flat[:n] = value
    return array


def patch_header(file: Path, **fields: Any) -> None:
    data = gzip.decompress(file.read_bytes())
    header = nibabel.Nifti1Header(data[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    file.write_bytes(gzip.compress(header.binaryblock + data[348:]))


def cut(file: Path, share: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])


def unpack(file: Path) -> None:
    """A plain NIfTI file that is still called .nii.gz."""
    file.write_bytes(gzip.decompress(file.read_bytes()))


def sets(file: str, array: np.ndarray, affine: np.ndarray = AFFINE) -> Callable[[Path], object]:
    return lambda root: save(root / file, array, affine)


def both(affine: np.ndarray) -> Callable[[Path], object]:
    return lambda root: (save(root / IMAGE, ct(1), affine), save(root / LABEL, label(1, 2), affine))


FLARE_CASES: list[tuple[str, str, Callable[[Path], object], str]] = [  # code, severity, damage, part of the message
    ("missing_image", "error", lambda root: (root / IMAGE).unlink(), "there is a label"),
    ("missing_label", "error", lambda root: (root / LABEL).unlink(), "train_001_0000.nii.gz"),
    ("unreadable", "error", lambda root: cut(root / IMAGE, 0.6), "end-of-stream"),
    ("unreadable", "error", lambda root: cut(root / LABEL, 0.9), "end-of-stream"),
    ("other_content", "error", lambda root: (root / IMAGE).write_bytes(b""), "it is empty"),
    ("other_content", "error", lambda root: (root / IMAGE).write_bytes(b"<html>login</html>"), "needs a login"),
    ("unreadable", "error", lambda root: (root / LABEL).write_bytes(gzip.compress(b"x" * 999)), "not a NIfTI"),
    ("other_content", "error", lambda root: unpack(root / LABEL), "rename it to train_001.nii"),
    (
        "unreadable",
        "error",
        lambda root: patch_header(root / IMAGE, dim=HUGE),
        "promises 250,000,000,000",
    ),
    ("unreadable", "error", lambda root: patch_header(root / IMAGE, datatype=7), "7"),
    ("not_one_number", "error", lambda root: patch_header(root / IMAGE, datatype=128, bitpix=24), "3 values per voxel"),
    ("not_one_number", "error", lambda root: patch_header(root / LABEL, datatype=32, bitpix=64), "complex numbers"),
    ("not_3d", "error", sets(IMAGE, ct(1, (*SHAPE, 2))), "12 x 10 x 8 x 2 voxels"),
    (
        "not_3d",
        "error",
        sets(IMAGE, ct(1)[..., None]),
        "12 x 10 x 8 x 1 voxels, expected three axes. Drop the last one",
    ),
    ("not_3d", "error", sets(LABEL, label(1)[:, :, 1]), "12 x 10 voxels"),
    ("not_3d", "error", sets(IMAGE, ct(1)[:, :, :1]), "12 x 10 x 1 voxels"),
    ("implausible_spacing", "error", lambda root: patch_header(root / IMAGE, srow_x=[0] * 4), "its spacing is 0 x"),
    ("implausible_spacing", "error", sets(IMAGE, ct(1), np.diag([0.001, 0.001, 0.001, 1])), "0.001 x 0.001 x 0.001 mm"),
    (
        "invalid_affine",
        "error",
        lambda root: patch_header(root / IMAGE, srow_x=[3, 3, 0, 0], srow_y=[3, 3, 0, 0]),
        "[[3.0, 3.0, 0.0, 0.0], [3.0, 3.0, 0.0, 0.0]",
    ),
    ("invalid_affine", "error", lambda root: patch_header(root / LABEL, srow_y=[0, np.nan, 0, 0]), "nan"),
    (
        "shape_mismatch",
        "error",
        sets(LABEL, label(1, shape=(12, 10, 7))),
        "12x10x7; expected that of the image, 12x10x8",
    ),
    ("unexpected_labels", "error", sets(LABEL, label(1, 5, 9)), "5 (10 voxels), 9 (10 voxels)"),
    ("unexpected_labels", "error", sets(LABEL, with_value(label(1).astype(np.int16), -1, 3)), "-1 (3 voxels)"),
    ("non_integral_labels", "error", sets(LABEL, with_value(label(1).astype(np.float32), 1.5, 4)), "4 voxels"),
    ("not_finite", "error", sets(IMAGE, with_value(ct(1).astype(np.float32), np.nan, 2)), "2 voxels"),
    ("not_finite", "error", sets(IMAGE, with_value(ct(1).astype(np.float64), -np.inf, 1)), "1 voxels"),
    ("unusable_values", "error", sets(IMAGE, np.full_like(ct(1), 5)), "are 5"),
    ("unusable_values", "error", sets(IMAGE, with_value(ct(1).astype(np.float64), 1e20, 1)), "to 1e+20; expected"),
    ("not_finite", "error", sets(LABEL, with_value(label(1).astype(np.float32), np.nan, 7)), "7 voxels"),
    ("affine_differs", "info", sets(LABEL, label(1), shifted(0.05)), "0.05 mm"),
    ("affine_differs", "warning", sets(LABEL, label(1), shifted(3)), "lie 3.00 mm apart"),
    ("affine_differs", "error", sets(LABEL, label(1), shifted(4.5)), "it is shifted by 4.5 mm (x +0, y -4.5, z +0)"),
    ("affine_differs", "warning", sets(LABEL, label(1), spaced(2)), "its spacing is"),
    ("affine_differs", "warning", sets(LABEL, label(1), turned(1.5)), "its axes are rotated by 1.5 degrees"),
    ("orientation_differs", "info", sets(LABEL, *downloads.reoriented(label(1), "LPS")), "RAS, the label as LPS"),
    ("non_orthonormal", "warning", both(skewed(2)), "2.00 degrees"),
    (
        "forms_disagree",
        "warning",
        lambda root: patch_header(root / IMAGE, pixdim=[1, 9, 9, 9, 1, 1, 1, 1]),
        "9 x 9 x 9",
    ),
    ("empty_label", "warning", sets(LABEL, label()), "background only"),
    ("ct_range", "warning", sets(IMAGE, mr(1)), "spans 1 to 899"),
    ("ct_range", "warning", sets(IMAGE, with_value(ct(1), -20000)), "spans -20000 to 700"),
    ("float_labels", "warning", sets(LABEL, label(1).astype(np.float64)), "stored as float"),
    ("duplicate_content", "warning", sets(IMAGE, ct(0)), "that of train_000"),
    (
        "case_found_twice",
        "warning",
        lambda root: save(root / "TrainingImg/copy/train_001_0000.nii.gz", ct(1)),
        "in addition to",
    ),
]


@pytest.mark.parametrize(
    ("code", "severity", "damage", "words"), FLARE_CASES, ids=[f"{c}-{s}-{w}" for c, s, _, w in FLARE_CASES]
)
def test_a_damaged_case_is_named_and_the_others_are_converted(  # the columns of FLARE_CASES
    convert: Convert, tmp_path: Path, code: str, severity: str, damage: Callable[[Path], object], words: str
) -> None:
    root = downloads.flare21(tmp_path / "download")
    damage(root)
    result = convert("flare21", root)
    assert (severity, code, "train_001") in result.findings()
    assert words in result.message(code)
    converted = result.cases("labelsTr") + result.cases("labelsTs")
    assert ("train_001" in converted) == (severity != "error")
    assert {"train_000", "train_002", "train_003", "train_004"} <= set(converted)
    assert result.code == (severity == "error")
    assert len(result.errors) == (severity == "error")
    if severity == "error":
        assert f"train_001: {result.message(code)}" in result.errors[0]
        assert result.errors[0].endswith(f"[{code}]")
    page = (result.folder / "conversion_report.md").read_text()
    assert f"### {severity}: {code}" in page
    verify_dataset_files(result.folder)


def verify_dataset_files(folder: Path) -> None:
    """Every image has a label and dataset.json counts them."""
    content = json.loads((folder / "dataset.json").read_text())
    assert (
        content["numTraining"]
        == len(list((folder / "imagesTr").iterdir()))
        == len(list((folder / "labelsTr").iterdir()))
    )


OTHER = {  # codes of other datasets or other commands, and the tests below that produce them
    "absent_structure",
    "bad_name",
    "case_in_two_splits",
    "other_file_ending",
    "dataset_id_clash",
    "unknown_structure",
    "structure_not_annotated",
    "modality_conflict",
    "uint8_mr",
    "label_without_image",
    "overlapping_masks",
    "bad_dataset_json",
    "count_differs",
    "labels_removed",
    "unlabelled_image",
    "not_annotated",  # of NIfTI files and DICOM series
    "several_files",  # of NIfTI files
    "not_nifti",
    "other_modality",
    "not_in_split",
    "output_missing",
    "output_changed",
    "source_changed",
    "missing_slice",  # of DICOM series
    "duplicate_slices",
    "gantry_tilt",
    "uneven_slices",
    "mixed_orientations",
    "mixed_sizes",
    "multi_frame",
    "undecodable",
    "unreadable_files",
    "several_series",
    "not_ct_or_mr",
    "not_a_scan",
    "localizer",
    "not_chosen",
}


def test_every_code_has_a_test() -> None:
    assert {code for code, *_ in FLARE_CASES} | OTHER == set(CODES)
    texts = "".join(file.read_text() for file in Path(__file__).parent.rglob("test_*.py"))
    for code in OTHER:
        assert texts.count(f'"{code}"') >= 2, code  # in the list above, and in a test


def test_every_code_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs/conversion.md").read_text()
    assert [code for code in CODES if f"`{code}`" not in page] == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pat 9", "'pat 9': the case id contains a blank (U+0020)"),
        ("Mu\u0308ller", "'Mu\\u0308ller': the case id is not in composed form (NFC)"),
        ("case_seg", "'case_seg': the case id ends with _seg"),
    ],
)
def test_a_case_whose_name_cannot_be_used_is_left_out(convert: Convert, tmp_path: Path, name: str, words: str) -> None:
    root = downloads.mr_annotator(tmp_path / "download")
    save(root / f"Dataset001_Abdomen/imagesTs/{name}_0000.nii.gz", mr(9))
    save(root / f"Dataset001_Abdomen/labelsTs/{name}.nii.gz", label(*range(1, 9)))
    result = convert("abdominal_mri", root)
    assert (result.code, len(result.errors)) == (1, 1)
    assert [code for _, code, _ in result.findings()] == ["bad_name"]
    assert words in result.errors[0]
    assert len(result.cases("imagesTr") + result.cases("imagesTs")) == 6


def test_structures_that_no_label_has_are_a_warning(convert: Convert, tmp_path: Path) -> None:
    """AbdomenAtlas 1.0 has nine of the structures of 1.1, and the same layout."""
    case = tmp_path / "BDMAP_00000006"
    save(case / "ct.nii.gz", ct(6))
    save(case / "combined_labels.nii.gz", label(*range(1, 10)))
    result = convert("abdomen_atlas", tmp_path)
    assert result.code == 0
    assert [code for _, code, _ in result.findings()] == ["absent_structure"]
    assert result.message("absent_structure").startswith("16 of 25 structures occur in none of 1 label: ")


def test_tolerances_are_options(convert: Convert, tmp_path: Path) -> None:
    root = downloads.flare21(tmp_path / "download")
    save(root / LABEL, label(1), shifted(3))
    strict = convert("flare21", root, options="--dry_run --tolerance_mm 0.1 2.9")
    assert strict.code == 1
    assert "lie 3.00 mm apart: it is shifted by 3 mm (x +0, y -3, z +0); tolerated up to 2.90 mm" in strict.errors[0]
    assert "info     affine_differs" in convert("flare21", root, options="--dry_run --tolerance_mm 3.1 9").out


def test_a_float_label_is_rewritten_as_uint8_with_the_geometry_of_the_image(convert: Convert, tmp_path: Path) -> None:
    root = downloads.flare21(tmp_path / "download")
    save(root / LABEL, label(1, 4).astype(np.float32))
    result = convert("flare21", root)
    written = next(result.folder.glob("labelsT*/train_001.nii.gz"))
    assert not written.is_symlink()
    image = nibabel.load(written)
    assert image.header.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(image.dataobj), label(1, 4))
    np.testing.assert_array_equal(image.affine, AFFINE)


def test_a_case_that_amos_lists_without_files_is_missing(convert: Convert, tmp_path: Path) -> None:
    root = downloads.amos(tmp_path / "download")
    for part in ("images", "labels"):
        (root / f"amos22/{part}Tr/amos_0004.nii.gz").unlink()
    result = convert("amos_ct", root)
    assert result.code == 1
    assert ("error", "missing_image", "amos_0004") in result.findings()
    assert "amos_0004" not in result.cases("imagesTr")


def test_a_spacing_that_only_nnunet_minds_is_set_to_that_of_the_image(convert: Convert, tmp_path: Path) -> None:
    """0.05 % is information here and an error in nnU-Net's check."""
    root = downloads.flare21(tmp_path / "download")
    save(root / LABEL, label(1), spaced(0.05))
    result = convert("flare21", root, options="--split all")
    assert ("info", "affine_differs", "train_001") in result.findings()
    check_by_nnunet(result.folder)


@pytest.mark.parametrize("how", [shifted(3), turned(1.5), spaced(2)])
def test_a_label_that_lies_apart_and_is_tolerated_is_laid_onto_its_image(
    convert: Convert, tmp_path: Path, how: np.ndarray
) -> None:
    """A round would refuse it otherwise."""
    root = downloads.flare21(tmp_path / "download")
    save(root / LABEL, label(1, 2), how)
    result = convert("flare21", root, options="--split all")
    written = nibabel.load(result.folder / "labelsTr/train_001.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), label(1, 2))
    np.testing.assert_array_equal(written.affine, AFFINE)
    assert find_misfit(read_dataset(result.folder), "train_001", result.folder / "labelsTr/train_001.nii.gz") is None


def test_a_label_in_another_orientation_is_turned_when_it_is_rewritten(convert: Convert, tmp_path: Path) -> None:
    root = downloads.flare21(tmp_path / "download")
    save(root / LABEL, *downloads.reoriented(label(1, 2, 3).astype(np.float32), "PSL"))
    result = convert("flare21", root, options="--split all")
    np.testing.assert_array_equal(result.values("labelsTr/train_001.nii.gz"), label(1, 2, 3))


def test_a_dry_run_writes_nothing_and_says_what_it_cannot_know(
    convert: Convert, tmp_path: Path, nnunet_folders: Path
) -> None:
    root = downloads.flare21(tmp_path / "download")
    save(root / LABEL, label(1, shape=(12, 10, 7)))
    result = convert("flare21", root, options="--dry_run")
    assert result.code == 1
    assert "[shape_mismatch]" in result.errors[0]
    assert "found when files are read" in result.out
    assert not list((nnunet_folders / "nnUNet_raw").iterdir())


@pytest.mark.parametrize(
    "damage",
    [lambda r: save(r / LABEL, label(1, shape=(12, 10, 7))), lambda r: cut(r / LABEL, 0.9)],
    ids=["scan", "apply"],
)
def test_strict_stops_at_the_first_error(convert: Convert, tmp_path: Path, damage: Callable[[Path], object]) -> None:
    root = downloads.flare21(tmp_path / "download")
    damage(root)
    result = convert("flare21", root, options="--strict")
    assert result.code == 1
    assert len(result.errors) == 1
    assert "--strict: train_001" in result.errors[0]
    assert not (result.folder / "dataset.json").exists()


# Codes of the other datasets ------------------------------------------------------------------------------------------


def test_an_id_that_is_taken_stops_everything_before_the_first_write(
    convert: Convert, tmp_path: Path, nnunet_folders: Path
) -> None:
    (nnunet_folders / "nnUNet_results/Dataset803_Other").mkdir()
    root = downloads.flare21(tmp_path / "download")
    for options in ("", "--dry_run"):
        result = convert("flare21", root, options=options)
        assert result.code == 1
        assert len(result.errors) == 1
        assert CODES["dataset_id_clash"].advice in result.errors[0]
        assert "Dataset803_Other" in result.errors[0]
    assert not list((nnunet_folders / "nnUNet_raw").iterdir())


def test_a_case_in_training_and_validation_is_in_neither(convert: Convert, tmp_path: Path) -> None:
    root = downloads.amos(tmp_path / "download")
    for kind, array in (("images", ct(1)), ("labels", label(1))):
        save(root / f"amos22/{kind}Va/amos_0001.nii.gz", array)
    result = convert("amos_ct", root)
    assert ("error", "case_in_two_splits", "amos_0001") in result.findings()
    assert result.code == 1
    assert "amos_0001" not in result.cases("imagesTr") + result.cases("imagesTs")


def test_a_modality_that_contradicts_the_id_or_the_dataset(convert: Convert, tmp_path: Path) -> None:
    root = downloads.amos(tmp_path / "download")
    save(root / "amos22/imagesTr/amos_0004.nii.gz", mr(4))
    save(root / "amos22/imagesTr/amos_0510.nii.gz", ct(510))
    ct_result, mr_result = convert("amos_ct", root), convert("amos_mri", root)
    assert ct_result.findings() == [("warning", "modality_conflict", "amos_0004")]
    assert "its id says CT" in ct_result.message("modality_conflict")
    assert ("warning", "modality_conflict", "amos_0510") in mr_result.findings()
    assert ct_result.code == mr_result.code == 0


def test_an_mr_image_of_uint8_is_a_warning(convert: Convert, tmp_path: Path) -> None:
    root = downloads.mr_annotator(tmp_path / "download")
    save(
        root / "Dataset001_Abdomen/imagesTs/case00_t2_0000.nii.gz", *downloads.reoriented(mr(0).astype(np.uint8), "LAS")
    )
    assert convert("abdominal_mri", root).findings() == [("warning", "uint8_mr", "case00_t2")]


def test_an_image_with_another_ending_is_left_out_and_such_a_label_rewritten(convert: Convert, tmp_path: Path) -> None:
    root = downloads.flare21(tmp_path / "download")
    (root / IMAGE).unlink()
    save(root / IMAGE.removesuffix(".gz"), ct(1))
    (root / "TrainingMask/train_002.nii.gz").unlink()
    save(root / "TrainingMask/train_002.nii", label(2))
    result = convert("flare21", root, options="--split all")
    assert result.findings() == [("error", "other_file_ending", "train_001")]
    np.testing.assert_array_equal(result.values("labelsTr/train_002.nii.gz"), label(2))


def test_endings_in_upper_case_are_endings(convert: Convert, tmp_path: Path) -> None:
    root = downloads.flare21(tmp_path / "download")
    for file in (root / IMAGE, root / LABEL):
        file.rename(file.with_name(file.name.replace(".nii.gz", ".NII.GZ")))
    result = convert("flare21", root, options="--split all")
    assert (result.code, result.findings()) == (0, [])
    np.testing.assert_array_equal(result.values("imagesTr/train_001_0000.nii.gz"), ct(1))
    np.testing.assert_array_equal(result.values("labelsTr/train_001.nii.gz"), label(1, 2, 3, 4))


def test_a_folder_in_place_of_a_file_is_a_missing_file(convert: Convert, tmp_path: Path) -> None:
    root = downloads.flare21(tmp_path / "download")
    (root / LABEL).unlink()
    (root / LABEL).mkdir()
    assert convert("flare21", root).findings() == [("error", "missing_label", "train_001")]


def test_the_validation_images_of_flare_are_counted_and_left_out(converted: ConvertedOnce) -> None:
    result = converted("flare21").result
    found = [f["case"] for f in result.json()["findings"] if f["code"] == "unlabelled_image"]
    assert found == ["validation_001"]
    assert result.counts()["images without public label"] == (None, 1)
    assert "validation_001" not in result.cases("imagesTr") + result.cases("imagesTs")


def test_a_decathlon_folder_without_task_number_needs_an_id(convert: Convert, tmp_path: Path) -> None:
    downloads.decathlon(tmp_path)
    (tmp_path / "Task04_Hippocampus").rename(tmp_path / "hippo")
    refused = convert("msd", tmp_path / "hippo")
    assert len(refused.errors) == 1
    assert "Choose an id with -d" in refused.errors[0]
    result = convert("msd", tmp_path / "hippo", options="-d 7")
    assert (result.code, result.folder.name) == (0, "Dataset007_Hippocampus")


def test_a_dataset_json_that_cannot_be_used_is_a_warning(convert: Convert, tmp_path: Path) -> None:
    root = downloads.amos(tmp_path / "download")
    (root / "amos22/dataset.json").write_text('{"labels": {')
    result = convert("amos_ct", root)
    assert result.findings() == [("warning", "bad_dataset_json", "")]
    assert result.cases("imagesTs") == list(downloads.AMOS_CT_TEST)  # by the folders


def test_a_structure_that_the_dataset_does_not_have_stops_everything(convert: Convert, tmp_path: Path) -> None:
    root = downloads.amos(tmp_path / "download")
    file = root / "amos22/dataset.json"
    file.write_text(file.read_text().replace('"spleen"', '"unicorn"'))
    result = convert("amos_ct", root)
    assert result.code == 1
    assert "unicorn" in result.errors[0]
    assert CODES["unknown_structure"].advice in result.errors[0]
    assert not result.folder.exists()


def test_a_missing_mask_is_a_structure_that_nobody_drew(convert: Convert, tmp_path: Path) -> None:
    roots = downloads.abdomen_atlas(tmp_path / "download")
    (roots[0] / "BDMAP_00000012/segmentations/colon.nii.gz").unlink()
    result = convert("abdomen_atlas", *roots)
    assert ("warning", "structure_not_annotated", "BDMAP_00000012") in result.findings()
    assert "1 structure without a mask: colon" in result.message("structure_not_annotated")
    file = result.folder / "not_annotated.json"
    assert json.loads(file.read_text()) == {"BDMAP_00000012": ["colon"]}
    by_hand = {"BDMAP_00000006": ["rectum"], "BDMAP_00000012": ["colon"]}
    file.write_text(json.dumps(by_hand))
    save(roots[1] / "BDMAP_00009000/ct.nii.gz", downloads.ct(9))  # of a label that had no image
    assert convert("abdomen_atlas", *roots).code == 0
    assert json.loads(file.read_text()) == by_hand
    save(roots[0] / "BDMAP_00000012/segmentations/colon.nii.gz", label(1))  # now it is complete
    result = convert("abdomen_atlas", *roots)
    assert "structure_not_annotated" not in str(result.findings())
    assert json.loads(file.read_text()) == {"BDMAP_00000006": ["rectum"]}


def test_the_masks_beside_a_label_say_what_is_annotated_in_it(convert: Convert, tmp_path: Path) -> None:
    """The label has voxels of the left kidney (3), so somebody drew it, although it has no mask."""
    roots = downloads.abdomen_atlas(tmp_path / "download")
    case = roots[0] / "BDMAP_00000006"
    save(case / "combined_labels.nii.gz", label(3, 5, 8))
    for name in ("aorta", "liver", "spleen"):
        save(case / f"segmentations/{name}.nii.gz", label(1))
    result = convert("abdomen_atlas", *roots)
    assert result.code == 0
    missing = json.loads((result.folder / "not_annotated.json").read_text())
    assert missing == {
        case.name: [s for s in ABDOMEN_ATLAS_STRUCTURES if s not in ("aorta", "kidney_left", "liver", "spleen")]
    }
    assert read_dataset(result.folder).not_annotated == {case.name: tuple(missing[case.name])}


def test_a_mask_on_another_grid_or_with_fractions(convert: Convert, tmp_path: Path) -> None:
    roots = downloads.abdomen_atlas(tmp_path / "download")
    save(roots[0] / "BDMAP_00000012/segmentations/colon.nii.gz", label(1, shape=(12, 10, 9)))
    save(roots[0] / "BDMAP_00005200/segmentations/colon.nii.gz", with_value(label(1).astype(np.float32), 0.5, 6))
    found = convert("abdomen_atlas", *roots).findings()
    assert ("error", "shape_mismatch", "BDMAP_00000012") in found
    assert ("error", "non_integral_labels", "BDMAP_00005200") in found


def test_four_dimensional_decathlon_images_are_refused_one_by_one(convert: Convert, tmp_path: Path) -> None:
    root = downloads.decathlon(tmp_path / "download")
    save(root / "Task04_Hippocampus/imagesTr/hippocampus_002.nii.gz", mr(2, (*SHAPE, 2)))
    result = convert("msd", root)
    assert result.findings() == [("error", "not_3d", "hippocampus_002")]
    assert result.cases("imagesTr") == ["hippocampus_000", "hippocampus_001", "hippocampus_003"]


def test_verify_only_finds_what_changed(convert: Convert, tmp_path: Path) -> None:
    root = downloads.flare21(tmp_path / "download")
    result = convert("flare21", root, options="--mode copy --split all")
    (result.folder / "labelsTr/train_000.nii.gz").unlink()
    file = result.folder / "imagesTr/train_002_0000.nii.gz"
    state = file.stat()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1  # one bit, same size, same time: only the checksum tells
    file.write_bytes(data)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    save(root / LABEL, label(4))
    verified = convert("flare21", options="--verify_only")
    assert verified.code == 1
    codes = [(line.split()[1], line.split()[-1]) for line in verified.errors]
    assert codes == [
        ("train_000:", "[output_missing]"),
        ("train_001:", "[source_changed]"),
        ("train_002:", "[output_changed]"),
    ]
    assert {"output_missing", "source_changed", "output_changed"} == {code.strip("[]") for _, code in codes}

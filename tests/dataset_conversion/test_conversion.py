"""Every dataset from a small download to a raw dataset that nnU-Net and the planner accept."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from nnunet_assft.cli import plan
from nnunet_assft.dataset_conversion.datasets import AMOS_STRUCTURES, DATASETS, DatasetRow
from nnunet_assft.dataset_conversion.scan import split_cases
from nnunet_assft.dataset_conversion.source_cases import SourceCase, Sources
from nnunet_assft.planning.domains import DOMAINS
from nnunet_assft.volumes.raw_dataset import read_dataset
from tests.dataset_conversion import downloads
from tests.dataset_conversion.conftest import Convert, ConvertedOnce, check_by_nnunet, run_convert, set_raw
from tests.dataset_conversion.downloads import amos, label, save

EXPECTED = {  # pool, test
    "amos_ct": (downloads.AMOS_CT_POOL, downloads.AMOS_CT_TEST),
    "amos_mri": (downloads.AMOS_MR_POOL, downloads.AMOS_MR_TEST),
    "flare21": 5,
    "abdomen_atlas": 4,
    "abdominal_mri": 6,
    "msd": 4,
}


@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_passes_nnunets_own_check_and_can_be_read(
    name: str, converted: ConvertedOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = converted(name).result
    assert (result.code, result.errors) == (0, [])
    check_by_nnunet(result.folder)
    dataset = read_dataset(result.folder)
    expected = EXPECTED[name]
    if isinstance(expected, tuple):
        assert (tuple(dataset.images), tuple(dataset.test_images)) == expected
    else:
        assert len(dataset.images) + len(dataset.test_images) == expected
    for case in (*dataset.images, *dataset.test_images):
        assert dataset.label_file(case).is_file()
    content = dataset.dataset_json
    assert content["numTraining"] == len(dataset.images)
    assert content["overwrite_image_reader_writer"] == "NibabelIOWithReorient"
    assert {"licence", "citation", "reference", "description", "converted_by", "conversion"} <= set(content)
    assert all(content[key] for key in ("licence", "citation", "reference"))
    set_raw(monkeypatch, result.folder)
    verified = run_convert(name, options=f"--verify_only -d {result.folder.name}")
    assert (verified.code, verified.errors) == (0, [])
    assert f"{len(dataset.images) + len(dataset.test_images)} cases" in verified.out


def test_an_experiment_can_be_planned_on_a_converted_dataset(
    convert: Convert, tmp_path: Path, nnunet_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert("amos_ct", downloads.amos_of_phantoms(tmp_path / "download")).code == 0
    with pytest.raises(SystemExit) as exit_:
        plan.main(
            [
                "-d",
                "218",
                "--domain",
                "generic",
                "--preset",
                "tiny",
                "--rounds",
                "1",
                "--budget",
                "1",
                "--epochs",
                "1",
                "-np",
                "1",
            ]
        )
    assert not exit_.value.code
    assert "6 cases in the pool, 2 test cases (" in capsys.readouterr().out
    assert len(list((nnunet_folders / "nnUNet_preprocessed").rglob("amos_*.pkl"))) == 8


def test_the_folders_are_those_of_the_domains() -> None:
    folders = {name: row.folder for name, row in DATASETS.items() if row.id}
    assert folders == {name: DOMAINS[name].dataset for name in folders}


def test_the_numbers_of_structures_are_the_published_ones() -> None:
    published = {"amos_ct": 15, "amos_mri": 13, "flare21": 4, "abdomen_atlas": 25, "abdominal_mri": 8}
    for name, n in published.items():
        assert list(DATASETS[name].target_labels.values()) == list(range(n + 1)), name


def test_a_row_of_another_package_can_bring_its_own_layout(
    convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are told apart by their ending only: 007.image.nii.gz and 007.truth.nii.gz."""

    def by_ending(row: DatasetRow, roots: list[Path]) -> Sources:
        sources = Sources(row)
        for file in sorted(file for root in roots for file in root.iterdir()):
            case = sources.case(file.name[:3])
            add = sources.add_image if ".image." in file.name else sources.add_label
            add(case, file)
        return sources

    for number in (7, 8):
        save(tmp_path / f"new/{number:03d}.image.nii.gz", downloads.ct(number))
        save(tmp_path / f"new/{number:03d}.truth.nii.gz", label(1, 2, 3, 4))
    row = replace(DATASETS["flare21"], id=810, name="New", layout=by_ending, expected_labels=2, expected_cases=2)
    monkeypatch.setitem(DATASETS._own, "new", row)
    result = convert("new", tmp_path / "new", options="--split all")
    assert (result.code, result.findings(), result.folder.name) == (0, [], "Dataset810_New")
    assert result.cases("imagesTr") == result.cases("labelsTr") == ["007", "008"]


# AMOS -----------------------------------------------------------------------------------------------------------------


def test_amos_ct_is_the_official_split_and_spells_the_aorta(converted: ConvertedOnce) -> None:
    result = converted("amos_ct").result
    assert result.folder.name == "Dataset218_AMOS2022_postChallenge_task1"
    assert result.cases("imagesTr") == result.cases("labelsTr") == list(downloads.AMOS_CT_POOL)
    assert result.cases("imagesTs") == result.cases("labelsTs") == list(downloads.AMOS_CT_TEST)
    content = result.dataset_json()
    assert content["channel_names"] == {"0": "CT"}
    assert content["labels"] == {name: i for i, name in enumerate(("background", *AMOS_STRUCTURES))}
    counts = result.counts()
    assert counts["labelled cases"] == (300, 5)
    assert counts["cases of the other modality"] == (None, 3)
    assert counts["images without public label"] == (None, 1)
    assert result.findings() == []
    found = {(f["code"], f["case"]) for f in result.json()["findings"]}
    assert {("other_modality", "amos_0507"), ("unlabelled_image", "amos_0003"), ("count_differs", "")} <= found


def test_amos_images_and_labels_are_links_to_the_download(converted: ConvertedOnce) -> None:
    download, folder = converted("amos_ct").download, converted("amos_ct").result.folder
    image = folder / "imagesTr/amos_0001_0000.nii.gz"
    assert os.readlink(image) == str(download / "amos22/imagesTr/amos_0001.nii.gz")
    assert (folder / "labelsTs/amos_0008.nii.gz").is_symlink()


def test_amos_mri_drops_two_structures_and_rewrites_only_the_labels_that_have_them(converted: ConvertedOnce) -> None:
    result = converted("amos_mri").result
    assert result.cases("imagesTr") == list(downloads.AMOS_MR_POOL)
    assert (result.folder / "labelsTr/amos_0507.nii.gz").is_symlink()  # has 1..13 only
    rewritten = result.folder / "labelsTr/amos_0510.nii.gz"
    assert not rewritten.is_symlink()
    before = nibabel.load(converted("amos_mri").download / "amos22/labelsTr/amos_0510.nii.gz")
    after = nibabel.load(rewritten)
    old, new = np.asarray(before.dataobj), np.asarray(after.dataobj)
    assert new.dtype == np.uint8
    np.testing.assert_array_equal(new, np.where(old > 13, 0, old))
    np.testing.assert_array_equal(after.affine, before.affine)
    assert result.findings() == [("info", "labels_removed", "amos_0510"), ("info", "labels_removed", "amos_0554")]
    assert "bladder (10 voxels), prostate/uterus (10 voxels)" in result.message("labels_removed")
    rows = {row["source"]: (row["old_id"], row["new_id"], row["action"]) for row in result.json()["labels"]}
    assert rows["arota"] == (8, 8, "kept")
    assert rows["prostate/uterus"] == (15, 0, "dropped")


def test_labels_are_related_by_name_not_by_id(convert: Convert, tmp_path: Path) -> None:
    """The download numbers its structures the other way round: 1 is the prostate, 15 the spleen."""
    root = amos(tmp_path / "download")
    file = root / "amos22/dataset.json"
    content = json.loads(file.read_text())
    names = [name for key, name in content["labels"].items() if key != "0"]
    content["labels"] = {
        "background": 0,
        **{name: 15 - i for i, name in enumerate(names)},
    }  # and the other way of writing them
    file.write_text(json.dumps(content))
    result = convert("amos_ct", root)
    old = nibabel.load(root / "amos22/labelsTr/amos_0004.nii.gz")
    np.testing.assert_array_equal(
        result.values("labelsTr/amos_0004.nii.gz"),
        np.where(np.asarray(old.dataobj) > 0, 16 - np.asarray(old.dataobj), 0),
    )
    rows = {row["source"]: (row["name"], row["old_id"], row["new_id"]) for row in result.json()["labels"]}
    assert rows["arota"] == ("aorta", 8, 8)
    assert rows["spleen"] == ("spleen", 15, 1)


# Other datasets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "n", "pool", "test"),
    [("flare21", 361, 289, 72), ("flare21", 30, 24, 6), ("abdominal_mri", 30, 20, 10)],
    ids=["published", "partial copy: 72 of 361 are 6 of 30", "at most a third"],
)
def test_a_random_split_has_the_published_share(name: str, n: int, pool: int, test: int) -> None:
    cases = [SourceCase(f"c{i:03d}") for i in range(n)]
    parts, _ = split_cases(DATASETS[name], cases, "random", None)
    assert Counter(parts.values()) == {"pool": pool, "test": test}
    assert parts == split_cases(DATASETS[name], cases[::-1], "random", None)[0]


def test_a_missing_image_hardly_moves_the_test_set_of_abdomen_atlas() -> None:
    cases = [SourceCase(f"BDMAP_{i:08d}") for i in range(1, 5196)]
    tests = []
    for chosen in (cases, cases[:100] + cases[103:]):
        parts, _ = split_cases(DATASETS["abdomen_atlas"], chosen, "hash", None)
        tests.append({name for name, part in parts.items() if part == "test"})
    assert [len(test) for test in tests] == [500, 500]
    assert len(tests[0] - tests[1]) <= 3


def test_abdomen_atlas_takes_labels_from_one_folder_and_images_from_another(converted: ConvertedOnce) -> None:
    result = converted("abdomen_atlas").result
    expected = [f"BDMAP_{n:08d}" for n in (6, 12, 5196, 5200)]
    assert sorted(result.cases("imagesTr") + result.cases("imagesTs")) == expected
    counts = result.counts()
    assert counts["labelled cases"] == (9262, 5)
    assert counts["labelled cases with image"] == (5195, 4)
    assert counts["labels without image"] == (None, 1)
    assert result.findings() == [("warning", "label_without_image", "BDMAP_00009000")]


def test_masks_are_merged_in_label_order_and_overlaps_are_counted(convert: Convert, tmp_path: Path) -> None:
    """The pancreas (6) also covers 3 voxels of the liver (5): the later structure in the label order stays."""
    downloads.abdomen_atlas_case(tmp_path, 7, combined=False)
    whole = label(*range(1, 26))
    pancreas = (whole == 6).astype(np.uint8)
    liver = np.argwhere(whole == 5)[:3]
    pancreas[tuple(liver.T)] = 1
    save(tmp_path / "BDMAP_00000007/segmentations/pancreas.nii.gz", pancreas)
    result = convert("abdomen_atlas", tmp_path)
    whole[tuple(liver.T)] = 6
    np.testing.assert_array_equal(result.values("labelsTr/BDMAP_00000007.nii.gz"), whole)
    assert result.findings() == [("warning", "overlapping_masks", "BDMAP_00000007")]
    assert "pancreas (3 voxels)" in result.message("overlapping_masks")
    assert nibabel.load(result.folder / "labelsTr/BDMAP_00000007.nii.gz").header.get_data_dtype() == np.uint8


def test_nothing_is_planned_next_if_no_case_was_converted(convert: Convert, tmp_path: Path) -> None:
    downloads.abdomen_atlas_case(tmp_path, 7, combined=True)
    save(tmp_path / "BDMAP_00000007/combined_labels.nii.gz", label(1, 77))
    result = convert("abdomen_atlas", tmp_path)
    assert (result.code, result.findings()) == (1, [("error", "unexpected_labels", "BDMAP_00000007")])
    assert "Report: " in result.out
    assert "Next: " not in result.out


def test_masks_may_be_spelled_and_stored_differently(convert: Convert, tmp_path: Path) -> None:
    downloads.abdomen_atlas_case(tmp_path, 7, combined=False)
    masks = tmp_path / "BDMAP_00000007/segmentations"
    (masks / "postcava.nii.gz").rename(masks / "inferior_vena_cava.nii.gz")
    (masks / "gall_bladder.nii.gz").rename(masks / "gallbladder.nii.gz")
    liver = np.asarray(nibabel.load(masks / "liver.nii.gz").dataobj)
    save(masks / "liver.nii.gz", *downloads.reoriented(liver.astype(np.float32), "LPI"))
    result = convert("abdomen_atlas", tmp_path)
    np.testing.assert_array_equal(result.values("labelsTr/BDMAP_00000007.nii.gz"), label(*range(1, 26)))
    assert result.findings() == [("info", "orientation_differs", "BDMAP_00000007")]


def test_a_decathlon_task_has_its_own_name_id_and_labels(converted: ConvertedOnce) -> None:
    result = converted("msd").result
    assert result.folder.name == "Dataset004_Hippocampus"
    content = result.dataset_json()
    assert content["labels"] == {"background": 0, "Anterior": 1, "Posterior": 2}
    assert content["channel_names"] == {"0": "MRI"}
    assert (result.folder / "imagesTr/hippocampus_000_0000.nii.gz").is_symlink()


# Modes and splits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["link", "hardlink", "copy"])
def test_an_image_is_placed_byte_for_byte(convert: Convert, tmp_path: Path, mode: str) -> None:
    root = downloads.flare21(tmp_path / "download")
    result = convert("flare21", root, options=f"--mode {mode}")
    source = root / "TrainingImg/part1/train_000_0000.nii.gz"
    target = next(result.folder.glob("imagesT*/train_000_0000.nii.gz"))
    assert target.read_bytes() == source.read_bytes()
    assert (target.is_symlink(), os.path.samefile(source, target)) == (mode == "link", mode != "copy")


def test_reference_names_the_pool_where_it_is_and_links_the_test_cases(convert: Convert, tmp_path: Path) -> None:
    root = amos(tmp_path / "download")
    result = convert("amos_mri", root, options="--mode reference")
    content = result.dataset_json()
    folder = root / "amos22"
    assert content["dataset"] == {
        "amos_0507": {
            "images": [str(folder / "imagesTr/amos_0507.nii.gz")],
            "label": str(folder / "labelsTr/amos_0507.nii.gz"),
        },
        "amos_0510": {
            "images": [str(folder / "imagesTr/amos_0510.nii.gz")],
            "label": str(result.folder / "labelsTr/amos_0510.nii.gz"),  # rewritten
        },
    }
    assert not (result.folder / "imagesTr").exists()
    assert (result.folder / "imagesTs/amos_0554_0000.nii.gz").is_symlink()
    check_by_nnunet(result.folder)
    assert list(read_dataset(result.folder).images) == list(downloads.AMOS_MR_POOL)


def test_a_mode_that_is_not_possible_is_replaced_and_that_is_said(
    convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    monkeypatch.setattr(os, "link", refuse)
    result = convert("flare21", downloads.flare21(tmp_path / "download"))
    assert result.code == 0
    assert "--mode link is not possible" in result.out
    assert "--mode copy instead" in result.out
    assert not any(file.is_symlink() for file in result.folder.rglob("*"))
    assert not list(result.folder.rglob(".partial*"))
    assert "Operation not permitted" in result.json()["note"]


def test_split_all_puts_every_case_into_the_pool(convert: Convert, tmp_path: Path) -> None:
    result = convert("amos_ct", amos(tmp_path / "download"), options="--split all")
    assert result.cases("labelsTr") == sorted(downloads.AMOS_CT_POOL + downloads.AMOS_CT_TEST)
    assert not (result.folder / "imagesTs").exists()


def test_a_split_file_decides_and_its_mistakes_are_findings(convert: Convert, tmp_path: Path) -> None:
    split = tmp_path / "split.json"
    split.write_text(
        json.dumps({"pool": ["train_000", "train_001", "train_003"], "test": ["train_002", "train_003", "train_777"]})
    )
    result = convert("flare21", downloads.flare21(tmp_path / "download"), options=f"--split_file {split}")
    assert result.code == 1
    assert (result.cases("imagesTr"), result.cases("labelsTs")) == (["train_000", "train_001"], ["train_002"])
    assert result.findings() == [
        ("error", "case_in_two_splits", "train_003"),
        ("error", "missing_image", "train_777"),
        ("info", "not_in_split", "train_004"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"[]",
        b"",
        b"\xff",
        b"[" * 100_000,
        b'{"pool": ["a"]}',
        b'{"pool": "a", "test": []}',
        b'{"pool": ["../a"], "test": []}',
    ],
)
def test_a_split_file_of_another_form_is_refused(convert: Convert, tmp_path: Path, text: bytes) -> None:
    split = tmp_path / "split.json"
    split.write_bytes(text)
    result = convert("flare21", tmp_path, options=f"--split_file {split}")
    assert result.code == 1
    assert len(result.errors) == 1
    assert f"--split_file {split}" in result.errors[0]


@pytest.mark.parametrize("wanted", ["0", "1000", "٧٧", "Dataset٠٧٧_Mine", "a/b", "Dataset077_a/b", "77_"])
def test_an_id_that_is_none_is_refused(convert: Convert, tmp_path: Path, wanted: str) -> None:
    result = convert("flare21", downloads.flare21(tmp_path / "a"), options=f"-d {wanted}")
    assert (result.code, len(result.errors)) == (1, 1)
    assert f"The dataset is {wanted!r}; expected -d with an id from 1 to 999" in result.errors[0]


def test_another_id_is_taken_as_given(convert: Convert, tmp_path: Path) -> None:
    assert convert("flare21", downloads.flare21(tmp_path / "a"), options="-d 77").folder.name == "Dataset077_FLARE21"
    assert convert("flare21", tmp_path / "a", options="-d Dataset078_Mine").folder.name == "Dataset078_Mine"


# Real images ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not downloads.EXAMPLES.is_dir(), reason="the TotalSegmentator examples are not beside the repository"
)
def test_real_images_under_the_names_of_the_downloads(convert: Convert, tmp_path: Path) -> None:
    """Two CT as AMOS, one MR (stored LPS) as MRAnnotator; the esophagus is not in the labels."""
    amos22 = tmp_path / "amos22"
    for number, name in ((1, "full"), (2, "upper")):
        for kind in ("images", "labels"):
            source = downloads.EXAMPLES / f"ct/{kind}Tr/tsexample_ct_{name}{'_0000' if kind == 'images' else ''}.nii.gz"
            target = amos22 / f"{kind}{'Tr' if number == 1 else 'Va'}/amos_{number:04d}.nii.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)
    for kind, name in (("images", "tsexample_mr_0000"), ("labels", "tsexample_mr")):
        target = tmp_path / f"mr/{kind}Ts/{name}.nii.gz"
        target.parent.mkdir(parents=True)
        target.symlink_to(downloads.EXAMPLES / f"mr/{kind}Tr/{name}.nii.gz")
    esophagus = [("warning", "absent_structure", "")]
    for name, root, findings in (("amos_ct", tmp_path / "amos22", esophagus), ("abdominal_mri", tmp_path / "mr", [])):
        result = convert(name, root)
        assert (result.code, result.findings()) == (0, findings)
        check_by_nnunet(result.folder)

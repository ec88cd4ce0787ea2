"""Which files a layout takes for which case. Names decide, so most files here are empty."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nnunet_assft.dataset_conversion.datasets import DATASETS
from nnunet_assft.dataset_conversion.source_cases import POOL, TEST, UNLABELLED, Sources, collect
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import walk
from tests.dataset_conversion import downloads


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def files_of(sources: Sources, root: Path) -> dict[str, tuple[str, ...]]:
    return {name: tuple(str(file.relative_to(root)) for file in case.files) for name, case in sources.cases.items()}


def change_dataset_json(folder: Path, change: dict[str, Any]) -> None:
    file = folder / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))


def test_walking_skips_what_macos_leaves_and_follows_a_linked_folder_once(tmp_path: Path) -> None:
    touch(tmp_path / "a", "b/2.nii", "b/1.nii", "b/._1.nii", "__MACOSX/b/1.nii", ".hidden/3.nii")
    (tmp_path / "a/b/loop").symlink_to(tmp_path / "a")
    (tmp_path / "elsewhere").mkdir()
    touch(tmp_path / "elsewhere", "4.nii")
    (tmp_path / "a/linked").symlink_to(tmp_path / "elsewhere")
    assert [str(file.relative_to(tmp_path / "a")) for file in walk(tmp_path / "a")] == [
        "b/1.nii",
        "b/2.nii",
        "linked/4.nii",
    ]


# named_files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "labels"),
    [("imagesTs", "labelsTs"), ("imagesTr", "labelsTr"), ("images", "labels"), ("x/img/y", "x/seg/z")],
)
def test_images_and_labels_are_told_apart_by_folders(tmp_path: Path, images: str, labels: str) -> None:
    touch(tmp_path, f"{images}/a_t2_0000.nii.gz", f"{labels}/a_t2.nii.gz", f"{images}/b_t1.nii", f"{labels}/b_t1.nii")
    sources = collect(DATASETS["abdominal_mri"], [tmp_path])
    assert files_of(sources, tmp_path) == {
        "a_t2": (f"{images}/a_t2_0000.nii.gz", f"{labels}/a_t2.nii.gz"),
        "b_t1": (f"{images}/b_t1.nii", f"{labels}/b_t1.nii"),
    }


def test_images_and_labels_of_one_folder_are_told_apart_by_names(tmp_path: Path) -> None:
    names = ("train_001.nii.gz", "train_001_0000.nii.gz", "validation_001_0000.nii.gz", "notes.txt")
    root = touch(tmp_path / "download", *names)
    sources = collect(DATASETS["flare21"], [root])
    assert files_of(sources, root) == {
        "train_001": ("train_001_0000.nii.gz", "train_001.nii.gz"),
        "validation_001": ("validation_001_0000.nii.gz",),
    }
    assert sources.cases["validation_001"].part == UNLABELLED


# amos -----------------------------------------------------------------------------------------------------------------

AMOS_PARTS = {
    **dict.fromkeys(downloads.AMOS_CT_POOL, POOL),
    **dict.fromkeys(downloads.AMOS_CT_TEST, TEST),
    "amos_0003": UNLABELLED,
}


@pytest.mark.parametrize(
    "change",
    [{}, {"training": 240}, {"validation": {"a": 1}}, {"test": [{"image": None}, 7]}, {"labels": None}],
    ids=str,
)
@pytest.mark.parametrize("objects", [True, False], ids=["lists of objects", "lists of paths"])
def test_amos_is_sorted_by_the_lists_of_dataset_json_or_else_by_folders(
    tmp_path: Path, change: dict[str, Any], objects: bool
) -> None:
    root = downloads.amos(tmp_path, objects=objects)
    change_dataset_json(root / "amos22", change)
    sources = collect(DATASETS["amos_ct"], [root])
    assert {name: case.part for name, case in sources.cases.items()} == AMOS_PARTS
    assert {finding.code for finding in sources.findings} == {"other_modality"}


def test_the_lists_of_amos_name_cases_whose_files_are_not_there(tmp_path: Path) -> None:
    root = downloads.amos(tmp_path)
    for kind in ("images", "labels"):
        (root / f"amos22/{kind}Tr/amos_0004.nii.gz").unlink()
    case = collect(DATASETS["amos_ct"], [root]).cases["amos_0004"]
    assert (case.part, case.listed, case.files) == (POOL, True, ())


def test_the_numbers_of_the_row_decide_the_modality(tmp_path: Path) -> None:
    names = ("amos_0499", "amos_0500", "amos_0600")
    touch(tmp_path, *(f"{kind}Tr/{name}.nii.gz" for kind in ("images", "labels") for name in names))
    assert list(collect(DATASETS["amos_ct"], [tmp_path]).cases) == ["amos_0499"]
    sources = collect(DATASETS["amos_mri"], [tmp_path])
    assert list(sources.cases) == ["amos_0500", "amos_0600"]
    assert [finding.message for finding in sources.findings] == [
        "the case is not MRI; the ids of MRI images are 500 to 9999"
    ]
    assert len(collect(replace(DATASETS["amos_ct"], case_numbers=None), [tmp_path]).cases) == 3


# case_folders ---------------------------------------------------------------------------------------------------------


def test_a_combined_label_is_preferred_to_masks_and_roots_are_joined(tmp_path: Path) -> None:
    both, masks = "BDMAP_00000001", "BDMAP_00000002"
    touch(tmp_path / "labels", f"{both}/combined_labels.nii.gz", f"{both}/segmentations/liver.nii.gz")
    touch(tmp_path / "labels", f"{masks}/segmentations/Kidney-Left.nii.gz", f"{masks}/segmentations/unicorn.nii.gz")
    touch(tmp_path / "images", f"{both}/ct.nii.gz", f"{masks}/ct.nii.gz", "other/ct.nii.gz", f"{both}/other.nii.gz")
    assert files_of(collect(DATASETS["abdomen_atlas"], [tmp_path / "labels", tmp_path / "images"]), tmp_path) == {
        both: (f"images/{both}/ct.nii.gz", f"labels/{both}/combined_labels.nii.gz"),
        masks: (f"images/{masks}/ct.nii.gz", f"labels/{masks}/segmentations/Kidney-Left.nii.gz"),
    }


# msd ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hippocampus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """dataset.json of the small Decathlon task."""
    root = downloads.decathlon(tmp_path_factory.mktemp("msd"))
    return json.loads((root / "Task04_Hippocampus/dataset.json").read_text())


def decathlon(root: Path, content: dict[str, Any]) -> Path:
    """The small Decathlon task with empty files."""
    touch(root, *(entry[kind] for entry in content["training"] for kind in ("image", "label")))
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def test_dataset_json_completes_the_row(tmp_path: Path, hippocampus: dict[str, Any]) -> None:
    row = collect(DATASETS["msd"], [decathlon(tmp_path / "Task04_Hippocampus", hippocampus)]).row
    assert (row.folder, row.channels, row.labels) == ("Dataset004_Hippocampus", ("MRI",), ("Anterior", "Posterior"))
    assert (row.licence, row.expected_labels, row.expected_cases) == ("CC-BY-SA 4.0", 4, 4)


def test_the_task_may_lie_in_the_given_folder(tmp_path: Path, hippocampus: dict[str, Any]) -> None:
    decathlon(tmp_path / "Task04_Hippocampus", hippocampus)
    assert len(collect(DATASETS["msd"], [tmp_path]).cases) == 4


@pytest.mark.parametrize(
    ("name", "expected"), [("Hippocampus", "Hippocampus"), ("-", "Decathlon"), (None, "Decathlon")]
)
def test_without_a_task_number_there_is_a_name_but_no_id(
    tmp_path: Path, hippocampus: dict[str, Any], name: str | None, expected: str
) -> None:
    content = hippocampus | {"name": name, "modality": ["MRI"]}
    row = collect(DATASETS["msd"], [decathlon(tmp_path / "hippo", content)]).row
    assert (row.id, row.name, row.channels) == (0, expected, ("MRI",))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"training": 5}, "lists 5 under 'training'"),
        ({"training": {"image": "a"}}, "lists {'image': 'a'} under 'training'"),
        ({"training": [{"image": 1, "label": 2}]}, "lists {'image': 1, 'label': 2}"),
        ({"labels": {"0": "background", "2": "b"}}, "without gaps"),
        ({"labels": ["a"]}, "expected names and integers"),
        ({"labels": {}}, "it names no labels"),
        ({"labels": {"background": 0, "a": 1.5}}, "expected names and integers"),
        ({"numTraining": "4"}, "numTraining of this task is '4'"),
        ({"modality": None}, "0 channels"),
        ({"modality": {"0": "T2", "1": "ADC"}}, "2 channels.*nnUNetv2_convert_MSD_dataset"),
        ({"training": [{"image": "a.nii.gz", "label": "b.nii.gz"}]}, "Expected the files that its dataset.json lists"),
    ],
)
def test_a_decathlon_dataset_json_of_another_form_is_refused(
    tmp_path: Path, hippocampus: dict[str, Any], change: dict[str, Any], words: str
) -> None:
    root = decathlon(tmp_path / "Task04_Hippocampus", hippocampus)
    change_dataset_json(root, change)
    with pytest.raises(AssftError, match=words):
        collect(DATASETS["msd"], [root])


def test_a_folder_without_dataset_json_is_no_decathlon_task(tmp_path: Path) -> None:
    with pytest.raises(AssftError, match=r"has no dataset\.json\. Give the folder of one Decathlon task"):
        collect(DATASETS["msd"], [tmp_path])


# Folders that are no download -----------------------------------------------------------------------------------------


def test_an_archive_or_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "amos22.zip").write_bytes(b"PK")
    (tmp_path / "empty").mkdir()
    for name, words in (("amos22.zip", "Unpack it"), ("empty", "No case was found"), ("none", "is not a folder")):
        with pytest.raises(AssftError, match=words):
            collect(DATASETS["amos_ct"], [tmp_path / name])

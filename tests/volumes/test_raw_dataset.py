"""What makes a dataset usable, and what the person at the terminal reads when it is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_assft.errors import AssftError
from nnunet_assft.volumes.raw_dataset import RawDataset, find_dataset, read_dataset
from tests.volumes.damaged import REFUSED

PATHS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def touch_dataset(
    raw: Path, *, pool: tuple[str, ...] = ("a", "b"), test: tuple[str, ...] = ("t",), **json_keys: Any
) -> Path:
    """A raw dataset of empty files: nothing here may open an image or a label."""
    folder = raw / "Dataset902_Touch"
    content = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "x": 1, "y": 2},
        "numTraining": len(pool) or 1,
        "file_ending": ".nii.gz",
        **json_keys,
    }
    for part in ("imagesTr", "imagesTs", "labelsTr", "labelsTs"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for part, cases in (("Tr", pool), ("Ts", test)):
        for case in cases:
            for channel in content["channel_names"]:
                (folder / f"images{part}" / f"{case}_{int(channel):04d}.nii.gz").touch()
            (folder / f"labels{part}" / f"{case}.nii.gz").touch()
    (folder / "dataset.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return folder


def message_of(call: Callable[[], object]) -> str:
    with pytest.raises(AssftError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text, "an error is one line"
    return text


# What is read ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name_or_id", [902, "902", "Dataset902_Touch"])
def test_a_dataset_is_found_by_id_and_by_name(nnunet_folders: Path, name_or_id: str | int):
    folder = touch_dataset(nnunet_folders / "nnUNet_raw", pool=("c_2", "c_10", "b"))
    dataset = find_dataset(name_or_id)
    assert dataset.name == "Dataset902_Touch"
    assert list(dataset.images) == ["b", "c_10", "c_2"]  # ascending as strings
    assert dataset.images["c_2"] == (folder / "imagesTr" / "c_2_0000.nii.gz",)
    assert list(dataset.test_images) == ["t"]
    assert dataset.foreground_labels == [1, 2]
    assert dataset.label_file("b") == folder / "labelsTr" / "b.nii.gz"
    assert dataset.label_file("t") == folder / "labelsTs" / "t.nii.gz"


def test_the_label_of_a_case_need_not_exist(nnunet_folders: Path):
    folder = touch_dataset(nnunet_folders / "nnUNet_raw")
    for file in (folder / "labelsTr").iterdir():
        file.unlink()
    (folder / "labelsTr").rmdir()
    assert read_dataset(folder).label_file("a") == folder / "labelsTr" / "a.nii.gz"


def test_the_channels_of_a_case_are_in_order(nnunet_folders: Path):
    folder = touch_dataset(nnunet_folders / "nnUNet_raw", channel_names={"0": "T1", "1": "T2", "2": "DWI"})
    assert [file.name for file in read_dataset(folder).images["a"]] == [
        "a_0000.nii.gz",
        "a_0001.nii.gz",
        "a_0002.nii.gz",
    ]


def with_dataset_key(raw: Path, cases: dict[str, tuple[str, str]]) -> RawDataset:
    listed = {case: {"images": [image], "label": label} for case, (image, label) in cases.items()}
    return read_dataset(touch_dataset(raw, pool=("a", "b", "unlisted"), dataset=listed))


def test_the_dataset_key_lists_the_pool_and_knows_relative_absolute_and_variable_paths(nnunet_folders: Path):
    raw = nnunet_folders / "nnUNet_raw"
    elsewhere = nnunet_folders / "elsewhere.nii.gz"
    elsewhere.touch()
    dataset = with_dataset_key(
        raw,
        {
            "b": (
                "$nnUNet_raw/Dataset902_Touch/imagesTr/b_0000.nii.gz",
                "${nnUNet_raw}/Dataset902_Touch/labelsTr/b.nii.gz",
            ),
            "a": ("imagesTr/a_0000.nii.gz", "assft/exp/a.nii.gz"),
            "c": (str(elsewhere), str(nnunet_folders / "label.nii.gz")),
        },
    )
    folder = raw / "Dataset902_Touch"
    assert dataset.images == {
        "a": (folder / "imagesTr" / "a_0000.nii.gz",),
        "b": (folder / "imagesTr" / "b_0000.nii.gz",),
        "c": (elsewhere,),
    }
    assert list(dataset.images) == ["a", "b", "c"]
    assert dataset.label_file("a") == folder / "assft" / "exp" / "a.nii.gz"
    assert dataset.label_file("b") == folder / "labelsTr" / "b.nii.gz"
    assert dataset.label_file("c") == nnunet_folders / "label.nii.gz"


def test_a_listed_image_that_is_not_there_is_named(nnunet_folders: Path):
    text = message_of(
        lambda: with_dataset_key(nnunet_folders / "nnUNet_raw", {"a": ("imagesTr/gone.nii.gz", "labelsTr/a.nii.gz")})
    )
    assert (
        "dataset.json: case a has 0 image files; expected 1, one per channel (T1): imagesTr/gone.nii.gz is miss" in text
    )


@pytest.mark.parametrize(
    ("of_b", "words"),
    [
        (("imagesTr/b_0000.nii.gz", "labelsTr/../labelsTr/a.nii.gz"), "the label of case b is also that of case a"),
        (("imagesTr/b_0000.nii.gz", "imagesTr/a_0000.nii.gz"), "the label of case b is the image "),
        (("imagesTr/b_0000.nii.gz", "labelsTs/t.nii.gz"), "the label of case b is also that of case t"),
        (("$nnUNet_raw/Dataset902_Touch/imagesTs/t_0000.nii.gz", "labelsTr/b.nii.gz"), "case b is that of test case t"),
    ],
)
def test_a_listed_file_of_another_case(nnunet_folders: Path, of_b: tuple[str, str], words: str):
    of_a = ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    assert words in message_of(lambda: with_dataset_key(nnunet_folders / "nnUNet_raw", {"a": of_a, "b": of_b}))


def test_one_image_may_have_two_labels(nnunet_folders: Path):
    cases = {case: ("imagesTr/a_0000.nii.gz", f"labelsTr/{case}.nii.gz") for case in "ab"}
    assert list(with_dataset_key(nnunet_folders / "nnUNet_raw", cases).images) == ["a", "b"]


@pytest.mark.parametrize(
    "labels", [{"background": 0, "x": 1, "y": 2, "ignore": 3}, {"ignore": 2, "x": 1, "background": 0}]
)
def test_an_ignore_label_is_no_structure(nnunet_folders: Path, labels: dict[str, int]):
    dataset = read_dataset(touch_dataset(nnunet_folders / "nnUNet_raw", labels=labels))
    assert dataset.foreground_labels == sorted(v for k, v in labels.items() if k not in ("background", "ignore"))


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["imagesTr", "imagesTs"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("t_0001.nii.gz", "case t has 2 image files; expected 1, one per channel (T1)"),
        ("z.nii.gz", "'z.nii.gz' has no channel number"),
        ("z_0000.NII.GZ", "rename it to end with .nii.gz"),
    ],
)
def test_a_file_that_is_no_image_of_a_case(nnunet_folders: Path, part: str, name: str, words: str):
    folder = touch_dataset(
        nnunet_folders / "nnUNet_raw", pool=("a", "t") if part == "imagesTr" else ("a",), test=("t",)
    )
    (folder / "imagesTs" / "t_0000.nii.gz").unlink(missing_ok=part == "imagesTr")
    (folder / part / "t_0000.nii.gz").touch()
    (folder / part / name).touch()
    text = message_of(lambda: read_dataset(folder))
    assert text.startswith(str(folder / part))
    assert words in text


def label_to_write(raw: Path, label: str) -> Path:
    dataset = with_dataset_key(raw, {"a": ("imagesTr/a_0000.nii.gz", label)})
    return dataset.label_to_write("a")


@pytest.mark.parametrize(
    "label", ["labelsTr/a.nii.gz", "other/../labelsTr/b.nii.gz", "$nnUNet_raw/Dataset902_Touch/x.nii.gz"]
)
def test_a_label_is_written_into_the_folder_of_the_dataset(nnunet_folders: Path, label: str):
    raw = nnunet_folders / "nnUNet_raw"
    assert (raw / "Dataset902_Touch").resolve() in label_to_write(raw, label).resolve().parents


@pytest.mark.parametrize(
    "label", ["/data/a.nii.gz", "../a.nii.gz", "labelsTr/../../a.nii.gz", "$nnUNet_raw/other/a.nii.gz"]
)
def test_a_label_is_written_nowhere_else(nnunet_folders: Path, label: str):
    text = message_of(lambda: label_to_write(nnunet_folders / "nnUNet_raw", label))
    assert "Labels by annotators are written to that folder only; change the path to labelsTr/a.nii.gz." in text


def test_an_empty_pool(nnunet_folders: Path):
    folder = touch_dataset(nnunet_folders / "nnUNet_raw", pool=())
    text = message_of(lambda: read_dataset(folder))
    assert str(folder / "imagesTr") in text
    assert "The pool is empty" in text


def test_a_case_in_pool_and_test(nnunet_folders: Path):
    folder = touch_dataset(nnunet_folders / "nnUNet_raw", pool=("a", "b"), test=("b", "t"))
    assert "case b is in imagesTr and in imagesTs" in message_of(lambda: read_dataset(folder))


def test_an_unknown_dataset_is_answered_with_those_there_are(nnunet_folders: Path):
    assert "existing datasets: none" in message_of(lambda: find_dataset(902))
    touch_dataset(nnunet_folders / "nnUNet_raw")
    for name_or_id in (903, "903", "Touch", "٩٠٢", "Dataset902", "0902", "-902", ""):
        text = message_of(lambda wanted=name_or_id: find_dataset(wanted))
        assert f"Dataset {name_or_id or repr(name_or_id)} was not found" in text
        assert "existing datasets: Dataset902_Touch" in text


def test_two_datasets_of_one_id(nnunet_folders: Path):
    touch_dataset(nnunet_folders / "nnUNet_raw")
    (nnunet_folders / "nnUNet_results" / "Dataset902_Other").mkdir()
    assert "Dataset 902 belongs to more than one dataset name" in message_of(lambda: find_dataset(902))


def test_a_folder_without_dataset_json(nnunet_folders: Path):
    folder = touch_dataset(nnunet_folders / "nnUNet_raw")
    (folder / "dataset.json").unlink()
    for name_or_id in (902, "Dataset902_Touch", "Dataset903_Nowhere"):
        assert "has no dataset.json" in message_of(lambda wanted=name_or_id: find_dataset(wanted))


@pytest.mark.parametrize("variable", PATHS)
def test_an_environment_variable_that_is_not_set(nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch, variable: str):
    touch_dataset(nnunet_folders / "nnUNet_raw")
    monkeypatch.delenv(variable)
    text = message_of(lambda: find_dataset(902))
    assert f"The environment variable {variable} is not set" in text
    assert all(f"{name}=..." in text for name in PATHS)


def test_a_raw_folder_that_is_not_there(nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("nnUNet_raw", str(nnunet_folders / "typo"))
    assert f"nnUNet_raw is {nnunet_folders / 'typo'}, which does not exist" in message_of(lambda: find_dataset(902))


@pytest.mark.parametrize("name", ["Dataset902_../../etc", "Dataset902_a\nb", "Dataset902_" + "x" * 300])
def test_a_name_of_a_dataset_that_is_no_name(nnunet_folders: Path, name: str):
    assert message_of(lambda: find_dataset(name)).startswith("The dataset name ")


def test_a_header_that_claims_too_much_is_not_given_to_a_reader(blobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def record(self: SimpleITKIO, image_fnames: tuple[str, ...]) -> None:
        read.extend(Path(file).name for file in image_fnames)

    monkeypatch.setattr(SimpleITKIO, "read_images", record)
    dataset = read_dataset(blobs)
    REFUSED["a header of 2000^3 voxels"][0](dataset.images["case_00"][0])
    assert type(dataset.reader) is SimpleITKIO
    assert read == ["case_01_0000.nii.gz"]

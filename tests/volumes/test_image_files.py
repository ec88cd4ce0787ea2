"""The files that are images of a case, and what is said about the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_assft.errors import AssftError
from nnunet_assft.volumes.image_files import ImageFiles, list_images, meant_instead

COMPOSED, DECOMPOSED = "M\u00fcller", "Mu\u0308ller"


def listed(folder: Path, *names: str, channels: tuple[str, ...] = ("T1",)) -> ImageFiles:
    for name in names:
        (folder / name).touch()
    return list_images(folder, ".nii.gz", channels)


def problem(found: ImageFiles) -> str:
    with pytest.raises(AssftError) as caught:
        found.require_sound()
    text = str(caught.value)
    assert "\n" not in text
    assert str(found.folder) in text
    return text


def test_cases_are_ascending_and_have_their_channels_in_order(tmp_path: Path):
    names = [f"{case}_000{channel}.nii.gz" for case in ("c_2", "c_10", COMPOSED, "a_0000") for channel in (1, 0)]
    found = listed(tmp_path, *names, channels=("T1", "T2"))
    found.require_sound()
    assert list(found.cases) == [COMPOSED, "a_0000", "c_10", "c_2"]
    assert found.cases["c_10"] == (tmp_path / "c_10_0000.nii.gz", tmp_path / "c_10_0001.nii.gz")


@pytest.mark.parametrize("name", ["._a_0000.nii.gz", ".partial_z_0000.nii.gz", ".DS_Store", "z_0000.nii", "notes.txt"])
def test_hidden_files_and_other_formats_are_passed_over(tmp_path: Path, name: str):
    found = listed(tmp_path, "a_0000.nii.gz", name)
    found.require_sound()
    assert list(found.cases) == ["a"]
    assert found.passed_over == ([] if name.startswith(".") else [name])


def test_files_that_may_have_been_meant_as_images_of_other_cases_are_left_out(tmp_path: Path):
    meant = ["b_0000.nii", "c 1_0000.nii.gz.part", "d_0000.nii.bz2", "e.1_0000.mha"]
    found = listed(tmp_path, "a_0000.nii.gz", "a_0000.json", "a_0000.nii", "notes.txt", "f.nii", *meant)
    assert found.left_out == sorted(meant)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("z.nii.gz", "'z.nii.gz' has no channel number; expected a name such as CASE_0000.nii.gz"),
        ("z_000.nii.gz", "'z_000.nii.gz' has no channel number"),
        ("z_٠٠٠٠.nii.gz", "has no channel number"),
        ("z_0000.NII.GZ", "'z_0000.NII.GZ' ends with .NII.GZ; rename it to end with .nii.gz"),
        ("z z_0000.nii.gz", "'z z_0000.nii.gz' has a case id that contains a blank (U+0020)"),
        ("z\nz_0000.nii.gz", "'z\\nz_0000.nii.gz' has a case id that contains U+000A"),
        ("_0000.nii.gz", "'_0000.nii.gz' has a case id that is empty"),
        ("z_seg_0000.nii.gz", "ends with _seg"),
        (f"{DECOMPOSED}_0000.nii.gz", "'Mu\\u0308ller_0000.nii.gz' has a case id that is not in composed form (NFC)"),
        ("z_0001.nii.gz", "case z has 1 image file; expected 1, one per channel (T1): "),
        ("a_0001.nii.gz", "case a has 2 image files; expected 1, one per channel (T1): a_0000.nii.gz, a_0001.nii.gz"),
    ],
)
def test_a_file_that_looks_like_an_image_is_named(tmp_path: Path, name: str, words: str):
    found = listed(tmp_path, "a_0000.nii.gz", "b_0000.nii.gz", name)
    assert words in problem(found)
    assert "b" in found.cases


def test_any_id_is_an_id_of_an_image_to_predict(tmp_path: Path):
    (tmp_path / "pat 1 (left)_0000.nii.gz").touch()
    (tmp_path / "_0000.nii.gz").touch()
    found = list_images(tmp_path, ".nii.gz", ["T1"], any_id=True)
    assert list(found.cases) == ["pat 1 (left)"]
    assert "'_0000.nii.gz' has a case id that is empty" in problem(found)


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_channel_is_named(tmp_path: Path, missing: int):
    text = problem(listed(tmp_path, f"b_{1 - missing:04d}.nii.gz", channels=("T1", "T2")))
    assert "case b has 1 image file; expected 2, one per channel (T1, T2)" in text
    assert f"{tmp_path.name}/b_{missing:04d}.nii.gz is missing" in text


def test_a_folder_and_a_link_to_nowhere_are_no_images(tmp_path: Path):
    (tmp_path / "a_0000.nii.gz").mkdir()
    (tmp_path / "b_0000.nii.gz").symlink_to("/nowhere/b.nii.gz")
    text = problem(listed(tmp_path))
    assert "/a_0000.nii.gz is a folder" in text
    assert "/b_0000.nii.gz is a link to /nowhere/b.nii.gz, which does not exist" in text
    links, others = "Put the files that the links lead to back in their places", "Rename, complete or remove"
    assert links in text
    assert others in text
    (tmp_path / "a_0000.nii.gz").rmdir()  # such a file is not to be removed
    assert links in (text := problem(listed(tmp_path)))
    assert others not in text


def test_of_many_problems_the_first_are_named(tmp_path: Path):
    assert "'z3.nii.gz' has no channel number" in (
        text := problem(listed(tmp_path, *(f"z{i}.nii.gz" for i in range(1, 8))))
    )
    assert "and 4 more" in text


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path):
    found = listed(tmp_path, "a_0000.nii", "b_0000.nii")
    assert found.is_empty
    assert found.describe_emptiness() == (
        f"{tmp_path} holds no image named CASE_0000.nii.gz; it holds 'a_0000.nii', 'b_0000.nii'."
    )
    assert list_images(tmp_path / "nowhere", ".nii.gz", ["T1"]).is_empty


@pytest.mark.parametrize(
    ("case", "there", "words"),
    [
        (
            COMPOSED,
            f"{DECOMPOSED}.nii.gz",
            "There is 'Mu\\u0308ller.nii.gz', which is spelled with different code points",
        ),
        ("a", "A.nii.gz", "There is 'A.nii.gz', which is spelled with different case"),
        ("a", "a.NII.GZ", "There is 'a.NII.GZ', which is spelled with different case"),
        ("a", "a_0000.nii.gz", "There is a_0000.nii.gz, but labels have no channel number. Rename it to a.nii.gz."),
        ("a", "a.seg.nrrd", "There is a.seg.nrrd, a segmentation of 3D Slicer"),
        ("a", "a.nii", "There is a.nii; expected a label that ends with .nii.gz."),
        ("a.1", "a.1.seg.nrrd", "There is a.1.seg.nrrd, a segmentation of 3D Slicer"),
        ("a", "b.nii.gz", ""),
        ("a", "ab.nii.gz", ""),
    ],
)
def test_a_label_under_another_name_is_found(tmp_path: Path, case: str, there: str, words: str):
    (tmp_path / there).touch()
    text = meant_instead(tmp_path / f"{case}.nii.gz", ".nii.gz")
    assert text.startswith(words)
    assert bool(text) == bool(words)


def test_ids_that_differ_in_case_only_are_one_on_some_disks(tmp_path: Path):
    found = listed(tmp_path, "Case_1_0000.nii.gz", "case_1_0000.nii.gz", "case_2_0000.nii.gz")
    assert list(found.cases) == ["Case_1", "case_2"]
    assert problem(found) == (
        f"{tmp_path}: 'case_1_0000.nii.gz' has a case id that differs from 'Case_1' in upper and lower case only, "
        "which Windows and macOS do not tell apart. Rename, complete or remove these files."
    )
    assert (found.same_case("CASE_2"), found.same_case("case_3")) == ("case_2", None)
    to_predict = list_images(tmp_path, ".nii.gz", ["T1"], any_id=True)
    assert list(to_predict.cases) == ["Case_1", "case_1", "case_2"]

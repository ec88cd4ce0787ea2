from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_assft.errors import AssftError, DamagedFileError
from nnunet_assft.planning.fingerprint import check_images, combine_fingerprint, far_away, remarks
from nnunet_assft.runtime import sealed
from nnunet_assft.runtime.cases import in_processes
from nnunet_assft.volumes.raw_dataset import RawDataset, read_dataset
from tests.cluster.work import LeftBehind
from tests.conftest import blob_case, save_by_spreadsheet, write_volume
from tests.volumes.damaged import with_forms


class CountingReader(SimpleITKIO):
    """nnU-Net's reader, which writes down what it was asked for."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def read_images(self, image_fnames):
        self.read += [Path(file).name for file in image_fnames]
        return super().read_images(image_fnames)


@pytest.fixture
def dataset(nnunet_folders: Path) -> RawDataset:
    """Four images with zero borders and different spacings, two channels each, and labels."""
    folder = nnunet_folders / "nnUNet_raw" / "Dataset903_Borders"
    for i, spacing in enumerate([(0.7, 0.8, 3.0), (0.9, 0.9, 2.5), (1.0, 1.0, 1.0), (0.7, 0.8, 5.0)]):
        image, label = blob_case(i, (16, 20, 18))
        image[: i + 1] = image[:, -2 * i - 1 :] = label[: i + 1] = label[:, -2 * i - 1 :] = 0
        second = np.where(image == 0, 0, 300 - image).astype(np.float32)
        second[i + 1, 0, 0] = 0
        for channel, volume in enumerate((image, second)):
            write_volume(folder / "imagesTr" / f"case_{i}_{channel:04d}.nii.gz", volume, spacing)
        write_volume(folder / "labelsTr" / f"case_{i}.nii.gz", label, spacing)
    content = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "ball": 1, "box": 2},
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps({**content, "numTraining": 4}))
    return read_dataset(folder)


def test_spacings_and_shapes_are_those_of_nnunet(dataset: RawDataset, tmp_path: Path):
    check_images(dataset.images, dataset.reader, tmp_path / "parts")
    ours = combine_fingerprint(dataset.images, tmp_path / "parts")
    theirs = [
        DatasetFingerprintExtractor.analyze_case([str(f) for f in files], str(dataset.label_file(case)), SimpleITKIO)
        for case, files in dataset.images.items()
    ]
    assert ours["shapes_after_crop"] == [list(case[0]) for case in theirs]
    assert ours["shapes_after_crop"][1] == [14, 17, 18]  # 16 - 2, 20 - 3
    np.testing.assert_array_equal(ours["spacings"], [case[1] for case in theirs])
    assert ours["median_relative_size_after_cropping"] == pytest.approx(
        np.median([case[4] for case in theirs]), rel=1e-12
    )


def test_intensities_are_those_of_the_nonzero_voxels(dataset: RawDataset, tmp_path: Path):
    """The volumes have fewer than 1000 voxels here, so all are sampled and the statistics are exact."""
    images = {}
    for i in range(2):
        image = np.zeros((6, 8, 9), np.float32)
        image[1:5, 1:7, 1:8] = np.random.default_rng(i).integers(1, 50, (4, 6, 7))
        images[f"small_{i}"] = (tmp_path / f"small_{i}_0000.nii.gz",)
        write_volume(images[f"small_{i}"][0], image)
    check_images(images, SimpleITKIO(), tmp_path / "parts")
    found = combine_fingerprint(images, tmp_path / "parts")["foreground_intensity_properties_per_channel"]["0"]
    values = np.concatenate([np.random.default_rng(i).integers(1, 50, (4, 6, 7)).ravel() for i in range(2)]).astype(
        float
    )
    expected = {
        "mean": values.mean(),
        "median": np.median(values),
        "std": values.std(),
        "min": values.min(),
        "max": values.max(),
        "percentile_00_5": np.percentile(values, 0.5),
        "percentile_99_5": np.percentile(values, 99.5),
    }
    assert found == pytest.approx(expected, rel=1e-9)


def test_no_label_is_read(dataset: RawDataset, tmp_path: Path):
    check_images(dataset.images, dataset.reader, tmp_path / "with")
    shutil.rmtree(dataset.folder / "labelsTr")
    check_images(dataset.images, dataset.reader, tmp_path / "without")
    assert combine_fingerprint(dataset.images, tmp_path / "with") == combine_fingerprint(
        dataset.images, tmp_path / "without"
    )


def test_two_processes_find_the_same_as_one(dataset: RawDataset, tmp_path: Path):
    for n in (1, 2):
        check_images(dataset.images, dataset.reader, tmp_path / str(n), executor=in_processes(n))
    assert combine_fingerprint(dataset.images, tmp_path / "1") == combine_fingerprint(dataset.images, tmp_path / "2")


def test_every_bad_image_is_named_at_once_and_only_the_replaced_ones_are_read_again(blobs: Path, tmp_path: Path):
    dataset = read_dataset(blobs)
    files = [files[0] for files in dataset.images.values()]
    image, _ = blob_case(0)
    with_nan = image.copy()
    with_nan[3, 4, 5:8] = np.nan
    write_volume(files[1], with_nan)
    files[2].write_bytes(files[2].read_bytes()[:4000])
    write_volume(files[3], image[:1])
    write_volume(files[4], np.zeros_like(image))
    with_inf = image.copy()
    with_inf[0, 0, 0] = np.inf
    write_volume(files[6], with_inf)

    with pytest.raises(AssftError) as caught:
        check_images(dataset.images, CountingReader(), tmp_path / "parts")
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("5 of 8 images cannot be used (")
    assert "case_01: cannot be read (3 voxels are NaN or infinite); case_02: cannot be read (Compressed file" in text
    assert "; case_03: it has 24 x 26 x 1 voxels, expected a 3D volume" in text
    assert f" and 2 more). {tmp_path / 'parts/findings.csv'} lists everything that was found." in text
    rows = (tmp_path / "parts/findings.csv").read_text().splitlines()
    assert rows[0] == "case,severity,finding"
    assert [row[:14] for row in rows[1:]] == [f"case_0{i},error," for i in (1, 2, 3, 4, 6)]
    assert rows[4:] == [
        "case_04,error,all voxels are 0",
        "case_06,error,cannot be read (1 voxels are NaN or infinite)",
    ]
    assert sorted(f.name for f in (tmp_path / "parts").glob("*.json")) == [f"case_0{i}.json" for i in (0, 5, 7)]

    for i in (1, 2, 3, 4):
        write_volume(files[i], blob_case(i)[0])
    reader = CountingReader()
    with pytest.raises(AssftError, match=r"^1 of 8 images cannot be used \(case_06"):
        check_images(dataset.images, reader, tmp_path / "parts")
    assert sorted(reader.read) == [f"case_0{i}_0000.nii" for i in (1, 2, 3, 4)]  # case_06 is refused before it is read

    write_volume(files[6], blob_case(6)[0])
    write_volume(files[0], blob_case(20)[0])  # a good image that is replaced is read again as well
    reader = CountingReader()
    check_images(dataset.images, reader, tmp_path / "parts")
    assert sorted(reader.read) == ["case_00_0000.nii", "case_06_0000.nii"]  # unpacked copies
    assert not (tmp_path / "parts/findings.csv").exists()


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
@pytest.mark.parametrize("damage", ["cut short", "NaN"])
def test_no_format_hides_the_damage(nnunet_folders: Path, tmp_path: Path, ending: str, damage: str):
    """ITK fills a NIfTI file that is cut short with zeros and reads its NaN as 0."""
    file = tmp_path / f"case_0000{ending}"
    image, _ = blob_case(0)
    if damage == "NaN":
        image[3, 4, 5:8] = np.nan
    write_volume(file, image)
    if damage == "cut short":
        content = file.read_bytes()
        file.write_bytes(content[: len(content) * 2 // 3])
    found = "3 voxels are NaN or infinite" if damage == "NaN" else r"cannot be read \(.+\)"
    with pytest.raises(AssftError, match=f"^1 of 1 images cannot be used .*case: .*{found}"):
        check_images({"case": (file,)}, SimpleITKIO(), tmp_path / "parts")
    assert [file.name for file in (tmp_path / "parts").glob("[!.]*")] == ["findings.csv"]


def test_images_to_look_at_are_no_error(blobs: Path, tmp_path: Path):
    dataset, parts = read_dataset(blobs), tmp_path / "parts"
    check_images(dataset.images, dataset.reader, parts)
    assert remarks(parts) == ""
    with_forms(np.eye(4), np.diag([2, 2, 2, 1.0]))(dataset.images["case_03"][0])
    for _ in range(2):  # the second time from the file of the case
        check_images(dataset.images, dataset.reader, parts)
        (line,) = remarks(parts).splitlines()
        assert line.startswith("Look at 1 image (case_03: its sform and its qform disagree: the sform has a spacing of")
        assert line.endswith(f"{parts / 'findings.csv'} lists everything that was found.")
        assert combine_fingerprint(["case_03"], parts)["spacings"] == [[2, 2, 2]]  # as ITK reads it
    written = (parts / "findings.csv").read_bytes()
    save_by_spreadsheet(parts / "findings.csv")
    assert remarks(parts) == line
    check_images(dataset.images, dataset.reader, parts)
    assert (parts / "findings.csv").read_bytes() == written
    (parts / "_checked.json").write_text("{")
    assert remarks(parts) == f"{parts / 'findings.csv'} lists what the last check of the images found."


def test_a_check_of_the_same_images_opens_one_file(blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file of a case that was damaged since is noticed by whoever reads it, see `combine_fingerprint`."""
    dataset, parts = read_dataset(blobs), tmp_path / "parts"
    with_forms(np.eye(4), np.diag([2, 2, 2, 1.0]))(dataset.images["case_03"][0])
    checksums = check_images(dataset.images, dataset.reader, parts)
    opened: list[str] = []
    read = sealed.read_json
    monkeypatch.setattr(sealed, "read_json", lambda file: opened.append(file.name) or read(file))
    assert check_images(dict(reversed(dataset.images.items())), dataset.reader, parts) == checksums
    assert opened == ["_checked.json"]
    (parts / "findings.csv").unlink()  # is written again
    assert check_images(dataset.images, dataset.reader, parts) == checksums
    assert "case_03: its sform and its qform disagree" in remarks(parts)
    write_volume(dataset.images["case_05"][0], blob_case(20)[0])
    now = check_images(dataset.images, dataset.reader, parts)
    assert [case for case in now if now[case] != checksums[case]] == ["case_05"]
    (parts / "case_05.json").write_text("{}")
    assert check_images(dataset.images, dataset.reader, parts) == now  # a file of a case is not opened
    for _ in range(2):
        with pytest.raises(DamagedFileError, match=r"case_05\.json is damaged .*Run the same command again\."):
            combine_fingerprint(dataset.images, parts)
    assert check_images(dataset.images, dataset.reader, parts) == now
    assert len(combine_fingerprint(dataset.images, parts)["spacings"]) == 8  # the same command, again


def test_an_image_that_was_replaced_after_the_command_was_killed_is_read_again(blobs: Path, tmp_path: Path):
    dataset, parts, executor = read_dataset(blobs), tmp_path / "parts", LeftBehind()
    before = check_images(dataset.images, dataset.reader, parts, executor=executor)
    shutil.rmtree(parts)
    write_volume(dataset.images["case_05"][0], blob_case(20)[0])
    now = check_images(dataset.images, dataset.reader, parts, executor=executor)
    assert executor.computed == ["case_05"]
    assert [case for case in now if now[case] != before[case]] == ["case_05"]


def test_another_reader_reads_the_images_again(blobs: Path, tmp_path: Path):
    dataset = read_dataset(blobs)
    check_images(dataset.images, dataset.reader, tmp_path / "parts")
    with_forms(np.eye(4), np.diag([2, 2, 2, 1.0]))(dataset.images["case_03"][0])
    reader = CountingReader()
    check_images(dataset.images, reader, tmp_path / "parts")
    assert len(reader.read) == 8


def test_a_long_list_of_bad_images_is_cut_short(nnunet_folders: Path, tmp_path: Path):
    images = {f"case_{i}": (tmp_path / f"case_{i}.nii.gz",) for i in range(7)}
    for (file,) in images.values():
        write_volume(file, np.zeros((4, 4, 4), np.float32))
    with pytest.raises(AssftError, match=r"^7 of 7 .*case_2: all voxels are 0 and 4 more\)"):
        check_images(images, SimpleITKIO(), tmp_path / "parts")


def test_an_image_unlike_those_of_the_plans_is_described_with_numbers(tmp_path: Path):
    """The planned medians are 99.5 and 109.5, so 89.5 to 119.5 is near; along z, 0.5 to 4 mm are."""
    values = np.arange(50, 150, dtype=np.float32).reshape(4, 5, 5)
    made = {
        "a": (0, 1.0),
        "b": (10, 2.0),
        "near": (-10, 4.0),
        "dark": (-11, 1.0),
        "thick": (20, 4.5),
        "both": (21, 0.4),
    }
    images = {}
    for case, (shift, z) in made.items():
        images[case] = (tmp_path / f"{case}_0000.nii.gz",)
        write_volume(images[case][0], values + shift, (1.0, 1.0, z))
    check_images(images, SimpleITKIO(), tmp_path / "parts")
    assert far_away([case for case in made if case not in "ab"], ["a", "b"], tmp_path / "parts") == [
        "dark: the median intensity of its channel 0 is 88.5; those of the images of the plans are 99.5 to 109.5",
        "thick: its spacing is 1 x 1 x 4.5 mm; the images of the plans have 1 x 1 x 1 to 1 x 1 x 2 mm",
        "both: its spacing is 1 x 1 x 0.4 mm; the images of the plans have 1 x 1 x 1 to 1 x 1 x 2 mm",
        "both: the median intensity of its channel 0 is 120.5; those of the images of the plans are 99.5 to 109.5",
    ]

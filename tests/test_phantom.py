import csv
import json
import time

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_assft.errors import AssftError
from nnunet_assft.phantom import (
    CLUSTERS,
    SIZES,
    organ_labels,
    phantom_case,
    pool_structure,
    write_phantom_dataset,
)

TINY = organ_labels("tiny")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_phantom_dataset(tmp_path_factory.mktemp("raw") / "Dataset999_Phantom", n_pool=20, n_test=4, seed=3)


@pytest.fixture(scope="module")
def labels_of_test_cases():
    return [phantom_case(0, index, test=True)[1] for index in range(24)]


def read_table(dataset):
    with (dataset / "phantom_clusters.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.parametrize("size", SIZES)
def test_a_case_has_the_shape_types_and_labels_of_its_size(size):
    image, label, spacing, cluster = phantom_case(0, 0, size=size)
    assert image.shape == label.shape == SIZES[size].shape
    assert (image.dtype, label.dtype) == (np.int16, np.uint8)
    assert spacing == SIZES[size].spacing
    assert cluster in {c.name for c in CLUSTERS}
    assert set(np.unique(label)) <= set(organ_labels(size).values())
    assert len(organ_labels(size)) == SIZES[size].n_organs + 1


def test_the_same_seed_gives_the_same_voxels():
    first, again = phantom_case(5, 7), phantom_case(5, 7)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])


@pytest.mark.parametrize(
    "other", [{"seed": 6, "index": 7}, {"seed": 5, "index": 8}, {"seed": 5, "index": 7, "test": True}]
)
def test_another_seed_index_or_part_gives_other_voxels(other):
    assert not np.array_equal(phantom_case(5, 7)[1], phantom_case(**other)[1])


@pytest.mark.parametrize("wrong", [{"size": "huge"}, {"difficulty": 1.5}, {"difficulty": float("nan")}])
def test_wrong_parameters_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        phantom_case(0, 0, **wrong)


def test_every_block_of_the_pool_has_the_shares_60_15_15_10():
    clusters = [pool_structure(0, index)[0] for index in range(40)]
    assert np.bincount(clusters[:20]).tolist() == np.bincount(clusters[20:]).tolist() == [12, 3, 3, 2]


def test_the_test_set_has_equal_shares():
    assert [phantom_case(0, index, test=True)[3] for index in range(4)] == [c.name for c in CLUSTERS]


@pytest.mark.parametrize("seed", range(20))
def test_a_near_duplicate_repeats_an_earlier_original_of_its_cluster(seed):
    structure = [pool_structure(seed, index) for index in range(40)]
    copies = {index: source for index, (_, source) in enumerate(structure) if source is not None}
    assert len(copies) == 4
    for index, source in copies.items():
        assert 0 <= source < index
        assert structure[source] == (structure[index][0], None)


def test_a_near_duplicate_has_the_anatomy_of_its_original_and_other_noise():
    index, source = next((k, pool_structure(0, k)[1]) for k in range(20) if pool_structure(0, k)[1] is not None)
    copy, original = phantom_case(0, index), phantom_case(0, source)
    np.testing.assert_array_equal(copy[1], original[1])
    difference = copy[0].astype(float) - original[0]
    assert 5 < difference.std() < 40  # HU; the noise is 15 HU in each of the two
    assert abs(difference.mean()) < 1


def test_every_organ_is_large_enough_to_be_learnt(labels_of_test_cases):
    voxels = np.array([np.bincount(label.ravel(), minlength=len(TINY)) for label in labels_of_test_cases])
    assert voxels[:, 1:].mean(axis=0).min() > 100
    assert voxels[:, 1:].min() >= 15


def test_organs_lie_on_their_side_and_at_their_height(labels_of_test_cases):
    """x grows to the patient's left, y to the back and z to the head."""
    for label in labels_of_test_cases:
        z, y, x = np.array([np.argwhere(label == value).mean(axis=0) for value in range(1, len(TINY))]).T
        liver, spleen, right, left, stomach = range(5)
        middle = (label.shape[2] - 1) / 2
        assert max(x[liver], x[right]) < middle < min(x[spleen], x[left], x[stomach])
        assert max(z[right], z[left]) < min(z[liver], z[spleen])
        assert y[stomach] < min(y[right], y[left])


def test_an_organ_has_the_intensity_of_its_scan_type():
    kidney = {}
    for index in range(4):
        image, label, _, cluster = phantom_case(0, index, test=True)
        kidney[cluster] = np.median(image[label == TINY["kidney_right"]])
    assert kidney["portal_venous"] > kidney["non_contrast"] + 60
    assert kidney["arterial"] > kidney["non_contrast"] + 60


def test_difficulty_adds_noise():
    air = [phantom_case(0, 0, difficulty=difficulty, test=True)[0][:, :3].std() for difficulty in (0.0, 1.0)]
    assert air == pytest.approx([8, 36], rel=0.5)


def test_a_tiny_case_takes_less_than_a_tenth_of_a_second():
    start = time.process_time()
    for index in range(10):
        phantom_case(0, index)
    assert (time.process_time() - start) / 10 < 0.1


def test_image_and_label_have_the_same_geometry(dataset):
    images = sorted((dataset / "imagesTr").iterdir()) + sorted((dataset / "imagesTs").iterdir())
    labels = sorted((dataset / "labelsTr").iterdir()) + sorted((dataset / "labelsTs").iterdir())
    assert len(images) == len(labels) == 24
    for image_file, label_file in zip(images, labels, strict=True):
        assert image_file.name.replace("_0000", "") == label_file.name
        image, label = sitk.ReadImage(image_file), sitk.ReadImage(label_file)
        for property_ in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(image, property_)() == getattr(label, property_)()
    assert image.GetSpacing() == (10, 10, 10)
    assert image.GetOrigin() == (-195, -195, -115)
    assert image.GetPixelID() == sitk.sitkInt16
    assert label.GetPixelID() == sitk.sitkUInt8


def test_files_hold_the_voxels_of_the_case(dataset):
    image, label, _, _ = phantom_case(3, 1)
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(sitk.ReadImage(dataset / "imagesTr/phantom_001_0000.nii.gz")), image
    )
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(sitk.ReadImage(dataset / "labelsTr/phantom_001.nii.gz")), label
    )


def test_dataset_json_is_what_nnunet_expects(dataset):
    content = json.loads((dataset / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "CT"}
    assert content["labels"] == TINY
    assert list(TINY.values()) == list(range(6))
    assert content["numTraining"] == 20
    assert content["file_ending"] == ".nii.gz"
    assert {"name", "description", "licence", "converted_by", "phantom"} <= set(content)


def test_clusters_are_named_in_the_side_table_only(dataset):
    rows = read_table(dataset)
    assert [row["cluster"] for row in rows if row["case"].startswith("phantom_test_")] == [c.name for c in CLUSTERS]
    assert len(rows) == 24
    for row in rows[:20]:
        cluster, source = pool_structure(3, int(row["case"].removeprefix("phantom_")))
        assert row["cluster"] == CLUSTERS[cluster].name
        assert row["duplicate_of"] == ("" if source is None else f"phantom_{source:03d}")
    assert {path.name for path in dataset.iterdir()} == {
        "imagesTr",
        "labelsTr",
        "imagesTs",
        "labelsTs",
        "dataset.json",
        "phantom_clusters.csv",
    }
    text = (dataset / "dataset.json").read_text()
    assert not any(cluster.name in text for cluster in CLUSTERS)


def test_a_complete_dataset_is_reused_and_an_incomplete_one_completed(tmp_path):
    write_phantom_dataset(tmp_path, n_pool=2, n_test=1)
    kept, lost = tmp_path / "imagesTr/phantom_000_0000.nii.gz", tmp_path / "labelsTr/phantom_001.nii.gz"
    before = kept.stat().st_mtime_ns, kept.stat().st_ino
    assert write_phantom_dataset(tmp_path, n_pool=2, n_test=1) == tmp_path
    assert (kept.stat().st_mtime_ns, kept.stat().st_ino) == before
    lost.unlink()
    (tmp_path / "imagesTr/.DS_Store").touch()  # of macOS, for whoever has looked into the folder
    write_phantom_dataset(tmp_path, n_pool=2, n_test=1)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(lost)), phantom_case(0, 1)[1])


def test_another_dataset_is_never_overwritten(tmp_path):
    write_phantom_dataset(tmp_path, n_pool=2, n_test=0)
    with pytest.raises(AssftError, match="seed"):
        write_phantom_dataset(tmp_path, n_pool=2, n_test=0, seed=1)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(AssftError, match=r"dataset\.json cannot be read \(Expecting property name"):
        write_phantom_dataset(tmp_path, n_pool=2, n_test=0)
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(AssftError, match="phantom_001"):
        write_phantom_dataset(tmp_path, n_pool=1, n_test=0)


def test_a_failure_leaves_neither_dataset_json_nor_partial_files(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("nnunet_assft.phantom._write_volume", fail)
    with pytest.raises(OSError, match="disk full"):
        write_phantom_dataset(tmp_path, n_pool=1, n_test=0)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]

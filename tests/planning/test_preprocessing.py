"""Images and labels preprocessed apart, against nnU-Net's own preprocessing of both together."""

from __future__ import annotations

import json
import os
import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy.ndimage import binary_dilation

from nnunet_assft.errors import AssftError, DamagedFileError
from nnunet_assft.network.presets import PRESETS
from nnunet_assft.planning import preprocessing
from nnunet_assft.planning.fingerprint import check_images, combine_fingerprint
from nnunet_assft.planning.planner import plan_from_images
from nnunet_assft.planning.preprocessing import (
    checksum_file,
    load_image,
    load_properties,
    preprocess_images,
    require_room_for_all,
    require_room_to_resample,
    whole_files,
    write_training_label,
)
from nnunet_assft.runtime.cached import keep
from nnunet_assft.runtime.cases import Executor, here, in_processes
from nnunet_assft.runtime.files import sha256_file
from nnunet_assft.volumes.labels import read_label
from nnunet_assft.volumes.raw_dataset import RawDataset, read_dataset
from tests.conftest import LABELS, blob_case, write_volume
from tests.kills import ended_process, forget_folders, private_folder_of

NAME = "Dataset904_Oracle"
SPACING = (0.8, 3.0, 0.8)  # x, y, z: y is the coarse axis, so nnU-Net puts it first
ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")


def bordered_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Zeros around the body as in a skull-stripped volume, some of them inside of its bounding box."""
    image, label = blob_case(seed, (20, 16, 22))
    z, y, x = np.ogrid[:20, :16, :22]
    outside = (z < 2) | (x > 19) | (y < 1) | ((z - 2) + x < 6)
    image[outside], label[outside] = 0, 0
    label[2, 5, 2] = 1  # an annotator may go past the border
    return image, label


def make(
    raw: Path, *, spacings: tuple[tuple[float, float, float], ...] = (SPACING,) * 2, ignore: bool = False
) -> tuple[RawDataset, dict[str, Any], Path]:
    """(dataset, plans, folder of label-free preprocessed images). The target spacing is the median one."""
    folder = raw / NAME
    labels = {**LABELS, "ignore": 3} if ignore else LABELS
    for i, spacing in enumerate(spacings):
        image, label = bordered_case(i)
        if ignore:
            label[10:14, 8:12, 4:9] = 3
        write_volume(folder / "imagesTr" / f"case_{i}_0000.nii.gz", image, spacing)
        write_volume(folder / "labelsTr" / f"case_{i}.nii.gz", label, spacing)
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ".nii.gz", "numTraining": len(spacings)}
    (folder / "dataset.json").write_text(json.dumps(content))
    dataset = read_dataset(folder)
    parts = raw.parent / "parts"
    check_images(dataset.images, dataset.reader, parts)
    plans = plan_from_images(
        dataset,
        combine_fingerprint(dataset.images, parts),
        plans_name="nnUNetASSFTPlans",
        spacing=None,
        patch_size=(16, 16, 16),
        preset=PRESETS["tiny"],
        normalization="percentile",
    )
    target = raw.parent / "nnUNet_preprocessed" / NAME / "images"
    preprocess(dataset, plans, target)
    return dataset, plans, target


def preprocess(dataset: RawDataset, plans: dict[str, Any], folder: Path, executor: Executor = here) -> None:
    checksums = check_images(dataset.images, dataset.reader, dataset.folder.parents[1] / "parts")
    preprocess_images(dataset.images, checksums, plans, dataset.dataset_json, folder, executor=executor)


def by_nnunet(dataset: RawDataset, plans: dict[str, Any], case: str, folder: Path) -> None:
    manager = PlansManager(plans)
    configuration = manager.get_configuration("3d_fullres")
    folder.mkdir(exist_ok=True)
    configuration.preprocessor_class(verbose=False).run_case_save(
        str(folder / case),
        [str(file) for file in dataset.images[case]],
        str(dataset.label_file(case)),
        manager,
        configuration,
        dataset.dataset_json,
    )


def apart(dataset: RawDataset, plans: dict[str, Any], images: Path, case: str, folder: Path) -> None:
    label = read_label(dataset, case, dataset.label_file(case))
    write_training_label(label, case, images, folder, plans, dataset.dataset_json)


def read_seg(folder: Path, case: str) -> np.ndarray:
    return blosc2.open(str(folder / f"{case}_seg.b2nd"))[:]


def stored_image(folder: Path, case: str) -> np.ndarray:
    return blosc2.open(str(folder / f"{case}.b2nd"))[:]


def stored_properties(folder: Path, case: str) -> dict[str, Any]:
    properties: dict[str, Any] = pickle.loads((folder / f"{case}.pkl").read_bytes())
    return properties


def assert_same_tree(a: Any, b: Any) -> None:
    """Equal values whether they are kept in tuples or lists, numpy or Python numbers."""
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same_tree(a[key], b[key])
    else:
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


# Against nnU-Net -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ignore", [False, True], ids=["labels", "with an ignore label"])
def test_without_resampling_image_label_and_properties_are_those_of_nnunet(
    nnunet_folders: Path, tmp_path: Path, ignore: bool
):
    dataset, plans, images = make(nnunet_folders / "nnUNet_raw", ignore=ignore)
    assert plans["transpose_forward"] == [1, 0, 2]  # else the test shows less than it should
    for case in dataset.images:
        by_nnunet(dataset, plans, case, tmp_path / "oracle")
        apart(dataset, plans, images, case, tmp_path)

        np.testing.assert_array_equal(load_image(images, case), stored_image(tmp_path / "oracle", case))
        ours, theirs = read_seg(tmp_path, case), read_seg(tmp_path / "oracle", case)
        assert ours.dtype == theirs.dtype == np.int16
        np.testing.assert_array_equal(ours, theirs)
        expected = {-1, 0, 1, 2, 3} if ignore else {-1, 0, 1, 2}
        assert set(np.unique(ours)) == expected, "the case must have a corner outside of the nonzero region"
        assert ours.shape == (1, 15, 18, 20)  # y z x, cropped
        assert_same_tree(stored_properties(tmp_path, case), stored_properties(tmp_path / "oracle", case))
        locations = stored_properties(tmp_path, case)["class_locations"]
        assert list(locations) == ([1, 2, (-1, 0, 1, 2)] if ignore else [1, 2])


def test_the_files_are_chunked_as_nnunet_chunks_them(nnunet_folders: Path, tmp_path: Path):
    dataset, plans, images = make(nnunet_folders / "nnUNet_raw")
    by_nnunet(dataset, plans, "case_0", tmp_path / "oracle")
    apart(dataset, plans, images, "case_0", tmp_path)
    for folder, name in ((images, "case_0.b2nd"), (tmp_path, "case_0_seg.b2nd")):
        ours, theirs = (blosc2.open(str(f / name)) for f in (folder, tmp_path / "oracle"))
        assert (ours.shape, ours.chunks, ours.blocks) == (theirs.shape, theirs.chunks, theirs.blocks)


def test_with_resampling_only_the_border_of_the_outside_may_differ(nnunet_folders: Path, tmp_path: Path):
    """nnU-Net resamples a label that holds -1 already, here -1 comes from the image's own resampled mask."""
    coarse = ((0.8, 3.0, 0.8), (1.3, 2.2, 0.6), (0.8, 3.0, 0.8))
    dataset, plans, images = make(nnunet_folders / "nnUNet_raw", spacings=coarse)
    by_nnunet(dataset, plans, "case_1", tmp_path / "oracle")
    apart(dataset, plans, images, "case_1", tmp_path)

    np.testing.assert_array_equal(load_image(images, "case_1"), stored_image(tmp_path / "oracle", "case_1"))
    ours, theirs = read_seg(tmp_path, "case_1"), read_seg(tmp_path / "oracle", "case_1")
    assert ours.shape == theirs.shape != (1, 15, 18, 20)
    near_outside = (
        binary_dilation(theirs[0] == -1, iterations=1)[None] | binary_dilation(ours[0] == -1, iterations=1)[None]
    )
    np.testing.assert_array_equal(ours[~near_outside], theirs[~near_outside])
    assert (ours != theirs).mean() < 0.01
    for label in (1, 2):
        a, b = ours == label, theirs == label
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.99
    for label, locations in stored_properties(tmp_path, "case_1")["class_locations"].items():
        assert len(locations) == (ours == label).sum()
        assert (ours[tuple(locations.T)] == label).all()


def test_the_images_hold_nothing_of_a_label(nnunet_folders: Path):
    dataset, plans, images = make(nnunet_folders / "nnUNet_raw")
    files = {f"{case}{ending}" for case in dataset.images for ending in ENDINGS}
    assert set(os.listdir(images)) == files | {"checksums"}
    before = {case: (load_image(images, case), load_properties(images, case)) for case in dataset.images}
    for case in dataset.images:
        assert set(np.unique(read_seg(images, case))) == {-1, 0}
        assert "class_locations" not in load_properties(images, case)
        dataset.label_file(case).unlink()
        (images / f"{case}.pkl").unlink()
    preprocess(dataset, plans, images)
    for case, (image, properties) in before.items():
        np.testing.assert_array_equal(load_image(images, case), image)
        assert_same_tree(load_properties(images, case), properties)


def test_spawned_processes_find_our_normalisation(nnunet_folders: Path, tmp_path: Path):
    dataset, plans, images = make(nnunet_folders / "nnUNet_raw")
    preprocess(dataset, plans, tmp_path / "two", in_processes(2))
    for case in dataset.images:
        np.testing.assert_array_equal(load_image(images, case), load_image(tmp_path / "two", case))


# Interrupted and repeated --------------------------------------------------------------------------------------------


def test_a_second_call_does_nothing_and_a_newer_image_is_preprocessed_again(nnunet_folders: Path):
    dataset, plans, images = make(nnunet_folders / "nnUNet_raw")
    before = {name: (images / name).stat().st_mtime_ns for name in os.listdir(images)}
    preprocess(dataset, plans, images)
    assert {name: (images / name).stat().st_mtime_ns for name in os.listdir(images)} == before

    old = load_image(images, "case_1")
    write_volume(dataset.images["case_1"][0], bordered_case(7)[0], SPACING)
    preprocess(dataset, plans, images)
    changed = {name for name in before if (images / name).stat().st_mtime_ns != before[name]}
    assert {name[:6] for name in changed - {"checksums"}} == {"case_1"}
    assert not np.array_equal(load_image(images, "case_1"), old)


def test_what_a_killed_process_left_is_removed_and_what_a_running_one_writes_is_not(nnunet_folders: Path):
    dataset, plans, images = make(nnunet_folders / "nnUNet_raw")
    expected = load_image(images, "case_0")
    scratches = [private_folder_of(pid, images.parent) / images.name for pid in (ended_process(), os.getppid())]
    for scratch in scratches:
        scratch.mkdir(parents=True)
        for ending in ENDINGS:
            (scratch / f"case_0{ending}").write_bytes(b"half a file")
    (images / "case_0.pkl").unlink()
    forget_folders()
    preprocess(dataset, plans, images)
    np.testing.assert_array_equal(load_image(images, "case_0"), expected)
    assert [scratch.parent.exists() for scratch in scratches] == [False, True]
    assert len(os.listdir(images)) == 7  # two cases, and the folder of their checksums


def test_a_case_that_another_process_finished_meanwhile_is_not_replaced(
    nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch
):
    """Over NFS, a process on another machine could no longer read it. Such a process may know nothing of our lock."""
    dataset, plans, images = make(nnunet_folders / "nnUNet_raw")
    monkeypatch.setattr(preprocessing, "only_process", lambda *_, **__: nullcontext())
    checksum_file(images, "case_0").unlink()
    save_case = nnUNetDatasetBlosc2.save_case
    finished = []

    def slow(*arguments: Any, **options: Any) -> None:
        save_case(*arguments, **options)
        if not finished:
            finished.append(0)
            preprocess(dataset, plans, images)
            finished.append((images / "case_0.b2nd").stat().st_ino)

    monkeypatch.setattr(nnUNetDatasetBlosc2, "save_case", slow)
    preprocess(dataset, plans, images)
    assert finished[1:] == [(images / "case_0.b2nd").stat().st_ino]
    assert not list(images.parent.glob(".partial*"))


def test_a_case_cut_off_while_its_files_were_moved_is_done_again(nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch):
    dataset, plans, images = make(nnunet_folders / "nnUNet_raw")
    expected = load_image(images, "case_0")
    for ending in ENDINGS:
        (images / f"case_0{ending}").unlink()
    replace = os.replace

    def cut_off(source: Path, target: Path) -> None:
        if str(target).endswith("_seg.b2nd"):
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", cut_off)
        with pytest.raises(KeyboardInterrupt):
            preprocess(dataset, plans, images)
    assert not (images / "case_0.pkl").exists()
    preprocess(dataset, plans, images)
    np.testing.assert_array_equal(load_image(images, "case_0"), expected)
    with open(images / "case_0.pkl", "rb") as file:
        assert pickle.load(file)["shape_before_cropping"] == (16, 20, 22)


# Damaged --------------------------------------------------------------------------------------------------------------


def test_an_altered_file_is_noticed_when_it_is_read(nnunet_folders: Path):
    _, _, images = make(nnunet_folders / "nnUNet_raw")
    sound = whole_files(images, "case_0")
    assert sound.keys() == {f"case_0{ending}" for ending in ENDINGS}
    for file in (*(images / name for name in sound), checksum_file(images, "case_0")):
        content = file.read_bytes()
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]
        for damaged in (flipped, content[:-9], b"", None):
            file.unlink()
            if damaged is not None:
                file.write_bytes(damaged)
            with pytest.raises(DamagedFileError, match="case_0"):
                whole_files(images, "case_0")
            file.write_bytes(content)
            assert whole_files(images, "case_0") == sound


def test_properties_that_carry_code_are_not_run(nnunet_folders: Path, tmp_path: Path):
    _, _, images = make(nnunet_folders / "nnUNet_raw")

    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "run"),)

    file = images / "case_0.pkl"
    file.write_bytes(pickle.dumps(Malicious()))
    checksums = {f"case_0{ending}": sha256_file(images / f"case_0{ending}") for ending in ENDINGS}
    keep(checksum_file(images, "case_0"), {"images": "of whoever wrote it"}, checksums)  # with a checksum that fits
    with pytest.raises(DamagedFileError, match="which could run code"):
        load_properties(images, "case_0")
    assert not (tmp_path / "run").exists()


# The size after resampling --------------------------------------------------------------------------------------------

# the target spacing is (z, y, x) = (2, 1, 0.5); nnU-Net's arrays have y first
PLANS = {
    "configurations": {"3d_fullres": {"spacing": [1.0, 2.0, 0.5], "normalization_schemes": ["a", "b"]}},
    "transpose_forward": [1, 0, 2],
    "transpose_backward": [1, 0, 2],
}


def test_an_image_that_would_grow_beyond_the_memory_is_refused_with_numbers(monkeypatch: pytest.MonkeyPatch):
    """(18, 26, 24) voxels of (5, 50, 50) mm: 18 * 5 / 2 = 45, 26 * 50 / 1 = 1300, 24 * 50 / 0.5 = 2400; two channels
    of 4 bytes and a mask of 2 make 10 bytes per voxel."""
    needed = 45 * 1300 * 2400 * 10
    monkeypatch.setattr("nnunet_assft.volumes.headers.ALWAYS_FREE", 0)
    monkeypatch.setattr("nnunet_assft.volumes.headers.free_memory", lambda: needed)
    require_room_to_resample((18, 26, 24), (5.0, 50.0, 50.0), PLANS)
    monkeypatch.setattr("nnunet_assft.volumes.headers.free_memory", lambda: needed - 1)
    with pytest.raises(AssftError) as caught:
        require_room_for_all({"good": ((8, 8, 8), (2.0, 1.0, 0.5)), "large": ((18, 26, 24), (5.0, 50.0, 50.0))}, PLANS)
    assert str(caught.value) == (
        "1 image cannot be preprocessed (large: its 24 x 26 x 18 voxels of 50 x 50 x 5 mm become 2400 x 1300 x 45 at "
        "the spacing of the plans, 0.5 x 1 x 2 mm, which need 1.4 GB of memory, 1.4 GB are free. Correct the spacing "
        "in its header, or use a machine with more memory)."
    )


def test_an_image_that_would_vanish_is_refused():
    """8 * 0.06 / 1 = 0.48, which is rounded to 0."""
    with pytest.raises(AssftError, match=r"become 8 x 0 x 8 at the spacing of the plans, 0.5 x 1 x 2 mm. Correct"):
        require_room_to_resample((8, 8, 8), (2.0, 0.06, 0.5), PLANS)


def test_an_image_that_was_replaced_by_a_bad_one_is_named(nnunet_folders: Path):
    dataset, plans, folder = make(nnunet_folders / "nnUNet_raw")
    write_volume(dataset.images["case_1"][0], np.zeros((4, 5, 6), np.float32))
    with pytest.raises(AssftError, match=r"case_1: all voxels are 0"):
        preprocess(dataset, plans, folder)

"""A conversion that is cut off, repeated, repeated otherwise, or has no room.

The same command goes on, nothing is lost.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from nnunet_assft.cli import convert as command
from nnunet_assft.dataset_conversion import case_conversion, file_placement, scan
from nnunet_assft.dataset_conversion.headers import Tolerances
from nnunet_assft.dataset_conversion.manifest import JOURNAL
from nnunet_assft.dataset_conversion.scan import PlannedCase
from nnunet_assft.dataset_conversion.source_cases import SourceCase
from nnunet_assft.runtime import processes
from nnunet_assft.runtime.cases import here
from nnunet_assft.runtime.files import sha256_file
from tests.dataset_conversion import downloads
from tests.dataset_conversion.conftest import Convert
from tests.dataset_conversion.downloads import label, save
from tests.kills import before_replace, is_killed


def state(folder: Path) -> dict[str, Any]:
    """Every file below a folder: where a link leads to, or the content, without the times that a manifest notes."""

    def timeless(content: Any) -> Any:
        if isinstance(content, dict):
            return {key: timeless(value) for key, value in content.items() if key != "mtime_ns"}
        return [timeless(value) for value in content] if isinstance(content, list) else content

    files: dict[str, Any] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink()):
        name = file.relative_to(folder).as_posix()
        if file.is_symlink():
            files[name] = os.readlink(file)
        else:
            files[name] = timeless(json.loads(file.read_text())) if file.suffix == ".json" else sha256_file(file)
    return files


@pytest.mark.parametrize("mode", ["link", "copy"])
def test_killed_at_any_file_the_same_command_gives_the_undisturbed_result(
    convert: Convert, tmp_path: Path, nnunet_folders: Path, mode: str
) -> None:
    """The MR part of AMOS.

    Three images and one label placed, two labels rewritten, then the report and the manifest.
    """
    root = downloads.amos(tmp_path / "download")
    undisturbed = convert("amos_mri", root, options=f"--mode {mode}")
    expected = state(undisturbed.folder)
    originals = {file.name: sha256_file(file) for file in root.rglob("*.nii.gz")}
    arguments = ["amos_mri", "-i", str(root), "-np", "1", "--mode", mode]
    kills = 0
    for n in range(1, 30):
        shutil.rmtree(undisturbed.folder)
        killed = is_killed(partial(before_replace, n), partial(command.main, arguments))
        kills += killed
        for name, content in state(undisturbed.folder).items():
            half = any(part.startswith(".partial") for part in Path(name).parts)
            assert half or not name.endswith(".nii.gz") or content == expected[name]  # whole, or not there
        result = convert("amos_mri", root, options=f"--mode {mode}")
        assert (result.code, state(result.folder)) == (0, expected)
        if not killed:
            break
    assert kills >= 10  # six images and labels, two report files, manifest, dataset.json
    assert {file.name: sha256_file(file) for file in root.rglob("*.nii.gz")} == originals


def test_a_second_run_reads_no_voxel_and_changes_nothing(
    convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = downloads.flare21(tmp_path / "download")
    (root / "TrainingMask/train_001.nii.gz").write_bytes(b"")  # an excluded case is remembered, too
    data = (root / "TrainingMask/train_002.nii.gz").read_bytes()
    (root / "TrainingMask/train_002.nii.gz").write_bytes(data[: len(data) * 9 // 10])
    first = convert("flare21", root)
    before = {file: file.lstat().st_mtime_ns for file in first.folder.rglob("*T[rs]/*")}
    monkeypatch.setattr(case_conversion, "read_volume", None)
    second = convert("flare21", root)
    assert "4 of 4 cases are done already and unchanged; 0 remain." in second.out
    assert "done already" not in first.out
    assert (second.code, second.errors, second.findings()) == (first.code, first.errors, first.findings())
    assert len(second.errors) == 2
    assert {file: file.lstat().st_mtime_ns for file in first.folder.rglob("*T[rs]/*")} == before


def test_only_what_changed_in_the_download_is_converted_again(
    convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = downloads.flare21(tmp_path / "download")
    convert("flare21", root, options="--split all")
    read = []
    original = case_conversion.read_volume
    monkeypatch.setattr(case_conversion, "read_volume", lambda file: (read.append(file.name), original(file))[1])
    save(root / "TrainingMask/train_003.nii.gz", label(4, 1).astype(np.float32))
    result = convert("flare21", root, options="--split all")
    assert read == ["train_003_0000.nii.gz", "train_003.nii.gz"]
    np.testing.assert_array_equal(result.values("labelsTr/train_003.nii.gz"), label(4, 1))


def test_a_case_that_became_bad_leaves_the_dataset(convert: Convert, tmp_path: Path) -> None:
    root = downloads.flare21(tmp_path / "download")
    convert("flare21", root, options="--split all")
    (root / "TrainingMask/train_003.nii.gz").unlink()
    save(root / "TrainingMask/train_004.nii.gz", label(9))
    result = convert("flare21", root, options="--split all")
    assert result.cases("imagesTr") == result.cases("labelsTr") == ["train_000", "train_001", "train_002"]
    assert json.loads((result.folder / "dataset.json").read_text())["numTraining"] == 3


def test_a_forgotten_folder_does_not_shrink_the_dataset(convert: Convert, tmp_path: Path) -> None:
    """Without the second root two cases have no image any more; for AbdomenAtlas that alone is no error."""
    first, second = downloads.abdomen_atlas(tmp_path / "download")
    folder = convert("abdomen_atlas", first, second).folder
    before = state(folder)
    refused = convert("abdomen_atlas", first)
    assert refused.code == 1
    assert "2 converted cases are no longer in the download (BDMAP_00005196, BDMAP_00005200)" in refused.errors[0]
    assert state(folder) == before
    assert convert("abdomen_atlas", first, options="--overwrite").code == 0
    assert len(list(folder.glob("labelsT*/*"))) == 2


@pytest.mark.parametrize("mode", ["link", "copy"])
def test_the_dataset_folder_itself_is_no_download(convert: Convert, tmp_path: Path, mode: str) -> None:
    folder = convert("flare21", downloads.flare21(tmp_path / "download"), options=f"--mode {mode}").folder
    before = state(folder)
    for source in (folder, folder / "imagesTr"):
        result = convert("flare21", source, options=f"--mode {mode} --overwrite")
        assert result.code == 1
        assert "is in the dataset folder" in result.errors[0]
    assert state(folder) == before


def test_a_moved_download_is_linked_anew(convert: Convert, tmp_path: Path) -> None:
    root = downloads.flare21(tmp_path / "download")
    convert("flare21", root)
    root.rename(tmp_path / "elsewhere")
    relinked = next(convert("flare21", tmp_path / "elsewhere", options="--dry_run").folder.glob("labelsT*/train_001*"))
    relinked.unlink()  # as a run leaves it that was killed before it noted the case
    relinked.symlink_to(tmp_path / "elsewhere/TrainingMask/train_001.nii.gz")
    result = convert("flare21", tmp_path / "elsewhere")
    assert result.code == 0
    assert all(str(tmp_path / "elsewhere") in os.readlink(file) for file in result.folder.glob("*T[rs]/*"))
    assert convert("flare21", options="--verify_only").code == 0


def test_other_options_need_overwrite(convert: Convert, tmp_path: Path) -> None:
    root = downloads.flare21(tmp_path / "download")
    first = convert("flare21", root)
    before = state(first.folder)
    for options in ("--mode copy", "--split all"):
        refused = convert("flare21", root, options=options)
        assert refused.code == 1
        assert "--overwrite" in refused.errors[0]
        assert state(first.folder) == before
    replaced = convert("flare21", root, options="--split all --mode reference --overwrite")
    assert replaced.code == 0
    assert not list(replaced.folder.glob("*T[rs]/*"))  # all cases in the pool, by reference
    assert len(json.loads((replaced.folder / "dataset.json").read_text())["dataset"]) == 5


def test_an_edited_label_is_not_replaced_without_overwrite(convert: Convert, tmp_path: Path) -> None:
    root = downloads.amos(tmp_path / "download")
    folder = convert("amos_mri", root).folder
    edited = save(folder / "labelsTr/amos_0510.nii.gz", label(2))
    save(root / "amos22/labelsTr/amos_0510.nii.gz", label(15, 3))  # and the download changes as well
    refused = convert("amos_mri", root)
    assert refused.code == 1
    assert str(edited) in refused.errors[0]
    np.testing.assert_array_equal(values(edited), label(2))
    assert convert("amos_mri", root, options="--overwrite").code == 0
    np.testing.assert_array_equal(values(edited), label(0, 3))


def values(file: Path) -> np.ndarray:
    return np.asarray(nibabel.load(file).dataobj)


def test_an_edited_dataset_json_is_kept(convert: Convert, tmp_path: Path) -> None:
    root = downloads.flare21(tmp_path / "download")
    file = convert("flare21", root).folder / "dataset.json"
    content = json.loads(file.read_text())
    content["labels"]["ignore"] = 5
    file.write_text(json.dumps(content))
    assert convert("flare21", root).code == 0  # nothing changed: nothing to write
    assert json.loads(file.read_text()) == content
    save(root / "TrainingMask/train_000.nii.gz", label(1))
    refused = convert("flare21", root)
    assert refused.code == 1
    assert "dataset.json was edited" in refused.errors[0]
    assert json.loads(file.read_text()) == content


@pytest.mark.parametrize("foreign", ["imagesTr", "dataset.json"])
def test_a_dataset_of_somebody_else_is_never_touched(
    convert: Convert, tmp_path: Path, nnunet_folders: Path, foreign: str
) -> None:
    folder = nnunet_folders / "nnUNet_raw/Dataset803_FLARE21"
    (folder / "imagesTr").mkdir(parents=True) if foreign == "imagesTr" else folder.mkdir()
    if foreign == "dataset.json":
        (folder / "dataset.json").write_text("{}")
    for options in ("", "--overwrite"):
        result = convert("flare21", downloads.flare21(tmp_path / "download"), options=options)
        assert result.code == 1
        assert "which this command did not write" in result.errors[0]
    assert [path.name for path in folder.iterdir()] == [foreign]


def test_a_foreign_file_in_a_converted_dataset_is_never_touched(convert: Convert, tmp_path: Path) -> None:
    root = downloads.flare21(tmp_path / "download")
    foreign = save(convert("flare21", root).folder / "labelsTr/mine.nii.gz", label(1))
    result = convert("flare21", root)
    assert result.code == 1
    assert f"{foreign} was not written by this conversion" in result.errors[0]
    assert foreign.is_file()


def test_a_damaged_manifest_is_one_line(convert: Convert, tmp_path: Path) -> None:
    root = downloads.flare21(tmp_path / "download")
    (convert("flare21", root).folder / "conversion_manifest.json").write_text("{")
    result = convert("flare21", root)
    assert result.code == 1
    assert len(result.errors) == 1
    assert "conversion_manifest.json is damaged" in result.errors[0]


def test_a_line_of_the_journal_cut_short_costs_only_its_case(
    convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = downloads.flare21(tmp_path / "download")
    folder = convert("flare21", root).folder
    expected = state(folder)
    manifest = json.loads((folder / "conversion_manifest.json").read_text())
    lines = [json.dumps({"options": manifest["options"]})]
    lines += [json.dumps({"case": name, "record": record}) for name, record in manifest["cases"].items()]
    (folder / JOURNAL).write_text("\n".join(lines)[:-40])
    (folder / "conversion_manifest.json").unlink()
    (folder / "dataset.json").unlink()
    read = []
    original = case_conversion.read_volume
    monkeypatch.setattr(case_conversion, "read_volume", lambda file: (read.append(file.name), original(file))[1])
    assert convert("flare21", root).code == 0
    assert read == ["train_004_0000.nii.gz", "train_004.nii.gz"]
    assert state(folder) == expected


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "is full. Free some space"), (errno.EACCES, "cannot be written: Permission denied")],
)
def test_a_folder_that_takes_no_more_is_one_line_and_what_is_done_stays(
    convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    root = downloads.flare21(tmp_path / "download")
    copy, calls = shutil.copyfile, []

    def fail(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 5:  # in the third case
            Path(target).write_bytes(b"half")
            raise OSError(number, os.strerror(number), str(target))
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", fail)
    result = convert("flare21", root, options="--mode copy --split all")
    assert result.code == 1
    assert len(result.errors) == 1
    assert words in result.errors[0]
    assert result.cases("labelsTr") == ["train_000", "train_001"]
    assert not list(result.folder.rglob(".partial_train*"))
    monkeypatch.setattr(shutil, "copyfile", copy)
    assert convert("flare21", root, options="--mode copy --split all").code == 0
    assert result.cases("labelsTr") == [f"train_{i:03d}" for i in range(5)]


def test_a_copy_that_does_not_fit_is_refused_before_the_first_write(
    convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(file_placement.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    result = convert("flare21", downloads.flare21(tmp_path / "download"), options="--mode copy")
    assert result.code == 1
    assert "are needed" in result.errors[0] or "is full" in result.errors[0]
    assert not list(result.folder.glob("*T[rs]"))


def test_a_killed_worker_is_one_line(convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise BrokenProcessPool("A process in the process pool was terminated abruptly")

    monkeypatch.setattr(ProcessPoolExecutor, "submit", broken)
    result = convert("flare21", downloads.flare21(tmp_path / "download"), options="-np 2")
    assert result.code == 1
    assert len(result.errors) == 1
    assert "was killed" in result.errors[0]


@pytest.mark.parametrize(
    ("free", "expected"),
    [(16 * 2**30, 3), (2**30, 1), (None, 8), (64 * 2**30, 8)],
    ids=["0.8 x 17.2 GB / (3 x 1.07 + 0.3) GB", "less than one", "unknown", "plenty"],
)
def test_every_process_can_hold_the_largest_volume(
    monkeypatch: pytest.MonkeyPatch, free: int | None, expected: int
) -> None:
    monkeypatch.setattr(processes, "free_memory", lambda: free)
    cases = [PlannedCase(SourceCase(f"c{i}"), "pool", memory=memory) for i, memory in enumerate((2**20, 2**30))]
    assert file_placement.processes_for(cases, 8) == expected


def test_without_np_small_downloads_are_converted_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting a process is worth it from 200 MB on."""
    monkeypatch.setattr(processes, "free_memory", lambda: None)
    monkeypatch.setattr(processes, "available_cores", lambda: 64)
    for megabytes, expected in ((10, 1), (1000, 5)):
        case = PlannedCase(SourceCase("c"), "pool", image_bytes=megabytes * 1_000_000)
        assert file_placement.processes_for([case], None) == expected


def test_without_np_few_headers_are_scanned_in_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One header counts as 0.4 MB, and a process is worth starting for 200 MB: 500 files."""
    numbers: list[int] = []
    monkeypatch.setattr(processes, "free_memory", lambda: None)
    monkeypatch.setattr(processes, "available_cores", lambda: 64)
    monkeypatch.setattr(scan, "in_processes", lambda n: (numbers.append(n), here)[1])
    for n in (10, 600):
        cases = [SourceCase(f"c{i}", (tmp_path / "image",), tmp_path / "label") for i in range(n)]
        scan.scan_cases(
            cases, {case.name: "pool" for case in cases}, scan.Scanning(Tolerances(), "CT", ".nii.gz"), None
        )
    assert numbers == [1, 2]


def test_several_processes_give_the_same_dataset_as_one(convert: Convert, tmp_path: Path) -> None:
    root = downloads.flare21(tmp_path / "download")
    first = convert("flare21", root)
    expected = state(first.folder)
    shutil.rmtree(first.folder)
    assert convert("flare21", root, options="-np 2").code == 0
    assert state(first.folder) == expected


def test_nothing_to_verify_is_one_line(convert: Convert) -> None:
    result = convert("flare21", options="--verify_only")
    assert result.code == 1
    assert "nothing to verify" in result.errors[0]


def test_what_to_verify_has_to_be_named_if_the_converter_does_not_say(convert: Convert) -> None:
    result = convert("msd", options="--verify_only")
    assert result.code == 1
    assert "Give its id or its folder name with -d" in result.errors[0]

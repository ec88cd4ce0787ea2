"""Prediction of a folder: every image is checked, and a bad one stops no other."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from nnunet_assft.active.scoring import new_images
from nnunet_assft.cli import predict
from nnunet_assft.cluster.engines import Engine
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime import staged
from nnunet_assft.runtime.cases import KILLED
from nnunet_assft.runtime.locks import only_process
from tests.cluster.work import LeftBehind
from tests.conftest import Trained, blob_case, write_volume
from tests.volumes.damaged import REFUSED

ROOT = Path(__file__).parents[2]
Call = Callable[..., tuple[int, list[str]]]
# kinds that must never give a segmentation; `tests/volumes/test_images.py` has them all
NEVER = ("half of the gzip", "NaN", "2D", "text", "time", "a gzip bomb", "a header of 2000^3 voxels", "spacing 500")


@pytest.fixture
def call(trained: Trained, capfd: pytest.CaptureFixture[str]) -> Call:
    """(exit code, lines of stderr without progress bars) of predict with these arguments, on the CPU."""

    def run(folder: Path, output: Path, *options: str) -> tuple[int, list[str]]:
        line = ["-d", "901", "-device", "cpu", "--disable_tta", "-i", str(folder), "-o", str(output), *options]
        with pytest.raises(SystemExit) as exit_:
            predict.main(line)
        lines = re.split(r"[\r\n]", capfd.readouterr().err)
        return int(exit_.value.code or 0), [part.strip() for part in lines if "nnUNetv2" in part or "rror" in part]

    return run


HERE = ("-npp", "0", "-nps", "0")


def images(folder: Path) -> Path:
    """A folder with two good images, and bad ones between them."""
    for case, seed in (("a_good", 20), ("z_good", 21)):
        write_volume(folder / f"{case}_0000.nii.gz", blob_case(seed)[0])
    for i, name in enumerate(NEVER):
        REFUSED[name][0](folder / f"bad_{i}_0000.nii.gz")
    for channel in ("0000", "0001"):
        write_volume(folder / f"two_{channel}.nii.gz", blob_case(22)[0])
    return folder


@pytest.mark.parametrize("options", [HERE, pytest.param(("-npp", "2", "-nps", "1"), marks=pytest.mark.slow)])
def test_bad_images_are_one_line_each_and_the_others_are_predicted(
    call: Call, tmp_path: Path, options: tuple[str, ...]
) -> None:
    code, lines = call(images(tmp_path / "in"), tmp_path / "out", *options)
    assert code == 1
    written = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert written == ["a_good.nii.gz", "dataset.json", "plans.json", "z_good.nii.gz"]
    assert nibabel.load(tmp_path / "out/a_good.nii.gz").shape == (24, 26, 18)
    assert len(lines) == len(NEVER) + 2
    for i, name in enumerate(NEVER):
        (line,) = (line for line in lines if f": bad_{i} is not predicted: " in line)
        assert REFUSED[name][1] in line
    (line,) = (line for line in lines if ": two is not predicted: " in line)
    assert "it has 2 image files; expected 1" in line
    assert lines[-1] == "nnUNetv2_assft_predict: error: 9 of 11 cases could not be predicted. The lines above say why."


@pytest.mark.parametrize("name", ["labelsTr", "labelsTs", "imagesTr"])
def test_segmentations_never_replace_the_labels_of_a_dataset(
    blobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "link").symlink_to(blobs / name)
    shutil.rmtree(blobs / "labelsTs")  # a folder that is not there yet counts as well
    for output in (blobs / name, tmp_path / "link"):
        with pytest.raises(SystemExit) as exit_:
            predict.main(["-d", "901", "-i", str(blobs / "imagesTr"), "-o", str(output)])
        assert exit_.value.code == 1
        words = f"-o {output} is {name} of Dataset901_Blobs, which holds its scans and the labels by people."
        assert words in capsys.readouterr().err
    assert not (blobs / "labelsTs").exists()


def test_what_an_earlier_call_left(call: Call, tmp_path: Path) -> None:
    """Finished segmentations are kept if wanted, half ones are predicted again, and an old one is not taken for new."""
    folder, output = tmp_path / "in", tmp_path / "out"
    for case, seed in (("kept", 20), ("half", 21)):
        write_volume(folder / f"{case}_0000.nii.gz", blob_case(seed)[0])
    assert call(folder, output, *HERE) == (0, [])
    whole = (output / "half.nii.gz").read_bytes()
    (output / "half.nii.gz").write_bytes(whole[:-20])
    shutil.copyfile(output / "half.nii.gz", output / "other.nii.gz")
    before = (output / "kept.nii.gz").stat().st_mtime_ns
    assert call(folder, output, "--continue_prediction", *HERE) == (0, [])
    assert (output / "half.nii.gz").read_bytes() == whole
    assert (output / "kept.nii.gz").stat().st_mtime_ns == before
    (folder / "kept_0000.nii.gz").write_bytes(b"")
    code, lines = call(folder, output, *HERE)
    assert code == 1
    assert lines[0].endswith(f"copy it again. {output / 'kept.nii.gz'} is from an earlier call.")


def test_a_process_that_is_killed_costs_its_case_alone(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> object:
        raise AssftError(KILLED)

    write_volume(tmp_path / "in/a_0000.nii.gz", blob_case(0)[0])
    monkeypatch.setattr(new_images, "preprocess", killed)
    code, lines = call(tmp_path / "in", tmp_path / "out", *HERE)
    assert code == 1
    assert "a is not predicted: the process working on it was killed" in lines[0]


@pytest.mark.slow
def test_other_processes_write_the_same_bytes(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(staged, "START", 0.0)
    for i in range(3):
        write_volume(tmp_path / f"in/case_{i}_0000.nii.gz", blob_case(30 + i)[0])
    (tmp_path / "in/case_2_0000.nii.gz").write_bytes(b"no image")
    ways = {"here": HERE, "pools": ("-npp", "2", "-nps", "2"), "parts": (*HERE, "--engine", "local", "--parts", "2")}
    for way, options in ways.items():
        code, lines = call(tmp_path / "in", tmp_path / way, "--save_probabilities", *options)
        assert code == 1
        assert ": case_2 is not predicted: " in lines[0]
    expected = {file.name: file.read_bytes() for file in (tmp_path / "here").iterdir()}
    assert {"case_0.nii.gz", "case_0.npz", "case_1.nii.gz"} <= set(expected)
    for way in ("pools", "parts"):
        made = {file.name: file.read_bytes() for file in (tmp_path / way).iterdir()}
        assert made.keys() == expected.keys()
        assert [name for name in made if made[name] != expected[name] and not name.endswith((".npz", ".pkl"))] == []
        for name in ("case_0.npz", "case_1.npz"):  # a zip holds times
            with np.load(tmp_path / way / name) as found, np.load(tmp_path / "here" / name) as same:
                np.testing.assert_array_equal(found["probabilities"], same["probabilities"])


def test_an_image_that_was_replaced_after_the_command_was_killed_is_predicted_again(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = LeftBehind()
    monkeypatch.setattr(Engine, "cases", lambda *_: executor)
    for case in ("a", "b"):
        write_volume(tmp_path / f"in/{case}_0000.nii.gz", blob_case(0)[0])
    assert call(tmp_path / "in", tmp_path / "out", *HERE) == (0, [])
    write_volume(tmp_path / "in/b_0000.nii.gz", blob_case(21)[0])
    assert call(tmp_path / "in", tmp_path / "out", *HERE) == (0, [])
    assert executor.computed == ["b"]


def test_two_calls_with_an_engine_do_not_work_on_one_folder(call: Call, tmp_path: Path) -> None:
    write_volume(tmp_path / "in/a_0000.nii.gz", blob_case(0)[0])
    with only_process(tmp_path / "out/.predict.lock", "something else"):
        code, lines = call(tmp_path / "in", tmp_path / "out", *HERE, "--engine", "local", "--parts", "2")
    assert code == 1
    assert "is working on predictions into" in lines[-1]


def test_an_engine_divides_the_cases_by_itself(call: Call, tmp_path: Path) -> None:
    write_volume(tmp_path / "in/a_0000.nii.gz", blob_case(0)[0])
    code, _ = call(tmp_path / "in", tmp_path / "out", "--engine", "local", "-num_parts", "2")
    assert code == 2
    assert not (tmp_path / "out").exists()


# DICOM ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A folder with two scans, one of which lacks a slice, and a localizer."""
    pytest.importorskip("highdicom", reason="highdicom is not installed (extra dicom)")
    from tests.volumes.dicom.series_files import ORIENTATIONS, headers, save

    stored = blob_case(20)[0].round().astype("int16").T
    affine = np.eye(4)
    affine[:3, :3] = np.diag([-1.0, -1.0, 1.0]) @ ORIENTATIONS["reversed sagittal"]
    made = [headers(stored, affine, modality="MR", SeriesInstanceUID=f"1.2.{n}") for n in range(3)]
    for data in made[2]:
        data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    for n, slices in enumerate((made[0], [*made[1][:5], *made[1][6:]], made[2])):
        save(tmp_path / f"export/{n}", slices, n)
    return tmp_path / "export"


def test_a_dicom_folder_gives_dicom_segmentations(call: Call, export: Path, tmp_path: Path) -> None:
    from tests.volumes.dicom.seg_files import highdicom, places

    output = tmp_path / "out"
    code, lines = call(export, output, "--dicom", *HERE)
    assert (code, len(lines)) == (1, 3)
    assert "1.2.1 is not predicted: 1 slice is missing: there is a gap of 2 mm between slices" in lines[0]
    assert "1.2.2 is left out: it is a localizer, by which a scan is planned (localizer)." in lines[1]
    assert lines[2].endswith("1 of 2 cases could not be predicted. The lines above say why.")
    assert sorted(file.name for file in output.iterdir()) == ["1.2.0.dcm", "1.2.0.nii.gz", "dataset.json", "plans.json"]
    written = nibabel.load(output / "1.2.0.nii.gz")
    label = np.asarray(written.dataobj).astype(int)
    assert label.any()
    volume = highdicom.segread(output / "1.2.0.dcm").get_volume(combine_segments=True)
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    assert places(np.asarray(volume.array), to_ras @ volume.affine) == places(label, written.affine)
    before = (output / "1.2.0.dcm").read_bytes()
    call(export, output, "--dicom", "--continue_prediction", *HERE)
    assert (output / "1.2.0.dcm").read_bytes() == before


def test_a_dicom_folder_of_another_modality_or_without_images(call: Call, export: Path, tmp_path: Path) -> None:
    from tests.volumes.dicom.series_files import affine_of, scan, write_series

    write_series(tmp_path / "ct", scan(), affine_of(), SeriesInstanceUID="1.2.9")
    code, lines = call(tmp_path / "ct", tmp_path / "out", "--dicom", *HERE)
    assert code == 1
    assert "1.2.9 is not predicted: it is CT; expected MR, because the channel of the model is called 'MRI'" in lines[0]
    (tmp_path / "empty").mkdir()
    code, lines = call(tmp_path / "empty", tmp_path / "out", "--dicom", *HERE)
    assert (code, len(lines)) == (1, 1)
    assert "No DICOM image was found among 0 files" in lines[0]

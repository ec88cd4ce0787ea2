"""DICOM exports to raw datasets: no voxel moves, nothing of a patient is told, and a second run goes on."""

from __future__ import annotations

import gzip
import threading
import time
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from nnunet_assft.volumes.dicom.key_file import CASE, KeyFile, held
from nnunet_assft.volumes.raw_dataset import read_dataset
from tests.conftest import set_folders
from tests.dataset_conversion.conftest import Result, run_convert
from tests.dataset_conversion.dicom.conftest import Conversion, ConvertDicom, run_dicom
from tests.volumes.dicom.series_files import (
    NAME,
    ORIENTATIONS,
    PATIENT,
    RAS,
    SHAPE,
    affine_of,
    scan,
    write_series,
)


def positions(affine: np.ndarray) -> np.ndarray:
    """The place of every voxel, in the order of `array.ravel()`."""
    voxels = np.stack(np.meshgrid(*map(range, SHAPE), indexing="ij"), axis=-1).reshape(-1, 3)
    return voxels @ affine[:3, :3].T + affine[:3, 3]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_no_voxel_moves(six: Conversion, orientation: str) -> None:
    stored, affine = scan(list(ORIENTATIONS).index(orientation)), affine_of(orientation)
    file = six.folder / f"imagesTr/{six.case_of(orientation)}_0000.nii.gz"
    image = nibabel.load(file)
    inside = (positions(affine) - image.affine[:3, 3]) @ np.linalg.inv(image.affine[:3, :3]).T
    voxels = np.round(inside).astype(int)
    assert np.abs(inside - voxels).max() < 1e-4
    hounsfield = stored.ravel() * 2.0 - 1024 if orientation == "oblique" else stored.ravel()
    assert image.shape == SHAPE
    np.testing.assert_array_equal(np.asarray(image.dataobj)[tuple(voxels.T)], hounsfield)
    assert image.get_data_dtype() == np.int16

    as_itk_reads_it = sitk.ReadImage(str(file))  # which takes the qform, and refuses axes that are not at right angles
    for corner in ((0, 0, 0), (6, 0, 0), (0, 5, 0), (0, 0, 4), (6, 5, 4)):
        place = (RAS @ affine @ [*corner, 1])[:3]
        assert as_itk_reads_it[as_itk_reads_it.TransformPhysicalPointToIndex(place)] == (
            stored[corner] * 2 - 1024 if orientation == "oblique" else stored[corner]
        )


def test_the_dataset_is_one_of_nnunet(six: Conversion) -> None:
    assert (six.result.code, six.result.errors) == (0, [])
    dataset = read_dataset(six.folder)
    assert len(dataset.images) == 6
    assert all(CASE.fullmatch(case) for case in dataset.images)
    content = six.result.dataset_json()
    assert content["channel_names"] == {"0": "CT"}
    assert content["labels"] == {"background": 0, "liver": 1, "tumour": 2}
    assert content["numTraining"] == 6
    assert six.result.counts()["cases in the dataset"] == (None, 6)


def test_nothing_in_the_dataset_or_on_the_screen_tells_about_a_patient(six: Conversion) -> None:
    texts = [six.result.out.encode(), "\n".join(six.result.errors).encode()]
    for file in six.folder.rglob("*"):
        texts += [file.name.encode()]
        if file.is_file():
            data = file.read_bytes()
            texts.append(gzip.decompress(data) if file.name.endswith(".gz") else data)
    told = b"\n".join(texts)
    first = pydicom.dcmread(next(file for file in (six.root / "export").rglob("*") if file.is_file()))
    for secret in ("Meier", "export", "2024", "1963", "portal", "reversed", "oblique", first.SeriesInstanceUID):
        assert secret.encode() not in told, secret
    assert first.SeriesInstanceUID in six.key_file.read_text()


def test_the_key_file_says_which_patient_a_case_is(six: Conversion) -> None:
    keys = six.keys
    assert "Confidential" in keys["about"]
    assert sorted(entry["patient_id"] for entry in keys["cases"].values()) == sorted(ORIENTATIONS)
    entry = keys["cases"][six.case_of("coronal")]
    assert entry["state"] == "a case of the dataset"
    assert (entry["modality"], entry["study_date"], entry["series_number"]) == ("CT", "20240229", "4")
    heights = [float(pydicom.dcmread(file).ImagePositionPatient[1]) for file in entry["files"]]
    assert heights == [43.5, 46, 48.5, 51, 53.5]  # rows x columns points to growing y
    header = pydicom.dcmread(entry["files"][0])
    assert entry["study_instance_uid"] == header.StudyInstanceUID
    assert entry["series_instance_uid"] == header.SeriesInstanceUID
    assert entry["frame_of_reference_uid"] == header.FrameOfReferenceUID


def test_a_second_run_keeps_ids_and_images_and_takes_what_is_new(convert_dicom: ConvertDicom, tmp_path: Path) -> None:
    write_series(tmp_path / "export/a", scan(0), affine_of(), patient="A")
    first = convert_dicom()
    case = first.case_of("A")
    image = first.folder / f"imagesTr/{case}_0000.nii.gz"
    time = image.stat().st_mtime_ns
    write_series(tmp_path / "later", scan(1), affine_of(), patient="B")
    second = convert_dicom(tmp_path / "later")
    assert (second.result.code, second.case_of("A")) == (0, case)
    assert second.result.cases("imagesTr") == sorted([case, second.case_of("B")])
    assert second.result.dataset_json()["numTraining"] == 2
    assert image.stat().st_mtime_ns == time
    image.unlink()
    third = convert_dicom(tmp_path / "export", tmp_path / "later")
    assert "1 of 2 cases are done already and unchanged; 1 remain" in third.result.out
    assert image.is_file()


def test_the_slices_of_an_image_stay_in_the_key_file_if_the_export_is_no_volume_any_more(
    convert_dicom: ConvertDicom, tmp_path: Path
) -> None:
    """By them, a segmentation that is returned later finds its place."""
    files = write_series(tmp_path / "export/a", scan(), affine_of(), patient="A")
    write_series(tmp_path / "export/b", scan(1), affine_of(), patient="B")
    first = convert_dicom()
    case = first.case_of("A")
    before = first.keys["cases"][case]
    files[2].unlink()
    later = convert_dicom()
    assert "[missing_slice]" in later.result.errors[0]
    assert case in later.result.cases("imagesTr")
    assert later.keys["cases"][case] == before
    assert before["state"] == "a case of the dataset"


def test_another_key_file_does_not_make_cases_of_the_same_scans_again(
    convert_dicom: ConvertDicom, tmp_path: Path
) -> None:
    write_series(tmp_path / "export", scan(), affine_of())
    first = convert_dicom()
    cases = first.result.cases("imagesTr")
    moved = first.key_file.rename(tmp_path / "moved.json")
    (line,) = convert_dicom().result.errors
    assert f"keys/key.json does not have {cases[0]} of Dataset050_Livers, whose scans would become cases again" in line
    assert not first.key_file.exists()
    again = convert_dicom(options=f"--key_file {moved}")
    assert (again.result.code, again.result.cases("imagesTr")) == (0, cases)


def test_an_edited_image_and_other_labels_are_not_overwritten(convert_dicom: ConvertDicom, tmp_path: Path) -> None:
    write_series(tmp_path / "export", scan(), affine_of())
    first = convert_dicom()
    other = convert_dicom(options="--labels spleen")
    assert "was converted with labels" in other.result.errors[0]
    assert convert_dicom(options="--labels spleen --overwrite").result.dataset_json()["labels"] == {
        "background": 0,
        "spleen": 1,
    }
    image = first.folder / f"imagesTr/{first.case_of(PATIENT)}_0000.nii.gz"
    image.write_bytes(b"edited")
    assert "changed after the conversion" in convert_dicom(options="--labels spleen").result.errors[0]


def test_a_dry_run_writes_the_key_file_only(convert_dicom: ConvertDicom, tmp_path: Path) -> None:
    write_series(tmp_path / "export", scan(), affine_of())
    dry = convert_dicom(options="--dry_run")
    assert dry.result.code == 0
    assert not dry.folder.exists()
    case = dry.case_of(PATIENT)
    assert convert_dicom().result.cases("imagesTr") == [case]


def test_verify_only_finds_a_damaged_image(convert_dicom: ConvertDicom, tmp_path: Path) -> None:
    write_series(tmp_path / "export", scan(), affine_of())
    done = convert_dicom()
    assert run_convert("dicom", options="-d 50 --verify_only").code == 0
    next((done.folder / "imagesTr").iterdir()).write_bytes(b"")
    assert "[output_changed]" in run_convert("dicom", options="-d 50 --verify_only").errors[0]


def test_check_takes_images_without_a_label_for_what_they_are(convert_dicom: ConvertDicom, tmp_path: Path) -> None:
    for seed in range(2):
        write_series(tmp_path / f"export/{seed}", scan(seed), affine_of(), seed, patient=f"P{seed}")
    folder = convert_dicom().folder
    first, second = sorted(file.name.removesuffix("_0000.nii.gz") for file in (folder / "imagesTr").iterdir())
    image = nibabel.load(folder / f"imagesTr/{first}_0000.nii.gz")
    (folder / "labelsTr").mkdir(exist_ok=True)
    labels = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 3
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.uint8), image.affine), folder / f"labelsTr/{first}.nii.gz")
    checked = run_convert("check", folder)
    assert (checked.code, checked.errors) == (0, [])
    report = Result(0, "", [], folder)
    assert ("info", "not_annotated", second) in report.findings("check_report")
    assert report.counts("check_report")["training cases"] == (2, 2)
    assert report.counts("check_report")["  not annotated yet"] == (None, 1)
    (folder / f"labelsTr/{second}.nii").write_bytes(b"")  # a label that was meant for it
    assert f"{second}.nii; expected a label that ends with .nii.gz" in run_convert("check", folder).errors[0]


# Two conversions with one key file at the same time -------------------------------------------------------------------


def test_the_key_file_waits_for_the_other_conversion(tmp_path: Path) -> None:
    """Both add a patient, and neither entry is lost."""
    file = tmp_path / "key.json"

    def add(patient: str) -> None:
        with held(file):
            keys = KeyFile.open(file, [])
            time.sleep(0.2)  # in which the other one would read the file as it was
            keys.name_all([(patient, "", "study", "series")])
            keys.save()

    others = [threading.Thread(target=add, args=(patient,)) for patient in "AB"]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert len(KeyFile.read(file).entries) == 2


# Several series -------------------------------------------------------------------------------------------------------


def test_several_series_of_a_patient_are_refused_with_the_list(convert_dicom: ConvertDicom, tmp_path: Path) -> None:
    for seed, study in enumerate(("1.2.3", "1.2.3", "1.2.4")):
        write_series(tmp_path / "export/twice", scan(seed), affine_of(), seed, patient="twice", study=study)
    write_series(tmp_path / "export/once", scan(3), affine_of(), patient="once")
    refused = convert_dicom()
    assert refused.result.code == 1
    assert refused.result.cases("imagesTr") == [refused.case_of("once")]
    own = sorted(case for case, entry in refused.keys["cases"].items() if entry["patient_id"] == "twice")
    patient = own[0].rpartition("_")[0]
    assert own == [f"{patient}_01", f"{patient}_02", f"{patient}_03"]
    assert refused.result.findings() == [("error", "several_series", patient)]
    (line,) = refused.result.errors
    assert f"{patient}: 3 series in 2 studies can be used" in line
    assert f"{own[0]} (CT, 7 x 6 x 5 voxels of 0.7 x 0.9 x 2.5 mm)" in line
    assert all(case in line for case in own)
    assert "with --series" in line

    wanted = tmp_path / "wanted.txt"
    wanted.write_text(f"{own[1]}\n\n")
    listed = convert_dicom(options=f"--series {wanted}")
    assert listed.result.code == 0
    assert listed.result.cases("imagesTr") == sorted([own[1], refused.case_of("once")])  # an image once written stays
    assert ("info", "not_chosen", own[0]) in listed.result.findings()
    assert listed.keys["cases"][own[0]]["state"].startswith("left out (not_chosen)")
    assert len(convert_dicom(options="--series all").result.cases("imagesTr")) == 4


def test_a_list_with_something_else_is_refused_and_not_repeated(convert_dicom: ConvertDicom, tmp_path: Path) -> None:
    write_series(tmp_path / "export", scan(), affine_of())
    (tmp_path / "wanted.txt").write_text(f"\n{NAME}\n")
    (line,) = convert_dicom(options=f"--series {tmp_path}/wanted.txt").result.errors
    assert "has no case id of the key file in line 2" in line
    assert NAME not in line
    (line,) = convert_dicom(options=f"--series {tmp_path}/none").result.errors
    assert "--series" in line
    assert "cannot be read (No such file or directory). Expected the word one or all, or a text file" in line


def test_ct_and_mr_do_not_come_into_one_dataset(convert_dicom: ConvertDicom, tmp_path: Path) -> None:
    write_series(tmp_path / "export/a", scan(0), affine_of(), patient="A")
    write_series(tmp_path / "export/b", scan(1), affine_of(), patient="B", modality="MR")
    (line,) = convert_dicom().result.errors
    assert "of two modalities, CT (1) and MR (1); expected one" in line


# What is refused before anything is read ------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
def test_the_key_file_must_lie_outside_of_the_dataset(convert_dicom: ConvertDicom, tmp_path: Path, place: str) -> None:
    write_series(tmp_path / "export", scan(), affine_of())
    link = tmp_path / "link"
    link.symlink_to(tmp_path / place / "Dataset050_Livers")
    for folder in (tmp_path / place / "Dataset050_Livers/keys", link):
        (line,) = convert_dicom(options=f"--key_file {folder}/key.json").result.errors
        assert "is inside the dataset's folder" in line
        assert not folder.exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "cases": {"Meier": {}}, "secret": ""}'])
def test_another_file_is_no_key_file_and_stays(convert_dicom: ConvertDicom, tmp_path: Path, text: str) -> None:
    write_series(tmp_path / "export", scan(), affine_of())
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/key.json").write_text(text)
    (line,) = convert_dicom().result.errors
    assert "exists, but is no key file that this command wrote" in line
    assert "Meier" not in line.replace(str(tmp_path), "")
    assert (tmp_path / "keys/key.json").read_text() == text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("", "dicom needs -d, --key_file, --labels"),
        ("-d 50 --labels liver", "dicom needs --key_file"),
        ("-d 50 --labels liver --key_file k --mode copy", "argument --mode: dicom does not take it"),
    ],
)
def test_wrong_usage(nnunet_folders: Path, options: str, text: str) -> None:
    result = run_convert("dicom", nnunet_folders, options=options)
    assert result.code == 2
    assert text in result.errors[-1]


def test_other_datasets_take_no_key_file(nnunet_folders: Path) -> None:
    result = run_convert("flare21", nnunet_folders, options="--key_file k")
    assert result.code == 2
    assert "argument --key_file: only dicom takes it" in result.errors[-1]


def test_a_folder_without_dicom_is_named(convert_dicom: ConvertDicom, tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export/note.txt").write_text("x")
    (line,) = convert_dicom().result.errors
    assert "No DICOM image was found among 1 file in" in line


def test_another_dataset_is_not_touched(convert_dicom: ConvertDicom, tmp_path: Path) -> None:
    write_series(tmp_path / "export", scan(), affine_of())
    folder = tmp_path / "nnUNet_raw/Dataset050_Livers/imagesTr"
    folder.mkdir(parents=True)
    (line,) = convert_dicom().result.errors
    assert "holds imagesTr, which this command did not write" in line
    (line,) = convert_dicom(options="-d Dataset050_Kidneys").result.errors
    assert "[dataset_id_clash]" in line
    assert list(folder.iterdir()) == []


def test_strict_stops_at_a_refused_series(convert_dicom: ConvertDicom, tmp_path: Path) -> None:
    write_series(tmp_path / "export/bad", scan(), affine_of())[2].unlink()
    write_series(tmp_path / "export/good", scan(1), affine_of(), 1, patient="good")
    strict = convert_dicom(options="--strict")
    assert "--strict: dcm_" in strict.result.errors[0]
    assert not strict.folder.exists()


def test_an_interrupted_conversion_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing the second image fails."""
    set_folders(tmp_path, monkeypatch)
    for seed in range(3):
        write_series(tmp_path / f"export/{seed}", scan(seed), affine_of(), patient=f"P{seed}")
    compress, images = gzip.compress, []

    def failing(data: bytes, *more: object, **named: object) -> bytes:
        images.append(len(data))
        if len(images) == 2:
            raise OSError(5, "Input/output error")
        return compress(data, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(gzip, "compress", failing)
    stopped = run_dicom(tmp_path)
    assert stopped.result.code == 1
    assert "Dataset050_Livers cannot be written: Input/output error. Fix that and run" in stopped.result.errors[0]
    assert not (stopped.folder / "dataset.json").exists()
    done = run_dicom(tmp_path)
    assert "1 of 3 cases are done already" in done.result.out
    assert (done.result.code, done.result.dataset_json()["numTraining"]) == (0, 3)

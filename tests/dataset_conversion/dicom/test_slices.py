"""Which files of an export are images."""

from __future__ import annotations

import sys
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import generate_uid

from nnunet_assft.volumes.dicom.slices import (
    COPY,
    DICOMDIR,
    DIRECTORY,
    NOT_DICOM,
    OTHER_OBJECT,
    find_slices,
)
from tests.dataset_conversion.dicom.conftest import ConvertDicom
from tests.volumes.dicom.series_files import affine_of, headers, save, scan, write_series


def test_files_are_told_apart_by_their_content(tmp_path: Path) -> None:
    images = write_series(tmp_path / "DISK1/DCM", scan(), affine_of())
    (tmp_path / "readme.dcm").write_text("no DICOM")
    (tmp_path / "empty").touch()
    directory, report = headers(scan(shape=(2, 2, 2)), affine_of())
    directory.file_meta.MediaStorageSOPClassUID = DICOMDIR
    report.Modality = "SR"
    del report.Rows, report.Columns, report.PixelData
    save(tmp_path, [directory, report], 1)
    mask = headers(scan(shape=(2, 2, 1)), affine_of(), Modality="SEG")
    save(tmp_path / "seg", mask, 2)
    (tmp_path / "copy").write_bytes(images[0].read_bytes())
    found = find_slices([tmp_path], 1)
    assert len(found.slices) == 5
    assert found.passed_over == {NOT_DICOM: 2, DIRECTORY: 1, OTHER_OBJECT: 2, COPY: 1}
    assert found.n_files == 11
    assert found.unreadable == []


def test_without_pydicom_one_line_says_how_to_install_it(
    convert_dicom: ConvertDicom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path / "export", scan(), affine_of())
    monkeypatch.setitem(sys.modules, "pydicom", None)
    (line,) = convert_dicom().result.errors
    assert "DICOM needs pydicom. Install it with: pip install 'nnunet_assft[dicom]'" in line


def test_a_damaged_file_is_counted_and_in_the_key_file(convert_dicom: ConvertDicom, tmp_path: Path) -> None:
    write_series(tmp_path / "export", scan(), affine_of())
    damaged = tmp_path / "export/damaged"
    damaged.write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 200)
    done = convert_dicom()
    assert done.result.code == 1
    assert done.result.findings() == [("error", "unreadable_files", "")]
    (line,) = done.result.errors
    assert "dataset: 1 DICOM file cannot be parsed. The key file lists them; export them again, or remove them" in line
    assert "damaged" not in line
    assert done.keys["unreadable"] == [str(damaged)]
    assert len(done.result.cases("imagesTr")) == 1


def test_without_a_patient_id_a_study_is_a_patient(convert_dicom: ConvertDicom, tmp_path: Path) -> None:
    for seed in range(2):
        write_series(tmp_path / f"export/{seed}", scan(seed), affine_of(), seed, patient="", study=generate_uid())
    done = convert_dicom()
    assert done.result.code == 0
    assert len({case.rpartition("_")[0] for case in done.result.cases("imagesTr")}) == 2


def test_a_header_that_breaks_rules_is_read_without_a_word(
    convert_dicom: ConvertDicom, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """pydicom warns about values that are none, and quotes them."""
    made = headers(scan(), affine_of())
    with pydicom.config.disable_value_validation():
        for data in made:
            data.StudyDate = "Meier's birthday"
        save(tmp_path / "export", made)
    recwarn.clear()
    assert convert_dicom().result.code == 0
    assert not [warning for warning in recwarn if "Meier" in str(warning.message)]

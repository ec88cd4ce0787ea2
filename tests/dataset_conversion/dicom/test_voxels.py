"""The values of voxels: slope and intercept of each slice, compression, and damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread
from pydicom.uid import UID, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from nnunet_assft.volumes.dicom.slices import find_slices
from nnunet_assft.volumes.dicom.stack import Stack, stack
from nnunet_assft.volumes.dicom.voxels import read_volume
from tests.dataset_conversion.dicom.conftest import ConvertDicom
from tests.volumes.dicom.series_files import affine_of, headers, save, scan


def volume_of(folder: Path) -> np.ndarray:
    made = stack(find_slices([folder], 1).slices)
    assert isinstance(made, Stack)
    return read_volume(made)


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"),
    [("1", "-1024", np.int16), ("30", "0", np.int32), ("0.5", "-3.25", np.float32)],
)
def test_slope_and_intercept(  # five parameters and a folder
    tmp_path: Path, modality: str, slope: str, intercept: str, dtype: type
) -> None:
    stored = scan()
    save(tmp_path, headers(stored, affine_of(), modality=modality, RescaleSlope=slope, RescaleIntercept=intercept))
    values = volume_of(tmp_path)
    assert values.dtype == dtype
    np.testing.assert_array_equal(values, stored * float(slope) + float(intercept))


def test_every_slice_has_its_own_slope(tmp_path: Path) -> None:
    stored, made = scan(), headers(scan(), affine_of())
    for k, data in enumerate(made):
        data.RescaleSlope = str(1 + k / 4)
    save(tmp_path, made)
    np.testing.assert_array_equal(volume_of(tmp_path), stored * (1 + np.arange(5) / 4))


def test_unsigned_numbers_of_twelve_bits(tmp_path: Path) -> None:
    """As most CT scanners store them."""
    stored = (scan() + 1024).clip(0, 4095).astype(np.int16)
    changes = {"PixelRepresentation": 0, "BitsStored": 12, "HighBit": 11, "RescaleIntercept": "-1024"}
    made = headers(stored, affine_of(), **changes)
    save(tmp_path, made)
    np.testing.assert_array_equal(volume_of(tmp_path), stored - 1024)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless], ids=lambda uid: uid.keyword)
def test_compressed_slices_are_read(tmp_path: Path, syntax: UID) -> None:
    if syntax == JPEGLSLossless:
        pytest.importorskip("jpeg_ls")
    stored = scan(shape=(16, 16, 3))  # GDCM refuses smaller slices in this compression
    made = headers(stored, affine_of())
    for data in made:
        data.compress(syntax, generate_instance_uid=False)
    save(tmp_path, made)
    np.testing.assert_array_equal(volume_of(tmp_path), stored)


@pytest.mark.parametrize(
    ("compressor", "syntax"), [("JPEG", JPEGLosslessSV1), ("JPEG2000", JPEG2000Lossless)], ids=["JPEG", "JPEG 2000"]
)
def test_slices_that_a_scanner_compressed_without_loss_are_read(tmp_path: Path, compressor: str, syntax: UID) -> None:
    """pydicom has no encoder for these two, which most archives use. SimpleITK has."""
    stored = scan(shape=(16, 16, 3))
    made, file = headers(stored, affine_of()), tmp_path / "encoded.dcm"
    for k, data in enumerate(made):
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.SetCompressor(compressor)
        writer.UseCompressionOn()
        writer.SetFileName(str(file))
        writer.Execute(sitk.GetImageFromArray(np.ascontiguousarray(stored[..., k].T)))
        encoded = dcmread(file)
        assert encoded.file_meta.TransferSyntaxUID == syntax
        data.file_meta.TransferSyntaxUID, data["PixelData"] = syntax, encoded["PixelData"]
    save(tmp_path / "series", made)
    np.testing.assert_array_equal(volume_of(tmp_path / "series"), stored)


def test_a_slice_that_cannot_be_decoded_is_named_by_its_number(convert_dicom: ConvertDicom, tmp_path: Path) -> None:
    files = save(tmp_path / "export/bad", headers(scan(), affine_of(), patient="bad"))
    files[2].write_bytes(files[2].read_bytes()[:-30])
    save(tmp_path / "export/good", headers(scan(1), affine_of(), patient="good"), 1)
    done = convert_dicom()
    assert done.result.findings() == [("error", "undecodable", done.case_of("bad"))]
    assert "slice 3 of 5 cannot be decoded" in done.result.errors[0]
    assert "Meier" not in done.result.errors[0]
    assert done.result.cases("imagesTr") == [done.case_of("good")]

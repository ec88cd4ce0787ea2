"""What makes a series no volume: one finding each, in words, and the series is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import MPEG2MPML, generate_uid

from nnunet_assft.volumes.dicom.slices import find_slices
from nnunet_assft.volumes.dicom.stack import Refused, Stack, stack
from tests.dataset_conversion.dicom.conftest import ConvertDicom
from tests.volumes.dicom.series_files import ORIENTATIONS, affine_of, headers, save, scan

Damage = Callable[[list[FileDataset]], Sequence[FileDataset] | None]


def each(**values: Any) -> Damage:
    """Set attributes of all slices."""

    def damage(made: list[FileDataset]) -> None:
        for data in made:
            for name, value in values.items():
                setattr(data, name, value)

    return damage


def one(k: int, **values: Any) -> Damage:
    """Set attributes of one slice."""

    def damage(made: list[FileDataset]) -> None:
        for name, value in values.items():
            setattr(made[k], name, value)

    return damage


def without(*numbers: int) -> Damage:
    return lambda made: [data for k, data in enumerate(made) if k not in numbers]


def moved(offsets: Callable[[int], tuple[float, float, float]]) -> Damage:
    """offsets: number of a slice -> by how many mm it is moved."""

    def damage(made: list[FileDataset]) -> None:
        for k, data in enumerate(made):
            data.ImagePositionPatient = [a + b for a, b in zip(data.ImagePositionPatient, offsets(k), strict=True)]

    return damage


def two_phases(made: list[FileDataset]) -> list[FileDataset]:
    """The same positions once more, with other voxels."""
    again = headers(scan(1), affine_of(), patient=made[0].PatientID, study=made[0].StudyInstanceUID)
    for data in again:
        data.SeriesInstanceUID, data.FrameOfReferenceUID = made[0].SeriesInstanceUID, made[0].FrameOfReferenceUID
    return [*made, *again]


def syntax(uid: str) -> Damage:
    def damage(made: list[FileDataset]) -> None:
        for data in made:
            data.file_meta.TransferSyntaxUID = uid
            data.PixelData = pydicom.encaps.encapsulate([b"\0" * 10])

    return damage


def coloured(made: list[FileDataset]) -> None:
    for data in made:
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
        data.PixelData *= 3


def sized(made: list[FileDataset]) -> None:
    made[2].Rows, made[2].Columns = made[2].Columns, made[2].Rows


CASES: list[tuple[str, str, Damage, str]] = [
    (
        "missing_slice",
        "error",
        without(2),
        "1 slice is missing: there is a gap of 5 mm between slices 2 and 3 of 4; the other slices lie 2.5 mm apart",
    ),
    ("missing_slice", "error", without(1, 2), "2 slices are missing: there is a gap of 7.5 mm between slices 1 and 2"),
    ("duplicate_slices", "error", two_phases, "5 of 10 slices have the position of another one"),
    (  # 1 mm aside for each 2.5 mm: atan(0.4) = 21.8 degrees
        "gantry_tilt",
        "error",
        moved(lambda k: (0, k, 0)),
        "its slices are shifted against each other by up to 4 mm (22 degrees), as with a tilted gantry",
    ),
    ("uneven_slices", "error", moved(lambda k: (0, 0, 0.8 * (k == 2))), "its slices lie 1.7 to 3.3 mm apart"),
    (
        "mixed_orientations",
        "error",
        one(2, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]),
        "its 5 slices lie in 2 orientations; expected one",
    ),
    ("mixed_orientations", "error", one(0, FrameOfReferenceUID="1.2.3"), "its 5 slices have 2 frames of reference"),
    ("mixed_sizes", "error", sized, "its slices have 2 sizes (6 x 7, 7 x 6 pixels); expected one"),
    (
        "mixed_sizes",
        "error",
        one(1, PixelSpacing=[0.9, 0.8]),
        "its slices have 2 pixel spacings (0.7 x 0.9, 0.8 x 0.9 mm); expected one",
    ),
    ("multi_frame", "error", each(NumberOfFrames=3), "5 files with 15 frames; expected one file for each slice"),
    ("multi_frame", "error", each(SOPClassUID=pydicom.uid.EnhancedCTImageStorage), "5 files with 5 frames"),
    ("undecodable", "error", syntax(MPEG2MPML), "its voxels are compressed as 1.2.840.10008.1.2.4.100"),
    (
        "undecodable",
        "error",
        one(3, Rows=60_000, Columns=60_000),
        "1 of 5 files are too short for the voxels that their headers promise",
    ),
    (
        "undecodable",
        "error",
        each(ModalityLUTSequence=[pydicom.Dataset()]),
        "its values are mapped by a table (Modality LUT Sequence); expected a slope and an intercept",
    ),
    ("undecodable", "error", one(1, PhotometricInterpretation="MONOCHROME1"), "its numbers are inverted (MONOCHROME1)"),
    ("not_a_scan", "warning", each(PhotometricInterpretation="PALETTE COLOR"), "its images are in colour"),
    ("not_3d", "error", without(0, 1, 2, 3), "it has 1 slice; expected at least two"),
    ("invalid_affine", "error", one(3, ImagePositionPatient=None), "1 of 5 slices have no usable position"),
    ("invalid_affine", "error", each(PixelSpacing=[0, 0.7]), "5 of 5 slices have no usable position"),
    (
        "non_orthonormal",
        "error",
        each(ImageOrientationPatient=[1, 0, 0, 0.1, 0.995, 0]),
        "the directions of its rows and columns are not at right angles",
    ),
    ("not_ct_or_mr", "warning", each(Modality="PT"), "its modality is PT; expected CT or MR"),
    ("not_ct_or_mr", "warning", each(Modality="MEIER HANS"), "its modality is unknown or mixed"),
    ("not_a_scan", "warning", coloured, "its images are in colour; expected grey values"),
    (
        "not_a_scan",
        "warning",
        each(SOPClassUID=pydicom.uid.SecondaryCaptureImageStorage),
        "its images are secondary captures",
    ),
    ("localizer", "info", each(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "it is a localizer"),
]


@pytest.mark.parametrize(("code", "severity", "damage", "text"), CASES)
def test_a_series_that_is_no_volume_is_refused_by_its_name(  # six parameters: fixtures and a row
    convert_dicom: ConvertDicom, tmp_path: Path, code: str, severity: str, damage: Damage, text: str
) -> None:
    bad = headers(scan(), affine_of(), patient="bad")
    save(tmp_path / "export/bad", list(damage(bad) or bad))
    save(tmp_path / "export/good", headers(scan(1), affine_of(), patient="good"), 1)
    done = convert_dicom()
    case = done.case_of("bad")
    assert done.result.findings() == [(severity, code, case)]
    assert text in done.result.message(code)
    assert done.result.cases("imagesTr") == [done.case_of("good")]
    assert done.keys["cases"][case]["state"].startswith(f"left out ({code}): ")
    assert done.result.code == (severity == "error")
    assert all(line.startswith(f"nnUNetv2_assft_convert: {case}: ") for line in done.result.errors)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_positions_that_a_scanner_has_rounded_are_a_volume(tmp_path: Path, orientation: str) -> None:
    """To a tenth of a millimetre, and directions to four digits."""
    made = headers(scan(), affine_of(orientation))
    for data in made:
        data.ImagePositionPatient = [f"{value:.2f}" for value in data.ImagePositionPatient]
        data.ImageOrientationPatient = [f"{value:.4f}" for value in data.ImageOrientationPatient]
    save(tmp_path, made)
    volume = stack(find_slices([tmp_path], 1).slices)
    assert isinstance(volume, Stack)
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(volume.spacing, (0.7, 0.9, 2.5), atol=0.01)


def test_a_gap_in_a_long_series_is_found_at_its_ends_and_in_the_middle(tmp_path: Path) -> None:
    made = headers(scan(shape=(3, 2, 300)), affine_of())
    save(tmp_path, made)
    slices = sorted(find_slices([tmp_path], 1).slices, key=lambda s: s.position[2])
    assert isinstance(stack(slices), Stack)
    for k in (1, 150, 298):
        refused = stack([*slices[:k], *slices[k + 1 :]])
        assert isinstance(refused, Refused)
        assert refused.code == "missing_slice"
        assert f"between slices {k} and {k + 1} of 299" in refused.text


def test_copies_under_new_names_are_passed_over(convert_dicom: ConvertDicom, tmp_path: Path) -> None:
    made = headers(scan(), affine_of())
    save(tmp_path / "export/a", made)
    save(tmp_path / "export/b", made, 1)
    done = convert_dicom()
    assert done.result.code == 0
    assert done.result.counts()["copies of a file"] == (None, 5)
    made[0].SOPInstanceUID = generate_uid()
    save(tmp_path / "export/c", made[:1], 2)
    (line,) = convert_dicom().result.errors
    assert "No series can be converted, and only the key file was written. The first reason: " in line
    assert "1 of 6 slices have the position of another one" in line

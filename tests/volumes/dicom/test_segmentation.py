"""DICOM segmentations on the slices of their series: no voxel moves, and what lies elsewhere is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset
from pydicom.sr.codedict import codes

from nnunet_assft.annotation.dicom_labels import read_dicom_label
from nnunet_assft.annotation.gate import gate
from nnunet_assft.dataset_conversion.datasets import READER
from nnunet_assft.errors import AssftError
from nnunet_assft.volumes.dicom.codes import ANATOMY, CHANGE, CHANGES, SIDES, STRUCTURES, TISSUE, meaning_of
from nnunet_assft.volumes.dicom.segmentation import origin_of
from nnunet_assft.volumes.dicom.slices import find_slices
from nnunet_assft.volumes.dicom.stack import Stack, stack
from nnunet_assft.volumes.dicom.voxels import nifti_bytes, read_volume
from nnunet_assft.volumes.dicom.writing import require_highdicom, write_dicom_segmentation
from nnunet_assft.volumes.grid import Grid
from nnunet_assft.volumes.readers import reader_named
from nnunet_assft.volumes.segmentations import write_segmentation
from tests.volumes.dicom.seg_files import HIGHDICOM, highdicom, make_seg, places
from tests.volumes.dicom.series_files import ORIENTATIONS, PATIENT, SHAPE, affine_of, headers, save, scan

LABELS = {"background": 0, "liver": 1, "kidney_left": 2}
TRUTH = np.random.default_rng(7).integers(0, 3, SHAPE)  # (column, row, slice), in the order in which slices are made
TRUTH[:, :, 1] = 0  # a slice without a frame


class Scene:
    """A series on the disk, and segmentations of it. `series` and `slices` are what a conversion makes of it."""

    def __init__(self, folder: Path, orientation: str = "axial", **changes: Any) -> None:
        """changes: attributes of all slices; None removes one."""
        self.folder, self.affine = folder, affine_of(orientation)
        self.made = headers(scan(), self.affine, **changes)
        for name in [name for name, value in changes.items() if value is None]:
            for data in self.made:
                delattr(data, name)
        save(folder / "series", self.made)
        found = find_slices([folder / "series"], 1).slices
        series = stack(found)
        assert isinstance(series, Stack)
        self.series = series
        instances = {one.file: one.sop_instance for one in found}
        self.slices = [instances[file] for file in series.files]
        self.grid = Grid.from_ras(series.shape, series.affine)

    def seg(self, kind: str = "BINARY", **segments: np.ndarray) -> FileDataset:
        """segments: (column, row, slice) bool; by default, those of TRUTH, in another order than in LABELS."""
        drawn = segments or {"Kidney Left": TRUTH == 2, "liver": TRUTH == 1}
        make_seg(self.made, {name: voxels.T for name, voxels in drawn.items()}, kind).save_as(self.folder / "made")
        return pydicom.dcmread(self.folder / "made")  # whose frames share nothing, unlike those in memory

    def read(self, seg: FileDataset, overlap: str = "refuse") -> np.ndarray:
        """The label (x, y, z) on the grid of the image."""
        file = self.folder / "returned"
        seg.save_as(file)
        return read_dicom_label(file, LABELS, self.grid, self.slices, overlap).array


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def frames(seg: FileDataset) -> list[Any]:
    return list(seg.PerFrameFunctionalGroupsSequence)


# Round trips: the slices are 0.7 x 0.9 x 2.5 mm -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_no_voxel_of_a_returned_label_moves(tmp_path: Path, orientation: str, kind: str) -> None:
    scene = Scene(tmp_path, orientation)
    label = scene.read(scene.seg(kind))
    assert places(label, scene.series.affine) == places(TRUTH, scene.affine)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_no_voxel_of_a_written_label_moves(tmp_path: Path, orientation: str) -> None:
    """As highdicom reads it, and as the package does."""
    scene = Scene(tmp_path, orientation)
    label = np.random.default_rng(3).integers(0, 3, scene.series.shape[::-1])
    write_dicom_segmentation(tmp_path / "seg.dcm", scene.series, label, LABELS)
    volume = highdicom.segread(tmp_path / "seg.dcm").get_volume(combine_segments=True)
    lps_to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    assert places(volume.array, lps_to_ras @ volume.affine) == places(label.T, scene.series.affine)
    returned = read_dicom_label(tmp_path / "seg.dcm", LABELS, scene.grid, scene.slices, "refuse")
    np.testing.assert_array_equal(returned.array, label.T)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_no_voxel_moves_on_the_way_into_the_dataset(tmp_path: Path, orientation: str) -> None:
    """Image and label as files, by the reader of converted datasets, which turns all of them to RAS."""
    scene = Scene(tmp_path, orientation)
    image, label, reader = tmp_path / "case_0000.nii.gz", tmp_path / "case.nii.gz", reader_named(READER)
    image.write_bytes(nifti_bytes(read_volume(scene.series), scene.series.affine))
    scene.seg().save_as(tmp_path / "returned")
    gated = gate(tmp_path / "returned", image, LABELS, slices=scene.slices)
    _, properties = reader.read_images([str(image)])
    write_segmentation(reader, gated.label, label, properties)
    stored = nibabel.load(label)
    assert places(np.asarray(stored.dataobj).astype(int), stored.affine) == places(TRUTH, scene.affine)
    scanned = nibabel.load(image)
    assert places(np.asarray(scanned.dataobj), scanned.affine) == places(scan(), scene.affine)


def test_frames_that_are_turned_or_cropped_are_put_back(scene: Scene) -> None:
    """Columns from right to left, and only a part of the slice: the position is that of the last column."""
    seg = scene.seg(liver=TRUTH[::-1] == 1)
    seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
    for frame in frames(seg):
        place = frame.PlanePositionSequence[0]
        x, y, z = place.ImagePositionPatient
        place.ImagePositionPatient = [x + 6 * 0.7, y, z]
    np.testing.assert_array_equal(places(scene.read(seg), scene.series.affine), places(TRUTH == 1, scene.affine))


def test_a_frame_without_a_position_lies_on_the_slice_that_it_refers_to(scene: Scene) -> None:
    seg = scene.seg()
    for frame in frames(seg):
        del frame.PlanePositionSequence
    assert places(scene.read(seg), scene.series.affine) == places(TRUTH, scene.affine)


def test_structures_without_voxels_and_labels_without_structures(scene: Scene) -> None:
    empty = np.zeros(scene.series.shape[::-1], int)
    write_dicom_segmentation(scene.folder / "seg.dcm", scene.series, empty, LABELS)
    assert not read_dicom_label(scene.folder / "seg.dcm", LABELS, scene.grid, scene.slices, "refuse").array.any()


def test_rounded_positions_are_on_their_slices(scene: Scene) -> None:
    """To a tenth of a millimetre."""
    seg = scene.seg()
    for frame in frames(seg):
        place = frame.PlanePositionSequence[0]
        place.ImagePositionPatient = [round(float(mm), 1) for mm in place.ImagePositionPatient]
    assert places(scene.read(seg), scene.series.affine) == places(TRUTH, scene.affine)


def test_a_key_file_that_is_not_that_of_the_image(scene: Scene) -> None:
    scene.slices.pop()
    with pytest.raises(AssftError, match="the key file has 4 slices of its series, and its image has 5"):
        scene.read(scene.seg())


# Refused --------------------------------------------------------------------------------------------------------------


def _moved(by: tuple[float, float, float], only: int | None = None) -> Callable[[FileDataset], None]:
    def spoil(seg: FileDataset) -> None:
        for frame in frames(seg) if only is None else frames(seg)[only : only + 1]:
            place = frame.PlanePositionSequence[0]
            place.ImagePositionPatient = [float(a) + b for a, b in zip(place.ImagePositionPatient, by, strict=True)]

    return spoil


def _without_references(seg: FileDataset) -> None:
    for frame in frames(seg):
        del frame.PlanePositionSequence
        frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def _turned(seg: FileDataset) -> None:
    shared = seg.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [0.995, 0.0998, 0, -0.0998, 0.995, 0]


def _resampled(seg: FileDataset) -> None:
    seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.8, 0.8]


def _unnamed(seg: FileDataset) -> None:
    seg.SegmentSequence[0].SegmentLabel = ""


def _renamed(seg: FileDataset) -> None:
    seg.SegmentSequence[0].SegmentLabel = "Segment 1"


def _twice(seg: FileDataset) -> None:
    seg.SegmentSequence[1].SegmentLabel = "kidney-left"


def _too_large(seg: FileDataset) -> None:
    seg.Rows = seg.Columns = 60_000


def _lost_frames(seg: FileDataset) -> None:
    seg.PerFrameFunctionalGroupsSequence = frames(seg)[:-1]


def _cut(seg: FileDataset) -> None:
    seg.PixelData = seg.PixelData[:4]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            _moved((0, 0, 1.25), 2),
            r"frame 3 of 8, of segment 'Kidney Left', lies on no slice of its series: it is s",
        ),
        (_moved((0, 0, 25)), r"lies on no slice of its series: it would be slice 15 of 5\. Draw on the series"),
        (_moved((0, 0, -2.5)), r"it lies on slice 4, but refers to slice 5\."),
        (_moved((0.7, 0, 0)), r"\d+ voxels of segment 'Kidney Left' lie outside of its image"),
        (_without_references, r"it has no position, and does not refer to one slice of the series of its case"),
        (_turned, r"frame 1 of 8.* lies on no slice .* axes are rotated by 5\.7\d degrees"),
        (_resampled, r"its spacing is 0\.8 x 0\.8 x 2\.5 mm, its image has 0\.7 x 0\.9 x 2\.5 mm"),
        (_unnamed, r"its segment with the number 1 has no label; expected segments with a label"),
        (_renamed, r"segment 'Segment 1' is not a structure of the dataset; expected background, liver, kidney_left"),
        (_twice, r"two segments are called 'kidney_left' \('Kidney Left' and 'kidney-left'\)"),
        (_too_large, r"its header claims frames of 60000 x 60000 pixels, far more than its image has, 7 x 6 x 5"),
        (_lost_frames, r"its header has 8 frames and the positions of 7"),
        (_cut, r"its pixels cannot be decoded"),
    ],
)
def test_what_is_no_segmentation_of_this_series(
    scene: Scene, spoil: Callable[[FileDataset], None], message: str
) -> None:
    seg = scene.seg()
    spoil(seg)
    with pytest.raises(AssftError, match=message):
        scene.read(seg)


def test_two_frames_of_a_label_map_on_one_slice(scene: Scene) -> None:
    seg = scene.seg("LABELMAP")
    first, second = frames(seg)[:2]
    second.PlanePositionSequence = first.PlanePositionSequence
    second.DerivationImageSequence = first.DerivationImageSequence
    with pytest.raises(AssftError, match=r"its frame 2 lies on voxels of another frame"):
        scene.read(seg)


def test_fractions_are_refused_with_a_remedy(scene: Scene) -> None:
    with pytest.raises(AssftError, match=r"its segments are fractional: .* Convert them to binary segments with a thr"):
        scene.read(scene.seg("FRACTIONAL"))


def test_overlapping_segments_need_a_rule(scene: Scene) -> None:
    """Segment 1 has 4 voxels, segment 2 has 2, and they share 1."""
    liver, kidney = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    liver[0, :4, 0], kidney[:2, 0, 0] = True, True
    seg = scene.seg(liver=liver, kidney_left=kidney)
    with pytest.raises(AssftError, match=r"the segments 'liver' and 'kidney_left' overlap in 1 voxel; .* --overlap"):
        scene.read(seg)
    counts = {rule: np.bincount(scene.read(seg, rule).ravel())[1:].tolist() for rule in ("first", "last", "smaller")}
    assert counts == {"first": [4, 1], "last": [3, 2], "smaller": [3, 2]}


@pytest.mark.parametrize("content", [b"", b"\0" * 128 + b"DICM" + b"\xff" * 300])
def test_a_damaged_file(scene: Scene, content: bytes) -> None:
    (scene.folder / "returned").write_bytes(content)
    with pytest.raises(AssftError, match=r"it is a damaged DICOM file|its segmentation type is ''; expected BINARY"):
        read_dicom_label(scene.folder / "returned", LABELS, scene.grid, scene.slices, "refuse")


# Writing --------------------------------------------------------------------------------------------------------------


def test_a_written_segmentation_belongs_to_the_patient_and_says_what_it_is(scene: Scene) -> None:
    write_dicom_segmentation(scene.folder / "seg.dcm", scene.series, TRUTH.T, LABELS)
    data, first = pydicom.dcmread(scene.folder / "seg.dcm"), scene.made[0]
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName", "StudyDate"):
        assert data[name] == first[name]
    assert (data.PatientID, data.Modality, data.SegmentationType) == (PATIENT, "SEG", "BINARY")
    assert data.SeriesInstanceUID != first.SeriesInstanceUID
    liver, kidney = data.SegmentSequence
    assert (liver.SegmentLabel, liver.SegmentedPropertyTypeCodeSequence[0].CodeValue) == ("liver", "10200004")
    (side,) = kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence
    assert (kidney.SegmentLabel, side.CodeMeaning, kidney.SegmentAlgorithmType) == ("kidney_left", "Left", "AUTOMATIC")
    origin = origin_of(scene.folder / "seg.dcm")
    assert (origin.is_segmentation, origin.series) == (True, (first.SeriesInstanceUID,))


@pytest.mark.parametrize(
    ("characters", "name"),
    [
        (None, "Meier^Hans"),
        ("ISO_IR 100", "Müller^Jürgen"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
    ],
)
def test_names_of_structures_and_patient_in_any_script(tmp_path: Path, characters: Any, name: str) -> None:
    """The character set of the series need not have the letters of the structures."""
    scene = Scene(tmp_path, SpecificCharacterSet=characters, PatientName=name)
    labels = {"background": 0, "肝臓": 1, "Gefäß": 2}
    write_dicom_segmentation(tmp_path / "seg.dcm", scene.series, TRUTH.T, labels)
    data = pydicom.dcmread(tmp_path / "seg.dcm")
    assert ([segment.SegmentLabel for segment in data.SegmentSequence], data.PatientName) == (["肝臓", "Gefäß"], name)
    returned = read_dicom_label(tmp_path / "seg.dcm", labels, scene.grid, scene.slices, "refuse")
    np.testing.assert_array_equal(returned.array, TRUTH)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"FrameOfReferenceUID": None}, "Slice 1 of 5 of the series has no FrameOfReferenceUID, which"),
        ({"StudyDate": "2024-02-29"}, r"break the DICOM standard, .* can be written \(ValueError\)"),
    ],
)
def test_a_series_that_no_segmentation_can_belong_to(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    scene = Scene(tmp_path, **changes)
    with pytest.raises(AssftError, match=words) as error:
        write_dicom_segmentation(tmp_path / "seg.dcm", scene.series, TRUTH.T, LABELS)
    assert "2024" not in str(error.value)
    assert not (tmp_path / "seg.dcm").exists()


def test_a_series_whose_files_are_gone_is_named_without_the_patient(scene: Scene) -> None:
    scene.series.files[2].unlink()
    with pytest.raises(AssftError, match=r"Slice 3 of 5 of the series cannot be read \(FileNotFoundError\)") as error:
        write_dicom_segmentation(scene.folder / "seg.dcm", scene.series, TRUTH.T, LABELS)
    assert "Meier" not in str(error.value)


def test_without_highdicom_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom.seg", None)
    with pytest.raises(AssftError, match=r"needs highdicom\. Install it with: pip install 'nnunet_assft\[dicom\]'"):
        require_highdicom()


def test_codes_are_those_of_the_standard() -> None:
    known = {getattr(codes.SCT, name).value for name in codes.SCT.dir()}
    for code in (ANATOMY, CHANGE, TISSUE, *SIDES.values(), *CHANGES.values(), *STRUCTURES.values()):
        assert code.value in known, code
    for name, code in STRUCTURES.items():
        keyword = "".join(word.capitalize() for word in code.meaning.split())
        assert getattr(codes.SCT, keyword).value == code.value, name
    assert codes.cid7150.AnatomicalStructure.value == ANATOMY.value
    assert codes.DCM.ArtificialIntelligence.value == "123110"
    assert HIGHDICOM is not None


@pytest.mark.parametrize(
    ("name", "category", "kind", "side"),
    [
        ("liver", ANATOMY, "Liver", None),
        ("Kidney_Left", ANATOMY, "Kidney", "Left"),
        ("right adrenal-gland", ANATOMY, "Adrenal gland", "Right"),
        ("tumour", CHANGE, "Neoplasm", None),
        ("segment of my own", TISSUE, "Tissue", None),
    ],
)
def test_codes_of_names(name: str, category: object, kind: str, side: str | None) -> None:
    meaning = meaning_of(name)
    assert (meaning.category, meaning.kind.meaning, meaning.side and meaning.side.meaning) == (category, kind, side)

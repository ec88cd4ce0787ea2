"""The check of an image: everything that people receive instead of one, in tables."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_assft.errors import AssftError
from nnunet_assft.volumes.images import check_headers, read_image
from tests.volumes.damaged import AFFINE, REFUSED, VOXELS, Damage, floats, patched, saved, shorts, skewed, with_forms

READERS = (SimpleITKIO, NibabelIO, NibabelIOWithReorient)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", REFUSED)
def test_an_image_that_cannot_be_used_is_one_sentence(
    name: str, reader: type[BaseReaderWriter], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, words = REFUSED[name]
    damage(tmp_path / "a_0000.nii.gz")
    with pytest.raises(AssftError) as caught:
        read_image([tmp_path / "a_0000.nii.gz"], reader(), 1)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # no library prints a warning of its own


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_a_good_image_is_what_the_reader_returns(reader: type[BaseReaderWriter], ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"a_0000{ending}"
    for write in (saved(), saved(VOXELS.astype(np.float64)), patched((112, floats(0.5, 3)))):
        write(file)
        read, (array, properties) = read_image([file], reader(), 1), reader().read_images([str(file)])
        np.testing.assert_array_equal(read.array, array)
        assert read.properties["spacing"] == properties["spacing"] == [2, 1, 1]
        assert read.remarks == ()


ROTATED = AFFINE @ np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
REMARKS: dict[str, tuple[Damage, str]] = {
    "spacings of two forms": (
        with_forms(np.eye(4), np.diag([1.5, 1.5, 5, 1])),
        "the sform has a spacing of 1 x 1 x 1 mm, the qform one of 1.5 x 1.5 x 5 mm",
    ),
    "a spacing without a qform": (
        with_forms(np.eye(4), np.diag([1.5, 1.5, 5, 1]), (1, 0)),
        "the sform has a spacing of 1 x 1 x 1 mm, the qform one of 1.5 x 1.5 x 5 mm",
    ),
    # the last voxel is (5, 6, 7): at (5, 6, 14) mm, and turned by 90 degrees at (-6, 5, 14) mm, sqrt(11^2 + 1^2) away
    "a qform that is no rotation": (
        patched((252, shorts(1, 1)), (256, floats(2, 0, 0))),
        "its sform and its qform disagree: the numbers of the qform are no rotation and position",
    ),
    "positions of two forms": (
        with_forms(AFFINE, ROTATED),
        "up to 11.05 mm apart; the sform puts its first voxel at (0, 0, 0) mm and its last at (5, 6, 14) mm, the qform "
        "at (0, 0, 0) mm and (-6, 5, 14) mm",
    ),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", REMARKS)
def test_two_geometries_are_a_remark_and_the_reader_decides(
    name: str, reader: type[BaseReaderWriter], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, words = REMARKS[name]
    damage(tmp_path / "a_0000.nii.gz")
    read = read_image([tmp_path / "a_0000.nii.gz"], reader(), 1)
    assert words in read.remarks[0]
    array, properties = reader().read_images([str(tmp_path / "a_0000.nii.gz")])
    np.testing.assert_array_equal(read.array, array)
    assert read.properties["spacing"] == properties["spacing"]
    z, y, x = properties["spacing"]
    assert read.remarks[0].endswith(f"; nnU-Net's {reader.__name__} reads a spacing of {x:g} x {y:g} x {z:g} mm")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("qfac", [0, np.nan])
def test_a_header_without_a_handedness_is_read_as_readers_do(
    qfac: float, reader: type[BaseReaderWriter], tmp_path: Path
) -> None:
    patched((76, floats(qfac)), (252, shorts(1, 1)))(tmp_path / "a_0000.nii.gz")
    assert read_image([tmp_path / "a_0000.nii.gz"], reader(), 1).remarks == ()


def test_skewed_axes_are_an_error_for_a_reader_that_refuses_them(tmp_path: Path) -> None:
    """tan(1.43 degrees) = 0.05 / 2."""
    saved(affine=skewed())(tmp_path / "a_0000.nii.gz")
    with pytest.raises(AssftError, match=r"ITK only supports orthonormal .*NibabelIOWithReorient"):
        read_image([tmp_path / "a_0000.nii.gz"], SimpleITKIO(), 1)
    (remark,) = read_image([tmp_path / "a_0000.nii.gz"], NibabelIOWithReorient(), 1).remarks
    assert remark == "two of its axes are 1.43 degrees from a right angle, expected 0. ITK may refuse such a file"


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_nifti_2_is_read_by_readers_that_can(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"a_0000{ending}"
    nibabel.save(nibabel.Nifti2Image(VOXELS, AFFINE), file)
    with pytest.raises(AssftError, match=r"^it is a NIfTI-2 file, which ITK cannot read\. Save it as NIfTI-1, or plan"):
        read_image([file], SimpleITKIO(), 1)
    for reader in (NibabelIO(), NibabelIOWithReorient()):
        assert read_image([file], reader, 1).properties["spacing"] == [2, 1, 1]


def test_micrometres_are_converted_by_itk_alone(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VOXELS, np.diag([1000.0, 1000, 2000, 1]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "a_0000.nii.gz")
    assert read_image([tmp_path / "a_0000.nii.gz"], SimpleITKIO(), 1).properties["spacing"] == [2, 1, 1]
    with pytest.raises(AssftError, match="its spacing is 1000 x 1000 x 2000 mm"):
        read_image([tmp_path / "a_0000.nii.gz"], NibabelIO(), 1)


# Several channels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (
            saved(affine=AFFINE + 3 * np.eye(4, k=3)),
            "a_0001.nii.gz does not lie on the first channel: it is shifted by 3",
        ),
        (
            saved(affine=AFFINE @ np.diag([2, 1, 1, 1])),
            "a_0001.nii.gz does not lie on the first channel: its spacing is",
        ),
        (
            saved(VOXELS[:5]),
            "a_0001.nii.gz does not lie on the first channel: it has 5 x 7 x 8 voxels, its image 6 x 7",
        ),
        (saved(np.stack([VOXELS] * 2, -1)), "a_0001.nii.gz: it has 6 x 7 x 8 x 2 voxels"),
    ],
)
@pytest.mark.parametrize("reader", READERS)
def test_channels_share_one_grid(
    write: Damage, words: str, reader: type[BaseReaderWriter], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz"]
    saved()(files[0])
    write(files[1])
    with pytest.raises(AssftError) as caught:
        read_image(files, reader(), 2)
    assert words in str(caught.value)
    assert capfd.readouterr() == ("", "")
    saved(VOXELS + 1)(files[1])
    np.testing.assert_array_equal(read_image(files, reader(), 2).array[1] - 1, VOXELS.transpose(2, 1, 0))


def test_the_number_of_channels(tmp_path: Path) -> None:
    files = [tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz"]
    for file in files:
        saved()(file)
    with pytest.raises(AssftError, match=r"it has 2 channels \(a_0000.nii.gz, a_0001.nii.gz\), expected 1"):
        read_image(files, SimpleITKIO(), 1)


def test_everything_that_is_wrong_with_the_channels_is_said_at_once(tmp_path: Path) -> None:
    files = [tmp_path / f"a_000{i}.nii.gz" for i in range(3)]
    saved()(files[0])
    saved(VOXELS[..., None])(files[1])
    problems = check_headers(files, SimpleITKIO())
    assert [(problem.code, problem.text[:32]) for problem in problems] == [
        ("not_3d", "a_0001.nii.gz: it has 6 x 7 x 8 "),
        ("unreadable", "a_0002.nii.gz: cannot be read (i"),
    ]


# NRRD, MetaImage and GIPL ---------------------------------------------------------------------------------------------


def flipped(file: Path) -> None:
    """One bit of the compressed voxels."""
    content = bytearray(file.read_bytes())
    content[-60] ^= 16
    file.write_bytes(content)


def replaced(old: bytes, new: bytes) -> Callable[[Path], object]:
    def write(file: Path) -> None:
        content = file.read_bytes()
        assert old in content
        file.write_bytes(content.replace(old, new))

    return write


ITK_DAMAGE: list[tuple[str, Callable[[Path], object], str]] = [
    (".nrrd", lambda file: file.write_bytes(file.read_bytes()[:-80]), "cannot be read (Compressed file ended before"),
    (
        ".mha",
        lambda file: file.write_bytes(file.read_bytes()[:-80]),
        "its header promises 800 bytes of compressed voxels, the file holds 720",
    ),
    (
        ".mha",
        replaced(b"CompressedDataSize = 800", b"CompressedDataSize = 1"),
        "its compressed data ends before",
    ),
    (".mha", replaced(b"CompressedDataSize = 800\n", b""), "its header lacks CompressedDataSize"),
    (".mha", replaced(b"ElementSpacing = 1 1 2", b"ElementSpacing = -1 1 2"), "its spacing is -1 x 1 x 2 mm"),
    (".mha", replaced(b"Offset = 0 0 0", b"Offset = 1e38 0 0"), "its first voxel lies at 1e+38 mm, expected at most"),
    (".nrrd", flipped, "cannot be read ("),
    (".mha", flipped, "cannot be read ("),  # ITK reads other voxels without an error
    (".nrrd", replaced(b"sizes: 6 7 8", b"sizes: 2000 2000 2000"), "its header promises 32,000,000,000 bytes"),
    (".mha", replaced(b"DimSize = 6 7 8", b"DimSize = 2000 2000 2000"), "its header promises 32,000,000,000 bytes"),
    (".nrrd", replaced(b"(1,0,0)", b"(0,0,0)"), "its spacing is 0 x 1 x 2 mm"),
    (".mha", replaced(b"ElementSpacing = 1 1 2", b"ElementSpacing = 500 1 2"), "its spacing is 500 x 1 x 2 mm"),
    (".nrrd", replaced(b"encoding: gzip", b"data file: /dev/zero\nencoding: gzip"), "voxels are in another file"),
    (".nrrd", replaced(b"encoding: gzip", b"Data File:/dev/zero\nencoding: gzip"), "voxels are in another file"),
    (".mha", replaced(b"= LOCAL", b"= other.raw"), "its header says that its voxels are in another file"),
    (".nrrd", replaced(b"type: float", b"type: block"), "its voxels are of the type 'block'"),
    (".nrrd", replaced(b"sizes: 6 7 8", b"sizes: a b c"), "its header gives the sizes a b c; expected whole numbers"),
    (
        ".nrrd",
        replaced(b"encoding: gzip", b"encoding: bzip2"),
        "its voxels are encoded as 'bzip2'; expected one of",
    ),
    *(
        (
            ".nrrd",
            lambda file, encoding=encoding: file.write_bytes(
                re.sub(rb"sizes: 6 7 8", b"sizes: 800 800 800", file.read_bytes()).replace(b"gzip", encoding, 1)
            ),
            "its header promises 2,048,000,000 bytes of voxels (800 x 800 x 800), the file holds",
        )
        for encoding in (b"ascii", b"txt", b"hex")
    ),
    (".nrrd", lambda file: file.write_bytes(b"hello\n"), "it is a text file that begins with 'hello'"),
    (".mha", lambda file: file.write_bytes(b"\1\2\3" * 300), "it is not a MetaImage file"),
    (
        ".gipl",
        lambda file: file.write_bytes(file.read_bytes()[:-80]),
        "promises 1,344 bytes of voxels (6 x 7 x 8), the",
    ),
    (".gipl", replaced(b"\0\6\0\7\0\10", b"\7\xd0\7\xd0\7\xd0"), "its header promises 32,000,000,000 bytes"),
    (".gipl", replaced(b"\0\1\0\x40", b"\0\1\0\x63"), "its voxels are of the type 99; expected one of 7, 8, 15"),
    (".gipl", replaced(b"\xef\xff\xe9\xb0", b"\xef\xff\xe9\xb1"), "it is not a GIPL file, or its header is cut off"),
    (".gipl", lambda file: file.write_bytes(b"\1\2\3" * 30), "it is not a GIPL file, or its header is cut off"),
]


@pytest.mark.parametrize(("ending", "damage", "words"), ITK_DAMAGE)
def test_the_same_for_other_formats(
    ending: str, damage: Callable[[Path], object], words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"a_0000{ending}"
    volume = sitk.GetImageFromArray(VOXELS.transpose(2, 1, 0).astype(np.float32))
    volume.SetSpacing((1, 1, 2))
    sitk.WriteImage(volume, str(file), True)
    assert read_image([file], SimpleITKIO(), 1).properties["spacing"] == [2, 1, 1]
    damage(file)
    with pytest.raises(AssftError) as caught:
        read_image([file], SimpleITKIO(), 1)
    assert words in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_vectors_are_no_image(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"a_0000{ending}"
    volume = sitk.GetImageFromArray(np.ones((8, 7, 6, 2), np.uint8), isVector=True)
    sitk.WriteImage(volume, str(file), True)
    with pytest.raises(AssftError, match="it holds 2 values per voxel"):
        read_image([file], SimpleITKIO(), 1)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_every_type_of_itk_is_read(ending: str, compressed: bool, dtype: str, tmp_path: Path) -> None:
    voxels = (VOXELS.transpose(2, 1, 0) % 100).astype(dtype)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / f"a_0000{ending}"), compressed)
    np.testing.assert_array_equal(read_image([tmp_path / f"a_0000{ending}"], SimpleITKIO(), 1).array[0], voxels)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "f4", "f8"])
def test_every_type_of_a_gipl_file_is_read(dtype: str, tmp_path: Path) -> None:
    voxels = (VOXELS.transpose(2, 1, 0) % 100).astype(dtype)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / "a_0000.gipl"))
    np.testing.assert_array_equal(read_image([tmp_path / "a_0000.gipl"], SimpleITKIO(), 1).array[0], voxels)

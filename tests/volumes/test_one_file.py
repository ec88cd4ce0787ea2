"""Headers that name another file for their voxels, or that ITK crashes on, are refused, and nothing else is."""

from __future__ import annotations

import gzip
import os
import re
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_assft.volumes.one_file import kind_of_special_file, refuse_unsafe

VOXELS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
NRRD = "NRRD0004\ntype: unsigned char\ndimension: 3\nsizes: 4 3 2\nencoding: raw\n"
META = "ObjectType = Image\nNDims = 3\nDimSize = 4 3 2\nElementType = MET_UCHAR\n"


def nifti(magic: bytes, size_of_header: int = 348) -> bytes:
    content = bytearray(nibabel.Nifti1Image(VOXELS, np.eye(4)).to_bytes())
    content[:4], content[344:348] = struct.pack("<i", size_of_header), magic
    return bytes(content)


DETACHED: dict[str, tuple[str, bytes]] = {
    "NRRD, data file": ("a.nrrd", f"{NRRD}data file: other.raw\n\n".encode()),
    "NRRD, datafile": ("a.nrrd", f"{NRRD}datafile: /dev/zero\n\n".encode()),
    "NRRD, upper case": ("a.seg.nrrd", f"{NRRD}Data File: /etc/passwd\n\n".encode()),
    "NRRD, list of files": ("a.nrrd", f"{NRRD}data file: LIST\na.raw\n".encode()),
    "NRRD, pattern": ("a.nrrd", f"{NRRD}data file: I.%03d 1 200 1\n\n".encode()),
    "NRRD, lines end as in DOS": ("a.nrrd", f"{NRRD}data file: a.raw\n\n".replace("\n", "\r\n").encode()),
    "NRRD, lines end as in old Macs": ("a.nrrd", f"{NRRD}data file: a.raw\n\n".replace("\n", "\r").encode()),
    "NRRD, header and voxels by name": ("a.nhdr", f"{NRRD}\n".encode() + VOXELS.tobytes()),
    "MetaImage, file": ("a.mha", f"{META}ElementDataFile = other.raw\n".encode()),
    "MetaImage, list": ("a.mha", f"{META}ElementDataFile = LIST\nother.raw\n".encode()),
    "MetaImage, pattern": ("a.mha", f"{META}ElementDataFile = a%d.raw 1 2 1\n".encode()),
    "MetaImage, colon": ("a.mha", f"{META}ElementDataFile: other.raw\n".encode()),
    "MetaImage, LOCAL in a comment": (
        "a.mha",
        f"{META}Comment = ElementDataFile = LOCAL\nElementDataFile = other.raw\n".encode(),
    ),
    "MetaImage, header by name": ("a.mhd", f"{META}ElementDataFile = LOCAL\n".encode() + VOXELS.tobytes()),
    "NIfTI pair": ("a.nii", nifti(b"ni1\0")),
    "NIfTI pair, size of header wrong": ("a.nii", nifti(b"ni1\0", 0)),
    "NIfTI pair, compressed": ("a.nii.gz", gzip.compress(nifti(b"ni1\0"))),
    "NIfTI pair, said to be compressed": ("A.NII.GZ", nifti(b"ni1\0")),
    "Analyze": ("a.nii", nifti(b"\0\0\0\0")),
    "Analyze by name": ("a.hdr", nifti(b"n+1\0")),
}


@pytest.mark.parametrize(("name", "content"), DETACHED.values(), ids=DETACHED)
def test_voxels_in_another_file_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"two files|in another file|does not say that its voxels"):
        refuse_unsafe(tmp_path / name)


LONG = "x" * 600
CRASHING: dict[str, tuple[str, str, str]] = {
    "kinds": (
        "a.nrrd",
        f"{NRRD}kinds: domain domain {LONG}\n\n",
        "line 6 of its header has 621 bytes; expected at most",
    ),
    "type": ("a.seg.nrrd", f"NRRD0004\ntype: {LONG}\n\n", "line 2 of its header has 606 bytes"),
    "not a field": ("a.nrrd", f"{NRRD}{LONG}\r\n\r\n", "line 6 of its header has 600 bytes"),
    "looks like a key": ("a.nrrd", f"{NRRD}kinds: a:={LONG}\n\n", "line 6 of its header has 610 bytes"),
    "negative": ("a.mha", META.replace("NDims = 3", "NDims = -1"), "its header says NDims = -1; expected a number"),
    "many": ("a.mha", META.replace("NDims = 3", "NDims = 2147483647"), "NDims = 2147483647; expected a number of axes"),
    "none": ("a.mha", META.replace("NDims = 3", "NDims: 0"), "NDims = 0; expected a number of axes from 1 to 10"),
    "a second time": ("a.mha", f"{META}NDims = 1e9\n", "NDims = 1e9; expected"),
    "direction": (
        "a.mha",
        f"{META}TransformMatrix = 1 0 0 0 1 0 -1e308 0 1\n",
        "TransformMatrix = 1 0 0 0 1 0 -1e308 0 1; expected 3 directions of 3 numbers",
    ),
    "no number": ("a.mha", f"{META}Rotation = 1 0 0 0 1 0 1e 0 1\n", "Rotation = 1 0 0 0 1 0 1e 0 1; expected 3"),
    "length of a direction": ("a.mha", f"{META}TransformMatrix = 2 0 0 0 2 0 0 0 2\n", "each of the length 1"),
    "sizes in words": ("a.mha", META.replace("4 3 2", "a b c"), "DimSize = a b c; expected 3 whole numbers"),
    "axes and sizes": ("a.mha", META.replace("NDims = 3", "NDims = 4"), "DimSize = 4 3 2; expected 4 whole numbers"),
    "a decimal comma": ("a.mha", f"{META}ElementSpacing = 0,7 0,7 2\n", "ElementSpacing = 0,7 0,7 2; expected 3"),
    "NaN": ("a.mha", f"{META}Offset = nan 0 0\n", "Offset = nan 0 0; expected 3 numbers"),
    "voxels in the header": ("a.mha", f"{META}HeaderSize = 20\n", "HeaderSize = 20; expected 0"),
    "more than the file holds": (
        "a.mha",
        f"{META}CompressedData = True\nCompressedDataSize = 99999999999\n",
        "its header promises 99,999,999,999 bytes of compressed voxels, the file holds 24",
    ),
}


@pytest.mark.parametrize(("name", "header", "found"), CRASHING.values(), ids=CRASHING)
def test_headers_that_end_the_process_are_refused(tmp_path: Path, name: str, header: str, found: str) -> None:
    end = "ElementDataFile = LOCAL\n" if name.endswith(".mha") else ""
    (tmp_path / name).write_bytes(f"{header}{end}".encode() + VOXELS.tobytes())
    with pytest.raises(ValueError, match=re.escape(found)):
        refuse_unsafe(tmp_path / name)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_texts_of_people_may_be_long(tmp_path: Path, name: str) -> None:
    """Slicer writes the terminology of its segments, and programs their comments."""
    image = sitk.GetImageFromArray(VOXELS)
    image.SetMetaData("Segment0_Tags", "Segmentation category: tissue" * 500)
    sitk.WriteImage(image, str(tmp_path / name))
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content.replace(b"# Complete", b"# " + b"Complete" * 500, 1))
    refuse_unsafe(tmp_path / name)
    assert (sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name))) == VOXELS).all()


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.NII.GZ", "a.nrrd", "a.seg.nrrd", "a.mha", "a.gipl"])
@pytest.mark.parametrize("compress", [True, False])
def test_files_in_one_piece_pass(tmp_path: Path, name: str, compress: bool) -> None:
    image = sitk.GetImageFromArray(VOXELS)
    image.SetMetaData("Segment0_Name", "data file: x")
    sitk.WriteImage(image, str(tmp_path / name.lower()), compress)
    (tmp_path / name.lower()).rename(tmp_path / name)
    refuse_unsafe(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [b"", b"<!DOCTYPE html>" + b" " * 400, b"version https://git-lfs\n", gzip.compress(b"")],
    ids=["empty", "page", "pointer", "gzip of nothing"],
)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha"])
def test_what_is_no_header_is_left_to_the_reader(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refuse_unsafe(tmp_path / name)


def test_nifti_2_passes(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti2Image(VOXELS, np.eye(4)), tmp_path / "a.nii")
    refuse_unsafe(tmp_path / "a.nii")


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stream:
        stream.bind(os.path.relpath(path))  # the whole path may be too long


def _device(path: Path) -> None:
    path.symlink_to("/dev/null")


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (_fifo, "named pipe (FIFO)"),
        (_socket, "socket"),
        (_device, "device"),
        (Path.touch, None),
        (Path.mkdir, None),
    ],
)
def test_special_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], kind: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "x.nii.gz")
    assert kind_of_special_file(tmp_path / "x.nii.gz") == kind


def test_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError):
        kind_of_special_file(tmp_path / "x")

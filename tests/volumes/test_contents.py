"""What a file is, by its first bytes, where its name says something else. `REFUSED` has what a .nii.gz can be."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import nibabel
import pytest

from nnunet_assft.volumes.contents import wrong_content
from tests.volumes.damaged import AFFINE, VOXELS

NIFTI = nibabel.Nifti1Image(VOXELS, AFFINE).to_bytes()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.nii",
            gzip.compress(NIFTI),
            "it is compressed although its name does not end with .gz. Unpack it, or rename it",
        ),
        ("a.nii", b"NRRD0004\n" + b"\1" * 99, "it is an NRRD file, whatever its name says. Convert it, or give it"),
        ("a.nrrd", b"ObjectType = Image\n" + b"\1" * 99, "it is a MetaImage file"),
        ("a.tif", b"\x89PNG\r\n" + b"\1" * 99, "it is a PNG picture"),
        ("a.mha", b"Not found\n", "it is a text file that begins with 'not found'"),
        ("a.nii", NIFTI, ""),
        ("a.nii.gz", gzip.compress(NIFTI), ""),
        ("A.NII.GZ", gzip.compress(NIFTI), ""),
        ("a.nii", nibabel.Nifti2Image(VOXELS, AFFINE).to_bytes(), ""),
        ("a.nrrd", b"NRRD0004\ntype: short\n\n" + b"\1" * 99, ""),
        ("a.mha", b"NDims = 3\nDimSize = 6 7 8\n", ""),
        ("a.png", b"\x89PNG\r\n" + b"\1" * 99, ""),
    ],
)
def test_what_a_file_is(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    found = wrong_content(tmp_path / name)
    assert found.startswith(words)
    assert bool(found) == bool(words)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.nii.gz")
    assert wrong_content(tmp_path / "a.nii.gz") == "it is a pipe or a device. Expected a file"
    assert wrong_content(tmp_path) == "it is a folder. Expected a file"

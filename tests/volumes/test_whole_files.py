"""A compressed file is unpacked once, nothing of it may be missing, and nothing takes more memory than its voxels."""

from __future__ import annotations

import errno
import gzip
import io
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_assft.volumes import whole_files
from nnunet_assft.volumes.images import read_image
from nnunet_assft.volumes.whole_files import whole_file
from tests.volumes.damaged import AFFINE, DIM, VOXELS, patched, saved, shorts, with_value


def test_the_copy_is_the_unpacked_file_and_does_not_stay(tmp_path: Path) -> None:
    saved()(tmp_path / "a.nii.gz")
    with whole_file(tmp_path / "a.nii.gz") as whole:
        assert whole.name == "a.nii"
        assert whole.read_bytes() == gzip.decompress((tmp_path / "a.nii.gz").read_bytes())
    assert not whole.parent.exists()
    saved()(tmp_path / "b.nii")
    with whole_file(tmp_path / "b.nii") as whole:
        assert whole == tmp_path / "b.nii"


def test_a_compressed_file_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reader gets the copy. The header is unpacked once more, by itself."""
    unpacked: list[int] = []
    read = gzip.GzipFile.read

    def counting(stream: gzip.GzipFile, size: int | None = -1) -> bytes:
        block = read(stream, size)
        unpacked.append(len(block))
        return block

    asked: list[str] = []

    class Reader(SimpleITKIO):
        def read_images(self, image_fnames: Any) -> Any:
            asked.extend(image_fnames)
            return super().read_images(image_fnames)

    saved()(tmp_path / "a_0000.nii.gz")
    monkeypatch.setattr(gzip.GzipFile, "read", counting)
    read_image([tmp_path / "a_0000.nii.gz"], Reader())
    assert [Path(file).name for file in asked] == ["a_0000.nii"]
    assert [n for n in unpacked if n] == [540, 1024]  # the header once; 352 + 6 * 7 * 8 * 2 bytes once


def test_without_space_for_a_copy_the_file_itself_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, _: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def full(file: Any, mode: str = "r", *rest: Any) -> Any:
        return Full() if "w" in mode else open(file, mode, *rest)

    saved()(tmp_path / "a.nii.gz")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # other tests have their copies in the usual one
    monkeypatch.setattr(whole_files, "open", full, raising=False)
    with whole_file(tmp_path / "a.nii.gz") as whole:
        assert whole == tmp_path / "a.nii.gz"
    (tmp_path / "a.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes()[:-9])
    with pytest.raises(EOFError), whole_file(tmp_path / "a.nii.gz"):
        pass
    assert not list(tmp_path.glob("assft_*/a.nii"))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nan_is_an_error_unless_it_is_wanted(ending: str, tmp_path: Path) -> None:
    saved(with_value(np.nan))(tmp_path / f"a{ending}")
    with pytest.raises(ValueError, match="3 voxels are NaN or infinite"), whole_file(tmp_path / f"a{ending}"):
        pass
    with whole_file(tmp_path / f"a{ending}", finite=False) as whole:
        assert np.isnan(nibabel.load(whole).get_fdata()).sum() == 3


def test_values_are_told_apart_across_the_blocks_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With blocks of 101 bytes, the value that is NaN lies in two of them."""
    monkeypatch.setattr(whole_files, "BLOCK", 101)
    for i in range(0, 300, 7):
        array = VOXELS.astype(np.float64)
        array.T.flat[i] = np.nan
        for ending in (".nii", ".nii.gz"):
            saved(array)(tmp_path / f"a{ending}")
            with pytest.raises(ValueError, match=r"^1 voxels are NaN"), whole_file(tmp_path / f"a{ending}"):
                pass


def test_members_padding_and_other_data_at_the_end(tmp_path: Path) -> None:
    """Two gzip members are one file, and padding is allowed by gzip; other data is not."""
    file = tmp_path / "a.nii.gz"
    content = nibabel.Nifti1Image(VOXELS, AFFINE).to_bytes()
    for good in (gzip.compress(content[:500]) + gzip.compress(content[500:]), gzip.compress(content) + b"\0" * 64):
        file.write_bytes(good)
        with whole_file(file) as whole:
            assert whole.read_bytes() == content
    file.write_bytes(gzip.compress(content) + b"\n")
    with pytest.raises(ValueError, match="other data follows its compressed data"), whole_file(file):
        pass


def gigabytes_of_zeros(header: bytes) -> bytes:
    """A gzip file of a header and 2 GB of zeros, in 2 MB: the same compressed 16 MB again and again."""
    block = gzip.compress(b"\0" * 2**24, 9)
    return gzip.compress(header) + block * 128


MEASURED = """
import resource, sys, time
from pathlib import Path
import numpy as np
from nnunet_assft.active import experiment  # everything that a command imports
from nnunet_assft.annotation.label_files import read_returned_label
from nnunet_assft.volumes.grid import Grid
from nnunet_assft.dataset_conversion.voxels import read_volume
from nnunet_assft.volumes.images import read_image
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

IMAGE = Grid((2000, 2000, 2000), np.eye(4))  # for a label that its image would allow
before = peak()
for file in map(Path, sys.argv[1:]):
    for read in (
        lambda: read_image([file], SimpleITKIO()),
        lambda: read_image([file], NibabelIO()),
        lambda: read_returned_label(file, {"background": 0, "ball": 1}, IMAGE),
        lambda: read_volume(file),
    ):
        try:
            read()
        except Exception as error:
            assert "promises" in str(error), error
        else:
            raise AssertionError(file)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
def test_what_a_header_claims_costs_no_memory(tmp_path: Path) -> None:
    """8 GB are claimed or unpacked, and less than 200 MB are used: by every reader of images and labels."""
    whole = nibabel.Nifti1Image(VOXELS.astype(np.uint8), AFFINE).to_bytes()
    claims = whole[:DIM] + shorts(3, 2000, 2000, 2000) + whole[DIM + 8 :]
    (tmp_path / "claims.nii").write_bytes(claims)
    (tmp_path / "claims.nii.gz").write_bytes(gzip.compress(claims))
    (tmp_path / "bomb.nii.gz").write_bytes(gigabytes_of_zeros(whole))
    (tmp_path / "both.nii.gz").write_bytes(gigabytes_of_zeros(claims))
    command = [sys.executable, "-c", textwrap.dedent(MEASURED), *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200  # MB


def test_memory_that_is_not_free_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """6 x 7 x 8 voxels of 2 bytes, and 4 bytes each in the float32 array of the reader: 2016 bytes."""
    patched()(tmp_path / "a.nii.gz")
    monkeypatch.setattr("nnunet_assft.volumes.headers.ALWAYS_FREE", 0)
    monkeypatch.setattr("nnunet_assft.volumes.headers.free_memory", lambda: 2016)
    with whole_file(tmp_path / "a.nii.gz"):
        pass
    monkeypatch.setattr("nnunet_assft.volumes.headers.free_memory", lambda: 2015)
    with (
        pytest.raises(ValueError, match=r"its 6 x 7 x 8 voxels need .* GB of memory, .* are free"),
        whole_file(tmp_path / "a.nii.gz"),
    ):
        pass

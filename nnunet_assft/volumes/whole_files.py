"""The check that nothing of a file is missing or damaged. A compressed file is unpacked once for it and for its reader.

ITK fills a NIfTI file that is cut off with zeros, reads its NaN as 0 and ignores checksums, all without an error, so
that a network would learn from voxels that no scanner saw.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np

from nnunet_assft.volumes.contents import GZIP, OtherContentError, wrong_content
from nnunet_assft.volumes.headers import GZIPPED, NIFTI_2, PLAIN, ZLIB, Header, has_header, read_header, require_bounded
from nnunet_assft.volumes.nifti import is_nifti
from nnunet_assft.volumes.one_file import refuse_unsafe

BLOCK = 2**20  # bytes that are in memory at once
SURPLUS = 2**20  # bytes that may follow the voxels


def require_readable(file: Path, *, by_itk: bool = False) -> Header | None:
    """Check what a file says about itself, before any voxel is read. Returns its header, None for formats without one.

    by_itk: see `read_header`. Raises ValueError, OSError or EOFError, whose text says what is wrong with it: it is
    missing, or too short or too large for what its header promises; and `OtherContentError` if it is something else
    than its name says.
    """
    if not file.exists():
        missing = "it is a link to a file that does not exist" if file.is_symlink() else "it does not exist"
        raise FileNotFoundError(missing)
    other = wrong_content(file)
    if other:
        raise OtherContentError(other)
    if not is_nifti(file):  # whose header is read below
        refuse_unsafe(file)
    if not has_header(file):
        return None
    header = read_header(file, by_itk=by_itk)
    require_bounded(file, header)
    if header.refused and not header.is_skewed:
        if header.refused == NIFTI_2:
            raise OtherContentError(NIFTI_2)
        _read_through(file, header, None, finite=False)  # ITK may have met damage, of which it says little
        raise ValueError(f"ITK refuses its header: {header.refused}")
    return header


@contextmanager
def whole_file(file: Path, *, finite: bool = True) -> Iterator[Path]:
    """Check a file as `require_readable` and `unpacked` do. Yields the file from which to read it, and raises their
    errors."""
    with unpacked(file, require_readable(file), finite=finite) as whole:
        yield whole


@contextmanager
def unpacked(file: Path, header: Header | None, *, finite: bool = True) -> Iterator[Path]:
    """Check that nothing of a file is missing or damaged. Yields the file from which to read it.

    Of a .nii.gz that is a copy in a temporary folder, which was unpacked by the check; if there is no space for it, the
    file itself. header: the result of `require_readable`. finite: whether NaN and infinity in a NIfTI file are errors.
    Raises ValueError, OSError, EOFError or zlib.error for a damaged file.
    """
    with ExitStack() as stack:
        copy = None
        if header is not None and header.packing == GZIPPED and is_nifti(file):
            folder = stack.enter_context(TemporaryDirectory(prefix="assft_"))
            copy = _Copy(Path(folder) / file.name[: -len(".gz")])
        if header is not None:
            _read_through(file, header, copy, finite=finite)
        yield copy.path if copy and copy.is_whole else file


class _Copy:
    """A file that is given up if the disk is full."""

    def __init__(self, path: Path) -> None:
        self.path, self.is_whole = path, True

    def write(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """Write the blocks and yield them."""
        with open(self.path, "wb") as target:
            for block in blocks:
                self.is_whole = self.is_whole and self._put(target, block)
                yield block
            self.is_whole = self.is_whole and self._put(target, b"")

    def _put(self, target: BinaryIO, block: bytes) -> bool:
        try:
            target.write(block)
            target.flush()
        except OSError:
            return False
        return True


def _read_through(file: Path, header: Header, copy: _Copy | None, *, finite: bool) -> None:
    """Read a file to its end, where the checksums of its compression are compared."""
    in_stream = is_nifti(file) and header.packing == GZIPPED  # the header is compressed with the voxels
    promised = header.stored_bytes + (header.start if in_stream else 0)
    # nnU-Net's readers show the NaN of other formats
    checks_values = finite and is_nifti(file) and header.stored.kind == "f"
    if header.packing not in (GZIPPED, ZLIB) and not (header.packing == PLAIN and checks_values):
        return
    n, bad, rest = 0, 0, b""
    with open(file, "rb") as stream:
        stream.seek(0 if in_stream else header.start)
        blocks: Iterable[bytes] = (
            _inflated(stream, header.packed) if header.packing == ZLIB else _blocks(stream, header.packing)
        )
        for block in copy.write(blocks) if copy else blocks:
            if checks_values:
                skipped = max(0, header.start - n) if in_stream else 0
                values = rest + block[skipped : max(0, promised - n)]
                whole = len(values) - len(values) % header.stored.itemsize
                bad += _not_finite(values[:whole], header.stored)
                rest = values[whole:]
            n += len(block)
            if n > promised + SURPLUS and header.packing != PLAIN:
                raise ValueError(f"its header promises {promised:,} bytes, but more come out of the compressed file")
    if n < promised:
        raise ValueError(f"its header promises {promised:,} bytes, but only {n:,} come out of the file")
    if bad:
        raise ValueError(f"{bad} voxels are NaN or infinite")


def _blocks(stream: BinaryIO, packing: str) -> Iterator[bytes]:
    start = stream.tell()
    begins = stream.read(len(GZIP)) == GZIP
    stream.seek(start)
    source: Any = stream if packing == PLAIN else gzip.GzipFile(fileobj=stream)
    try:
        while block := source.read(BLOCK):
            yield block
    except gzip.BadGzipFile as error:
        if begins and "Not a gzipped file" in str(error):
            raise ValueError("other data follows its compressed data") from error
        raise


def _inflated(stream: BinaryIO, size: int) -> Iterator[bytes]:
    """size: bytes of the compressed data, of which a reader takes no more."""
    unpacker = zlib.decompressobj()
    while block := stream.read(min(size, BLOCK)):
        size -= len(block)
        while block and not unpacker.eof:
            yield unpacker.decompress(block, BLOCK)
            block = unpacker.unconsumed_tail
    yield unpacker.flush()
    if not unpacker.eof:
        raise EOFError("its compressed data ends before the end-of-stream marker was reached")


def _not_finite(block: bytes, stored: np.dtype[Any]) -> int:
    return int((~np.isfinite(np.frombuffer(block, stored))).sum())

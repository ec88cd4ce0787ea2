"""The choice of one of nnU-Net's readers for all files of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES, recursive_find_reader_writer_by_name

from nnunet_assft.errors import AssftError
from nnunet_assft.volumes.whole_files import require_readable

# nnU-Net's readers of files with one channel, three dimensions and a position in space
PLAIN_READERS = ("SimpleITKIO", "NibabelIO", "NibabelIOWithReorient")
TRIED = 5  # cases; one unusual or damaged file must not decide for all


def reader_named(name: str) -> BaseReaderWriter:
    """Return nnU-Net's reader with this name. Raises `AssftError` if the installed version has none."""
    try:
        reader: type[BaseReaderWriter] = recursive_find_reader_writer_by_name(name)
    except RuntimeError as error:
        raise AssftError(f"The installed nnU-Net has no reader {name}. Install the version that has it.") from error
    return reader()


def choose_reader(dataset_json: Mapping[str, Any], images: Mapping[str, Sequence[Path]]) -> BaseReaderWriter:
    """Return the reader that dataset.json names or, if it names none, the first of nnU-Net's readers for this file
    ending that can read one of the first cases.

    dataset_json: checked, see `dataset_json`. images: case -> its files, in a fixed order. If no reader can read one
    of these cases, it is the first one, and the damage is reported when all images are checked.
    """
    name = dataset_json.get("overwrite_image_reader_writer", "None")
    if name != "None":
        return reader_named(name)
    ending = dataset_json["file_ending"]
    readers = [reader() for reader in LIST_OF_IO_CLASSES if ending in reader.supported_file_endings]
    for reader in readers:
        if any(_reads(reader, files[0]) for files in islice(images.values(), TRIED)):
            return reader
    return readers[0]


def _reads(reader: BaseReaderWriter, file: Path) -> bool:
    try:
        require_readable(file)  # a header may claim more voxels than the memory can hold
        with redirect_stderr(StringIO()):
            reader.read_images([str(file)])
    except Exception:  # readers raise exceptions of many types
        return False
    return True

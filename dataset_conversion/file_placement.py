"""Put files of a dataset under their final names, as links, copies or rewritten labels. Every file is written
atomically."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import nibabel
import numpy as np
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

from nnunet_assft.dataset_conversion.scan import PlannedCase
from nnunet_assft.dataset_conversion.voxels import SourceVolume, Voxels
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import atomic_path, write_bytes
from nnunet_assft.runtime.partial import PARTIAL, private_path
from nnunet_assft.runtime.processes import number_of_processes

# mode -> what is tried, in this order
FALLBACKS = {"link": ("link", "hardlink", "copy"), "hardlink": ("hardlink", "link", "copy"), "copy": ("copy",)}
COMPRESSION = 4  # gzip level of rewritten labels
COPIES_IN_MEMORY = 3  # of a volume: the bytes of the file, the array, and a rewritten label with its bytes


def place(source: Path, target: Path, mode: str) -> None:
    """Make `target` an absolute symbolic link, a hard link or a copy of `source`. An existing target is replaced
    atomically."""
    if mode == "copy":
        with atomic_path(target) as partial:
            shutil.copyfile(source, partial)
        return
    with private_path(target) as partial:
        if mode == "hardlink":
            os.link(os.path.realpath(source), partial)
        else:
            partial.symlink_to(os.path.abspath(source))
        os.replace(partial, target)  # does nothing if both names are hard links of the same file


def possible_mode(mode: str, sources: Iterable[Path], folder: Path) -> tuple[str, str]:
    """Return the mode that works from all file systems of `sources` into `folder`, and a sentence if it is not `mode`.

    Tries every mode with one file of each file system, under a temporary name.
    """
    per_device = {source.stat().st_dev: source for source in sources}
    wanted = "link" if mode == "reference" else mode  # imagesTs cannot be given by reference
    reason = ""
    for candidate in FALLBACKS[wanted]:
        try:
            for source in per_device.values():
                if candidate != "copy":
                    trial = folder / f"{PARTIAL}_trial_{os.getpid()}"
                    place(source, trial, candidate)
                    trial.unlink()
        except OSError as error:
            reason = reason or str(error.strerror or error)
            continue
        if candidate == wanted:
            return mode, ""
        return (
            candidate,
            f"--mode {mode} is not possible in {folder} ({reason}); files are placed with --mode {candidate} instead.",
        )
    raise AssertionError("copying needs no trial")


def in_orientation_of(array: Voxels, label: SourceVolume, image: SourceVolume) -> Voxels:
    """Return the label with its axes in the order and direction of those of the image."""
    turn = ornt_transform(io_orientation(label.header.affine), io_orientation(image.header.affine))
    return np.asarray(apply_orientation(array, turn), dtype=array.dtype)


def write_label(target: Path, array: Voxels, image: SourceVolume) -> None:
    """Write a label with the geometry of its image. The bytes of the file depend only on voxels and geometry."""
    header = image.nifti.copy()
    header.set_data_dtype(array.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    header.extensions.clear()
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    data = kind(array, image.header.affine, header).to_bytes()
    if target.name.endswith(".gz"):
        data = gzip.compress(data, COMPRESSION, mtime=0)
    write_bytes(target, data)


def processes_for(cases: Sequence[PlannedCase], requested: int | None) -> int:
    """Return the number of processes that read these cases, so that each can hold the largest volume in memory."""
    return number_of_processes(
        requested,
        total_bytes=sum(case.image_bytes + case.label_bytes for case in cases),
        bytes_per_process=COPIES_IN_MEMORY * max((case.memory for case in cases), default=0),
    )


def require_space(folder: Path, needed: int) -> None:
    """Raise `AssftError` if `needed` bytes do not fit on the disk of `folder`."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise AssftError(
            f"{existing} has {free / 1e9:.1f} GB free, but {needed / 1e9:.1f} GB are needed. Free some space, or use "
            "--mode link."
        )

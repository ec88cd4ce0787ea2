"""Preprocessing of images once and without labels, and of a label only when its case may be used for training."""

from __future__ import annotations

import hashlib
import math
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_assft.errors import AssftError, DamagedFileError
from nnunet_assft.nnunet_names import CONFIGURATION
from nnunet_assft.planning import normalization  # noqa: F401 - registers its schemes, also in spawned workers
from nnunet_assft.runtime.cached import cached_or_none, keep, kept_result
from nnunet_assft.runtime.cases import Executor, for_each_case, here
from nnunet_assft.runtime.files import atomic_path, sha256_file
from nnunet_assft.runtime.locks import only_process
from nnunet_assft.runtime.partial import private_path
from nnunet_assft.runtime.text import count, some
from nnunet_assft.runtime.untrusted import load_pickle
from nnunet_assft.volumes.headers import require_memory
from nnunet_assft.volumes.images import read_image

ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")


@dataclass(frozen=True)
class _Job:
    case: str
    images: tuple[Path, ...]
    images_sha256: str
    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    folder: Path


# six parameters: the images and all that nnU-Net's preprocessing needs
def preprocess_images(
    images: Mapping[str, tuple[Path, ...]],
    images_sha256: Mapping[str, str],
    plans: dict[str, Any],
    dataset_json: dict[str, Any],
    folder: Path,
    *,
    executor: Executor = here,
) -> None:
    """Run nnU-Net's preprocessing on images without labels.

    Writes CASE.b2nd, CASE_seg.b2nd (0, and -1 outside the nonzero region) and CASE.pkl to `folder`, and their checksums
    to its subfolder. Cases that were preprocessed from the same images are kept, so that an
    interrupted call can be repeated. images_sha256: checksums of the images, see `fingerprint.check_images`.
    """

    jobs = {case: _Job(case, files, images_sha256[case], plans, dataset_json, folder) for case, files in images.items()}

    def done(case: str) -> dict[str, str] | None:
        return _made(folder, case, images_sha256[case])

    if all(map(done, images)):
        return
    # experiments that are planned at the same time share the images: one preprocesses them, and the others wait
    lock = checksum_file(folder, "").with_name(".lock")
    with only_process(lock, f"the preprocessed images in {folder}", patience=math.inf):
        for_each_case(_preprocess, jobs, desc="preprocessing", done=done, executor=executor)


def _made(folder: Path, case: str, images_sha256: str) -> dict[str, str] | None:
    """Return the checksums of the preprocessed files of a case, or None if a file is missing or the images have
    changed. The files are not read: whoever reads them compares the checksums."""
    checksums: dict[str, str] | None = cached_or_none(checksum_file(folder, case), {"images": images_sha256})
    return checksums if checksums and all((folder / name).is_file() for name in checksums) else None


def made_from_others(folder: Path, case: str, images_sha256: str) -> bool:
    """Return whether a case was preprocessed from images with another checksum."""
    file = checksum_file(folder, case)
    return file.is_file() and cached_or_none(file, {"images": images_sha256}) is None


def preprocess(
    images: tuple[Path, ...], plans: dict[str, Any], dataset_json: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Read and check an image, and preprocess it with nnU-Net's preprocessing.

    Returns the image, (channels, z, y, x) float32; the same of nnU-Net's mask, which is -1 outside the nonzero region;
    and the properties with which a prediction is resampled to the original grid. Raises an `AssftError` for an image
    that cannot be used.
    """
    plans_manager = PlansManager(plans)
    configuration = plans_manager.get_configuration(CONFIGURATION)
    read = read_image(images, plans_manager.image_reader_writer_class(), len(dataset_json["channel_names"]))
    require_room_to_resample(read.array.shape[1:], read.properties["spacing"], plans)
    preprocessor = configuration.preprocessor_class(verbose=False)
    data, seg, properties = preprocessor.run_case_npy(
        read.array, None, read.properties, plans_manager, configuration, dataset_json
    )
    return data.astype(np.float32, copy=False), seg.astype(np.int16, copy=False), properties


def require_room_to_resample(shape: Sequence[int], spacing: Sequence[float], plans: dict[str, Any]) -> None:
    """Raise an `AssftError` if an image has no voxels left when it is resampled to the spacing of the plans, or so many
    that they do not fit into the free memory.

    shape, spacing: of the image, (z, y, x).
    """
    configuration = plans["configurations"][CONFIGURATION]
    target = [configuration["spacing"][axis] for axis in plans["transpose_backward"]]
    new = [int(n) for n in compute_new_shape(shape, spacing, target)]
    what = (
        f"its {_by(shape)} voxels of {_by(spacing)} mm become {_by(new)} at the spacing of the plans, {_by(target)} mm"
    )
    if min(new) < 1:
        raise AssftError(f"{what}. Correct the spacing in its header")
    n_channels = len(configuration["normalization_schemes"])
    try:
        require_memory(math.prod(new) * (n_channels * 4 + 2), f"{what}, which need")  # float32, and an int16 mask
    except ValueError as error:
        raise AssftError(f"{error}. Correct the spacing in its header, or use a machine with more memory") from error


def require_room_for_all(cases: Mapping[str, tuple[Sequence[int], Sequence[float]]], plans: dict[str, Any]) -> None:
    """Raise an `AssftError` that names the cases that `require_room_to_resample` refuses. cases: case -> shape and
    spacing, (z, y, x)."""
    refused = []
    for case, (shape, spacing) in cases.items():
        try:
            require_room_to_resample(shape, spacing, plans)
        except AssftError as error:  # noqa: PERF203 - every case is to be named
            refused.append(f"{case}: {error}")
    if refused:
        raise AssftError(f"{count(len(refused), 'image')} cannot be preprocessed ({some(refused, 3, '; ')}).")


def _by(numbers: Sequence[float]) -> str:
    """Return (z, y, x) as "x x y x z"."""
    return " x ".join(f"{number:.5g}" if isinstance(number, float) else str(number) for number in numbers[::-1])


def _preprocess(job: _Job) -> dict[str, str]:
    try:
        data, seg, properties = preprocess(job.images, job.plans, job.dataset_json)
    except AssftError as error:
        raise AssftError(f"{job.case}: {error}") from error
    patch_size = tuple(job.plans["configurations"][CONFIGURATION]["patch_size"])
    blocks, chunks = comp_blosc2_params(data.shape, patch_size, data.itemsize)
    blocks_seg, chunks_seg = comp_blosc2_params(seg.shape, patch_size, seg.itemsize)
    with private_path(job.folder) as scratch:
        scratch.mkdir()
        nnUNetDatasetBlosc2.save_case(
            data, seg, properties, str(scratch / job.case), chunks, blocks, chunks_seg=chunks_seg, blocks_seg=blocks_seg
        )
        made = _made(job.folder, job.case, job.images_sha256)
        if made:  # meanwhile by another process, and somebody may be reading it
            return made
        names = [f"{job.case}{ending}" for ending in ENDINGS]
        checksums = {name: sha256_file(scratch / name) for name in names}
        for name in names:
            os.replace(scratch / name, job.folder / name)
    keep(checksum_file(job.folder, job.case), {"images": job.images_sha256}, checksums)
    return checksums


def forget(folder: Path, case: str) -> None:
    """Have `preprocess_images` make the files of a case again."""
    checksum_file(folder, case).unlink(missing_ok=True)


def checksum_file(folder: Path, case: str) -> Path:
    """Return the file with the checksums of the preprocessed files of a case: not among them, because nnU-Net tells the
    kind of a folder by the endings of all its files."""
    return folder / "checksums" / f"{case}.json"


def whole_files(folder: Path, case: str) -> dict[str, str]:
    """Return name -> checksum of the preprocessed files of a case.

    folder: that of `preprocess_images` or of `write_training_label`. Raises `DamagedFileError` if one of the files is
    not what was written.
    """
    for ending in ENDINGS:
        _whole_file(folder, case, ending)
    return checksums_of(folder, case)


def checksums_of(folder: Path, case: str) -> dict[str, str]:
    """Return the same as `whole_files` from the record alone; the files themselves are not read."""
    checksums: dict[str, str] = kept_result(checksum_file(folder, case), "It is made again.")
    return checksums


def load_image(folder: Path, case: str) -> np.ndarray:
    """Return the preprocessed image, (channels, z, y, x) float32. Raises `DamagedFileError` if its file was altered."""
    return _array(_whole_file(folder, case, ".b2nd"))


def load_properties(folder: Path, case: str) -> dict[str, Any]:
    """Return the properties needed to resample a prediction to the original grid, as `preprocess_images` wrote them.

    Raises `DamagedFileError` if their file was altered.
    """
    _whole_file(folder, case, ".pkl")
    file = folder / f"{case}.pkl"
    try:
        properties: dict[str, Any] = load_pickle(file)
    except ValueError as error:
        raise DamagedFileError(f"{file} cannot be read ({error}). It is made again.") from error
    return properties


def _whole_file(folder: Path, case: str, ending: str) -> bytes:
    """Return the content of a file of a case. Raises `DamagedFileError` if it is not what was written."""
    file, expected = folder / f"{case}{ending}", checksums_of(folder, case)
    content = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(content).hexdigest() != expected.get(file.name):
        raise DamagedFileError(f"{file} does not match its checksum. It is made again.")
    return content


def _array(content: bytes) -> np.ndarray:
    """Return the array in the content of a b2nd file. `blosc2.open` may run code that the file carries; this does
    not."""
    return np.asarray(blosc2.ndarray_from_cframe(content)[:])


# six parameters: the label, its folders, and what nnU-Net's preprocessing needs
def write_training_label(
    label: np.ndarray,
    case: str,
    image_folder: Path,
    target_folder: Path,
    plans: dict[str, Any],
    dataset_json: dict[str, Any],
) -> None:
    """Write CASE_seg.b2nd and CASE.pkl as if nnU-Net had preprocessed image and label together, beside CASE.b2nd.

    label: (1, z, y, x) on the grid of the raw image. The value -1 outside the nonzero region of the image is kept. If
    no resampling is needed, the result equals that of nnU-Net in every voxel.
    """
    plans_manager = PlansManager(plans)
    configuration = plans_manager.get_configuration(CONFIGURATION)
    label_manager = plans_manager.get_label_manager(dataset_json)
    properties = load_properties(image_folder, case)
    outside = _array(_whole_file(image_folder, case, "_seg.b2nd")) == -1
    seg = label.transpose([0, *(axis + 1 for axis in plans_manager.transpose_forward)])
    z, y, x = (slice(low, high) for low, high in properties["bbox_used_for_cropping"])
    seg = seg[:, z, y, x]
    spacing = [properties["spacing"][axis] for axis in plans_manager.transpose_forward]
    seg = configuration.resampling_fn_seg(seg.astype(np.float32), outside.shape[1:], spacing, configuration.spacing)
    seg = np.asarray(seg).astype(np.int16)
    seg[(seg == 0) & outside] = -1
    classes: list[Any] = list(label_manager.foreground_labels)
    if label_manager.has_ignore_label:
        classes.append([-1, *label_manager.all_labels])
    preprocessor = configuration.preprocessor_class
    properties["class_locations"] = preprocessor._sample_foreground_locations(seg, classes)
    blocks, chunks = comp_blosc2_params(seg.shape, tuple(configuration.patch_size), seg.itemsize)
    nnUNetDatasetBlosc2.save_seg(
        np.ascontiguousarray(seg), str(target_folder / f"{case}_seg"), chunks_seg=chunks, blocks_seg=blocks
    )
    with atomic_path(target_folder / f"{case}.pkl") as partial, open(partial, "wb") as file:
        pickle.dump(properties, file)

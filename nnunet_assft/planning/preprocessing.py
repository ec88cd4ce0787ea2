"""Preprocessing of images once and without labels, and of a label only when its case may be used for training."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_assft.planning import normalization  # noqa: F401 - registers its schemes, also in spawned workers
from nnunet_assft.planning.planner import CONFIGURATION
from nnunet_assft.runtime.cached import cached, cached_or_none
from nnunet_assft.runtime.cases import for_each_case, in_processes
from nnunet_assft.runtime.files import atomic_path, signature
from nnunet_assft.runtime.partial import private_path

ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")


@dataclass(frozen=True)
class _Job:
    case: str
    images: tuple[Path, ...]
    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    folder: Path


def preprocess_images(
    images: dict[str, tuple[Path, ...]],
    plans: dict[str, Any],
    dataset_json: dict[str, Any],
    folder: Path,
    *,
    num_processes: int = 1,
) -> None:
    """Run nnU-Net's preprocessing on images without labels.

    Writes CASE.b2nd, CASE_seg.b2nd (0, and -1 outside the nonzero region) and CASE.pkl to `folder`. Cases that were
    preprocessed from the same images are kept, so that an interrupted call can be repeated.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for_each_case(
        _preprocess_once,
        {case: _Job(case, files, plans, dataset_json, folder) for case, files in images.items()},
        desc="preprocessing",
        done=lambda case: _made(folder, case, images[case]),
        executor=in_processes(num_processes),
    )


def _made(folder: Path, case: str, images: tuple[Path, ...]) -> list[str] | None:
    """Return the names of the preprocessed files of a case, or None if they are missing or the images have changed."""
    return cached_or_none(folder / f"{case}.json", signature(images), outputs=partial(_files, folder))


def _preprocess_once(job: _Job) -> list[str]:
    file = job.folder / f"{job.case}.json"
    return cached(file, signature(job.images), lambda: _preprocess(job), outputs=partial(_files, job.folder))


def _files(folder: Path, names: list[str]) -> list[Path]:
    return [folder / name for name in names]


def _preprocess(job: _Job) -> list[str]:
    plans_manager = PlansManager(job.plans)
    configuration = plans_manager.get_configuration(CONFIGURATION)
    preprocessor = configuration.preprocessor_class(verbose=False)
    files = [str(file) for file in job.images]
    with private_path(job.folder) as scratch:
        scratch.mkdir()
        preprocessor.run_case_save(str(scratch / job.case), files, None, plans_manager, configuration, job.dataset_json)
        if _made(job.folder, job.case, job.images):  # meanwhile by another process, and somebody may be reading it
            return _names(job.case)
        for ending in ENDINGS:
            os.replace(scratch / f"{job.case}{ending}", job.folder / f"{job.case}{ending}")
    return _names(job.case)


def _names(case: str) -> list[str]:
    return [f"{case}{ending}" for ending in ENDINGS]


def load_image(folder: Path, case: str) -> np.ndarray:
    """Return the preprocessed image, (channels, z, y, x) float32."""
    return np.asarray(blosc2.open(urlpath=str(folder / f"{case}.b2nd"), mode="r", mmap_mode="r")[:])


def load_properties(folder: Path, case: str) -> dict[str, Any]:
    """Return the properties needed to resample a prediction to the original grid, as `preprocess_images` wrote them."""
    with open(folder / f"{case}.pkl", "rb") as file:
        properties: dict[str, Any] = pickle.load(file)
    return properties


# six parameters: the label, its folders, and what nnU-Net's preprocessing needs
def write_training_label(
    label: np.ndarray,
    case: str,
    image_folder: Path,
    target_folder: Path,
    plans: dict[str, Any],
    dataset_json: dict[str, Any],
) -> None:
    """Write CASE_seg.b2nd and CASE.pkl as if nnU-Net had preprocessed image and label together.

    label: (1, z, y, x) on the grid of the raw image. The value -1 outside the nonzero region of the image is kept. If
    no resampling is needed, the result equals that of nnU-Net in every voxel.
    """
    plans_manager = PlansManager(plans)
    configuration = plans_manager.get_configuration(CONFIGURATION)
    label_manager = plans_manager.get_label_manager(dataset_json)
    properties = load_properties(image_folder, case)
    outside = blosc2.open(urlpath=str(image_folder / f"{case}_seg.b2nd"), mode="r")[:] == -1
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

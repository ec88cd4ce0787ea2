"""The images of a pre-training: those of the pool, and of further folders. No label and no test image is among them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_assft.active.context import Context
from nnunet_assft.errors import AssftError
from nnunet_assft.planning.fingerprint import check_images, sizes_of
from nnunet_assft.planning.preprocessing import (
    checksum_file,
    checksums_of,
    preprocess_images,
    require_room_for_all,
    whole_files,
)
from nnunet_assft.runtime.files import sha256_of
from nnunet_assft.runtime.text import count, named
from nnunet_assft.runtime.writable import readable_folder
from nnunet_assft.volumes.image_files import list_images


@dataclass(frozen=True)
class Images:
    """Preprocessed images. files: the .b2nd files. checksums: of these files. sources: checksums of the images from
    which they were made. All in the same order."""

    files: tuple[Path, ...]
    checksums: tuple[str, ...]
    sources: tuple[str, ...]


def collect_images(context: Context, folders: Sequence[Path]) -> Images:
    """Return the images of the pool and those of further folders, which are preprocessed by the same plans first.

    An image that is there twice is taken once. Raises `AssftError` for a folder with a test image, or with one that was
    withdrawn, whatever its name: an image is known by the checksum of its preprocessed voxels. The files of these
    images are not opened.
    """
    experiment, folder_of_images = context.experiment, context.image_folder
    now = experiment.now
    found = [
        (folder_of_images / f"{case}.b2nd", _checksum(context.whole_files(case), case), context.images_sha256[case])
        for case in sorted(now.left)
    ]
    left = [case for case in experiment.withdrawn if checksum_file(folder_of_images, case).is_file()]
    test, withdrawn = (_case_of_checksum(folder_of_images, cases) for cases in (now.test, left))
    for folder in folders:
        others = list(_preprocessed(context, folder))
        if seen := [test[sha256] for _, sha256, _ in others if sha256 in test]:
            raise AssftError(
                f"--images {folder} holds the {named('test image', seen)} of experiment {experiment.name!r}. Remove "
                "them: an encoder that has seen the test cases cannot be judged by them."
            )
        if seen := [withdrawn[sha256] for _, sha256, _ in others if sha256 in withdrawn]:
            raise AssftError(
                f"--images {folder} holds the {named('image', seen)}, withdrawn from experiment {experiment.name!r}. "
                "Remove them."
            )
        found += others
    once: dict[str, tuple[Path, str]] = {}
    for file, sha256, source in found:
        once.setdefault(sha256, (file, source))
    return Images(tuple(file for file, _ in once.values()), tuple(once), tuple(source for _, source in once.values()))


def _preprocessed(context: Context, folder: Path) -> Iterator[tuple[Path, str, str]]:
    """Preprocess the images of a folder, unless that was done before, and yield each file with its checksum and that of
    the image it was made from."""
    if what := readable_folder(folder):
        raise AssftError(f"--images {folder} {what}. Name a folder of images such as CASE_0000.nii.gz.")
    dataset, plans = context.dataset, context.plans
    listed = list_images(folder, dataset.file_ending, list(dataset.dataset_json["channel_names"].values()), any_id=True)
    if listed.is_empty:
        raise AssftError(f"--images {folder}: {listed.describe_emptiness()}")
    listed.require_sound()
    # absolute, because parts work in other folders
    images = {case: tuple(file.absolute() for file in files) for case, files in listed.cases.items()}
    target = context.image_folder.with_name(f"{context.image_folder.name}_{sha256_of(str(folder.resolve()))[:8]}")
    executor = context.engine.images(context.paths.jobs, images)
    checksums = check_images(images, dataset.reader, target / "fingerprint", executor=executor)
    require_room_for_all(sizes_of(images, target / "fingerprint"), plans)
    preprocess_images(images, checksums, plans, dataset.dataset_json, target, executor=executor)
    for case in images:
        yield target / f"{case}.b2nd", _checksum(whole_files(target, case), case), checksums[case]


def _case_of_checksum(folder: Path, cases: Iterable[str]) -> dict[str, str]:
    """Return checksum of the preprocessed image -> case. The images are not opened."""
    return {_checksum(checksums_of(folder, case), case): case for case in cases}


def _checksum(checksums: Mapping[str, str], case: str) -> str:
    return checksums[f"{case}.b2nd"]


def describe(n_images: int, n_pool: int) -> str:
    """Return in words how many images there are, and how many of them are not of the pool."""
    more = n_images - n_pool
    return count(n_pool, "image") + " of the pool" + (f" and {count(more, 'further image')}" if more else "")

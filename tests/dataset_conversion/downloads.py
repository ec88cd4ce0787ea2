"""Small downloads as users unpack them: right names and folders, and the dirt that comes with archives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from nnunet_assft.dataset_conversion.datasets import ABDOMEN_ATLAS_STRUCTURES, AMOS_STRUCTURES
from nnunet_assft.phantom import phantom_case
from tests.conftest import SHARED_DATA

SHAPE = (12, 10, 8)  # x, y, z
SPACING = (4.0, 4.0, 5.0)  # mm
AFFINE = np.diag([*SPACING, 1.0])
EXAMPLES = SHARED_DATA / "totalseg_example"


def ct(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Air, soft tissue and bone in HU, another one for each seed."""
    image = np.random.default_rng(seed).integers(0, 100, shape).astype(np.int16)
    image[:2] = -1000
    image[-1] = 700
    return image


def mr(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 900, shape).astype(np.int16)


def label(*values: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Ten voxels of each value: the k-th value lies at x = k + 1, z = 1."""
    array = np.zeros(shape, np.uint8)
    for k, value in enumerate(values):
        array[k % 11 + 1, :, 1 + k // 11] = value
    return array


def save(file: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), file)
    return file


def reoriented(array: np.ndarray, axes: str, affine: np.ndarray = AFFINE) -> tuple[np.ndarray, np.ndarray]:
    """The same volume stored in another orientation, such as LPS."""
    image = nibabel.Nifti1Image(array, affine)
    turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(axes))
    turned = image.as_reoriented(turn)
    return np.asarray(turned.dataobj), turned.affine


def litter(root: Path) -> None:
    """What macOS puts into a zip, and files that are no images."""
    for file in sorted(root.rglob("*.nii.gz"))[:3]:
        (file.parent / f"._{file.name}").write_bytes(b"\x00\x05\x16\x07")
        ghost = root / "__MACOSX" / file.relative_to(root)
        ghost.parent.mkdir(parents=True, exist_ok=True)
        ghost.write_bytes(b"\x00\x05\x16\x07")
    (root / "readme.md").write_text("read me")


AMOS_CT_POOL, AMOS_CT_TEST = ("amos_0001", "amos_0004", "amos_0005"), ("amos_0008", "amos_0013")
AMOS_MR_POOL, AMOS_MR_TEST = ("amos_0507", "amos_0510"), ("amos_0554",)


def amos(root: Path, *, objects: bool = True) -> Path:
    """`amos22` with CT and MR. Every second case is stored as LPS. `arota` is spelled as in the official file.

    objects: whether validation and test are lists of objects with the key `image`, or else of plain paths.
    """
    folder = root / "amos22"
    for part, names in (("Tr", AMOS_CT_POOL + AMOS_MR_POOL), ("Va", AMOS_CT_TEST + AMOS_MR_TEST)):
        for name in names:
            number = int(name[-4:])
            image, mask = (ct if number < 500 else mr)(number), label(*range(1, 14 if number == 507 else 16))
            axes = "LPS" if number % 2 else "RAS"
            save(folder / f"images{part}/{name}.nii.gz", *reoriented(image, axes))
            save(folder / f"labels{part}/{name}.nii.gz", *reoriented(mask, axes))
    save(folder / "imagesTs/amos_0003.nii.gz", ct(3))
    structures = [name if name != "aorta" else "arota" for name in AMOS_STRUCTURES]

    def listed(part: str, names: Iterable[str], *, with_label: bool) -> list[Any]:
        images = [f"./images{part}/{name}.nii.gz" for name in names]
        labels = [f"./labels{part}/{name}.nii.gz" for name in names]
        if with_label:
            return [{"image": image, "label": mask} for image, mask in zip(images, labels, strict=True)]
        return [{"image": image} for image in images] if objects else images

    content = {
        "name": "AMOS",
        "modality": {"0": "CT"},
        "labels": {"0": "background", **{str(i): name for i, name in enumerate(structures, 1)}},
        "training": listed("Tr", AMOS_CT_POOL + AMOS_MR_POOL, with_label=True),
        "validation": listed("Va", AMOS_CT_TEST + AMOS_MR_TEST, with_label=objects),
        "test": listed("Ts", ("amos_0003",), with_label=False),
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    litter(root)
    return root


def amos_of_phantoms(root: Path) -> Path:
    """Six training and two validation CT with five organs under the names of AMOS, without dataset.json."""
    names = ("liver", "spleen", "right kidney", "left kidney", "stomach")  # of the phantom's labels 1 to 5
    ids = np.array([0, *(AMOS_STRUCTURES.index(name) + 1 for name in names)], np.uint8)
    for i in range(8):
        image, organs, spacing, _ = phantom_case(0, i)
        affine = np.diag([*spacing[::-1], 1.0])
        part = "Tr" if i < 6 else "Va"
        save(root / f"amos22/images{part}/amos_{i + 1:04d}.nii.gz", image.transpose(2, 1, 0), affine)
        save(root / f"amos22/labels{part}/amos_{i + 1:04d}.nii.gz", ids[organs.transpose(2, 1, 0)], affine)
    return root


def flare21(root: Path, n: int = 5) -> Path:
    """Training images in two sub-folders, masks without `_0000`, unlabelled validation images."""
    for i in range(n):
        save(root / f"TrainingImg/part{i % 2 + 1}/train_{i:03d}_0000.nii.gz", ct(i))
        save(root / f"TrainingMask/train_{i:03d}.nii.gz", label(1, 2, 3, 4))
    save(root / "ValidationImg/validation_001_0000.nii.gz", ct(99))
    litter(root)
    return root


def abdomen_atlas_case(folder: Path, number: int, *, combined: bool, image: bool = True, labels: bool = True) -> None:
    case = folder / f"BDMAP_{number:08d}"
    if image:
        save(case / "ct.nii.gz", ct(number))
    if labels and combined:
        save(case / "combined_labels.nii.gz", label(*range(1, 26), shape=SHAPE))
    elif labels:
        whole = label(*range(1, 26), shape=SHAPE)
        for value, name in enumerate(ABDOMEN_ATLAS_STRUCTURES, 1):
            save(case / f"segmentations/{name}.nii.gz", (whole == value).astype(np.uint8))


def abdomen_atlas(root: Path) -> tuple[Path, Path]:
    """Two roots: labels of five cases, combined or per organ; images of four of them, two lying with their labels."""
    first, second = root / "AbdomenAtlas1.1Mini", root / "images"
    abdomen_atlas_case(first, 6, combined=True)
    abdomen_atlas_case(first, 12, combined=False)
    for number in (5196, 5200, 9000):
        abdomen_atlas_case(first, number, combined=number != 5200, image=False)
    for number in (5196, 5200):
        abdomen_atlas_case(second, number, combined=True, labels=False)
    litter(root)
    return first, second


def mr_annotator(root: Path, n: int = 6, images: str = "imagesTs", labels: str = "labelsTs") -> Path:
    """`Dataset001_Abdomen` as the repository of MRAnnotator expects it, or other folder names."""
    folder = root / "Dataset001_Abdomen"
    for i in range(n):
        save(folder / images / f"case{i:02d}_t2_0000.nii.gz", *reoriented(mr(i), "LAS"))
        save(folder / labels / f"case{i:02d}_t2.nii.gz", *reoriented(label(*range(1, 9)), "LAS"))
    litter(root)
    return root


def decathlon(
    root: Path, n: int = 4, modality: Mapping[str, str] | None = None, shape: tuple[int, ...] = SHAPE
) -> Path:
    """`Task04_Hippocampus`: image names without `_0000`, labels named by id in dataset.json."""
    folder = root / "Task04_Hippocampus"
    training = []
    for i in range(n):
        save(folder / f"imagesTr/hippocampus_{i:03d}.nii.gz", mr(i, shape))
        save(folder / f"labelsTr/hippocampus_{i:03d}.nii.gz", label(1, 2))
        training.append(
            {"image": f"./imagesTr/hippocampus_{i:03d}.nii.gz", "label": f"./labelsTr/hippocampus_{i:03d}.nii.gz"}
        )
    content = {
        "name": "Hippocampus",
        "licence": "CC-BY-SA 4.0",
        "modality": modality or {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "numTraining": n,
        "training": training,
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    litter(root)
    return root


DOWNLOADS: dict[
    str, Callable[[Path], tuple[Path, ...]]
] = {  # row -> makes its small download, returns what -i is given
    "amos_ct": lambda root: (amos(root),),
    "amos_mri": lambda root: (amos(root),),
    "flare21": lambda root: (flare21(root),),
    "abdomen_atlas": abdomen_atlas,
    "abdominal_mri": lambda root: (mr_annotator(root),),
    "msd": lambda root: (decathlon(root),),
}

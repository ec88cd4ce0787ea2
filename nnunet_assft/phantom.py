"""A small synthetic abdominal CT dataset without patient data, whose pool has a structure for query strategies to find.

Organs are unions of superellipsoids, deformed by one smooth displacement field and painted in a fixed order. The pool
has four clusters of unequal size (scan type x body type), near-duplicates and rare anatomy; the test cases come from
all clusters equally. Positions are (x, y, z) in mm from the centre of the volume along the axes of ITK (x to the
patient's left, y to the back, z to the head). Arrays are (Z, Y, X).
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from numpy.random import Generator, SeedSequence, default_rng
from scipy.ndimage import gaussian_filter

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import read_json
from nnunet_assft.runtime.partial import private_path
from nnunet_assft.runtime.text import reason

Array = npt.NDArray[np.float32]
Image = npt.NDArray[np.int16]
Label = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Vector = tuple[float, ...]  # three numbers
Body = tuple[Vector, Vector]  # centre and semi-axes of a superellipsoid, (x, y, z) in mm

VERSION = 1  # increase it when the voxels of a given seed change
TABLE = "phantom_clusters.csv"
TEST_OFFSET = 1_000_000  # test case k is drawn from SeedSequence([seed, TEST_OFFSET + k])
UNBOUNDED = 1e4  # mm; a semi-axis longer than the volume


@dataclass(frozen=True)
class Size:
    """The grid of a phantom, and the number of its labelled organs."""

    shape: tuple[int, int, int]  # voxels (Z, Y, X)
    spacing: Vector  # mm (Z, Y, X)
    n_organs: int  # the first n_organs rows of ORGANS are labelled; the others are anatomy without a label


@dataclass(frozen=True)
class Cluster:
    """A kind of scan and patient."""

    name: str  # scan type: a column of INTENSITIES
    per_block: int  # number of cases in each block of BLOCK pool cases
    body: float  # factor on the width of the body
    fat: float  # mm, thickness of the subcutaneous fat


@dataclass(frozen=True)
class Organ:
    """The shape of an organ: a union of superellipsoids."""

    bodies: tuple[Body, ...]
    exponent: float = 2.0  # 2 is an ellipsoid; a larger exponent is more box-like


def _tube(start: Vector, bend: Vector, end: Vector, radius: float) -> tuple[Body, ...]:
    """Return balls along a quadratic Bezier curve; all lengths in mm."""
    a, b, c = np.array([start, bend, end])
    points = [(1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c for t in np.linspace(0, 1, 11)]
    return tuple((tuple(point.tolist()), (radius, radius, radius)) for point in points)


SIZES = {
    "tiny": Size(shape=(24, 40, 40), spacing=(10.0, 10.0, 10.0), n_organs=5),
    "small": Size(shape=(40, 64, 64), spacing=(7.0, 6.0, 6.0), n_organs=9),
}

CLUSTERS = (
    Cluster("portal_venous", per_block=12, body=1.0, fat=16.0),
    Cluster("arterial", per_block=3, body=0.93, fat=9.0),
    Cluster("non_contrast", per_block=3, body=1.07, fat=26.0),
    Cluster("mr_like", per_block=2, body=0.98, fat=14.0),
)
BLOCK = sum(cluster.per_block for cluster in CLUSTERS)

ORGANS = {  # label values 1, 2, ... in this order
    "liver": Organ((((-68, 2, 38), (60, 66, 62)), ((-8, -42, 52), (64, 32, 36))), exponent=2.4),
    "spleen": Organ((((96, 34, 48), (27, 40, 46)),), exponent=2.2),
    "kidney_right": Organ((((-58, 46, -28), (27, 26, 52)),), exponent=2.2),
    "kidney_left": Organ((((60, 46, -14), (27, 26, 52)),), exponent=2.2),
    "stomach": Organ((((62, -28, 52), (36, 36, 44)), ((30, -52, 12), (38, 24, 24)))),
    "gallbladder": Organ((((-46, -58, -12), (15, 16, 26)),)),
    "pancreas": Organ(_tube((-34, -2, -22), (10, -26, 0), (78, 22, 22), radius=13)),
    "aorta": Organ((((12, 46, 0), (11, 11, UNBOUNDED)),)),
    "vena_cava": Organ((((-18, 44, 0), (13, 10, UNBOUNDED)),)),
}
PAINT_ORDER = (
    "aorta",
    "vena_cava",
    "pancreas",
    "stomach",
    "liver",
    "gallbladder",
    "spleen",
    "kidney_right",
    "kidney_left",
)
WALL, WALL_SIZE = (138.0, 100.0), 12.0  # mm: outer semi-axes (x, y) of the muscle wall, and its thickness
LUNGS = Organ((((-76, 8, 150), (64, 78, 78)), ((76, 8, 150), (64, 78, 78))))
SPINE = Organ((((0, 72, 0), (22, 18, UNBOUNDED)), ((0, 100, 0), (8, 16, UNBOUNDED))))
BACK = Organ(
    tuple(((x, y, 0), (18, r, UNBOUNDED)) for x, y, r in ((-34, 64, 13), (34, 64, 13), (-28, 92, 14), (28, 92, 14)))
)
CANAL = Organ((((0, 94, 0), (9, 8, UNBOUNDED)),))

INTENSITIES = {  # HU, except for mr_like; one column per row of CLUSTERS
    "air": (-1000, -1000, -1000, 0),
    "fat": (-100, -100, -100, 340),
    "muscle": (60, 58, 50, 90),
    "bone": (260, 270, 240, 170),
    "lung": (-800, -800, -800, 15),
    "canal": (35, 35, 25, 480),
    "liver": (112, 78, 60, 150),
    "spleen": (128, 140, 48, 250),
    "kidney_right": (190, 170, 32, 220),
    "kidney_left": (190, 170, 32, 220),
    "stomach": (20, 18, 14, 60),
    "gallbladder": (8, 8, 10, 520),
    "pancreas": (96, 112, 40, 200),
    "aorta": (150, 310, 42, 20),
    "vena_cava": (145, 90, 40, 35),
}
CODES = {tissue: code for code, tissue in enumerate(INTENSITIES)}
LARGE_SPLEEN, SMALL_KIDNEY, NO_GALLBLADDER = 0.05, 0.05, 0.12  # probabilities of rare anatomy

DATASET_JSON = {
    "name": "Phantom",
    "description": "Synthetic abdominal CT phantom for demonstrations and tests; contains no patient data",
    "licence": "CC0-1.0",
    "converted_by": __name__,
    "channel_names": {"0": "CT"},
    "file_ending": ".nii.gz",
}


def organ_labels(size: str) -> dict[str, int]:
    """Return name -> label value for a size, including the background."""
    return {name: value for value, name in enumerate(["background", *ORGANS][: SIZES[size].n_organs + 1])}


def pool_structure(seed: int, index: int) -> tuple[int, int | None]:
    """Return the cluster (row of CLUSTERS) of a pool case, and the earlier case that it nearly duplicates, or None.

    Every block of 20 consecutive cases has exactly `per_block` cases of each cluster. Two cases of its first cluster
    are near-duplicates of earlier ones.
    """
    block, position = divmod(index, BLOCK)
    rng = default_rng(SeedSequence([seed, block]).spawn(3)[2])
    clusters = rng.permutation(np.repeat(np.arange(len(CLUSTERS)), [cluster.per_block for cluster in CLUSTERS]))
    majority = np.flatnonzero(clusters == 0)
    copies = rng.choice(majority[1:], 2, replace=False)
    originals = np.setdiff1d(majority, copies)
    sources = {int(copy): block * BLOCK + int(rng.choice(originals[originals < copy])) for copy in copies}
    return int(clusters[position]), sources.get(position)


def phantom_case(
    seed: int, index: int, *, size: str = "tiny", difficulty: float = 0.25, test: bool = False
) -> tuple[Image, Label, Vector, str]:
    """Return one case: image (Z, Y, X) in HU, label (Z, Y, X), spacing (Z, Y, X) in mm, and the name of its cluster.

    seed, index: at least 0. They determine every voxel, regardless of the number of cases.
    difficulty: 0 to 1. A larger value gives more variation, noise and distractors, and less contrast.
    test: draw a test case (clusters in turn, no near-duplicates) instead of a pool case.
    """
    if size not in SIZES:
        raise ValueError(f"size is {size!r}; expected one of {sorted(SIZES)}.")
    if not 0 <= difficulty <= 1:
        raise ValueError(f"difficulty is {difficulty}; expected a number from 0 to 1.")
    cluster, source = (index % len(CLUSTERS), None) if test else pool_structure(seed, index)
    offset = TEST_OFFSET if test else 0
    anatomy_index = offset + (index if source is None else source)  # a near-duplicate: same anatomy, new noise
    anatomy_rng = default_rng(SeedSequence([seed, anatomy_index]).spawn(2)[0])
    imaging_rng = default_rng(SeedSequence([seed, offset + index]).spawn(2)[1])
    grid = SIZES[size]
    tissue, values = _draw_anatomy(grid, cluster, difficulty, anatomy_rng)
    image = _draw_image(values[tissue], tissue > CODES["air"], grid, cluster, difficulty, imaging_rng)
    label_of_code = np.zeros(len(values), dtype=np.uint8)
    label_of_code[: len(CODES)] = [organ_labels(size).get(name, 0) for name in CODES]
    return image, label_of_code[tissue], grid.spacing, CLUSTERS[cluster].name


class _Canvas:
    """A volume of tissue codes on which organs, given in mm, are painted, deformed by one smooth displacement field.

    warp: the largest displacement along an axis, in mm.
    """

    def __init__(self, grid: Size, warp: float, rng: Generator) -> None:
        self.grid, self.warp = grid, warp
        self.tissue = np.zeros(grid.shape, dtype=np.uint8)
        axes = _axes(grid)
        self.positions = [axis + _smooth_field(axes, warp, rng) for axis in axes]  # x, y, z in mm, each (Z, Y, X)

    def paint(self, code: int, organ: Organ, where: Mask | None = None) -> Mask:
        """Set the voxels of the organ (within `where`) to a code, and return the mask of the organ, (Z, Y, X)."""
        mask = np.zeros(self.grid.shape, dtype=bool)
        for centre, semi_axes in organ.bodies:
            box: tuple[slice, ...] = ()  # the part of the volume that may contain the superellipsoid
            for n, step, middle, half in zip(
                self.grid.shape, self.grid.spacing, centre[::-1], semi_axes[::-1], strict=True
            ):
                first, last = ((middle + side * (half + self.warp)) / step + (n - 1) / 2 for side in (-1, 1))
                box += (slice(max(0, int(first)), max(0, int(last) + 1)),)
            distance = np.float32(0)
            for position, middle, half in zip(self.positions, centre, semi_axes, strict=True):
                distance = distance + (np.abs(position[box] - np.float32(middle)) / np.float32(half)) ** organ.exponent
            mask[box] |= distance < 1
        self.tissue[mask if where is None else mask & where] = code
        return mask


def _axes(grid: Size) -> list[Array]:
    """Return the coordinates x, y and z in mm from the centre, of shapes (1, 1, X), (1, Y, 1) and (Z, 1, 1)."""
    shapes = ((1, 1, -1), (1, -1, 1), (-1, 1, 1))
    sizes = zip(grid.shape[::-1], grid.spacing[::-1], shapes, strict=True)
    return [((np.arange(n, dtype=np.float32) - (n - 1) / 2) * step).reshape(shape) for n, step, shape in sizes]


def _smooth_field(axes: list[Array], peak: float, rng: Generator) -> Array:
    """Return the sum of four plane waves with wavelengths of 150 to 350 mm, (Z, Y, X), within +-peak."""
    field = np.zeros([axis.size for axis in axes[::-1]], dtype=np.float32)
    for _ in range(4):
        direction = rng.normal(size=3)
        wave = 2 * np.pi / rng.uniform(150, 350) * direction / np.linalg.norm(direction)
        phase = np.float32(rng.uniform(0, 2 * np.pi))
        field += np.sin(sum((np.float32(k) * axis for k, axis in zip(wave, axes, strict=True)), start=phase))
    return field * np.float32(peak / 4)


def _scaled(organ: Organ, body: float, *, move: npt.ArrayLike = 0, stretch: npt.ArrayLike = 1) -> Organ:
    """Return the organ for a body of another width, moved (mm) and with its semi-axes multiplied by `stretch`."""
    bodies = [(np.multiply(c, (body, body, 1)) + np.asarray(move), np.multiply(a, stretch)) for c, a in organ.bodies]
    return Organ(
        tuple((tuple(centre.tolist()), tuple(semi_axes.tolist())) for centre, semi_axes in bodies), organ.exponent
    )


def _draw_anatomy(grid: Size, cluster: int, difficulty: float, rng: Generator) -> tuple[Label, Array]:
    """Return the tissue code of every voxel, (Z, Y, X), and the mean intensity of every code in HU.

    The random numbers do not depend on the grid, so that a case has the same anatomy in every size.
    """
    build, fatness, organ_size = rng.normal(0, 1, 3).clip(-2, 2)
    body = float(CLUSTERS[cluster].body * np.exp(0.05 * build))  # build makes body, fat and organs vary together
    fat = float(CLUSTERS[cluster].fat * np.exp(0.2 * build + 0.15 * fatness))
    canvas = _Canvas(grid, 6 + 12 * difficulty, rng)

    for tissue, layer in (("fat", fat), ("muscle", 0), ("fat", -WALL_SIZE)):
        width, depth = (axis * body + layer for axis in WALL)
        cavity = canvas.paint(CODES[tissue], Organ((((0, 6, 0), (width, depth, UNBOUNDED)),), exponent=2.5))
    canvas.paint(CODES["lung"], _scaled(LUNGS, body), cavity)
    distractors = _paint_distractors(canvas, cavity, cluster, difficulty, rng)
    canvas.paint(CODES["muscle"], _scaled(BACK, body), cavity)
    cavity &= ~canvas.paint(CODES["bone"], _scaled(SPINE, body))
    canvas.paint(CODES["canal"], _scaled(CANAL, body))
    for name, organ in _draw_organs(body, float(np.exp(0.05 * build + 0.03 * organ_size)), difficulty, rng).items():
        canvas.paint(CODES[name], organ, cavity)

    values = np.array([row[cluster] for row in INTENSITIES.values()], dtype=np.float32)
    soft = slice(CODES["liver"], len(CODES))
    values[soft] = values[CODES["muscle"]] + (values[soft] - values[CODES["muscle"]]) * (1 - 0.45 * difficulty)
    values[soft] += rng.normal(0, 3 + 8 * difficulty, len(ORGANS))
    values[CODES["kidney_left"]] = values[CODES["kidney_right"]]
    return canvas.tissue, np.concatenate([values, np.array(distractors, dtype=np.float32)])


def _draw_organs(body: float, scale: float, difficulty: float, rng: Generator) -> dict[str, Organ]:
    """Draw the organs of one patient, and return name -> organ in the order of painting."""
    factor = dict.fromkeys(ORGANS, scale)
    large_spleen, small_kidney, no_gallbladder = rng.random(3) < (LARGE_SPLEEN, SMALL_KIDNEY, NO_GALLBLADDER)
    factor["spleen"] *= 1.35 if large_spleen else 1
    factor[str(rng.choice(["kidney_right", "kidney_left"]))] *= 0.7 if small_kidney else 1
    organs = {}
    for name in PAINT_ORDER:
        move = rng.normal(0, 3 + 6 * difficulty, 3).clip(-15, 15)
        stretch = factor[name] * np.exp(rng.normal(0, 0.05 + 0.1 * difficulty, 3).clip(-0.3, 0.3))
        organs[name] = _scaled(ORGANS[name], body, move=move, stretch=stretch)
    if no_gallbladder:
        del organs["gallbladder"]
    return organs


def _paint_distractors(canvas: _Canvas, cavity: Mask, cluster: int, difficulty: float, rng: Generator) -> list[float]:
    """Paint bowel loops that look like an organ or gas, and return the intensities (HU) of their codes."""
    values = []
    loop = Organ((((0, 0, 0), (26, 20, 20)),))
    for code in range(len(CODES), len(CODES) + round(4 + 8 * difficulty)):
        move, stretch = rng.uniform((-95, -70, -125), (95, 15, -25)), rng.uniform(0.7, 1.3, 3)
        canvas.paint(code, _scaled(loop, 1, move=move, stretch=stretch), cavity)
        values.append(INTENSITIES[str(rng.choice(["lung", *ORGANS]))][cluster] + float(rng.normal(0, 10)))
    return values


def _draw_image(  # six parameters: an image depends on everything that a case depends on
    clean: Array, body: Mask, grid: Size, cluster: int, difficulty: float, rng: Generator
) -> Image:
    """Add texture, blur (partial volume, slice thickness), the bias field of MR and noise to intensities (HU)."""

    def noise(deviation: float, correlation: float) -> Array:
        smooth = gaussian_filter(
            rng.standard_normal(grid.shape, dtype=np.float32), correlation / np.array(grid.spacing)
        )
        return np.asarray(smooth * np.float32(deviation / smooth.std()))

    image = gaussian_filter(clean + body * noise(6, correlation=9), np.array((4.5, 3, 3)) / grid.spacing)
    if CLUSTERS[cluster].name == "mr_like":
        image = image * (1 + _smooth_field(_axes(grid), 0.4, rng))
    image = image + noise(8 + 28 * difficulty, correlation=4)
    return np.asarray(np.rint(image.clip(-1024, 3071)).astype(np.int16))


def write_phantom_dataset(  # all of these parameters are recorded in dataset.json
    folder: Path, *, n_pool: int, n_test: int, size: str = "tiny", difficulty: float = 0.25, seed: int = 0
) -> Path:
    """Write an nnU-Net raw dataset of `n_pool` pool and `n_test` test cases; return its folder.

    A complete dataset with the same parameters is kept. `dataset.json` is written last, so that an interrupted call can
    be repeated. `phantom_clusters.csv` is for evaluation only; a query strategy must not read it. Raises
    AssftError if the folder holds another dataset.
    """
    if n_pool < 1 or n_test < 0:
        raise ValueError(f"n_pool is {n_pool} and n_test is {n_test}; expected at least 1 and at least 0.")
    parameters = {
        "version": VERSION,
        "n_pool": n_pool,
        "n_test": n_test,
        "size": size,
        "difficulty": difficulty,
        "seed": seed,
    }
    cases = [(f"phantom_{k:03d}", k, "Tr") for k in range(n_pool)]
    cases += [(f"phantom_test_{k:03d}", k, "Ts") for k in range(n_test)]
    files = [
        file for case, _, part in cases for file in (f"images{part}/{case}_0000.nii.gz", f"labels{part}/{case}.nii.gz")
    ]
    files += [TABLE, "dataset.json"]  # dataset.json is last, because it marks a complete dataset
    if _is_written(folder, parameters, files):
        return folder

    folder.mkdir(parents=True, exist_ok=True)
    rows = [("case", "cluster", "duplicate_of")]
    with private_path(folder) as partial:
        partial.mkdir()
        for directory in {Path(file).parent for file in files}:
            (partial / directory).mkdir(exist_ok=True)
            (folder / directory).mkdir(exist_ok=True)
        for case, index, part in cases:
            test = part == "Ts"
            image, label, spacing, cluster = phantom_case(seed, index, size=size, difficulty=difficulty, test=test)
            _write_volume(image, spacing, partial / f"images{part}/{case}_0000.nii.gz")
            _write_volume(label, spacing, partial / f"labels{part}/{case}.nii.gz")
            source = None if test else pool_structure(seed, index)[1]
            rows.append((case, cluster, "" if source is None else f"phantom_{source:03d}"))
        (partial / TABLE).write_text("".join(",".join(row) + "\n" for row in rows))
        dataset = DATASET_JSON | {"labels": organ_labels(size), "numTraining": n_pool, "phantom": parameters}
        (partial / "dataset.json").write_text(json.dumps(dataset, indent=2) + "\n")
        for file in files:
            os.replace(partial / file, folder / file)
    return folder


def _is_written(folder: Path, parameters: dict[str, Any], files: list[str]) -> bool:
    """Return whether all files exist. Raises `AssftError` if the folder holds another dataset."""
    files_of_cases = (file for file in folder.glob("[il]*T[rs]/*") if not file.name.startswith("."))  # not .DS_Store
    found = {file.relative_to(folder).as_posix() for file in files_of_cases}
    if foreign := sorted(found - set(files)):
        raise AssftError(f"{folder} holds files of another dataset, for example {foreign[0]}. Choose another folder.")
    if (folder / "dataset.json").exists():
        try:
            content = read_json(folder / "dataset.json")
        except (OSError, ValueError) as error:
            what = f"{folder}/dataset.json cannot be read ({reason(error)})"
            raise AssftError(f"{what}. Choose another folder.") from error
        written = content.get("phantom") if isinstance(content, dict) else None
        if written != parameters:
            raise AssftError(
                f"{folder} holds a dataset with parameters {written}; expected {parameters}. Choose another folder."
            )
    return all((folder / file).exists() for file in files)


def _write_volume(array: npt.NDArray[Any], spacing: Vector, path: Path) -> None:
    """Write a (Z, Y, X) array whose centre is the origin of ITK's coordinates."""
    volume = sitk.GetImageFromArray(array)
    volume.SetSpacing(spacing[::-1])
    volume.SetOrigin([-step * (n - 1) / 2 for step, n in zip(spacing[::-1], array.shape[::-1], strict=True)])
    sitk.WriteImage(volume, path)

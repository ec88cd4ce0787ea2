"""Imitations of annotators: how 3D Slicer and ITK-SNAP save a segmentation, and what goes wrong when people do it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk


def like(array: np.ndarray, image: sitk.Image) -> sitk.Image:
    """array: (z, y, x) on the grid of the image."""
    volume = sitk.GetImageFromArray(array)
    volume.CopyInformation(image)
    return volume


def save_itksnap(file: Path, label: np.ndarray, image: sitk.Image) -> None:
    """ITK-SNAP: a NIfTI label map in the geometry of the main image, 16 bits per voxel."""
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(like(label.astype(np.uint16), image), str(file), True)


def save_slicer(
    file: Path,
    segments: Mapping[str, np.ndarray],
    image: sitk.Image,
    *,
    layers: Mapping[str, int] | None = None,
    change: Mapping[str, str] | None = None,
    crop: bool = True,
) -> None:
    """3D Slicer: a .seg.nrrd cropped to what is drawn, with label values in the order of the segments, whatever they
    mean.

    segments: name -> (z, y, x) bool. layers: name -> layer, for segments that overlap. change: metadata to spoil.
    """
    layers = layers or dict.fromkeys(segments, 0)
    drawn = np.zeros(next(iter(segments.values())).shape, bool)
    for voxels in segments.values():
        drawn |= voxels
    box = [(0, n - 1) for n in drawn.shape]
    if crop and drawn.any():
        box = [(int(where.min()), int(where.max())) for where in np.nonzero(drawn)]
    region = tuple(slice(low, high + 1) for low, high in box)
    stack = np.zeros((*(high - low + 1 for low, high in box), 1 + max(layers.values())), np.uint8)
    metadata = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": " ".join(str(low) for low, _ in reversed(box)),
    }
    for i, (name, voxels) in enumerate(segments.items()):
        inside = voxels[region]
        stack[..., layers[name]][inside] = i + 1
        found = [(int(where.min()), int(where.max())) if inside.any() else (0, -1) for where in np.nonzero(inside)]
        metadata |= {
            f"Segment{i}_ID": f"Segment_{i + 1}",
            f"Segment{i}_Name": name,
            f"Segment{i}_LabelValue": str(i + 1),
            f"Segment{i}_Layer": str(layers[name]),
            f"Segment{i}_Extent": " ".join(f"{low} {high}" for low, high in reversed(found)),
            f"Segment{i}_Color": "0.5 0.68 0.5",
        }
    volume = (
        sitk.GetImageFromArray(stack, isVector=True) if stack.shape[3] > 1 else sitk.GetImageFromArray(stack[..., 0])
    )
    volume.SetSpacing(image.GetSpacing())
    volume.SetDirection(image.GetDirection())
    volume.SetOrigin(image.TransformIndexToPhysicalPoint([low for low, _ in reversed(box)]))
    for key, value in {**metadata, **(change or {})}.items():
        volume.SetMetaData(key, value)
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(volume, str(file), True)
    file.write_bytes(file.read_bytes().replace(b"kinds: vector domain", b"kinds: list domain", 1))  # as Slicer says it


def segments_of(label: np.ndarray, labels: Mapping[str, int]) -> dict[str, np.ndarray]:
    """In reverse order, so that Slicer's label values are not those of the dataset."""
    return {name: label == value for name, value in reversed(labels.items()) if value}


# What goes wrong ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """A case to be spoiled: its image, a good label (z, y, x), the labels of its dataset, what the model made of it."""

    folder: Path
    case: str
    image: sitk.Image
    label: np.ndarray
    labels: Mapping[str, int]
    prelabel: np.ndarray

    def nifti(self, array: np.ndarray, image: sitk.Image | None = None, name: str | None = None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(like(array, image or self.image), str(self.folder / f"{name or self.case}.nii.gz"), True)

    def slicer(self, segments: Mapping[str, np.ndarray] | None = None, **more: object) -> None:
        save_slicer(
            self.folder / f"{self.case}.seg.nrrd", segments or segments_of(self.label, self.labels), self.image, **more
        )

    def moved(
        self, *, spacing: float = 1.0, shift: tuple[float, float, float] = (0, 0, 0), degrees: float = 0.0
    ) -> sitk.Image:
        """The grid of the image, spoiled."""
        image = sitk.Image(self.image)
        image.SetSpacing([mm * spacing for mm in image.GetSpacing()])
        image.SetOrigin([a + b for a, b in zip(image.GetOrigin(), shift, strict=True)])
        turn = sitk.Euler3DTransform((0, 0, 0), 0, 0, np.radians(degrees)).GetMatrix()
        image.SetDirection((np.reshape(turn, (3, 3)) @ np.reshape(image.GetDirection(), (3, 3))).ravel())
        return image


def _four_dimensions(s: Scene) -> None:
    sitk.WriteImage(sitk.JoinSeries([like(s.label, s.image)] * 2), str(s.folder / f"{s.case}.nii.gz"))


def _cropped_nifti(s: Scene) -> None:
    sitk.WriteImage(like(s.label, s.image)[2:, :, :], str(s.folder / f"{s.case}.nii.gz"))


def _padded_nifti(s: Scene) -> None:
    sitk.WriteImage(sitk.ConstantPad(like(s.label, s.image), (2, 0, 0), (0, 0, 0)), str(s.folder / f"{s.case}.nii.gz"))


def _cut_short(s: Scene) -> None:
    s.nifti(s.label)
    file = s.folder / f"{s.case}.nii.gz"
    file.write_bytes(file.read_bytes()[:-40])


def _two_files(s: Scene) -> None:
    s.nifti(s.label)
    s.slicer()


def _overlap(s: Scene) -> None:
    segments = segments_of(s.label, s.labels)
    first, second = list(segments)[:2]
    segments[second] = segments[second] | np.roll(segments[second], 1, axis=2) | segments[first]
    s.slicer(segments, layers={first: 0, second: 1})


def _renamed_segment(s: Scene) -> None:
    segments = segments_of(s.label, s.labels)
    s.slicer({f"Segment_{i + 1}": voxels for i, voxels in enumerate(segments.values())})


def _same_name_twice(s: Scene) -> None:
    names = list(segments_of(s.label, s.labels))
    s.slicer(change={"Segment1_Name": names[0]})


def _without_first(s: Scene) -> np.ndarray:
    return np.where(s.label == 1, 0, s.label)


# kind -> (how to make it, exit code decides: refused or warned, what the message says)
Spoil = Callable[[Scene], None]
REFUSED: dict[str, tuple[Spoil, str]] = {
    "unknown case id": (
        lambda s: s.nifti(s.label, name=s.case + "x"),
        r"the dataset has no case '.*x'; expected .* Did you mean",
    ),
    "four dimensions": (_four_dimensions, r"it has 4 dimensions, .* voxels; expected a 3D label map"),
    "other shape": (_padded_nifti, r"it has \d+ x \d+ x \d+ voxels, its image \d+ x \d+ x \d+\. Draw on the image"),
    "other spacing": (lambda s: s.nifti(s.label, s.moved(spacing=1.25)), r"its spacing is .* mm, its image has .* mm"),
    "shifted": (lambda s: s.nifti(s.label, s.moved(shift=(3, 0, 4))), r"it is shifted by 5 mm \(x \+3, y \+0, z \+4\)"),
    "turned": (lambda s: s.nifti(s.label, s.moved(degrees=7)), r"its axes are rotated by 7 degrees .* up to [\d.]+ mm"),
    "interpolated": (lambda s: s.nifti(s.label * 0.5), r"its values are not whole numbers: 0\.5 \(\d+ voxels\)"),
    "mask of 0 and 255": (
        lambda s: s.nifti((s.label > 0) * np.uint8(255)),
        r"it is a mask of 0 and 255, not a label map",
    ),
    "the image itself": (
        lambda s: s.nifti((sitk.GetArrayFromImage(s.image).astype(np.float32) * 10 - 500).astype(np.int16)),
        r"different values from .*: this looks like an image",
    ),
    "renumbered": (
        lambda s: s.nifti(s.label * np.uint8(3)),
        r"it has values that dataset.json does not define: .*6 \(\d+ voxels\)",
    ),
    "cut short": (_cut_short, r"the file cannot be read \(.*\)\. Save it again"),
    "two files of one case": (
        _two_files,
        r"\.nii\.gz and .*\.seg\.nrrd are labels of the same case",
    ),
    "segment with an unknown name": (
        _renamed_segment,
        r"segment 'Segment_1' is not a structure of the dataset; expected background, ",
    ),
    "overlapping segments": (_overlap, r"the segments '.*' and '.*' overlap in \d+ voxels"),
    "two segments of one name": (_same_name_twice, r"two segments are called"),
    "voxels outside the extent": (
        lambda s: s.slicer(change={"Segment0_Extent": "0 0 0 0 0 0"}),
        r"has \d+ voxels outside of the extent",
    ),
    "values of no segment": (
        lambda s: s.slicer(change={"Segment1_LabelValue": "9"}),
        r"\d+ voxels belong to no segment of the file",
    ),
}
WARNED: dict[str, tuple[Spoil, str]] = {
    "empty": (lambda s: s.nifti(s.label * 0), r"it is empty: no structure has a voxel"),
    "unchanged": (lambda s: s.nifti(s.prelabel), r"it is the pre-segmentation, unchanged"),
    "missing organ": (lambda s: s.nifti(_without_first(s)), r"\w+ is missing; the model predicted [\d.e-]+ ml of it"),
    "far too large": (
        lambda s: s.nifti(np.ones_like(s.label)),
        r"has [\d.]+ ml; the \d labels so far have [\d.]+ to [\d.]+ ml",
    ),
    "other axes": (
        lambda s: sitk.WriteImage(sitk.DICOMOrient(like(s.label, s.image), "IAR"), str(s.folder / f"{s.case}.nii.gz")),
        r"its axes are stored in another order or direction",
    ),
    "a part of the image": (_cropped_nifti, r"it covers only .* voxels of its image, and all others would become"),
    "drawn on another volume": (
        lambda s: s.slicer(change={"Segmentation_ReferenceImageExtentOffset": "0 0 0"}),
        r"it was not drawn on its image",
    ),
}

"""What the current model thinks of a queried case: pre-segmentation, where it is uncertain, and the slice to begin with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nnunet_assft.active.scoring.scorer import Scorer
from nnunet_assft.active.scoring.voxel_statistics import entropy_map
from nnunet_assft.annotation.gate import structures, summarize
from nnunet_assft.annotation.label_files import grid_of
from nnunet_assft.annotation.work_folder import colour
from nnunet_assft.runtime.files import atomic_path
from nnunet_assft.volumes.placement import to_file_axes


@dataclass(frozen=True)
class Preview:
    """All (z, y, x) as the image is stored. entropy: in nats. mask: foreground of Eq. 9, where ASD is taken."""

    segmentation: np.ndarray
    entropy: np.ndarray
    mask: np.ndarray


def preview(scorer: Scorer, image: np.ndarray, properties: dict[str, Any], tau: float) -> Preview:
    """One forward pass over a preprocessed image, (channels, z, y, x). tau: the temperature of the round."""
    logits = scorer.logits(image)
    entropy, mask = entropy_map(logits, tau)

    def stored(array: np.ndarray) -> np.ndarray:
        return to_file_axes(array, properties)

    return Preview(
        segmentation=stored(scorer.segmentation(logits, properties)),
        entropy=stored(np.maximum(scorer.to_original_grid(entropy, properties, outside=0.0), 0.0)),
        mask=stored(scorer.to_original_grid(mask.float(), properties, outside=0.0) > 0.5),
    )


def describe(seen: Preview, image: sitk.Image, labels: Mapping[str, int]) -> dict[str, Any]:
    """Predicted volumes in ml, the structure with the largest mean entropy, and the axial slice with the most entropy.

    slice: number from 1 along voxel axis `slice_axis`, as ITK-SNAP counts. slice_s_mm: position to the head, as in Slicer.
    """
    volumes = summarize(seen.segmentation, grid_of(image), labels).volumes_ml
    present = {name: value for name, value in structures(labels).items() if volumes[name]}
    entropies = {name: float(seen.entropy[seen.segmentation == value].mean()) for name, value in present.items()}
    oriented = sitk.DICOMOrient(image, "LPS")
    k = axial_slice(_oriented(masked_entropy(seen), image))
    i, j, _ = (n // 2 for n in oriented.GetSize())
    position = oriented.TransformIndexToPhysicalPoint((i, j, k))
    axis = int(np.abs(np.array(image.GetDirection()).reshape(3, 3)[2]).argmax())
    return {
        "volumes_ml": dict(volumes),
        "entropies": entropies,
        "most_uncertain": max(entropies, key=lambda name: entropies[name], default=None),
        "slice": int(image.TransformPhysicalPointToIndex(position)[axis]) + 1,
        "slice_axis": "xyz"[axis],
        "slice_s_mm": float(position[2]),
    }


def masked_entropy(seen: Preview) -> np.ndarray:
    """Entropy inside the foreground, 0 outside; if there is no foreground, all of it."""
    return np.where(seen.mask, seen.entropy, 0.0) if seen.mask.any() else seen.entropy


def axial_slice(entropy: np.ndarray) -> int:
    """Index along the first axis with the largest sum; entropy: (z, y, x) from feet to head."""
    return int(entropy.sum(axis=(1, 2)).argmax())


@style.context("default")  # nnU-Net's trainer changes the font size of everything
def draw_overlay(
    file: Path, title: str, seen: Preview, image: sitk.Image, labels: Mapping[str, int], *, contours: bool
) -> None:
    """A PNG of the suggested axial slice, as radiologists look at it: the image, and the entropy in the foreground over it.

    contours: draw the pre-segmentation as well.
    """
    entropy = _oriented(masked_entropy(seen), image)
    k = axial_slice(entropy)
    oriented = sitk.DICOMOrient(image, "LPS")
    grey = sitk.GetArrayFromImage(oriented)[k]
    pixel = oriented.GetSpacing()[1] / oriented.GetSpacing()[0]  # height over width
    figure = Figure(figsize=(10, 5 * min(2.0, pixel * grey.shape[0] / grey.shape[1]) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    darkest, brightest = np.percentile(grey, (1, 99))
    for axes in figure.subplots(1, 2):
        axes.imshow(grey, cmap="gray", aspect=pixel, vmin=darkest, vmax=brightest)
        axes.set_axis_off()
    left, right = figure.axes
    if contours:
        segmentation = _oriented(seen.segmentation.astype(np.uint16), image)[k]
        for name, value in structures(labels).items():
            if 0 < (segmentation == value).sum() < segmentation.size:
                left.contour(segmentation == value, levels=[0.5], colors=[colour(value)], linewidths=1)
                left.plot([], [], color=colour(value), label=name.replace("_", " "))
        if left.lines:
            left.legend(fontsize=7, loc="lower left")
    shown = right.imshow(np.ma.masked_equal(entropy[k], 0), cmap="inferno", alpha=0.6, aspect=pixel, vmin=0)
    figure.colorbar(shown, ax=right, label="entropy (nats)", shrink=0.8)
    figure.suptitle(title, fontsize=10)
    with atomic_path(file) as partial:
        figure.savefig(partial, format="png", dpi=100)


def _oriented(array: np.ndarray, image: sitk.Image) -> np.ndarray:
    """An array on the grid of the image, turned so that its axes run from feet to head, front to back, right to left."""
    volume = sitk.GetImageFromArray(array)
    volume.CopyInformation(image)
    return sitk.GetArrayFromImage(sitk.DICOMOrient(volume, "LPS"))

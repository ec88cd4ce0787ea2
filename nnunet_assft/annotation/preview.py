"""Preview of a queried case by the model of the round before: its segmentation, its entropy, and the slice to begin
with.

`write_preview` is the only place that writes pre-segmentations and entropy maps, for the annotators and for the report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunet_assft.active.context import Context
from nnunet_assft.active.scoring.records import request_of
from nnunet_assft.active.scoring.scorer import Scorer
from nnunet_assft.active.scoring.voxel_statistics import entropy_map
from nnunet_assft.active.state import Model
from nnunet_assft.annotation.gate import summarize
from nnunet_assft.runtime.cached import cached_or_none, keep
from nnunet_assft.volumes.grid import itk_grid
from nnunet_assft.volumes.segmentations import InFileAxes, write_segmentation
from nnunet_assft.volumes.structures import structures

ENTROPY_STEPS = 250  # of the largest entropy, in a file of bytes


@dataclass(frozen=True)
class Preview:
    """A model's view of a case. entropy: in nats. mask: the foreground of Eq. 9, over which ASD is computed."""

    segmentation: InFileAxes
    entropy: InFileAxes
    mask: InFileAxes

    @property
    def masked_entropy(self) -> np.ndarray:
        """The entropy, set to 0 outside of the foreground, in the axes of the file; unchanged without foreground."""
        entropy, mask = self.entropy.array, self.mask.array
        return np.where(mask, entropy, 0.0) if mask.any() else entropy


def prelabel_file(context: Context, r: int, case: str) -> Path:
    """The experiment's own copy of a pre-segmentation, which annotators do not edit."""
    return context.paths.previews(r) / f"{case}{context.dataset.file_ending}"


def entropy_file(context: Context, r: int, case: str) -> Path:
    """The entropy map as whole numbers from 0 to ENTROPY_STEPS, which stands for the entropy of a uniform softmax."""
    return context.paths.entropies(r) / f"{case}{context.dataset.file_ending}"


def preview_or_none(context: Context, r: int, case: str, model: Model) -> dict[str, Any] | None:
    """Return the description that `write_preview` has written for this case and model, or None if it is missing."""
    file = prelabel_file(context, r, case)
    return cached_or_none(_record_file(context, r, case), _made_from(context, r, model), outputs=lambda _: [file])


def write_preview(
    context: Context, r: int, case: str, model: Model, scorer: Scorer
) -> tuple[Preview, sitk.Image, dict[str, Any]]:
    """Segment a case that round r has queried, and write the segmentation, the entropy and a description, CASE.json.

    model: the model of the round before, whose network `scorer` runs. Returns the preview, the image and the
    description, see `describe`.
    """
    made_from, properties = _made_from(context, r, model), context.properties(case)
    seen = preview(scorer, context.image(case), properties, made_from["tau"])
    image = sitk.ReadImage(str(context.dataset.images[case][0]))
    described, file = describe(seen, image, context.dataset.labels), prelabel_file(context, r, case)
    write_segmentation(context.dataset.reader, seen.segmentation, file, properties)
    shares = seen.entropy.array / math.log(len(context.dataset.structures) + 1)
    steps = InFileAxes(np.rint(ENTROPY_STEPS * np.clip(shares, 0, 1)).astype(np.uint8))
    write_segmentation(context.dataset.reader, steps, entropy_file(context, r, case), properties)
    keep(_record_file(context, r, case), made_from, described, [file])
    return seen, image, described


def preview(scorer: Scorer, image: np.ndarray, properties: dict[str, Any], tau: float) -> Preview:
    """Run one forward pass over a preprocessed image, (channels, z, y, x). tau: the temperature of the round."""
    logits = scorer.logits(image)
    entropy, mask = entropy_map(logits, tau)
    on_grid = scorer.to_original_grid(entropy, properties, outside=0.0)
    mask_on_grid = scorer.to_original_grid(mask.float(), properties, outside=0.0)
    return Preview(
        segmentation=InFileAxes.of(scorer.segmentation(logits, properties), properties),
        entropy=InFileAxes.of(np.maximum(on_grid, 0.0), properties),
        mask=InFileAxes.of(mask_on_grid > 0.5, properties),
    )


def describe(seen: Preview, image: sitk.Image, labels: Mapping[str, int]) -> dict[str, Any]:
    """Describe a preview: predicted volumes in ml, mean entropies, and the axial slice with the most entropy.

    most_uncertain: the structure with the largest mean entropy, None if no structure is predicted. slice: number of
    the slice along voxel axis `slice_axis`, counted from 1 as in ITK-SNAP. slice_s_mm: its position along the axis to
    the head in mm, as in Slicer.
    """
    segmentation, entropy = seen.segmentation.array, seen.entropy.array
    volumes = summarize(seen.segmentation, itk_grid(image), labels).volumes_ml
    present = {name: value for name, value in structures(labels).items() if volumes[name]}
    entropies = {name: float(entropy[segmentation == value].mean()) for name, value in present.items()}
    oriented = sitk.DICOMOrient(image, "LPS")
    k = axial_slice(as_radiologists_look(seen.masked_entropy, image))
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


def axial_slice(entropy: np.ndarray) -> int:
    """Return the index of the slice with the largest sum. entropy: (z, y, x), from feet to head."""
    return int(entropy.sum(axis=(1, 2)).argmax())


def as_radiologists_look(array: np.ndarray, image: sitk.Image) -> np.ndarray:
    """Reorient an array on the grid of the image, so that its axes run from feet to head, front to back and right to
    left."""
    volume = sitk.GetImageFromArray(array)
    volume.CopyInformation(image)
    return sitk.GetArrayFromImage(sitk.DICOMOrient(volume, "LPS"))


def _record_file(context: Context, r: int, case: str) -> Path:
    return context.paths.previews(r) / f"{case}.json"


def _made_from(context: Context, r: int, model: Model) -> dict[str, Any]:
    return {"model": model.weights_sha256, "tau": request_of(context, r).tau}

"""Preview of a queried case by the model of the round before: its segmentation, its entropy, and the slice to begin
with.

`Prelabels.write` is the only place that writes pre-segmentations and entropy maps, for the annotators and for the
report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunet_assft.active.context import Context
from nnunet_assft.active.finished import read_provenance
from nnunet_assft.active.paths import ENTROPY
from nnunet_assft.active.scoring.records import request_of
from nnunet_assft.active.scoring.scorer import Scorer
from nnunet_assft.active.scoring.voxel_statistics import entropy_map
from nnunet_assft.active.state import Model, Round
from nnunet_assft.annotation.gate import summarize
from nnunet_assft.errors import DamagedFileError
from nnunet_assft.runtime.cached import cached_or_none, keep
from nnunet_assft.runtime.files import sha256_file
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


@dataclass(frozen=True)
class Prelabels:
    """The pre-segmentations of the cases that annotators are asked for: the experiment's own copies, which nobody
    edits.

    They lie in `folder` as CASE and CASE.json, and the entropy maps in a folder within. round: the one that the cases
    are asked for in. model: the one that looks at them. pseudo_labels: case -> checksum of its pseudo-label of that
    round, which then is its pre-segmentation; None if the segmentation by the model is.
    """

    context: Context
    round: int
    folder: Path
    model: Model
    pseudo_labels: Mapping[str, str] | None = None

    def file(self, case: str) -> Path:
        return self.folder / f"{case}{self.context.dataset.file_ending}"

    def entropy_file(self, case: str) -> Path:
        """The entropy map as whole numbers from 0 to ENTROPY_STEPS, which stands for the entropy of a uniform
        softmax."""
        return self.folder / ENTROPY / f"{case}{self.context.dataset.file_ending}"

    def described(self, case: str) -> dict[str, Any] | None:
        """Return the description that `write` has written for this case, or None if it is missing or out of date."""
        return cached_or_none(self._record(case), self._made_from(case), outputs=lambda _: [self.file(case)])

    def write(self, case: str, scorer: Scorer) -> tuple[Preview, sitk.Image, dict[str, Any]]:
        """Write the pre-segmentation of a case, its entropy map and its description, CASE.json.

        scorer: runs the network of the model. Returns the preview, the image and the description, see `describe`.
        Raises `DamagedFileError` if a pseudo-label is not as it was written.
        """
        context, made_from = self.context, self._made_from(case)
        properties, file = context.properties(case), self.file(case)
        seen = preview(scorer, context.image(case), properties, made_from["tau"])
        if self.pseudo_labels is not None:
            seen = replace(seen, segmentation=self._pseudo_label(case))
        image = sitk.ReadImage(str(context.dataset.images[case][0]))
        described = describe(seen, image, context.dataset.labels)
        write_segmentation(context.dataset.reader, seen.segmentation, file, properties)
        shares = seen.entropy.array / math.log(len(context.dataset.structures) + 1)
        steps = InFileAxes(np.rint(ENTROPY_STEPS * np.clip(shares, 0, 1)).astype(np.uint8))
        write_segmentation(context.dataset.reader, steps, self.entropy_file(case), properties)
        keep(self._record(case), made_from, described, [file])
        return seen, image, described

    def _pseudo_label(self, case: str) -> InFileAxes:
        file = self.context.pseudo_label(self.round, case)
        if not file.is_file() or self.pseudo_labels is None or sha256_file(file) != self.pseudo_labels[case]:
            again = self.context.experiment.command("round", "-r", str(self.round))
            raise DamagedFileError(f"{file} is missing or not as it was written. Run {again} to make it again.")
        return InFileAxes(sitk.GetArrayFromImage(sitk.ReadImage(str(file))))

    def _record(self, case: str) -> Path:
        return self.folder / f"{case}.json"

    def _made_from(self, case: str) -> dict[str, Any]:
        made_from: dict[str, Any] = {
            "model": self.model.weights_sha256,
            "tau": request_of(self.context, self.round).tau,
        }
        if self.pseudo_labels is not None:
            made_from["pseudo_label"] = self.pseudo_labels[case]
        return made_from


def prelabels_of(context: Context, r: int | None, *, second_look: bool = False) -> Prelabels | None:
    """Return those of the cases that round r has queried, by the model of the round before; None in round 0, and of
    test cases (r is None), whose labels must not depend on a model.

    second_look: return those of the cases that it has pseudo-labelled, which are the pseudo-labels. Raises
    `DamagedFileError` if the record of that round is damaged.
    """
    if not r:
        return None
    if second_look:
        provenance = read_provenance(context.paths.pseudo_label_folder(r))
        sha256 = {case: entry["sha256"] for case, entry in provenance["cases"].items()}
        return Prelabels(context, r, context.paths.second_look(r), Model(**provenance["model"]), sha256)
    return Prelabels(context, r, context.paths.previews(r), Round.load(context.paths, r - 1).model)


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

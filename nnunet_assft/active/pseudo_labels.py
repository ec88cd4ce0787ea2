"""Pseudo-labels written back into the raw dataset: original geometry, never into labelsTr, with their provenance."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.postprocessing.remove_connected_components import remove_all_but_largest_component_from_segmentation
from tqdm import tqdm

from nnunet_assft.active.scoring.scorer import Scorer
from nnunet_assft.active.scoring.voxel_statistics import margin_of_logits
from nnunet_assft.active.training.stages import Context
from nnunet_assft.planning.preprocessing import load_image, load_properties
from nnunet_assft.runtime.files import atomic_path, sha256_file, write_json
from nnunet_assft.volumes.nifti import refuse_damaged_nifti


@dataclass(frozen=True)
class Refinement:
    """What is done to an argmax prediction before it is a pseudo-label; by default nothing."""

    largest_component: bool = False  # of each structure; smaller ones become background
    ignore_margin: float = 0.0  # voxels whose p_(1) - p_(2) is smaller get the ignore label


def write_pseudo_labels(
    context: Context,
    r: int,
    scorer: Scorer,
    selected: Mapping[str, Mapping[str, Any]],
    human_labels: Mapping[str, Path],
    provenance: Mapping[str, Any],
    refine: Refinement,
) -> dict[str, Path]:
    """Predict the selected cases and write round_RR/{pseudo_labels/CASE, provenance.json, dataset.json}.

    selected: case -> confidence, distance, reliability, rank. provenance: what holds for all of them (round, model, ...).
    dataset.json lists the exact training set of the round, human and pseudo labels, in nnU-Net's `dataset` form.
    """
    folder = context.paths.pseudo_label_folder(r)
    files = {case: context.pseudo_label(r, case) for case in selected}
    entries = {}
    for case in tqdm(selected, desc=f"round {r}: pseudo-labels", unit="case", leave=False):
        properties = load_properties(context.image_folder, case)
        segmentation = _pseudo_label(context, scorer, load_image(context.image_folder, case), properties, refine)
        write_segmentation(context, segmentation, files[case], properties)
        counts = np.bincount(segmentation.ravel(), minlength=max(context.dataset.labels.values()) + 1)
        entries[case] = {**selected[case], "sha256": sha256_file(files[case]), "voxels": counts.tolist()}
    for stale in (folder / "pseudo_labels").glob("*"):  # of an attempt with another model
        if stale not in files.values():
            stale.unlink()
    write_json(folder / "dataset.json", _dataset_json(context, human_labels, files))
    write_json(
        folder / "provenance.json", {**provenance, **asdict(refine), "cases": entries}
    )  # last: it vouches for the others
    return files


def _pseudo_label(
    context: Context, scorer: Scorer, image: np.ndarray, properties: dict[str, Any], refine: Refinement
) -> np.ndarray:
    """Argmax prediction on the original grid, refined."""
    logits = scorer.logits(image)
    segmentation = scorer.segmentation(logits, properties)
    if refine.largest_component:
        for value in context.dataset.foreground_labels:
            segmentation = remove_all_but_largest_component_from_segmentation(segmentation, value)
    if refine.ignore_margin > 0:
        margin = scorer.to_original_grid(margin_of_logits(logits), properties, outside=1.0)
        segmentation[margin < refine.ignore_margin] = context.dataset.labels["ignore"]
    return segmentation


def write_segmentation(context: Context, segmentation: np.ndarray, file: Path, properties: dict[str, Any]) -> None:
    """A segmentation, (z, y, x), in the geometry of its image, by nnU-Net's own writer.

    ITK does not say when a disk is full and leaves a file cut short, so what was written is read again.
    """
    reader = context.dataset.reader
    with atomic_path(file) as partial:
        reader.write_seg(segmentation, str(partial), properties)
        try:
            refuse_damaged_nifti(partial)
            whole = np.array_equal(reader.read_seg(str(partial))[0][0], segmentation)
        except Exception:  # readers raise what they like
            whole = False
        if not whole:
            raise OSError(errno.ENOSPC, "cut short while it was written", str(file))


def _dataset_json(
    context: Context, human_labels: Mapping[str, Path], pseudo_labels: Mapping[str, Path]
) -> dict[str, Any]:
    root = context.paths.raw.parent
    keep = {key: value for key, value in context.dataset.dataset_json.items() if key not in ("dataset", "numTraining")}
    labels = {**human_labels, **pseudo_labels}

    def portable(file: Path) -> str:  # nnU-Net expands variables, so the file can be copied to any dataset folder
        return f"$nnUNet_raw/{file.relative_to(root).as_posix()}" if file.is_relative_to(root) else str(file)

    return {
        **keep,
        "numTraining": len(labels),
        "dataset": {
            case: {"images": [portable(file) for file in context.dataset.images[case]], "label": portable(labels[case])}
            for case in sorted(labels)
        },
    }

"""Writing of pseudo-labels with provenance: on the original grid, into the raw dataset unless that can only be read,
and never into labelsTr."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.postprocessing.remove_connected_components import remove_all_but_largest_component_from_segmentation

from nnunet_assft.active.context import Context
from nnunet_assft.active.finished import DATASET_JSON, PROVENANCE
from nnunet_assft.active.scoring.prediction import Predicted, prediction_of
from nnunet_assft.active.state import Model
from nnunet_assft.runtime.cached import cached_or_none, keep
from nnunet_assft.runtime.cases import for_each_case
from nnunet_assft.runtime.files import sha256_file, write_json
from nnunet_assft.runtime.sealed import write_sealed
from nnunet_assft.volumes.segmentations import write_segmentation


def write_pseudo_labels(
    context: Context, r: int, model: Model, labelled: Sequence[str], selected: Mapping[str, Mapping[str, Any]]
) -> None:
    """Predict the selected cases and write round_RR/{pseudo_labels/CASE, provenance.json, dataset.json}.

    model: the model of the supervised stage. labelled: T_l. selected: case -> confidence, distance, reliability, rank.
    dataset.json lists the exact training set of the round, with human labels and pseudo-labels, in the form of
    nnU-Net's `dataset` entry. Pseudo-labels that the same model wrote before, in the same way, are kept.
    """
    experiment, folder = context.experiment, context.paths.pseudo_label_folder(r)
    files = {case: context.pseudo_label(r, case) for case in selected}
    options = experiment.options
    how = {
        "mirroring": options.pseudo_mirroring,
        "largest_component": options.largest_component,
        "ignore_margin": options.ignore_margin,
    }
    made_from = {"model": model.weights_sha256, **how}
    write = partial(_write_pseudo_label, context, r, made_from)

    def done(case: str) -> dict[str, Any] | None:
        return cached_or_none(_record(context, r, case), made_from, outputs=lambda _: [files[case]])

    entries: dict[str, dict[str, Any]] = for_each_case(
        prediction_of(context, model, write, mirroring=options.pseudo_mirroring, margin=options.ignore_margin > 0),
        list(selected),
        desc=f"round {r}: pseudo-labels",
        done=done,
        executor=context.cases,
    )
    for outdated in (folder / "pseudo_labels").glob("*"):  # written by an earlier attempt with another model
        if outdated not in files.values():
            outdated.unlink()
    human_labels = {case: context.dataset.label_file(case) for case in labelled}
    write_json(folder / DATASET_JSON, _dataset_json(context, human_labels, files))
    provenance = {
        "experiment": experiment.name,
        "round": r,
        "model": asdict(model),
        **how,
        "dataset_json_sha256": sha256_file(folder / DATASET_JSON),
        "cases": {case: {**selected[case], **entry} for case, entry in entries.items()},
    }
    write_sealed(folder / PROVENANCE, provenance)  # last: its existence means that the other files are complete


def _record(context: Context, r: int, case: str) -> Path:
    """Return the file that records what the pseudo-label of a case was made from, with its entry in the provenance."""
    return context.paths.records(f"round_{r:02d}_pseudo_labels") / f"{case}.json"


def _write_pseudo_label(context: Context, r: int, made_from: Mapping[str, Any], found: Predicted) -> dict[str, Any]:
    """Write the pseudo-label of a case and its record, and return its entry in the provenance."""
    file, segmentation = context.pseudo_label(r, found.case), _pseudo_label(context, found)
    write_segmentation(context.dataset.reader, segmentation, file, found.properties)
    counts = np.bincount(segmentation.ravel(), minlength=max(context.dataset.labels.values()) + 1)
    entry = {"sha256": sha256_file(file), "voxels": counts.tolist()}
    keep(_record(context, r, found.case), made_from, entry, [file])
    return entry


def _pseudo_label(context: Context, found: Predicted) -> np.ndarray:
    """Return the argmax prediction on the original grid, (z, y, x), with the refinements that the options ask for."""
    options, grid = context.experiment.options, found.on(context)
    segmentation = grid.segmentation(torch.from_numpy(found.logits), found.properties)
    if options.largest_component:  # smaller components of each structure become background
        for value in context.dataset.foreground_labels:
            segmentation = remove_all_but_largest_component_from_segmentation(segmentation, value)
    if found.margin is not None:  # voxels with a smaller p_(1) - p_(2) get the ignore label
        margin = grid.to_original_grid(torch.from_numpy(found.margin), found.properties, outside=1.0)
        segmentation[margin < options.ignore_margin] = context.dataset.labels["ignore"]
    return segmentation


def _dataset_json(
    context: Context, human_labels: Mapping[str, Path], pseudo_labels: Mapping[str, Path]
) -> dict[str, Any]:
    roots = {"nnUNet_raw": context.paths.raw.parent, "nnUNet_results": context.paths.results_of_dataset.parent}
    keep = {key: value for key, value in context.dataset.dataset_json.items() if key not in ("dataset", "numTraining")}
    labels = {**human_labels, **pseudo_labels}

    def portable(file: Path) -> str:  # nnU-Net expands environment variables, so the dataset can be moved
        for name, root in roots.items():
            if file.is_relative_to(root):
                return f"${name}/{file.relative_to(root).as_posix()}"
        return str(file)

    return {
        **keep,
        "numTraining": len(labels),
        "dataset": {
            case: {"images": [portable(file) for file in context.dataset.images[case]], "label": portable(labels[case])}
            for case in sorted(labels)
        },
    }

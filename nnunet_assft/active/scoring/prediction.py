"""Inference with the network of a trained stage, and its segmentations of the test cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_assft.active.context import Context
from nnunet_assft.active.scoring.original_grid import OriginalGrid, bytes_to_export
from nnunet_assft.active.scoring.scorer import Scorer, check_finite, finite_logits
from nnunet_assft.active.scoring.voxel_statistics import margin_of_logits
from nnunet_assft.active.state import Model
from nnunet_assft.evaluation.predictions import is_prediction, keep_prediction
from nnunet_assft.network.checkpoints import load_weights
from nnunet_assft.runtime.cases import Once, for_each_case
from nnunet_assft.runtime.processes import available_cores
from nnunet_assft.runtime.staged import Staged
from nnunet_assft.volumes.segmentations import write_segmentation


def open_scorer(context: Context, model: Model) -> Scorer:
    """Load the network of a trained stage for inference."""
    weights = load_weights(context.checkpoint(model), model.weights_sha256)
    embedding = context.experiment.options.embedding
    return Scorer(context.plans, context.dataset.dataset_json, weights, context.device, embedding)


def predict_test_cases(
    context: Context, model: Model, cases: Sequence[str], folder: Path, desc: str
) -> dict[str, Path]:
    """Write the segmentations of test cases to `folder`, as `nnUNetv2_predict` makes them, with mirroring.

    Segmentations that the same model wrote before are kept. desc: text of the progress bar. Returns case -> file.
    """
    ending, made_from = context.dataset.file_ending, {"model": model.weights_sha256}

    def done(case: str) -> Path | None:
        return folder / f"{case}{ending}" if is_prediction(folder, case, ending, made_from) else None

    return for_each_case(
        prediction_of(context, model, partial(_write, context, folder, made_from), mirroring=True),
        cases,
        desc=desc,
        done=done,
        executor=context.cases,
    )


def _write(context: Context, folder: Path, made_from: Mapping[str, str], found: Predicted) -> Path:
    ending = context.dataset.file_ending
    file = folder / f"{found.case}{ending}"
    segmentation = found.on(context).segmentation(torch.from_numpy(found.logits), found.properties)
    write_segmentation(context.dataset.reader, segmentation, file, found.properties)
    keep_prediction(folder, found.case, ending, made_from)
    return file


# The steps of a prediction --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Predicted:
    """What the network says about a case, on its grid, in the memory of the CPU.

    logits: (C, z, y, x). margin: p_(1) - p_(2) of every voxel if it was asked for, (z, y, x). properties: those with
    which nnU-Net resamples a prediction.
    """

    case: str
    logits: np.ndarray
    margin: np.ndarray | None
    properties: dict[str, Any]

    def on(self, context: Context) -> OriginalGrid:
        """Return the way to the original grid, without a network."""
        return OriginalGrid(context.plans, context.dataset.dataset_json)

    def bytes_to_export(self) -> int:
        """Return how much memory it takes to bring this to the original grid."""
        return bytes_to_export(self.logits, self.properties)


def prediction_of(
    context: Context, model: Model, write: Callable[[Predicted], Any], *, mirroring: bool, margin: bool = False
) -> Staged:
    """Return the function that predicts a case, given its id, and passes the prediction to `write`.

    The next case is read meanwhile, and other processes call `write`, if cores are left for them.
    """
    return Staged(
        read=partial(_read, context),
        compute=partial(_predict, Once(partial(open_scorer, context, model)), mirroring, margin),
        write=write,
        writers=partial(idle_cores, context.device),
        bytes_to_write=Predicted.bytes_to_export,
    )


def idle_cores(device: torch.device) -> int:
    """Return how many processes may work beside the forward passes: 3, as in nnU-Net, or fewer if fewer cores are
    left."""
    busy = torch.get_num_threads() if device.type == "cpu" else 1
    return max(0, min(3, available_cores() - busy))


def _read(context: Context, case: str) -> tuple[str, np.ndarray, dict[str, Any]]:
    return case, context.image(case), context.properties(case)


def _predict(
    scorer: Once[Scorer], mirroring: bool, margin: bool, found: tuple[str, np.ndarray, dict[str, Any]]
) -> Predicted:
    case, image, properties = found
    with finite_logits(case):
        logits = scorer().logits(image, mirroring=mirroring)
    check_finite(case, logits.amax().cpu().numpy())  # NaN if one of them is, which would become background
    margins = margin_of_logits(logits).numpy() if margin else None
    return Predicted(case, logits.cpu().numpy(), margins, properties)  # arrays are safe to pickle, as in nnU-Net

"""Inference with the network of a trained stage, and its segmentations of the test cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from nnunet_assft.active.context import Context
from nnunet_assft.active.scoring.scorer import Scorer
from nnunet_assft.active.state import Model
from nnunet_assft.evaluation.predictions import is_prediction, keep_prediction
from nnunet_assft.network.checkpoints import load_weights
from nnunet_assft.runtime.cases import Once, for_each_case
from nnunet_assft.volumes.segmentations import write_segmentation


def open_scorer(context: Context, model: Model) -> Scorer:
    """Load the network of a trained stage for inference."""
    weights = load_weights(context.checkpoint(model), model.weights_sha256)
    return Scorer(context.plans, context.dataset.dataset_json, weights, context.device)


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
        partial(_predict, context, Once(partial(open_scorer, context, model)), folder, made_from),
        cases,
        desc=desc,
        done=done,
        executor=context.cases,
    )


def _predict(context: Context, scorer: Once[Scorer], folder: Path, made_from: Mapping[str, str], case: str) -> Path:
    ending, properties = context.dataset.file_ending, context.properties(case)
    logits = scorer().logits(context.image(case), mirroring=True)
    file = folder / f"{case}{ending}"
    write_segmentation(context.dataset.reader, scorer().segmentation(logits, properties), file, properties)
    keep_prediction(folder, case, ending, made_from)
    return file

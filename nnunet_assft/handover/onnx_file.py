"""The network of a model as an ONNX file, which is compared with torch before it is handed over."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from nnunet_assft.active.experiment import read_plans
from nnunet_assft.active.scoring.scorer import Scorer
from nnunet_assft.active.state import Experiment, Round
from nnunet_assft.errors import AssftError
from nnunet_assft.network.checkpoints import load_weights
from nnunet_assft.nnunet_names import CONFIGURATION
from nnunet_assft.runtime.files import atomic_path

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-3  # of the largest logit


class Checked(NamedTuple):
    """How far the logits of ONNX Runtime are from those of torch, for one patch of noise.

    difference: the largest one, relative to the largest logit. same_class: share of voxels with the same structure.
    """

    difference: float
    same_class: float


def require_onnx() -> None:
    """Raise `AssftError` unless the packages of the extra `onnx` are installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise AssftError(
            f"--onnx needs {', '.join(PACKAGES)}; {' and '.join(missing)} cannot be found. "
            "Run pip install 'nnunet_assft[onnx]'."
        )


def write_onnx(experiment: Experiment, done: Round, card: Mapping[str, Any], file: Path) -> Checked:
    """Write the network of a finished round: `image`, (1, channels, z, y, x), to `logits`, (1, classes, z, y, x).

    The image is one patch, which the caller has preprocessed as nnU-Net does. card: the model card, whose entries about
    the model are stored in the file. Raises `AssftError`, and leaves no file, if ONNX Runtime does not compute what
    torch computes.
    """
    import onnx

    plans, dataset_json = read_plans(experiment), experiment.raw_dataset().dataset_json
    weights = load_weights(experiment.paths.result(done.model.checkpoint), done.model.weights_sha256)
    network = Scorer(plans, dataset_json, weights, torch.device("cpu")).network
    patch = plans["configurations"][CONFIGURATION]["patch_size"]
    shape = (1, len(dataset_json["channel_names"]), *patch)
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    about = {name: json.dumps(card[name]) for name in ("model", "weights_sha256", "input_and_output")}
    with atomic_path(file) as partial:
        _convert(network, torch.from_numpy(image), partial)
        model = onnx.load(partial)
        _remove_traces(model)
        onnx.helper.set_model_props(model, about)
        onnx.save(model, partial)
        checked = _compare(network, image, partial)
        if not checked.difference <= TOLERANCE:
            raise AssftError(
                f"The ONNX file computes other logits than torch (the largest difference is {checked.difference:.1e} "
                f"of the largest logit; expected at most {TOLERANCE:g}), so it is not written. Try other versions of "
                "torch and onnxscript."
            )
    return checked


def _convert(network: nn.Module, image: torch.Tensor, file: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(StringIO()):  # torch reports its progress
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (image,),
            file,
            input_names=["image"],
            output_names=["logits"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _remove_traces(model: Any) -> None:
    """Remove what torch notes about each node: the lines of the source code, with the folders of this machine."""
    for node in (*model.graph.node, *(node for function in model.functions for node in function.node)):
        node.ClearField("metadata_props")


def _compare(network: nn.Module, image: np.ndarray, file: Path) -> Checked:
    import onnxruntime

    with torch.inference_mode():
        expected = network(torch.from_numpy(image)).numpy()
    network_file = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (found,) = network_file.run(["logits"], {"image": image})
    difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    return Checked(difference, float((found.argmax(1) == expected.argmax(1)).mean()))

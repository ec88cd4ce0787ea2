"""A trained model in the form that stock nnU-Net takes: its plans, dataset.json and checkpoint.

The plans name classes of nnU-Net wherever these compute the same. Nothing is left in them of cases, of paths and of the
state of the training.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from importlib.metadata import packages_distributions, version
from typing import Any

import torch

from nnunet_assft import __version__
from nnunet_assft.network.interface import RECEIVER
from nnunet_assft.nnunet_names import CONFIGURATION
from nnunet_assft.planning import normalization
from nnunet_assft.planning.choices import NORMALIZATIONS
from nnunet_assft.planning.normalization import CTFM_WINDOW_HU

TRAINER = "nnUNetTrainer"  # builds its network from the plans alone
WITH_NNUNET = ("dynamic_network_architectures", "torch", "nnunetv2")  # packages that every receiver has
KEYS_OF_PLANS = (
    "dataset_name",
    "plans_name",
    "original_median_spacing_after_transp",
    "original_median_shape_after_transp",
    "image_reader_writer",
    "transpose_forward",
    "transpose_backward",
    "configurations",
    "experiment_planner_used",
    "label_manager",
    "foreground_intensity_properties_per_channel",
)


def stock_plans(plans: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plans that stock nnU-Net predicts with.

    The normalisation of CT-FM becomes nnU-Net's CTNormalization, which computes the same with its numbers in place of
    those of the dataset. The percentiles of each volume have no such counterpart, and stay with this package.
    """
    plans = {key: plans[key] for key in KEYS_OF_PLANS if key in plans}
    configuration = dict(plans["configurations"][CONFIGURATION])
    schemes = configuration["normalization_schemes"]
    if set(schemes) == {NORMALIZATIONS["ctfm"]}:
        low, high = CTFM_WINDOW_HU
        window = {"percentile_00_5": low, "percentile_99_5": high, "mean": low, "std": high - low}
        configuration["normalization_schemes"] = ["CTNormalization"] * len(schemes)
        plans["foreground_intensity_properties_per_channel"] = {str(i): window for i in range(len(schemes))}
    elif any(hasattr(normalization, scheme) for scheme in schemes):
        configuration["architecture"] = _built_by_receiver(configuration["architecture"])
    return {**plans, "configurations": {CONFIGURATION: configuration}}


def _built_by_receiver(architecture: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "network_class_name": RECEIVER,
        "arch_kwargs": {"network_class": architecture["network_class_name"], **architecture["arch_kwargs"]},
        "_kw_requires_import": ["network_class", *architecture["_kw_requires_import"]],
    }


def stock_dataset_json(dataset_json: Mapping[str, Any], n_labelled: int) -> dict[str, Any]:
    """Return the dataset.json that belongs to the model, without the list of cases that it may have."""
    kept = {key: dataset_json[key] for key in ("channel_names", "labels", "file_ending")}
    return {**kept, "numTraining": n_labelled}


def stock_checkpoint(weights: Mapping[str, torch.Tensor], fold: int) -> bytes:
    """Return the content of a checkpoint that nnU-Net predicts with, and fine-tunes from. It holds no log, no optimiser
    and no path. Equal weights give equal bytes."""
    buffer = io.BytesIO()
    content = {
        "network_weights": dict(weights),
        "trainer_name": TRAINER,
        "init_args": {"configuration": CONFIGURATION, "fold": fold},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(content, buffer)
    return buffer.getvalue()


def requirements(plans: Mapping[str, Any]) -> list[str]:
    """Return what has to be installed where the model runs. plans: those of `stock_plans`."""
    architecture = plans["configurations"][CONFIGURATION]["architecture"]
    classes = (architecture["network_class_name"], architecture["arch_kwargs"].get("network_class", "torch"))
    found = [f"nnunetv2 {version('nnunetv2')}"]
    for package in dict.fromkeys(name.split(".")[0] for name in classes):
        if package == "nnunet_assft":
            found.append(f"nnunet_assft {__version__}")
        elif package not in WITH_NNUNET:
            distributions = packages_distributions().get(package, [])
            found.append(f"{distributions[0]} {version(distributions[0])}" if distributions else package)
    return found

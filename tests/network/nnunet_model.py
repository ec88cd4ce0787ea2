"""A checkpoint of nnU-Net, made with a network of its library that was built by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

WIDTHS, STRIDES = [4, 8, 16], [[1, 1, 1], [2, 2, 2], [1, 2, 2]]
ARCHITECTURE: dict[str, Any] = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 3,
        "features_per_stage": WIDTHS,
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": STRIDES,
        "n_conv_per_stage": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}
LABELS = {"background": 0, "spleen": 1, "liver": 2, "ignore": 3}


def theirs(input_channels: int = 1, num_classes: int = 3) -> nn.Module:
    """The network of ARCHITECTURE, built by hand, with weights that no initialisation gives."""
    torch.manual_seed(7)
    of_layers = (True, nn.InstanceNorm3d, {"eps": 1e-5, "affine": True}, None, None, nn.LeakyReLU, {"inplace": True})
    shape = (3, WIDTHS, nn.Conv3d, 3, STRIDES, 2, num_classes, 2)
    network = PlainConvUNet(input_channels, *shape, *of_layers)
    for parameter in network.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    return network.eval()


def plans() -> dict[str, Any]:
    configuration = {
        "patch_size": [16, 32, 32],
        "spacing": [1.5, 1.0, 1.0],
        "normalization_schemes": ["CTNormalization"],
        "architecture": copy.deepcopy(ARCHITECTURE),
    }
    return {"dataset_name": "Dataset001_Own", "configurations": {"3d_fullres": configuration}}


def checkpoint() -> dict[str, Any]:
    """What nnU-Net's trainer saves."""
    dataset_json = {"channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": 1, "file_ending": ".nii.gz"}
    return {
        "network_weights": theirs().state_dict(),
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"train_losses": [np.float32(0.5)], "ema_fg_dice": [np.float64(0.1)]},
        "_best_ema": np.float64(0.1),
        "current_epoch": 1,
        "init_args": {
            "plans": plans(),
            "configuration": "3d_fullres",
            "fold": 0,
            "dataset_json": dataset_json,
            "device": torch.device("cuda"),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }


def save(folder: Path, change: Callable[[dict[str, Any]], object] = lambda content: None) -> Path:
    """A checkpoint in the place that nnU-Net has for it. change: is applied to its content."""
    content = checkpoint()
    change(content)
    file = folder / "fold_0" / "checkpoint_final.pth"
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, file)
    return file

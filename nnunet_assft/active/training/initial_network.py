"""The network from which round 0 starts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_assft.active.settings import OF_START, Settings
from nnunet_assft.errors import AssftError
from nnunet_assft.network.interface import build_network
from nnunet_assft.network.presets import PRESETS, Preset
from nnunet_assft.network.pretrained import load_pretrained_encoder
from nnunet_assft.network.trained_model import build_model, load_model, read_model, require_same
from nnunet_assft.network.weight_files import EncoderReport, PretrainedEncoderError
from nnunet_assft.runtime.files import atomic_path


def write_initial_network(
    file: Path, dataset_json: dict[str, Any], settings: Settings
) -> tuple[Preset, dict[str, Any] | None]:
    """Write [E^(p); D^(0)]: a network with seeded random weights, into which an encoder or a whole model is loaded.

    The architecture of the network depends on no image. Returns its preset, and the report on what was loaded, None for
    a random start. Raises `AssftError` if the encoder or the model does not fit the network in every parameter.
    """
    try:
        network, preset, report = _initial_network(dataset_json, settings)
    except PretrainedEncoderError as error:
        raise AssftError(str(error)) from error
    with atomic_path(file) as partial:
        torch.save({"network_weights": network.state_dict()}, partial)
    # in JSON types, so that a report that was just made equals one that was loaded
    return preset, None if report is None else json.loads(json.dumps(dataclasses.asdict(report)))


def _initial_network(
    dataset_json: dict[str, Any], settings: Settings
) -> tuple[torch.nn.Module, Preset, EncoderReport | None]:
    n_classes = LabelManager(dataset_json["labels"], regions_class_order=None).num_segmentation_heads
    n_channels = len(dataset_json["channel_names"])
    assert settings.preset is not None
    torch.manual_seed(settings.seed)
    if settings.start is not None:
        model = read_model(settings.start)
        if settings.preset != OF_START:
            require_same(settings.preset, model)
        network = build_model(model, n_channels, n_classes)
        return network, model.preset, load_model(network, model, dataset_json["labels"])
    preset = PRESETS[settings.preset]
    network = build_network(preset.architecture, n_channels, n_classes, initialise=True)
    if settings.encoder is None:
        return network, preset, None
    report = load_pretrained_encoder(network, settings.encoder, settings.encoder_format, preset.architecture)
    return network, preset, report

"""The network from which round 0 starts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_assft.active.settings import Settings
from nnunet_assft.errors import AssftError
from nnunet_assft.network.encoder_file import read_contract, require_fit
from nnunet_assft.network.interface import build_network
from nnunet_assft.network.presets import PRESETS
from nnunet_assft.network.pretrained import load_pretrained_encoder
from nnunet_assft.runtime.files import atomic_path


def write_initial_network(file: Path, dataset_json: dict[str, Any], settings: Settings) -> dict[str, Any] | None:
    """Write [E^(p); D^(0)]: a network with seeded random weights, into which the pre-trained encoder is loaded.

    The network is that of the plans, whose architecture depends on no image. Returns the report on the encoder, or None
    without one. Raises `AssftError` if the encoder file does not fit the network in every parameter.
    """
    n_classes = LabelManager(dataset_json["labels"], regions_class_order=None).num_segmentation_heads
    n_channels = len(dataset_json["channel_names"])
    torch.manual_seed(settings.seed)
    architecture = PRESETS[settings.preset].architecture
    network = build_network(architecture, n_channels, n_classes, initialise=True)
    report = None
    if settings.encoder is not None:
        contract = read_contract(Path(settings.encoder))
        if contract is not None:
            require_fit(contract, architecture, Path(settings.encoder))
        try:
            report = load_pretrained_encoder(network, settings.encoder)
        except ValueError as error:
            raise AssftError(str(error)) from error
    with atomic_path(file) as partial:
        torch.save({"network_weights": network.state_dict()}, partial)
    return None if report is None else {**dataclasses.asdict(report), "ignored": list(report.ignored)}

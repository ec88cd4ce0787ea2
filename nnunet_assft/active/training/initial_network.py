"""The network from which round 0 starts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_assft.active.settings import Settings
from nnunet_assft.errors import AssftError
from nnunet_assft.network.pretrained import load_pretrained_encoder
from nnunet_assft.planning.planner import CONFIGURATION
from nnunet_assft.runtime.files import atomic_path


def write_initial_network(
    file: Path, plans: dict[str, Any], dataset_json: dict[str, Any], settings: Settings
) -> dict[str, Any] | None:
    """Write [E^(p); D^(0)]: a network with seeded Kaiming initialisation, into which the pre-trained encoder is loaded.

    Returns the report on the encoder, or None without one. Raises `AssftError` if the encoder file does not fit the
    network in every parameter.
    """
    plans_manager = PlansManager(plans)
    configuration = plans_manager.get_configuration(CONFIGURATION)
    torch.manual_seed(settings.seed)
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        determine_num_input_channels(plans_manager, configuration, dataset_json),
        plans_manager.get_label_manager(dataset_json).num_segmentation_heads,
        allow_init=True,
        deep_supervision=False,
    )
    report = None
    if settings.encoder is not None:
        try:
            report = load_pretrained_encoder(network, settings.encoder)
        except ValueError as error:
            raise AssftError(str(error)) from error
    with atomic_path(file) as partial:
        torch.save({"network_weights": network.state_dict()}, partial)
    return None if report is None else {**dataclasses.asdict(report), "ignored": list(report.ignored)}

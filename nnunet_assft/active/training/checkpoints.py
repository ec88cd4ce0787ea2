"""Network files: the initial network of round 0, and the weights and the log in checkpoints of nnU-Net."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
from collections.abc import Mapping
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


def load_weights(file: Path) -> dict[str, torch.Tensor]:
    """Load the network weights of an nnU-Net checkpoint onto the CPU. Raises `AssftError` if the file is damaged."""
    weights: dict[str, torch.Tensor] = _read_entry(file, "network_weights")
    return weights


def training_log(file: Path) -> dict[str, list[Any]]:
    """Load the training log of an nnU-Net checkpoint: name, such as `train_losses` -> one value per epoch.

    The weights are not read. Raises `AssftError` if the file is damaged.
    """
    log: dict[str, list[Any]] = _read_entry(file, "logging", mmap=True)
    return log


def _read_entry(file: Path, entry: str, *, mmap: bool = False) -> Any:
    """Load one entry of a checkpoint. mmap: leave the tensors on disk until they are used."""
    try:
        return torch.load(file, map_location="cpu", weights_only=False, mmap=mmap)[entry]
    except (RuntimeError, OSError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise AssftError(
            f"The checkpoint {file} cannot be read ({' '.join(str(error).split())[:120]}). Restore it, "
            "or move it away to train this stage again."
        ) from error


def weights_sha256(weights: Mapping[str, torch.Tensor]) -> str:
    """Return a checksum of the weights alone, so that equal weights have equal checksums in any checkpoint."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

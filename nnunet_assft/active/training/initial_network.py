"""The network from which round 0 starts, and the encoder or model whose weights it has."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_assft.active.settings import OF_START, STARTS, Settings
from nnunet_assft.active.state import Experiment
from nnunet_assft.errors import AssftError, DamagedFileError
from nnunet_assft.network.checkpoints import load_weights, weights_sha256
from nnunet_assft.network.interface import build_network
from nnunet_assft.network.presets import PRESETS, Preset
from nnunet_assft.network.pretrained import load_pretrained_encoder, presets_that_take
from nnunet_assft.network.trained_model import build_model, find_checkpoint, load_model, read_model, require_same
from nnunet_assft.network.weight_files import EncoderReport, PretrainedEncoderError
from nnunet_assft.runtime.files import atomic_path, base_name, sha256_file
from nnunet_assft.volumes.raw_dataset import RawDataset


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


def with_preset_of_encoder(settings: Settings) -> Settings:
    """Return the settings with the first preset that takes the encoder, if none is chosen. What is wrong with an
    encoder that none takes is said when it is loaded."""
    if settings.encoder is None or settings.preset is not None:
        return settings
    settings.require_names()
    try:
        taking = presets_that_take(settings.encoder, settings.encoder_format)
    except PretrainedEncoderError as error:
        raise AssftError(str(error)) from error
    return dataclasses.replace(settings, preset=taking[0]) if taking else settings


def restore_initial_network(experiment: Experiment, dataset: RawDataset, settings: Settings | None = None) -> None:
    """Write the initial network again if it was damaged or deleted. It is determined by the seed and the file of
    the encoder or model.

    settings: with the path of that file. `experiment` has no more than its name.
    """
    file, expected = experiment.paths.initial_network, experiment.initial_network_sha256
    with suppress(DamagedFileError):
        load_weights(file, expected or None)
        return
    there = settings or experiment.settings
    if there.pretrained and not Path(there.pretrained).exists():
        option = "--encoder" if there.encoder else "--start"
        raise DamagedFileError(
            f"{file} is damaged or missing, and {there.pretrained}, from which it can be made again, is not there. "
            f"Restore it from a backup, or run {experiment.command('plan')} with the options that the experiment was "
            f"planned with, and {option} with the place of this file."
        )
    write_initial_network(
        file, dataset.dataset_json, dataclasses.replace(experiment.settings, encoder=there.encoder, start=there.start)
    )
    if weights_sha256(load_weights(file)) != expected:
        raise DamagedFileError(
            f"{file} was damaged, and the network that was made again in its place has other weights, perhaps because "
            "the file that it starts from or the version of torch is another one. Restore it from a backup."
        )


def other_start(existing: Experiment, settings: Settings) -> dict[str, tuple[Any, Any]]:
    """Return name -> (what the experiment was planned with, what is wanted) if that is another encoder or model."""
    pairs = {name: (getattr(existing.settings, name), getattr(settings, name)) for name in STARTS}
    known = (existing.encoder_report or {}).get("sha256")
    others = {name: (had, differing(had, want, known, sha256_of_start(want))) for name, (had, want) in pairs.items()}
    return {name: (had, want) for name, (had, want) in others.items() if had != want}


def differing(had: str | None, want: str | None, known: str | None, present: str | None) -> str | None:
    """Return what is wanted in place of an encoder or model, as a text, or `had` if it is the same.

    The content counts, wherever the file lies and whatever it is called, and the name if not both checksums are there.
    had, want: paths; None for none. known, present: their checksums; None if there is no file to read.
    """
    if had is None or want is None:
        return want
    called_the_same = base_name(had) == base_name(want)
    if known == present if known and present else called_the_same:
        return had
    return f"{want} with another content" if called_the_same else want


def sha256_of_start(path: str | None) -> str | None:
    """Return the checksum of an encoder, or of the checkpoint of a model, and None if it is not there."""
    with suppress(PretrainedEncoderError):  # a folder without a checkpoint, or with several
        file = path and find_checkpoint(Path(path))
        return sha256_file(file) if file and file.is_file() else None
    return None

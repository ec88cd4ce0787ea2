"""A whole model that nnU-Net has trained, as the network from which an experiment starts.

A model is the folder that nnU-Net's training writes, or one of the checkpoints in it:

    MODEL/plans.json  MODEL/dataset.json  MODEL/fold_0/checkpoint_final.pth

Encoder and decoder are taken as they are. Of the last layer, each structure takes the row of the structure of the same
name. No code from the checkpoint is run, and no class that it names is imported, unless it is the class of a preset.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn

from nnunet_assft.network.interface import RECEIVER, build_network, last_layer, layers_of_deep_supervision
from nnunet_assft.network.presets import CT_NORMALIZATION, NNUNET, PRESETS, Preset
from nnunet_assft.network.weight_files import (
    WRAPPER,
    EncoderReport,
    PretrainedEncoderError,
    adapt_input_channels,
    fitted,
    other_channels,
    read_weights,
)
from nnunet_assft.runtime.files import json_text, read_json, sha256_file
from nnunet_assft.runtime.text import count, reason, some

FINAL = "checkpoint_final.pth"
INTENSITIES = ("mean", "std", "percentile_00_5", "percentile_99_5")  # what CTNormalization takes of a channel
NEEDED = ("network_weights", "init_args")  # entries of a checkpoint
OF_TORCH = "torch.nn."  # where the classes of layers are, which plans name


@dataclass(frozen=True)
class TrainedModel:
    """A model of nnU-Net. preset: its network. contract: the input that it was trained with, see `EncoderReport`.
    structures: name -> row of the last layer, background included; empty for a model with regions, whose rows mean
    something else. weights: those of its network."""

    checkpoint: Path
    preset: Preset
    contract: dict[str, Any]
    structures: dict[str, int]
    weights: dict[str, Any]


def read_model(path: str | Path) -> TrainedModel:
    """Read a model from its folder or from a checkpoint. Raises `PretrainedEncoderError` if it cannot be used."""
    checkpoint = find_checkpoint(Path(path))
    content, _ = read_weights(checkpoint, "nnU-Net checkpoint", NEEDED)
    return model_in(content, checkpoint)


def model_in(content: Any, checkpoint: Path) -> TrainedModel:
    """Return the model in the content of a checkpoint. Raises `PretrainedEncoderError` if it cannot be used."""
    entries = content if isinstance(content, Mapping) else {}
    if missing := [name for name in NEEDED if not isinstance(entries.get(name), Mapping)]:
        raise PretrainedEncoderError(
            f"{checkpoint} has no {' and no '.join(missing)}; expected a checkpoint that nnU-Net v2 has written. Give "
            "an encoder alone with --encoder."
        )
    try:
        plans, dataset_json, configuration = _trained_with(content["init_args"], checkpoint)
        planned = _configuration(plans, configuration)
        preset, structures = preset_of(planned, configuration), _rows(dataset_json["labels"])
        contract: dict[str, Any] = {
            "spacing": [float(edge) for edge in planned.spacing],
            "patch_size": [int(edge) for edge in planned.patch_size],
            "normalization": [str(scheme) for scheme in planned.normalization_schemes],
            "channels": [str(name) for name in dataset_json["channel_names"].values()],
        }
        of_channels = plans.get("foreground_intensity_properties_per_channel", {}).values()
        if CT_NORMALIZATION in contract["normalization"] and of_channels:
            contract["intensities"] = [{name: float(numbers[name]) for name in INTENSITIES} for numbers in of_channels]
        json_text(contract)  # raises ValueError for a spacing that is not finite
    except PretrainedEncoderError as error:
        raise PretrainedEncoderError(f"{checkpoint} {error}") from error
    except Exception as error:  # plans of any content
        raise PretrainedEncoderError(
            f"The plans or the labels in {checkpoint} cannot be used ({reason(error)}); expected those of a model for "
            "volumes of nnU-Net v2. Use a checkpoint as nnU-Net has written it."
        ) from error
    weights = {WRAPPER.sub("", str(key)): value for key, value in content["network_weights"].items()}
    return TrainedModel(checkpoint, preset, contract, structures, weights)


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint of a model: `path` itself, or the only final checkpoint in the folder `path`.

    Raises `PretrainedEncoderError` if there is none or a choice.
    """
    if not path.is_dir():
        return path
    found = sorted([*path.glob(FINAL), *path.glob(f"fold_*/{FINAL}")])
    if len(found) == 1:
        return found[0]
    if found:
        folds = some(file.parent.name for file in found)
        raise PretrainedEncoderError(
            f"{path} has the models of {len(found)} folds ({folds}); a network starts from one. Name one of them, such "
            f"as {found[0]}."
        )
    there = some(sorted(file.name for file in path.iterdir()), 3) or "nothing"
    raise PretrainedEncoderError(
        f"{path} has no fold_*/{FINAL} but {there}; expected the folder of a model that nnU-Net has trained, such as "
        "nnUNetTrainer__nnUNetPlans__3d_fullres, or a checkpoint. Give one of them."
    )


def _trained_with(arguments: Mapping[str, Any], checkpoint: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return plans, dataset.json and configuration of a checkpoint: its own, or those beside it if it has none."""

    def content(key: str, name: str) -> dict[str, Any]:
        file = checkpoint.parent.parent / name
        found: dict[str, Any] | None = arguments.get(key)
        if not found and not file.is_file():
            raise PretrainedEncoderError(f"has no {key}, and {file} does not exist. Put the file there.")
        return found or read_json(file)

    return content("plans", "plans.json"), content("dataset_json", "dataset.json"), arguments["configuration"]


def _configuration(plans: Mapping[str, Any], configuration: str) -> ConfigurationManager:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the plans are old, which nnU-Net converts
        return PlansManager(dict(plans)).get_configuration(configuration)


def preset_of(planned: ConfigurationManager, configuration: str) -> Preset:
    """Return the network of a configuration of nnU-Net's plans, with the patch that they have.

    Raises `PretrainedEncoderError`, whose text continues a sentence that names the file, for one of an unknown class.
    """
    name, arguments = planned.network_arch_class_name, json.loads(json.dumps(planned.network_arch_init_kwargs))
    imported = tuple(planned.network_arch_init_kwargs_req_import)
    if name == RECEIVER:  # of an exported model
        name = arguments.pop("network_class")
        imported = tuple(argument for argument in imported if argument != "network_class")
    rows = _rows_of_class(name)
    if len(planned.patch_size) != 3:
        raise PretrainedEncoderError(
            f"is a model of the configuration {configuration}, for slices; expected one for volumes. Use another model."
        )
    layers = [arguments[argument] for argument in imported if arguments[argument] is not None]
    others = [layer for layer in layers if not layer.startswith(OF_TORCH)]
    if others := others or sorted(set(imported).difference(*(row.requires_import for row in rows))):
        raise PretrainedEncoderError(
            f"has plans that name layers outside of torch ({some(others)}), which are not imported. Use another model."
        )
    return replace(
        rows[0],
        description="the network of the model that --start names",
        arguments=arguments,
        requires_import=imported,
        smallest_bottleneck=_smallest_bottleneck(rows, arguments),
        patch_size=tuple(int(edge) for edge in planned.patch_size),
    )


def _rows_of_class(network_class: str) -> list[Preset]:
    """Return the presets of a class. Its package need not be the same, if none has it under its whole name."""
    short = network_class.rsplit(".", 1)[-1]
    rows = [row for row in PRESETS.values() if row.network_class.rsplit(".", 1)[-1] == short]
    if not rows:
        known = sorted({row.network_class.rsplit(".", 1)[-1] for row in PRESETS.values()})
        raise PretrainedEncoderError(
            f"is a model of the network {short}; expected one of {', '.join(known)}. Use another model."
        )
    exact = [row for row in rows if row.network_class == network_class]
    return exact or [row for row in rows if row.network_class == rows[0].network_class]


def _smallest_bottleneck(rows: Sequence[Preset], arguments: Mapping[str, Any]) -> int:
    """Return what the presets of a class with the norm of these arguments need, or all of them if none has it."""
    norms = [[of.get(name) for name in ("norm", "norm_op")] for of in (arguments, *(row.arguments for row in rows))]
    alike = [row for row, norm in zip(rows, norms[1:], strict=True) if norm == norms[0]]
    return max(row.smallest_bottleneck for row in alike or rows)


def require_same(preset: str, model: TrainedModel) -> None:
    """Raise `PretrainedEncoderError`, which names a preset that would fit, unless the preset is the model's network."""
    if PRESETS[preset].architecture == model.preset.architecture:
        return
    same = [name for name, row in PRESETS.items() if row.architecture == model.preset.architecture]
    use = f"Use --preset {same[0]}, or leave" if same else "No preset is this network; leave"
    raise PretrainedEncoderError(
        f"{model.checkpoint} is {shown(model.preset)}; the preset {preset!r} is {shown(PRESETS[preset])}, with other "
        f"layers. {use} out --preset, which takes the network of the model."
    )


def shown(preset: Preset) -> str:
    """Return class, levels and widths of a network as a phrase."""
    arguments = preset.arguments
    widths = arguments.get("features_per_stage") or arguments.get("widths") or ()
    name, levels = preset.network_class.rsplit(".", 1)[-1], count(len(arguments["strides"]), "level")
    return f"a {name} of {levels}, widths {', '.join(map(str, widths))}"


def build_model(model: TrainedModel, input_channels: int, num_classes: int) -> nn.Module:
    """Build the network of a model, with random weights. Raises `PretrainedEncoderError` if that is not possible."""
    try:
        return build_network(model.preset.architecture, input_channels, num_classes, initialise=True)
    except Exception as error:  # arguments of any content
        raise PretrainedEncoderError(
            f"The network that the plans in {model.checkpoint} describe cannot be built ({reason(error)}). Use a "
            "checkpoint as nnU-Net has written it."
        ) from error


def load_model(network: nn.Module, model: TrainedModel, labels: Mapping[str, Any]) -> EncoderReport:
    """Load a model into a new network of the same architecture.

    labels: those of the dataset that the network is to segment. A row of the last layers, also of those of deep
    supervision, is taken from the structure of the same name, and is not changed if there is none. Raises
    `PretrainedEncoderError`, and leaves the network unchanged, if anything does not fit.
    """
    pairs = {row: model.structures[name] for name, row in _rows(labels).items() if name in model.structures}
    weights, adapted = adapt_input_channels(dict(model.weights), network)
    own, kept = network.state_dict(), len(model.structures)
    for name in _keys_of_last_layers(network):
        if isinstance(weights.get(name), Tensor) and (not kept or len(weights[name]) == kept):
            weights[name] = _with_rows(own[name], weights[name], pairs)
    cast, problems = fitted(weights, network)
    if problems:
        advice = other_channels(weights, network) or "Use a complete, unchanged checkpoint."
        raise PretrainedEncoderError(
            f"{model.checkpoint} does not fit the network that its plans describe: {problems}. Nothing was loaded. "
            f"{advice}"
        )
    network.load_state_dict(cast, strict=True)
    return EncoderReport(
        path=str(model.checkpoint),
        sha256=sha256_file(model.checkpoint),
        encoder=NNUNET,
        layout="torch, network_weights",
        n_keys=len(cast),
        adapted=adapted,
        ignored=(),
        contract=model.contract,
        structures={name: row in pairs for name, row in _rows(labels).items()},
    )


def _rows(labels: Mapping[str, Any]) -> dict[str, int]:
    """Return structure -> row of the last layer, background included; empty if the labels are regions."""
    values = {name: value for name, value in labels.items() if name != "ignore"}
    if any(isinstance(value, list | tuple) for value in values.values()):
        return {}
    return {name: int(value) for name, value in values.items()}


def _keys_of_last_layers(network: nn.Module) -> list[str]:
    layers = [*layers_of_deep_supervision(network), last_layer(network)]
    of_layers = {id(tensor) for layer in layers for tensor in layer.parameters()}
    return [name for name, tensor in network.state_dict(keep_vars=True).items() if id(tensor) in of_layers]


def _with_rows(own: Tensor, theirs: Tensor, pairs: Mapping[int, int]) -> Tensor:
    """Return a tensor of a last layer with the rows of another one in it. pairs: row -> row of the other tensor."""
    if own.shape[1:] != theirs.shape[1:]:
        return theirs
    merged = own.clone()
    for row, other in pairs.items():
        merged[row] = theirs[other]
    return merged

"""Strict loading of pre-trained encoders: the whole encoder is loaded, or nothing.

The keys of a file differ from those of the network's encoder only by a prefix. The loader removes it and checks every
key, shape and value before it changes the network.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nnunet_assft.network.encoder_file import OWN, read_contract
from nnunet_assft.network.interface import encoder_of
from nnunet_assft.network.presets import ENCODERS, PRESETS, EncoderSpec
from nnunet_assft.network.weight_files import (
    WRAPPER,
    PretrainedEncoderError,
    StateDict,
    adapt_input_channels,
    fitted,
    read_weights,
    state_dicts,
)
from nnunet_assft.runtime.files import sha256_file
from nnunet_assft.runtime.text import some


@dataclass(frozen=True)
class EncoderReport:
    """What was loaded from an encoder file, or from a whole model, as recorded with the experiment.

    contract: the input that the weights were trained with, as far as the file says it: `spacing` and `patch_size`
    (z, y, x), `normalization`, the names of nnU-Net's schemes, and `channels`, the names of the input channels.
    structures: name -> whether its row of the last layer was loaded; None if an encoder alone was. header: of a file of
    `network.encoder_file`.
    """

    path: str
    sha256: str
    encoder: str  # row of ENCODERS
    layout: str  # such as "safetensors, prefix 'encoder.'"
    n_keys: int
    adapted: str | None  # how conv_init was adapted to several input channels, None if it was not
    ignored: tuple[str, ...]  # other content of the file: known prefixes of keys, or whole keys
    contract: dict[str, Any] = field(default_factory=dict)
    structures: dict[str, bool] | None = None
    header: dict[str, Any] | None = None


def load_pretrained_encoder(net: nn.Module, path: str | Path, encoder: str | None = None) -> EncoderReport:
    """Load all parameters and statistics of the encoder of a network from a local file. The decoder is not changed.

    path: a safetensors file, or a torch file with a state dict or with dictionaries around it, as checkpoints have
    them. encoder: row of ENCODERS; None for the first row that the network can take and whose keys the file has. A file
    of `network.encoder_file` says itself what it is. If the network has several input channels and the file has one,
    the first convolution is repeated and divided by their number, so that equal channels give the same features. Raises
    PretrainedEncoderError, and leaves `net` unchanged, if a key is missing (even a counter `num_batches_tracked`),
    unknown, of another shape, or not finite, or if two names of one tensor have different values.
    """
    if encoder is not None and encoder not in ENCODERS:
        raise PretrainedEncoderError(f"encoder is {encoder!r}; expected one of {sorted(ENCODERS)}.")
    path = Path(path)
    header = read_contract(path)
    rows = [OWN] if header else _rows_for(net, encoder)
    content, layout = read_weights(path)
    module = encoder_of(net)
    found = list(state_dicts(content)) if isinstance(content, Mapping) else []
    keys = module.state_dict().keys()
    encoder = next((name for name in rows if _places(found, keys, ENCODERS[name])), rows[0])
    _check_kind(found, keys, encoder, path)
    spec = ENCODERS[encoder]
    place, weights, ignored = _find_encoder(content, found, keys, spec, path)
    weights, adapted = adapt_input_channels(weights, module)
    weights = _check_weights(weights, module, spec, path)
    sha256 = sha256_file(path)
    module.load_state_dict(weights, strict=True)  # everything that could fail has been checked
    return EncoderReport(
        path=str(path),
        sha256=sha256,
        encoder=encoder,
        layout=f"{layout}, {place}",
        n_keys=len(weights),
        adapted=adapted,
        ignored=ignored,
        contract=header["input"] if header else {},
        header=header,
    )


def _rows_for(net: nn.Module, encoder: str | None) -> list[str]:
    """Return the rows whose function the encoder of the network computes, of all or of the one that is asked for."""
    kind = type(net).__name__
    rows = [name for name in ([encoder] if encoder else ENCODERS) if ENCODERS[name].fits(kind, vars(net))]
    if not rows:
        name = encoder or "ct_fm"
        spec = ENCODERS[name]
        theirs = "".join(f", {argument} {value}" for argument, value in spec.arguments.items())
        ours = "".join(f", {argument} {vars(net)[argument]}" for argument in spec.arguments if argument in vars(net))
        raise PretrainedEncoderError(
            f"the network is a {kind}{ours}; {name} weights exist only for a {spec.network_class}{theirs}, with widths "
            f"{_listed(spec.widths)}. Use one of the presets {_presets_for(name)}, or train without a pre-trained "
            "encoder."
        )
    return rows


def _check_kind(found: list[StateDict], keys: Collection[str], encoder: str, path: Path) -> None:
    """Raise an error that names the presets for a file which has no key of this encoder, but those of another row."""
    if _places(found, keys, ENCODERS[encoder]):
        return
    for name, spec in ENCODERS.items():
        if name != encoder and _places(found, [spec.width_of_level.format(0)], spec):
            raise PretrainedEncoderError(
                f"{path} has the keys of {name} ({spec.source}), which this network cannot take. "
                f"Use one of the presets {_presets_for(name)}."
            )


def _presets_for(encoder: str) -> str:
    return _listed(name for name, preset in PRESETS.items() if encoder in preset.encoders)


# Its encoder ---------------------------------------------------------------------------------------------------------


def _places(found: list[StateDict], expected: Collection[str], spec: EncoderSpec) -> list[tuple[StateDict, str]]:
    """Return the state dicts that have keys of the encoder, each with the prefix that these keys have."""
    return [
        (state, prefix)
        for state in found
        for prefix in dict.fromkeys(WRAPPER.sub("", prefix) for prefix in spec.prefixes)
        if any(prefix + name in state.weights for name in expected)
    ]


def _find_encoder(
    content: Any, found: list[StateDict], expected: Collection[str], spec: EncoderSpec, path: Path
) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """Return where the encoder is, the encoder under its own key names, and other content of its state dict."""
    if not found:
        raise PretrainedEncoderError(
            f"{path} holds a {type(content).__name__} without tensors; expected a state dict, which maps names to "
            "tensors."
        )
    hits = _places(found, expected, spec)
    if len(hits) != 1:
        raise PretrainedEncoderError(f"{path} {_not_one_encoder(found, hits, expected, spec)}")
    ((state, prefix),) = hits
    keys = sorted(state.weights)
    inside = {key for key in keys if key.startswith(prefix) and not (prefix == "" and key.startswith(spec.ignored))}
    ignored = {
        next((start for start in spec.ignored if key.startswith(start)), key) for key in keys if key not in inside
    }
    weights = {key.removeprefix(prefix): state.weights[key] for key in keys if key in inside}
    return state.place(prefix), weights, tuple(sorted(ignored))


def _not_one_encoder(
    found: list[StateDict], hits: list[tuple[StateDict, str]], expected: Collection[str], spec: EncoderSpec
) -> str:
    """Return the end of the message for a file with no encoder under a known prefix, or with several."""
    text = f"has encoder keys under {len(hits)} of the known prefixes {_listed(map(repr, spec.prefixes))}"
    if hits:
        places = some((f"({state.place(prefix)})" for state, prefix in hits), 3)
        return f"{text}: {places}; expected exactly one. Save the state dict of one of them alone."
    largest = max(found, key=lambda state: len(state.weights))
    first = next(iter(expected))
    other = next((key.removesuffix(first) for key in largest.weights if key.endswith(f".{first}")), "")
    advice = f" Remove {other!r} from them." if other else ""
    return f"{text}; expected exactly one. Its {len(largest.weights)} keys: {some(sorted(largest.weights), 3)}.{advice}"


def _check_weights(weights: dict[str, Any], encoder: nn.Module, spec: EncoderSpec, path: Path) -> dict[str, Tensor]:
    """Return the weights in the dtypes of the network. Raises an error that lists everything that does not fit."""
    cast, problems = fitted(weights, encoder)
    if problems:
        widths, found = _widths(encoder.state_dict(), spec), _widths(weights, spec)
        advice = "Use a preset with the widths of the file." if widths != found else "Use a complete, unchanged file."
        raise PretrainedEncoderError(
            f"{path} does not fit the encoder (widths {_listed(widths)}; the file has {_listed(found)}): {problems}. "
            f"Nothing was loaded. {advice}"
        )
    return cast


def _widths(weights: Mapping[str, Any], spec: EncoderSpec) -> list[int]:
    """Return the number of feature maps of each level."""
    of_levels = (weights.get(spec.width_of_level.format(level)) for level in range(len(weights)))
    return [tensor.numel() for tensor in of_levels if isinstance(tensor, Tensor)]


def _listed(items: Iterable[object]) -> str:
    return ", ".join(str(item) for item in items) or "unknown"

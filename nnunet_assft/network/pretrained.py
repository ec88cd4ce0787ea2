"""Strict loading of pre-trained encoders: the whole encoder is loaded, or nothing.

The keys of a file differ from those of the network's encoder by a prefix, and in some files by names that the table of
encoders translates. The loader checks every key, shape and value before it changes the network.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_assft.network.encoder_file import OWN, is_encoder_of, read_header
from nnunet_assft.network.interface import build_network, encoder_of, first_convolution
from nnunet_assft.network.presets import ENCODERS, NNUNET, PRESETS, EncoderSpec
from nnunet_assft.network.trained_model import NEEDED, build_model, model_in, shown
from nnunet_assft.network.weight_files import (
    WRAPPER,
    EncoderReport,
    PretrainedEncoderError,
    StateDict,
    adapt_input_channels,
    fitted,
    input_channels,
    names_of_first,
    other_channels,
    read_weights,
    state_dicts,
)
from nnunet_assft.runtime.files import sha256_file
from nnunet_assft.runtime.text import count, some

# names of networks inside of networks, which may stand before the keys
OUTER = ("", "student.", "teacher.", "net.", "network.", "model.", "backbone.")


def load_pretrained_encoder(
    net: nn.Module, path: str | Path, encoder: str | None = None, architecture: Mapping[str, Any] | None = None
) -> EncoderReport:
    """Load all parameters and statistics of the encoder of a network from a local file. The decoder is not changed.

    path: a safetensors file, or a torch file with a state dict or with dictionaries around it, as checkpoints have
    them. encoder: row of ENCODERS; None for the one that the network can take and whose keys the file has. A file of
    `network.encoder_file` says itself what it is, and for which encoder; it is refused if that of `architecture` is
    another one. architecture: that of the network, see `Preset.architecture`. If the network has several input channels
    and the file has one, the first convolution is repeated and divided by their number, so that equal channels give the
    same features. Raises PretrainedEncoderError, and leaves `net` unchanged, if a key is missing (even a counter
    `num_batches_tracked`), unknown, of another shape, or not finite, or if two names of one tensor have different
    values.
    """
    file = _read(Path(path), encoder)
    if file.header and (architecture is None or not is_encoder_of(file.header, architecture)):
        raise PretrainedEncoderError(
            f"{path} was pre-trained with the preset {file.header['preset']!r}, whose encoder is another one. "
            f"Use --preset {file.header['preset']}."
        )
    found, module = _find(net, file, encoder), encoder_of(net)
    weights = _check_weights(found.weights, module, ENCODERS[found.encoder], file.path)
    _check_copies(found.stored, found.copies, file.path)
    sha256 = sha256_file(file.path)
    module.load_state_dict(weights, strict=True)  # everything that could fail has been checked
    return EncoderReport(
        path=str(file.path),
        sha256=sha256,
        encoder=found.encoder,
        layout=f"{file.layout}, {found.place}",
        n_keys=len(weights),
        adapted=found.adapted,
        ignored=found.ignored,
        contract=found.contract,
        alike=found.alike,
        header=file.header,
    )


def presets_that_take(path: str | Path, encoder: str | None = None) -> list[str]:
    """Return the presets whose encoder has the tensors of a file, names and shapes, in the order of the table.

    The number of input channels, which no preset determines, may be any. Of a file of `network.encoder_file`, it is the
    preset that its header names. encoder: see `load_pretrained_encoder`, which says what is wrong with a file that none
    takes. Raises PretrainedEncoderError for a file that cannot be read.
    """
    file = _read(Path(path), encoder)
    if file.header:
        return [file.header["preset"]] if file.header["preset"] in PRESETS else []
    taking = []
    for name, preset in PRESETS.items():
        with torch.device("meta"):  # takes no memory
            net = build_network(preset.architecture, 1, 2)
        with suppress(PretrainedEncoderError):
            if _fits(_find(net, file, encoder).weights, encoder_of(net)):
                taking.append(name)
    return taking


@dataclass(frozen=True)
class _File:
    """What is in a file. header: of a file of `network.encoder_file`."""

    path: Path
    header: dict[str, Any] | None
    content: Any
    layout: str


@dataclass(frozen=True)
class _Found:
    """The encoder in a file. stored: as the file has it; weights: for the input channels of the network. copies: the
    encoder once more, if the decoder holds it. All else: see `EncoderReport`."""

    encoder: str
    alike: tuple[str, ...]
    contract: dict[str, Any]
    place: str
    stored: dict[str, Any]
    weights: dict[str, Any]
    adapted: str | None
    ignored: tuple[str, ...]
    copies: dict[str, Any]


def _read(path: Path, encoder: str | None) -> _File:
    if encoder is not None and encoder not in ENCODERS:
        raise PretrainedEncoderError(f"encoder is {encoder!r}; expected one of {sorted(ENCODERS)}.")
    header = _own_header(path) if encoder in (None, OWN) else None
    if encoder == OWN and header is None:
        raise PretrainedEncoderError(
            f"{path} lacks the header of a file that nnUNetv2_assft_pretrain has written. Give such a file, or leave "
            "out --encoder_format."
        )
    return _File(path, header, *read_weights(path))


def _find(net: nn.Module, file: _File, encoder: str | None) -> _Found:
    """Find the encoder of a network in a file. Whether its keys and shapes are complete is not checked."""
    content, path, module = file.content, file.path, encoder_of(net)
    rows = [OWN] if file.header else _rows_for(net, encoder, content)
    found = list(state_dicts(content)) if isinstance(content, Mapping) else []
    keys = module.state_dict().keys()
    encoder, *alike = _recognised(rows, found, keys, content)
    contract = file.header["input"] if file.header else _contract_in(content, encoder, module, path)
    _check_kind(found, keys, encoder, path)
    place, stored, ignored, copies = _find_encoder(content, found, keys, ENCODERS[encoder], path)
    if "channels" not in contract and (n := input_channels(stored, module)):
        contract = {**contract, "n_channels": n}
    weights, adapted = adapt_input_channels(stored, module)
    return _Found(encoder, tuple(alike), contract, place, stored, weights, adapted, ignored, copies)


def _own_header(path: Path) -> dict[str, Any] | None:
    try:
        return read_header(path)
    except ValueError as error:
        raise PretrainedEncoderError(
            f"{path} has a header of nnUNetv2_assft_pretrain that cannot be used: {error}. Use the file as it was "
            "written, with the version of nnunet_assft that wrote it."
        ) from error


def _rows_for(net: nn.Module, encoder: str | None, content: Any) -> list[str]:
    """Return the rows whose function the encoder of the network computes, of all or of the one that is asked for.

    A file is only taken for a checkpoint of nnU-Net if it is one, because only its plans say what its encoder computes.
    """
    kind = type(net).__name__
    names = [encoder] if encoder else [name for name in ENCODERS if name != NNUNET or _is_checkpoint(content)]
    rows = [name for name in names if ENCODERS[name].fits(kind, vars(net))]
    if not rows:
        name = encoder or "ct_fm"
        spec = ENCODERS[name]
        theirs = "".join(f", {argument} {value}" for argument, value in spec.arguments.items())
        ours = "".join(f", {argument} {vars(net)[argument]}" for argument in spec.arguments if argument in vars(net))
        raise PretrainedEncoderError(
            f"the network is a {kind}{ours}; {name} weights exist only for a {' or a '.join(spec.network_classes)}"
            f"{theirs}, with widths {_listed(spec.widths)}. Use one of the presets {_presets_for(name)}, or train "
            "without a pre-trained encoder."
        )
    return rows


def _is_checkpoint(content: Any) -> bool:
    """Return whether a file is a checkpoint of nnU-Net with its plans. Those of nnssl have plans of another form."""
    return isinstance(content, Mapping) and {*NEEDED} <= content.keys() and ENCODERS["nnssl"].marker not in content


def _recognised(rows: list[str], found: list[StateDict], keys: Collection[str], content: Any) -> list[str]:
    """Return the row that a file belongs to, then others whose files have the same keys.

    An entry that only the files of one row have decides. Without it, it is the first row whose keys the file has, if
    possible behind a prefix that the row names itself.
    """
    marked = [name for name in rows if isinstance(content, Mapping) and ENCODERS[name].marker in content]
    exactly = [name for name in rows if _places(found, keys, ENCODERS[name], ("",))]
    there = exactly or [name for name in rows if _places(found, keys, ENCODERS[name])] or rows[:1]
    return marked[:1] or [there[0], *(name for name in there[1:] if not ENCODERS[name].marker)]


def _check_kind(found: list[StateDict], keys: Collection[str], encoder: str, path: Path) -> None:
    """Raise an error that names the presets for a file which has no key of this encoder, but those of another row."""
    if _places(found, keys, ENCODERS[encoder]):
        return
    for name, spec in ENCODERS.items():
        if name != encoder and _places(found, [key.format(0) for key in spec.width_of_level], spec):
            raise PretrainedEncoderError(
                f"{path} has the keys of {name} ({spec.source}), which this network cannot take. "
                f"Use one of the presets {_presets_for(name)}."
            )


def _presets_for(encoder: str) -> str:
    return _listed(name for name, preset in PRESETS.items() if encoder in preset.encoders)


# The input that it was trained with ----------------------------------------------------------------------------------


def _contract_in(content: Any, encoder: str, module: nn.Module, path: Path) -> dict[str, Any]:
    """Return the input that the encoder was trained with, as the file says it, or else its row.

    Raises an error for a checkpoint of nnU-Net whose plans describe another encoder of the same names and shapes.
    """
    if encoder == NNUNET and _is_checkpoint(content):
        model = model_in(content, path)
        with torch.device("meta"):
            theirs = encoder_of(build_model(model, first_convolution(module).in_channels, 2))
        if repr(theirs) != repr(module):  # which shows strides, norms and the slope of every layer
            raise PretrainedEncoderError(
                f"{path} holds the encoder of {shown(model.preset)}, with other layers than this network. Use --start, "
                "which takes the network of the model."
            )
        return model.contract
    if encoder == "nnssl" and isinstance(plan := content.get("nnssl_adaptation_plan"), Mapping):
        return _contract_of_nnssl(plan)
    return ENCODERS[encoder].contract


def _contract_of_nnssl(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contract in an adaptation plan of nnssl. An entry of another form than nnssl's is left out."""
    configuration: Any = plan.get("pretrain_plan")
    for step in ("configurations", None):  # of its configurations there is one
        entries = configuration if isinstance(configuration, Mapping) else {}
        configuration = entries.get(step) if step else next(iter(entries.values()), {})
    entries = configuration if isinstance(configuration, Mapping) else {}
    spacing: Any
    schemes: Any
    spacing, schemes = entries.get("spacing"), entries.get("normalization_schemes")
    patch: Any = plan.get("recommended_downstream_patchsize") or entries.get("patch_size")
    contract: dict[str, Any] = {}
    if _are(spacing, int | float) and all(math.isfinite(edge) for edge in spacing):
        contract["spacing"] = [float(edge) for edge in spacing]
    if _are(patch, int):
        contract["patch_size"] = list(patch)
    if _are(schemes, str):
        contract["normalization"] = list(schemes)
    return contract


def _are(values: Any, kind: Any) -> bool:
    return isinstance(values, list | tuple) and len(values) > 0 and all(isinstance(value, kind) for value in values)


# Its encoder ---------------------------------------------------------------------------------------------------------


def _places(
    found: list[StateDict], expected: Collection[str], spec: EncoderSpec, outer: Collection[str] = OUTER
) -> list[tuple[StateDict, str]]:
    """Return the state dicts that have keys of the encoder, each with the prefix that these keys have."""
    prefixes = [before + WRAPPER.sub("", prefix) for prefix in spec.prefixes for before in outer]
    return [
        (state, prefix)
        for state in (state.renamed(spec.renamed) for state in found)
        for prefix in dict.fromkeys(prefixes)
        if any(prefix + name in state.weights for name in expected)
    ]


def _find_encoder(
    content: Any, found: list[StateDict], expected: Collection[str], spec: EncoderSpec, path: Path
) -> tuple[str, dict[str, Any], tuple[str, ...], dict[str, Any]]:
    """Return where the encoder is, the encoder under its own key names, and other content of its state dict: names, and
    the encoder once more if the decoder holds it, as in nnU-Net's networks."""
    if not found:
        raise PretrainedEncoderError(
            f"{path} holds a {type(content).__name__} without tensors; expected a state dict, which maps names to "
            "tensors."
        )
    hits = _places(found, expected, spec)
    if len(hits) != 1:
        raise PretrainedEncoderError(f"{path} {_not_one_encoder(found, hits, expected, spec)}")
    ((state, prefix),) = hits
    weights, ignored = {}, set()
    for key, value in state.weights.items():
        inner = key.removeprefix(prefix)
        known = next((start for start in spec.ignored if inner.startswith(start)), None)
        if known is not None or not key.startswith(prefix):
            ignored.add(known or key)
        else:
            weights[inner] = value
    again = f"{prefix.removesuffix('encoder.')}decoder.encoder."
    copies = {key.removeprefix(again): value for key, value in state.weights.items() if key.startswith(again)}
    return state.place(prefix), weights, tuple(sorted(ignored)), copies


def _check_copies(weights: Mapping[str, Tensor], copies: Mapping[str, Any], path: Path) -> None:
    """Raise an error if the decoder of a network of nnU-Net, which holds the encoder as well, has other values of it.

    weights: sound ones, as the file has them.
    """
    pairs = [(name, value, copies[name]) for name, value in weights.items() if isinstance(copies.get(name), Tensor)]
    unequal = [name for name, value, copy in pairs if not torch.equal(value, copy.to(value.dtype))]
    if unequal:
        raise PretrainedEncoderError(
            f"{path} has other values for {count(len(unequal), 'tensor')} of the encoder under decoder.encoder: "
            f"{some(unequal, 3)}; expected the same. Nothing was loaded. Use a complete, unchanged file."
        )


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
        advice = "Use a complete, unchanged file."
        if widths != found:
            presets = _presets_of_shape(weights)
            advice = f"Use {presets}." if presets else "Use a preset with the widths of the file."
        advice = other_channels(weights, encoder) or advice  # which no preset would change
        raise PretrainedEncoderError(
            f"{path} does not fit the encoder (widths {_listed(widths)}; the file has {_listed(found)}): {problems}. "
            f"Nothing was loaded. {advice}"
        )
    return cast


def _presets_of_shape(weights: Mapping[str, Any]) -> str:
    """Return the options for the presets whose encoders have tensors of these names and shapes; "" if there is none."""
    fitting = []
    for name, preset in PRESETS.items():
        with torch.device("meta"):  # takes no memory
            encoder = encoder_of(build_network(preset.architecture, 1, 2))
        if {*preset.encoders} - {NNUNET} and _fits(weights, encoder):
            fitting.append(f"--preset {name}")
    return " or ".join(fitting)


def _fits(weights: Mapping[str, Any], encoder: nn.Module) -> bool:
    """Return whether tensors have the names and shapes of an encoder, but for its number of input channels."""
    any_shape = dict.fromkeys(names_of_first(encoder))
    return _shapes(weights) | any_shape == _shapes(encoder.state_dict()) | any_shape


def _shapes(weights: Mapping[str, Any]) -> dict[str, torch.Size | None]:
    return {name: tensor.shape for name, tensor in weights.items() if isinstance(tensor, Tensor)}


def _widths(weights: Mapping[str, Any], spec: EncoderSpec) -> list[int]:
    """Return the number of feature maps of each level."""
    names = [key.format(level) for level in range(len(weights)) for key in spec.width_of_level]
    return [weights[name].numel() for name in names if isinstance(weights.get(name), Tensor)]


def _listed(items: Iterable[object]) -> str:
    return ", ".join(str(item) for item in items) or "unknown"

"""Strict loading of pre-trained encoders: the whole encoder is loaded, or nothing.

The keys of a file differ from those of the network's encoder only by a prefix, and by what DistributedDataParallel and
torch.compile put into them. The loader removes both and checks every key, shape and value before it changes the
network. It downloads nothing and never runs code from a file.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from nnunet_assft.network.encoder_file import OWN, read_contract
from nnunet_assft.network.interface import encoder_of, first_convolution, names_of_tensors
from nnunet_assft.network.presets import ENCODERS, PRESETS, EncoderSpec
from nnunet_assft.runtime.downloads import failed_download, first_bytes, text_instead
from nnunet_assft.runtime.files import sha256_file
from nnunet_assft.runtime.text import some
from nnunet_assft.runtime.untrusted import load_torch

WRAPPER = re.compile(r"(?:(?<=\.)|^)(?:module|_orig_mod)\.")  # of DistributedDataParallel and of torch.compile
DEPTH = 3  # levels of dictionaries in a checkpoint in which a state dict is looked for
CONTAINERS = ("state_dict", "model_state_dict", "network_weights", "model", "net", "network")  # usual names of it
HOW_TO_LOAD = "torch.load(FILE, map_location='cpu', weights_only=False)"


class PretrainedEncoderError(ValueError):
    """An encoder file cannot be loaded completely. The network was not changed."""


@dataclass(frozen=True)
class EncoderReport:
    """What was loaded from an encoder file, as recorded with the experiment."""

    path: str
    sha256: str
    encoder: str  # row of ENCODERS
    layout: str  # such as "safetensors, prefix 'encoder.'"
    n_keys: int
    adapted: str | None  # how conv_init was adapted to several input channels, None if it was not
    ignored: tuple[str, ...]  # other content of the file: known prefixes of keys, or whole keys
    contract: dict[str, Any] | None = None  # header of a file of `network.encoder_file`


def load_pretrained_encoder(net: nn.Module, path: str | Path, encoder: str | None = None) -> EncoderReport:
    """Load all parameters and statistics of the encoder of a network from a local file. The decoder is not changed.

    path: a safetensors file, or a torch file with a state dict or with dictionaries around it, as checkpoints have
    them. encoder: row of ENCODERS; None for the first row that the network can take and whose keys the file has. A file
    of `network.encoder_file` says itself what it is. If
    the network has several input channels and the file has one, the first convolution is repeated and divided by their
    number, so that equal channels give the same features. Raises PretrainedEncoderError, and leaves `net` unchanged,
    if a key is missing (even a counter `num_batches_tracked`), unknown, of another shape, or not finite, or if two
    names of one tensor have different values.
    """
    if encoder is not None and encoder not in ENCODERS:
        raise PretrainedEncoderError(f"encoder is {encoder!r}; expected one of {sorted(ENCODERS)}.")
    path = Path(path)
    contract = read_contract(path)
    rows = [OWN] if contract else _rows_for(net, encoder)
    content, layout = _read_file(path)
    module = encoder_of(net)
    found = list(_state_dicts(content)) if isinstance(content, Mapping) else []
    keys = module.state_dict().keys()
    encoder = next((name for name in rows if _places(found, keys, ENCODERS[name])), rows[0])
    _check_kind(found, keys, encoder, path)
    spec = ENCODERS[encoder]
    place, weights, ignored = _find_encoder(content, found, keys, spec, path)
    weights, adapted = _adapt_input_channels(weights, module)
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
        contract=contract,
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


def _check_kind(found: list[_StateDict], keys: Collection[str], encoder: str, path: Path) -> None:
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


# The file ------------------------------------------------------------------------------------------------------------


def _read_file(path: Path) -> tuple[Any, str]:
    """Return the content of the file, on the CPU, and its format, which is told by its first bytes."""
    if path.is_dir():
        files = sorted(file.name for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        raise PretrainedEncoderError(
            f"{path} is not a file but a folder, with {some(files, 3) or 'no files'}. Give the encoder file itself."
        )
    if not path.is_file():
        raise PretrainedEncoderError(
            f"{path} is not a file; expected an encoder file. Download it first; nothing is downloaded automatically."
        )
    start = first_bytes(path)
    if start[8:9] == b"{":  # after eight bytes with the length of the header
        return _read_safetensors(path), "safetensors"
    if other := failed_download(start) or text_instead(start):
        raise PretrainedEncoderError(f"{path} is no encoder file: {other}.")
    return _read_torch(path), "torch"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise PretrainedEncoderError(
            f"{path} cannot be read as a safetensors file ({_first_line(error)}). "
            "It is damaged or incomplete. Download it again."
        ) from error


def _read_torch(path: Path) -> Any:
    try:
        return load_torch(path)
    except (OSError, ValueError) as error:
        why = str(error.__cause__).lower()
        if isinstance(error.__cause__, pickle.UnpicklingError):
            if "unsupported global" in why or "unsupported class" in why:
                raise PretrainedEncoderError(
                    f"{path} holds objects other than tensors, which could run code when loaded; expected tensors "
                    f"only. Only if you trust the file, save its weights alone: {_how_to_save(path)}."
                ) from error
            # torch's own message would suggest unpickling the file anyway
            error = ValueError("no tensors saved by torch")
        raise PretrainedEncoderError(
            f"{path} cannot be read as a torch file ({_first_line(error)}). "
            "It is damaged, incomplete or of another kind. Download it again."
        ) from error


def _how_to_save(path: Path) -> str:
    """Return a line of Python that saves the weights in a torch file alone. The file is not unpickled to find it."""
    with suppress(Exception), zipfile.ZipFile(path) as archive:  # a file of an old torch, or a damaged one
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        _, (first, _, _), *others = pickletools.genops(archive.read(name))
        if first.name != "EMPTY_DICT":
            return f"torch.save({HOW_TO_LOAD}.state_dict(), NEW_FILE)"
        texts = {argument for _, argument, _ in others if isinstance(argument, str)}
        container = next(name for name in CONTAINERS if name in texts)
        return f"torch.save({HOW_TO_LOAD}[{container!r}], NEW_FILE)"
    return f"torch.save(WEIGHTS, NEW_FILE), where WEIGHTS is the state dict in {HOW_TO_LOAD}"


# Its encoder ---------------------------------------------------------------------------------------------------------


class _StateDict(NamedTuple):
    """A state dict in a file. where: the names of the dictionaries around it. wrappers: what was removed from its keys
    (`module.` and `_orig_mod.`). weights: under the keys that are left."""

    where: str
    wrappers: tuple[str, ...]
    weights: dict[str, Any]

    def place(self, prefix: str) -> str:
        """Return where the encoder is, such as "net, wrapper 'module.', no prefix"."""
        wrappers = [f"wrapper {wrapper!r}" for wrapper in self.wrappers]
        return ", ".join([*filter(None, [self.where]), *wrappers, f"prefix {prefix!r}" if prefix else "no prefix"])


def _state_dicts(content: Mapping[Any, Any], where: tuple[str, ...] = ()) -> Iterator[_StateDict]:
    """Yield the dictionaries with tensors in the content of a file."""
    if any(isinstance(value, Tensor) for value in content.values()):
        whole = {str(key): value for key, value in content.items()}
        bare = {WRAPPER.sub("", key): value for key, value in whole.items()}
        found = {wrapper for key in whole for wrapper in WRAPPER.findall(key)}
        # two keys that are the same without wrappers are two networks, which are left apart
        is_clear = len(bare) == len(whole)
        yield _StateDict(".".join(where), tuple(sorted(found)) if is_clear else (), bare if is_clear else whole)
    for key, value in content.items() if len(where) < DEPTH else ():
        if isinstance(value, Mapping):
            yield from _state_dicts(value, (*where, str(key)))


def _places(found: list[_StateDict], expected: Collection[str], spec: EncoderSpec) -> list[tuple[_StateDict, str]]:
    """Return the state dicts that have keys of the encoder, each with the prefix that these keys have."""
    return [
        (state, prefix)
        for state in found
        for prefix in dict.fromkeys(WRAPPER.sub("", prefix) for prefix in spec.prefixes)
        if any(prefix + name in state.weights for name in expected)
    ]


def _find_encoder(
    content: Any, found: list[_StateDict], expected: Collection[str], spec: EncoderSpec, path: Path
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
    found: list[_StateDict], hits: list[tuple[_StateDict, str]], expected: Collection[str], spec: EncoderSpec
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


def _adapt_input_channels(weights: dict[str, Any], encoder: nn.Module) -> tuple[dict[str, Any], str | None]:
    first = first_convolution(encoder)
    state, n = encoder.state_dict(keep_vars=True), first.in_channels
    names = [name for name in state if state[name] is first.weight]
    stems = [weights.get(name) for name in names]
    if n == 1 or not all(isinstance(stem, Tensor) and stem.ndim == 5 and stem.shape[1] == 1 for stem in stems):
        return weights, None
    repeated = {name: weights[name].repeat(1, n, 1, 1, 1) / n for name in names}
    return {**weights, **repeated}, f"{names[0]}: 1 input channel repeated {n} times and divided by {n}"


def _check_weights(weights: dict[str, Any], encoder: nn.Module, spec: EncoderSpec, path: Path) -> dict[str, Tensor]:
    """Return the weights in the dtypes of the network. Raises an error that lists everything that does not fit."""
    expected: Mapping[str, Tensor] = encoder.state_dict()
    found = {key: value for key, value in weights.items() if isinstance(value, Tensor)}
    common = [key for key in expected if key in found]
    fits = [key for key in common if found[key].is_floating_point() == expected[key].is_floating_point()]
    shaped = [key for key in fits if found[key].shape == expected[key].shape]
    misshapen = [
        f"{key} {tuple(found[key].shape)} for {tuple(expected[key].shape)}"
        for key in fits
        if found[key].shape != expected[key].shape
    ]
    cast = {key: found[key].to(expected[key].dtype) for key in shaped}
    problems = {
        "missing": [key for key in expected if key not in weights],
        "unexpected": sorted(key for key in weights if key not in expected),
        "not a tensor": [key for key in expected if key in weights and key not in found],
        "of another type": [f"{key} {found[key].dtype}" for key in common if key not in fits],
        "of another shape": misshapen,
        "not finite": [key for key, value in cast.items() if not torch.isfinite(value).all()],
        "of different values for one tensor": [
            f"{first} and {other}"
            for first, *others in names_of_tensors(encoder)
            for other in others
            if first in cast and other in cast and not torch.equal(cast[first], cast[other])
        ],
    }
    if any(problems.values()):
        text = "; ".join(f"{len(keys)} {problem}: {some(keys, 3)}" for problem, keys in problems.items() if keys)
        advice = "Use a preset with the widths of the file." if misshapen else "Use a complete, unchanged encoder file."
        raise PretrainedEncoderError(
            f"{path} does not fit the encoder (widths {_listed(_widths(expected, spec))}; the file has "
            f"{_listed(_widths(found, spec))}): {text}. Nothing was loaded. {advice}"
        )
    return cast


def _widths(weights: Mapping[str, Tensor], spec: EncoderSpec) -> list[int]:
    """Return the number of feature maps of each level."""
    of_levels = (weights.get(spec.width_of_level.format(level)) for level in range(len(weights)))
    return [tensor.numel() for tensor in of_levels if tensor is not None]


def _listed(items: Iterable[object]) -> str:
    return ", ".join(str(item) for item in items) or "unknown"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

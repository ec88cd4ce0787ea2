"""Strict loading of pre-trained encoders: the whole encoder is loaded, or nothing.

The keys of a file differ from those of the network's encoder only by a prefix. The loader removes the prefix and checks
every key, shape and value before it changes the network. It downloads nothing and never runs code from a file.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from nnunet_assft.network.architecture import CTFMSegmentationNet
from nnunet_assft.network.presets import ENCODERS, EncoderSpec
from nnunet_assft.runtime.files import sha256_file
from nnunet_assft.runtime.text import some


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


def load_pretrained_encoder(net: CTFMSegmentationNet, path: str | Path, encoder: str = "ct_fm") -> EncoderReport:
    """Load all parameters and statistics of `net.encoder` from a local file. The decoder is not changed.

    path: a .safetensors file; any other name is read as a torch file (a state dict, or a dict that holds one under
    `state_dict`). If the network has several input channels and the file has one, conv_init is repeated and divided by
    their number, so that equal channels give the same features. Raises PretrainedEncoderError, and leaves `net`
    unchanged, if a key is missing (even a counter `num_batches_tracked`), unknown, of another shape, or not finite.
    """
    if encoder not in ENCODERS:
        raise PretrainedEncoderError(f"encoder is {encoder!r}; expected one of {sorted(ENCODERS)}.")
    spec, path = ENCODERS[encoder], Path(path)
    _check_function(net, encoder, spec)
    content, layout = _read_file(path)
    prefix, weights, ignored = _find_encoder(content, net.encoder.state_dict().keys(), spec, path)
    weights, adapted = _adapt_input_channels(weights, net.input_channels)
    weights = _check_weights(weights, net.encoder.state_dict(), path)
    sha256 = sha256_file(path)
    net.encoder.load_state_dict(weights, strict=True)  # everything that could fail has been checked
    return EncoderReport(
        path=str(path),
        sha256=sha256,
        encoder=encoder,
        layout=f"{layout}, prefix {prefix!r}" if prefix else f"{layout}, no prefix",
        n_keys=len(weights),
        adapted=adapted,
        ignored=ignored,
    )


def _check_function(net: CTFMSegmentationNet, encoder: str, spec: EncoderSpec) -> None:
    """Check norm and block order: with others, weights of equal names and shapes would compute another function."""
    if net.block != "preactivation" or net.norm != "batch":
        raise PretrainedEncoderError(
            f"the network has widths {_listed(net.widths)}, {net.block} blocks and {net.norm} norm; {encoder} weights "
            f"exist only for widths {_listed(spec.widths)}, preactivation blocks and batch norm. "
            "Use preset ctfm or ctfm_dec1224, or train without a pre-trained encoder."
        )


def _read_file(path: Path) -> tuple[dict[str, Any], str]:
    """Return the state dict of the file, on the CPU, and a description of its format."""
    if not path.is_file():
        raise PretrainedEncoderError(
            f"{path} is not a file; expected an encoder file. Download it first; nothing is downloaded automatically."
        )
    if path.stat().st_size == 0:
        raise PretrainedEncoderError(f"{path} is empty; expected an encoder file. Download it again.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path), "safetensors"
    content = _read_torch(path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        return dict(content["state_dict"]), "torch, state_dict"
    if isinstance(content, Mapping):
        return dict(content), "torch"
    raise PretrainedEncoderError(
        f"{path} holds a {type(content).__name__}; expected a state dict, which maps names to tensors."
    )


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
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not any(text in str(error).lower() for text in ("unsupported global", "unsupported class")):
            # torch's own message would suggest unpickling the file anyway
            raise _unreadable_torch(path, "no tensors saved by torch") from error
        raise PretrainedEncoderError(
            f"{path} holds objects other than tensors, which could run code when loaded; expected tensors only. "
            "Only if you trust the file, save its weights alone: "
            "torch.save({'state_dict': torch.load(FILE, map_location='cpu', weights_only=False)['state_dict']}, "
            "NEW_FILE)."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise _unreadable_torch(path, _first_line(error)) from error


def _unreadable_torch(path: Path, reason: str) -> PretrainedEncoderError:
    return PretrainedEncoderError(
        f"{path} cannot be read as a torch file ({reason}). "
        "It is damaged, incomplete or of another kind (a safetensors file must be named .safetensors). "
        "Download it again."
    )


def _find_encoder(
    content: Mapping[Any, Any], expected: Collection[str], spec: EncoderSpec, path: Path
) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """Return the prefix of the encoder's keys, the encoder under its own key names, and other content of the file."""
    keys = sorted(str(key) for key in content)
    hits = {prefix: sum(prefix + name in content for name in expected) for prefix in spec.prefixes}
    found = [prefix for prefix, n in hits.items() if n]
    if len(found) != 1:
        raise PretrainedEncoderError(
            f"{path} has encoder keys under {len(found)} of the known prefixes {_listed(map(repr, spec.prefixes))}; "
            f"expected exactly one. Its {len(keys)} keys: {some(keys, 3)}."
        )
    prefix = found[0]
    inside = {key for key in keys if key.startswith(prefix) and not (prefix == "" and key.startswith(spec.ignored))}
    ignored = {
        next((start for start in spec.ignored if key.startswith(start)), key) for key in keys if key not in inside
    }
    return prefix, {key.removeprefix(prefix): content[key] for key in keys if key in inside}, tuple(sorted(ignored))


def _adapt_input_channels(weights: dict[str, Any], input_channels: int) -> tuple[dict[str, Any], str | None]:
    stem = weights.get("conv_init.weight")
    if input_channels == 1 or not isinstance(stem, Tensor) or stem.ndim != 5 or stem.shape[1] != 1:
        return weights, None
    repeated = stem.repeat(1, input_channels, 1, 1, 1) / input_channels
    adapted = f"conv_init.weight: 1 input channel repeated {input_channels} times and divided by {input_channels}"
    return {**weights, "conv_init.weight": repeated}, adapted


def _check_weights(weights: dict[str, Any], expected: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the weights in the dtypes of the network. Raises an error that lists everything that does not fit."""
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
    }
    if any(problems.values()):
        text = "; ".join(f"{len(keys)} {problem}: {some(keys, 3)}" for problem, keys in problems.items() if keys)
        advice = "Use a preset with the widths of the file." if misshapen else "Use a complete, unchanged encoder file."
        raise PretrainedEncoderError(
            f"{path} does not fit the encoder (widths {_listed(_widths(expected))}; the file has "
            f"{_listed(_widths(found))}): {text}. Nothing was loaded. {advice}"
        )
    return cast


def _widths(weights: Mapping[str, Tensor]) -> list[int]:
    """Return the number of feature maps of each level, read from its first norm."""
    norms = (weights.get(f"layers.{level}.blocks.0.norm1.weight") for level in range(len(weights)))
    return [norm.numel() for norm in norms if norm is not None]


def _listed(items: Iterable[object]) -> str:
    return ", ".join(str(item) for item in items) or "unknown"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

"""Reading of files with the weights of a network, whatever has written them: safetensors, torch files, checkpoints.

Nothing is downloaded, and no code from a file is run. What DistributedDataParallel and torch.compile put into the names
of weights is removed.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from nnunet_assft.network.interface import first_convolution, names_of_tensors
from nnunet_assft.runtime.downloads import failed_download, first_bytes, text_instead
from nnunet_assft.runtime.text import count, some
from nnunet_assft.runtime.untrusted import load_torch

WRAPPER = re.compile(r"(?:(?<=\.)|^)(?:module|_orig_mod)\.")  # of DistributedDataParallel and of torch.compile
DEPTH = 3  # levels of dictionaries in a checkpoint in which a state dict is looked for
CONTAINERS = ("state_dict", "model_state_dict", "network_weights", "model", "net", "network")  # usual names of it
HOW_TO_LOAD = "torch.load(FILE, map_location='cpu', weights_only=False)"


class PretrainedEncoderError(ValueError):
    """A file of weights cannot be loaded completely. The network was not changed."""


def read_weights(path: Path, kind: str = "encoder file", needed: Sequence[str] = ()) -> tuple[Any, str]:
    """Return the content of a file, on the CPU, and its format, which is told by its first bytes.

    kind: what the file is meant to be, for messages. needed: names of the entries that are needed of a torch file, if
    its weights alone do not suffice. Raises `PretrainedEncoderError` for a file that cannot be read.
    """
    if path.is_dir():
        files = sorted(file.name for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        raise PretrainedEncoderError(
            f"{path} is not a file but a folder, with {some(files, 3) or 'no files'}. Give the {kind} itself."
        )
    if not path.is_file():
        raise PretrainedEncoderError(f"{path} is not a file; expected an {kind}. {_how_to_get(path)}")
    start = first_bytes(path)
    if start[8:9] == b"{":  # after eight bytes with the length of the header
        return _read_safetensors(path), "safetensors"
    if other := failed_download(start) or text_instead(start):
        raise PretrainedEncoderError(f"{path} is no {kind}: {other}.")
    return _read_torch(path, needed), "torch"


def _how_to_get(path: Path) -> str:
    """Return what to do about a file that is not there, which may be the address or the id of one."""
    if {"https:", "http:", "hf:", "s3:"} & set(path.parts):
        return "It looks like an address: download the file first; nothing is downloaded automatically."
    if not path.suffix[1:].isalpha() and not path.parent.exists():  # an id may end as org/model_v1.0 does
        name = "/".join(path.parts[-2:])
        return f"If {name} is the id of a model on a hub, download the file with its weights first, and give that file."
    return "Download it first; nothing is downloaded automatically."


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file under all of their names. Of several names of one tensor, `save_model` of
    safetensors keeps one, and its metadata map each of the others to it."""
    try:
        weights = safetensors.torch.load_file(path, device="cpu")
        with safetensors.safe_open(path, framework="pt") as file:
            kept = file.metadata() or {}
        return {**{name: weights[other] for name, other in kept.items() if other in weights}, **weights}
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise PretrainedEncoderError(
            f"{path} cannot be read as a safetensors file ({_first_line(error)}). "
            "It is damaged or incomplete. Download it again."
        ) from error


def _read_torch(path: Path, needed: Sequence[str]) -> Any:
    try:
        return load_torch(path)
    except (OSError, ValueError) as error:
        why = str(error.__cause__).lower()
        if isinstance(error.__cause__, pickle.UnpicklingError):
            if "unsupported global" in why or "unsupported class" in why:
                how = _how_to_save(path, needed)
                what = "a whole pickled network" if ".state_dict()" in how else "objects other than tensors"
                raise PretrainedEncoderError(
                    f"{path} holds {what}, which could run code when loaded; expected tensors only. Only if you trust "
                    f"the file, save its weights alone: {how}."
                ) from error
            # torch's own message would suggest unpickling the file anyway
            error = ValueError("no tensors saved by torch")
        raise PretrainedEncoderError(
            f"{path} cannot be read as a torch file ({_first_line(error)}). "
            "It is damaged, incomplete or of another kind. Download it again."
        ) from error


def _how_to_save(path: Path, needed: Sequence[str]) -> str:
    """Return a line of Python that saves the weights in a torch file alone. The file is not unpickled to find it."""
    if needed:
        return f"torch.save({{key: value for key, value in {HOW_TO_LOAD}.items() if key in {tuple(needed)}}}, NEW_FILE)"
    with suppress(Exception), zipfile.ZipFile(path) as archive:  # a file of an old torch, or a damaged one
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        _, (first, _, _), *others = pickletools.genops(archive.read(name))
        if first.name != "EMPTY_DICT":
            return f"torch.save({HOW_TO_LOAD}.state_dict(), NEW_FILE)"
        texts = {argument for _, argument, _ in others if isinstance(argument, str)}
        container = next(name for name in CONTAINERS if name in texts)
        return f"torch.save({HOW_TO_LOAD}[{container!r}], NEW_FILE)"
    return f"torch.save(WEIGHTS, NEW_FILE), where WEIGHTS is the state dict in {HOW_TO_LOAD}"


@dataclass(frozen=True)
class EncoderReport:
    """What was loaded from an encoder file, or from a whole model, as recorded with the experiment.

    contract: the input that the weights were trained with, as far as the file says it: `spacing` and `patch_size`
    (z, y, x), `normalization`, the names of nnU-Net's schemes, `intensities`, the numbers that its CTNormalization
    takes of each channel, and `channels`, the names of the input channels, or `n_channels`, the number that the first
    convolution has, of a file that does not name them.
    structures: name -> whether its row of the last layer was loaded; None if an encoder alone was. alike: other rows of
    ENCODERS whose files have the same keys. header: of a file of `network.encoder_file`.
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
    alike: tuple[str, ...] = ()
    header: dict[str, Any] | None = None


@dataclass(frozen=True)
class StateDict:
    """A state dict in a file. where: the names of the dictionaries around it. wrappers: what was removed from its keys
    (`module.` and `_orig_mod.`). weights: under the keys that are left."""

    where: str
    wrappers: tuple[str, ...]
    weights: dict[str, Any]

    def place(self, prefix: str) -> str:
        """Return where the encoder is, such as "net, wrapper 'module.', no prefix"."""
        wrappers = [f"wrapper {wrapper!r}" for wrapper in self.wrappers]
        return ", ".join([*filter(None, [self.where]), *wrappers, f"prefix {prefix!r}" if prefix else "no prefix"])

    def renamed(self, names: Sequence[tuple[str, str]]) -> StateDict:
        """Return it with other keys. names: text in a key -> the text in its place."""
        weights = {}
        for key, value in self.weights.items():
            for text, other in names:
                key = key.replace(text, other)
            weights[key] = value
        return replace(self, weights=weights)


def state_dicts(content: Mapping[Any, Any], where: tuple[str, ...] = ()) -> Iterator[StateDict]:
    """Yield the dictionaries with tensors in the content of a file."""
    if any(isinstance(value, Tensor) for value in content.values()):
        whole = {str(key): value for key, value in content.items()}
        bare = {WRAPPER.sub("", key): value for key, value in whole.items()}
        found = {wrapper for key in whole for wrapper in WRAPPER.findall(key)}
        # two keys that are the same without wrappers are two networks, which are left apart
        is_clear = len(bare) == len(whole)
        yield StateDict(".".join(where), tuple(sorted(found)) if is_clear else (), bare if is_clear else whole)
    for key, value in content.items() if len(where) < DEPTH else ():
        if isinstance(value, Mapping):
            yield from state_dicts(value, (*where, str(key)))


def adapt_input_channels(weights: dict[str, Any], module: nn.Module) -> tuple[dict[str, Any], str | None]:
    """Repeat the first convolution if the network has several input channels and the file has one.

    It is divided by their number, in float32 at least, so that equal channels give the same features. Returns the
    weights, and what was done to them, None if nothing was.
    """
    names, n = names_of_first(module), first_convolution(module).in_channels
    stems = [weights.get(name) for name in names]
    if n == 1 or not all(isinstance(stem, Tensor) and stem.ndim == 5 and stem.shape[1] == 1 for stem in stems):
        return weights, None
    exact = {name: weights[name].to(torch.promote_types(weights[name].dtype, torch.float32)) for name in names}
    repeated = {name: weight.repeat(1, n, 1, 1, 1) / n for name, weight in exact.items()}
    return {**weights, **repeated}, f"{names[0]}: 1 input channel repeated {n} times and divided by {n}"


def other_channels(weights: Mapping[str, Any], module: nn.Module) -> str:
    """Return what to do about weights for another number of input channels; "" for weights that fit in this respect."""
    n, theirs = first_convolution(module).in_channels, input_channels(weights, module)
    if theirs is None or theirs == n:
        return ""
    return (
        f"The weights were trained with {count(theirs, 'input channel')}, and the dataset has {n}. Use weights "
        "with as many channels, or with one."
    )


def input_channels(weights: Mapping[str, Any], module: nn.Module) -> int | None:
    """Return the number of input channels of weights; None if they lack the first convolution of a module."""
    stem = weights.get(names_of_first(module)[0])
    return stem.shape[1] if isinstance(stem, Tensor) and stem.ndim == 5 else None


def names_of_first(module: nn.Module) -> list[str]:
    """Return the names of the weights of the first convolution in a state dict."""
    weight, state = first_convolution(module).weight, module.state_dict(keep_vars=True)
    return [name for name in state if state[name] is weight]


def fitted(weights: Mapping[str, Any], module: nn.Module) -> tuple[dict[str, Tensor], str]:
    """Return the weights in the dtypes of a module, and a text that lists all that does not fit; "" if all does."""
    expected: Mapping[str, Tensor] = module.state_dict()
    found = {key: value for key, value in weights.items() if isinstance(value, Tensor)}
    common = [key for key in expected if key in found]
    fits = [key for key in common if found[key].is_floating_point() == expected[key].is_floating_point()]
    cast = {key: found[key].to(expected[key].dtype) for key in fits if found[key].shape == expected[key].shape}
    problems = {
        "missing": [key for key in expected if key not in weights],
        "unexpected": sorted(key for key in weights if key not in expected),
        "not a tensor": [key for key in expected if key in weights and key not in found],
        "of another type": [f"{key} {found[key].dtype}" for key in common if key not in fits],
        "of another shape": [
            f"{key} {tuple(found[key].shape)} for {tuple(expected[key].shape)}" for key in fits if key not in cast
        ],
        "not finite": [key for key, value in cast.items() if not torch.isfinite(value).all()],
        "of different values for one tensor": [
            f"{first} and {other}"
            for first, *others in names_of_tensors(module)
            for other in others
            if first in cast and other in cast and not torch.equal(cast[first], cast[other])
        ],
    }
    text = "; ".join(f"{len(keys)} {problem}: {some(keys, 3)}" for problem, keys in problems.items() if keys)
    return cast, text


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

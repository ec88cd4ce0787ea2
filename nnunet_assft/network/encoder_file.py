"""Encoder files that this package has pre-trained: safetensors files with the keys of the encoder of a preset, and with
what it was trained on in their header. Reading the header needs no torch.

The content of the header, under the key `nnunet_assft`, is a JSON object:

    version, nnunet_assft      of this layout, and of the package that wrote the file
    method                     how it was pre-trained, such as mae
    preset, architecture       the network whose encoder it is: name, class and arguments
    input                      what it was shown: channels, normalization, spacing in mm and patch_size, both (z, y, x)
    training                   n_images, steps, batch_size, seed, loss, and images: shortened checksums of the images,
                               by which `plan` refuses an encoder that has seen test images
    dataset                    the dataset whose plans describe the input
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from nnunet_assft import __version__
from nnunet_assft.runtime.files import write_bytes
from nnunet_assft.runtime.sealed import rebuilt

if TYPE_CHECKING:
    from torch import nn

OWN = "nnunet_assft"  # the row of ENCODERS of these files, and the key of their header
VERSION = 1
LONGEST_HEADER = 10**8  # bytes, as safetensors has it


class Architecture(TypedDict):
    """See `Preset.architecture`."""

    network_class_name: str
    arch_kwargs: dict[str, Any]
    _kw_requires_import: list[str]


class Input(TypedDict):
    channels: list[Any]  # as dataset.json has them
    normalization: list[str]
    spacing: list[float]
    patch_size: list[int]


class Training(TypedDict):
    n_images: int
    steps: int
    batch_size: int
    seed: int
    loss: float
    images: list[str]


class Header(TypedDict):
    """The object above."""

    version: int
    nnunet_assft: str
    method: str
    preset: str
    architecture: Architecture
    input: Input
    training: Training
    dataset: str


def write_encoder(file: Path, encoder: nn.Module, header: Mapping[str, Any]) -> None:
    """Write the parameters and statistics of an encoder. header: all of `Header` but the two versions."""
    import safetensors.torch

    header = {"version": VERSION, "nnunet_assft": __version__, **header}
    # a copy of each, because the networks of nnU-Net have two names for one tensor
    weights = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in encoder.state_dict().items()}
    write_bytes(file, safetensors.torch.save(weights, {OWN: json.dumps(header, allow_nan=False)}))


def read_header(file: Path) -> dict[str, Any] | None:
    """Return the header of an encoder file that `write_encoder` wrote, and None for any other file.

    Raises ValueError, which says what is wrong, for a header of another version, or with other entries than `Header`.
    """
    try:
        if not file.is_file():
            return None
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            metadata = json.loads(stream.read(length))["__metadata__"] if length <= LONGEST_HEADER else {}
        text = str(metadata[OWN])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is no JSON") from error
    if isinstance(content, dict) and content.get("version") != VERSION:
        raise ValueError(f"version is {content.get('version')!r:.20}; expected {VERSION}")
    header: dict[str, Any] = rebuilt(Header, content, "it")
    if any(len(header["input"][name]) != 3 for name in ("spacing", "patch_size")):
        raise ValueError("spacing or patch_size does not have three values")
    return header


def is_encoder_of(header: Mapping[str, Any], architecture: Mapping[str, Any]) -> bool:
    """Return whether the encoder of a network of this architecture computes the same function. The decoder may be
    another one."""
    return _of_encoder(header["architecture"]) == _of_encoder(architecture)


def short(sha256: str) -> str:
    """Return the part of a checksum of an image by which the header of a file knows it."""
    return sha256[:16]


def seen_by(header: Mapping[str, Any], images_sha256: Mapping[str, str]) -> list[str]:
    """Return the cases whose images the encoder was pre-trained on. images_sha256: see `fingerprint.check_images`."""
    images = set(header["training"]["images"])
    return [case for case, sha256 in images_sha256.items() if short(sha256) in images]


def _of_encoder(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Return the class of a network, and the arguments that concern its encoder."""
    arguments = architecture["arch_kwargs"]
    return {
        "network_class_name": architecture["network_class_name"],
        **{name: value for name, value in arguments.items() if "decoder" not in name},
    }

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
from typing import TYPE_CHECKING, Any

from nnunet_assft import __version__
from nnunet_assft.runtime.files import write_bytes

if TYPE_CHECKING:
    from torch import nn

OWN = "nnunet_assft"  # the row of ENCODERS of these files, and the key of their header
VERSION = 1
ENTRIES = {  # entry of the header -> entries that it must have itself, if it is an object
    **dict.fromkeys(("version", "nnunet_assft", "method", "preset", "dataset")),
    "architecture": {"network_class_name", "arch_kwargs", "_kw_requires_import"},
    "input": {"channels", "normalization", "spacing", "patch_size"},
    "training": {"n_images", "steps", "batch_size", "seed", "loss", "images"},
}
LONGEST_HEADER = 10**8  # bytes, as safetensors has it


def write_encoder(file: Path, encoder: nn.Module, header: Mapping[str, Any]) -> None:
    """Write the parameters and statistics of an encoder. header: all of ENTRIES but the two versions."""
    import safetensors.torch

    header = {"version": VERSION, "nnunet_assft": __version__, **header}
    # a copy of each, because the networks of nnU-Net have two names for one tensor
    weights = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in encoder.state_dict().items()}
    write_bytes(file, safetensors.torch.save(weights, {OWN: json.dumps(header, allow_nan=False)}))


def read_header(file: Path) -> dict[str, Any] | None:
    """Return the header of an encoder file that `write_encoder` wrote, and None for any other file."""
    try:
        if not file.is_file():
            return None
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            metadata = json.loads(stream.read(length))["__metadata__"] if length <= LONGEST_HEADER else {}
        header = json.loads(metadata[OWN])
        whole = all(inner is None or set(header[name]) == inner for name, inner in ENTRIES.items())
        return header if whole and set(header) == set(ENTRIES) and header["version"] == VERSION else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


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

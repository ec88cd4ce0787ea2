"""The weights and the log in the checkpoints of nnU-Net, and what the trainer names beside them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from nnunet_assft.errors import DamagedFileError
from nnunet_assft.runtime.files import read_json
from nnunet_assft.runtime.untrusted import load_torch

IN_LIST = re.compile(r"\.all_modules\.\d+\.")  # in a block of layers of dynamic_network_architectures


def load_weights(file: Path, sha256: str | None = None) -> dict[str, torch.Tensor]:
    """Load the network weights of an nnU-Net checkpoint onto the CPU.

    sha256: their checksum, see `weights_sha256`, if it is known. Raises `DamagedFileError` if the file is damaged or
    has other weights.
    """
    weights: dict[str, torch.Tensor] = _read_entry(file, "network_weights")
    if sha256 is not None and weights_sha256(weights) != sha256:
        raise _damaged(file, "its weights do not match their checksum")
    return weights


def training_log(file: Path) -> dict[str, list[Any]]:
    """Load the training log of an nnU-Net checkpoint: name, such as `train_losses` -> one value per epoch.

    The weights are not read. Raises `DamagedFileError` if the file is damaged.
    """
    log: dict[str, list[Any]] = _read_entry(file, "logging", mmap=True)
    return log


def device_of(checkpoint: Path) -> str:
    """Return the GPU, or else the kind of device, that nnU-Net has written beside a checkpoint; "" if it is not known,
    as for weights that were not trained."""
    said = _said_by_trainer(checkpoint)
    return str(said.get("gpu_name", said.get("device", "")))


def precision_of_training(checkpoint: Path) -> str:
    """Return the precision of a training as `runtime.precision` names it, and whether the network was compiled; "" if
    that is not known, as for trainings of earlier versions."""
    return str(_said_by_trainer(checkpoint).get("precision", ""))


def _said_by_trainer(checkpoint: Path) -> dict[str, Any]:
    try:
        content = read_json(checkpoint.with_name("debug.json"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_entry(file: Path, entry: str, *, mmap: bool = False) -> Any:
    """Load one entry of a checkpoint. mmap: leave the tensors on disk until they are used."""
    try:
        return load_torch(file, mmap=mmap)[entry]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(file, str(error)) from error


def _damaged(file: Path, reason: str) -> DamagedFileError:
    return DamagedFileError(
        f"The checkpoint {file} cannot be used ({reason[:200]}). Restore it, or move it away and run its round again, "
        "which trains this stage again."
    )


def remove_if_damaged(checkpoint: Path) -> None:
    """Remove a checkpoint that cannot be loaded, and print a line that says so."""
    try:
        if checkpoint.is_file():
            load_weights(checkpoint)
    except DamagedFileError as error:
        tqdm.write(f"{error} It is removed, and the training starts again before it.")
        checkpoint.unlink()


def weights_sha256(weights: Mapping[str, torch.Tensor]) -> str:
    """Return a checksum of the weights alone, so that equal weights have equal checksums in any checkpoint.

    Of a tensor that nnU-Net's networks have under several names, the values are read once.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        if any(torch.equal(weights[name], weights[other]) for other in _other_names(name) & weights.keys()):
            continue
        digest.update(weights[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _other_names(name: str) -> set[str]:
    """Return the names under which a network of nnU-Net may have the same tensor, if `name` is not the first of them.

    Its decoder holds the encoder as well, and every block of layers a list of them.
    """
    outside = name.removeprefix("decoder.") if name.startswith("decoder.encoder.") else name
    by_kind = {IN_LIST.sub(f".{kind}.", outside) for kind in ("conv", "norm")}
    return {outside, *by_kind} - {name}

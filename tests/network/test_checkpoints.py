from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor

from nnunet_assft.network import PRESETS, build_network
from nnunet_assft.network.checkpoints import weights_sha256


def of_all(weights: dict[str, Tensor]) -> str:
    """The checksum of all names and values, one after the other."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].numpy().tobytes())
    return digest.hexdigest()


def test_the_checksum_of_weights_is_that_of_names_and_values() -> None:
    weights = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor(3, dtype=torch.int64)}
    assert (
        weights_sha256(weights) == hashlib.sha256(b"a" + (3).to_bytes(8, "little") + b"b\0\0\x80?\0\0\0@").hexdigest()
    )
    tiny = build_network(PRESETS["tiny"].architecture, 1, 2).state_dict()
    assert weights_sha256(tiny) == of_all(tiny)


@pytest.mark.parametrize("preset", ["resenc_tiny", "plain"])
def test_a_tensor_with_several_names_is_read_once(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_network(PRESETS[preset].architecture, 1, 2)
    weights = network.state_dict()
    read: list[int] = []

    class Counted:
        def __init__(self) -> None:
            self.digest = hashlib.new("sha256")

        def update(self, content: bytes) -> None:
            read.append(len(content))
            self.digest.update(content)

        def hexdigest(self) -> str:
            return self.digest.hexdigest()

    monkeypatch.setattr(hashlib, "sha256", Counted)
    checksum = weights_sha256(weights)
    names = sum(len(name) for name in weights)
    assert sum(read) == names + 4 * sum(parameter.numel() for parameter in network.parameters())

    copies = {name: tensor.clone() for name, tensor in weights.items()}  # which no longer share their memory
    assert weights_sha256(copies) == checksum
    for name in (next(iter(copies)), next(name for name in copies if name.startswith("decoder.encoder."))):
        before = copies[name].clone()
        copies[name].view(-1)[0] += 1
        assert weights_sha256(copies) != checksum
        copies[name].copy_(before)

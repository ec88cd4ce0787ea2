"""What the environment says about precision, memory layout and compilation on a GPU. `as_gpu` makes the CPU one."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from torch import nn

from nnunet_assft.runtime import precision
from nnunet_assft.runtime.precision import (
    autocast,
    compiles,
    identity,
    lay_out,
    nnunet_autocast,
    precision_of,
    scales_gradients,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
AUTOCAST, CHANNELS_LAST = "nnUNet_assft_autocast", "nnUNet_assft_channels_last"


@pytest.fixture
def as_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "GPU", "cpu")


def computed_in(context: torch.autocast) -> torch.dtype:
    with context:
        found: torch.dtype = nn.Linear(2, 2)(torch.ones(1, 2)).dtype
    return found


@pytest.mark.parametrize(
    ("value", "dtype", "scaled"),
    [(None, "float16", True), ("fp16", "float16", True), ("bf16", "bfloat16", False), ("off", "float32", False)],
)
def test_what_a_network_computes_in(
    value: str | None, dtype: str, scaled: bool, as_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value:
        monkeypatch.setenv(AUTOCAST, value)
    assert computed_in(autocast(CPU)) == getattr(torch, dtype)
    assert scales_gradients(CPU) == scaled
    before = torch.get_autocast_dtype("cpu")
    with nnunet_autocast():
        assert torch.get_autocast_dtype("cpu") == getattr(torch, dtype)
        if value != "off":  # on CUDA, an autocast to float32 is none; on a CPU, torch warns about it
            assert computed_in(torch.autocast("cpu", enabled=True)) == getattr(torch, dtype)
    assert torch.get_autocast_dtype("cpu") == before


def test_nnunets_own_type_comes_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(AUTOCAST, "bf16")
    with suppress(ValueError), nnunet_autocast():
        assert torch.get_autocast_dtype("cuda") == torch.bfloat16
        raise ValueError
    assert torch.get_autocast_dtype("cuda") == torch.float16


def test_other_devices_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ((AUTOCAST, "bf16"), (CHANNELS_LAST, "1"), ("nnUNet_compile", "t")):
        monkeypatch.setenv(name, value)
    network = nn.Conv3d(2, 2, 3)
    lay_out(network, CPU)
    assert network.weight.is_contiguous()
    assert computed_in(autocast(CPU)) == torch.float32
    assert (precision_of(CPU), identity(CPU), scales_gradients(CPU), compiles(CPU)) == ("fp32", {}, False, False)


def test_the_layout_of_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Conv3d(2, 2, 3)
    lay_out(network, CUDA)
    assert network.weight.is_contiguous()
    monkeypatch.setenv(CHANNELS_LAST, "1")
    lay_out(network, CUDA)
    assert network.weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_a_precision_in_words_and_as_a_part_of_what_results_were_made_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of nnU-Net's own precision do not name it, as those of earlier versions do not."""
    assert (precision_of(CUDA), identity(CUDA)) == ("fp16", {})
    monkeypatch.setenv(AUTOCAST, "fp16")
    assert (precision_of(CUDA), identity(CUDA)) == ("fp16", {})
    monkeypatch.setenv(AUTOCAST, "off")
    monkeypatch.setenv(CHANNELS_LAST, "1")
    assert (precision_of(CUDA), identity(CUDA)) == ("fp32, channels last", {"autocast": "off"})


@pytest.mark.parametrize(("value", "expected"), [(None, False), ("f", False), ("t", True), ("True", True), ("1", True)])
def test_prediction_is_compiled_if_nnunet_compile_says_so(
    value: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value:
        monkeypatch.setenv("nnUNet_compile", value)
    assert compiles(CUDA) is expected

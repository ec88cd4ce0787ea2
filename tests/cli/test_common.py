"""The device that -device names; lists whose reader does not read to the end."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from nnunet_assft.cli.common import choose_device
from nnunet_assft.cli.round import main
from nnunet_assft.errors import AssftError


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91900)


@pytest.mark.parametrize(
    ("name", "visible"), [(None, "3,5"), ("cuda", "3,5"), ("cuda:0", "3"), ("cuda:1", "5")], ids=str
)
def test_one_gpu_of_several(two_gpus: None, name: str | None, visible: str) -> None:
    assert choose_device(name) == torch.device("cuda")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


def test_the_gpu_is_chosen_before_cuda_reads_the_variable(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    read = []  # what CUDA reads when torch looks for GPUs; without NVML, it counts them through CUDA, too

    def answer(found: int) -> int:
        read.append(os.environ.get("CUDA_VISIBLE_DEVICES"))
        return found

    monkeypatch.setattr(torch.cuda, "device_count", lambda: answer(2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(answer(1)))
    assert choose_device("cuda:1") == torch.device("cuda")
    assert read[0] == "1"


@pytest.mark.parametrize("gpus", ["3,5", None])
def test_a_gpu_that_does_not_exist_is_one_line(
    two_gpus: None, gpus: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if gpus is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: os.environ["CUDA_VISIBLE_DEVICES"] in ("0", "1", "3", "5"))
    with pytest.raises(AssftError, match=r"-device cuda:2, but torch finds no such device; the first is cuda:0\."):
        choose_device("cuda:2")


def test_another_device_that_does_not_exist_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(AssftError, match=r"-device mps, but torch finds no such device\. Leave out -device"):
        choose_device("mps")


def test_other_names_are_a_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["-d", "1", "-r", "0", "-device", "gpu"])
    assert ended.value.code == 2
    assert "argument -device: 'gpu'; expected cuda, cuda:1 (or another number), cpu or mps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "cudnn", "warns"),
    [("2.9.1+cu128", 91002, True), ("2.10.0", 91499, True), ("2.10.0", 91500, False), ("2.8.0", 91002, False)],
)
def test_a_slow_installation_is_named(  # six parameters: fixtures and a row
    two_gpus: None,
    version: str,
    cudnn: int,
    warns: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
    choose_device("cuda")
    printed = capsys.readouterr().err
    assert (f"torch {version} with cuDNN 9.1" in printed) is warns
    assert ("Install cuDNN 9.15 or later" in printed) is warns


@pytest.mark.parametrize("option", ["--list_encoders", "--list_strategies", "--list_engines"])
def test_a_list_whose_reader_has_seen_enough(option: str) -> None:
    read, write = os.pipe()
    os.close(read)
    code = f"from nnunet_assft.cli.plan import main; main([{option!r}])"
    ended = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (0, b"")

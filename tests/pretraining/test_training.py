"""What the training does with its network and its batches, apart from the steps themselves."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import torch
from torch import Tensor

from nnunet_assft.errors import AssftError
from nnunet_assft.pretraining import training
from nnunet_assft.pretraining.settings import Pretraining
from nnunet_assft.pretraining.training import Task, _batches, _Trainer, losses_of, run_task, take_statistics, train
from nnunet_assft.runtime import precision
from nnunet_assft.trainers.distributed import free_port, with_process_group
from tests.conftest import CPU
from tests.network.test_encoder_file import header

PATCH = (16, 16, 16)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """Three images of noise and the preset tiny."""
    files = []
    for i in range(3):
        image = np.random.default_rng(i).normal(size=(1, 20, 18, 16)).astype(np.float32)
        blosc2.asarray(image, urlpath=str(tmp_path / f"{i}.b2nd"), mode="w")
        files.append(tmp_path / f"{i}.b2nd")
    (tmp_path / "out").mkdir()
    settings = Pretraining(epochs=3, iterations_per_epoch=2, batch_size=4, initial_lr=0.01)
    return Task(settings, 4, tuple(files), 3, header("tiny"), PATCH, tmp_path / "out")


def test_batches_are_the_patches_in_order_from_the_epoch_on(task: Task) -> None:
    drawn = torch.cat([image for image, _, _ in _batches(task, 1, 0, 1, CPU)])
    assert len(drawn) == 2 * 2 * 4
    for i in (0, 9, 15):
        assert torch.equal(drawn[i], task.samples[8 + i][0])


def test_processes_share_the_batches(task: Task) -> None:
    whole = list(_batches(task, 2, 0, 1, CPU))
    shares = [list(_batches(task, 2, rank, 2, CPU)) for rank in range(2)]
    assert [len(whole), len(shares[0]), len(shares[1])] == [2, 2, 2]
    for i in range(2):
        together = torch.stack([shares[0][i][0], shares[1][i][0]], dim=1).flatten(0, 1)
        assert torch.equal(together, whole[i][0])


def test_the_learning_rate_falls_to_nothing(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, rates = _Trainer(task, CPU, 1), []

    def step(_: Any) -> Tensor:
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        return torch.tensor(1.0)

    monkeypatch.setattr(trainer, "_step", step)
    for _ in range(3):
        trainer.train_epoch(iter([()] * 2))
    assert rates[::2] == rates[1::2] == pytest.approx([0.01, 0.01 * (2 / 3) ** 0.9, 0.01 * (1 / 3) ** 0.9])


def test_a_loss_that_is_not_finite_ends_it(task: Task) -> None:
    trainer = _Trainer(task, CPU, 1)
    bad = torch.full((2, 1, *PATCH), np.nan), *(torch.ones(2, 1, *PATCH, dtype=torch.bool) for _ in range(2))
    with pytest.raises(AssftError, match=r"The loss of epoch 0 is not finite\. Use a smaller --initial_lr than 0\.01"):
        trainer.train_epoch(iter([bad] * 2))


def test_the_statistics_are_those_of_whole_patches(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "STATISTICS", 8)
    module = task.module()
    before = {name: tensor.clone() for name, tensor in module.network.named_parameters()}
    take_statistics(task, module.encoder, CPU)
    encoder = module.network.encoder
    images = [torch.stack([task.samples[24 + 4 * b + i][0] for i in range(4)]) for b in range(2)]  # after the 24 of it
    with torch.no_grad():
        maps = [encoder.conv_init(image) for image in images]
    norm = encoder.layers[0].blocks[0].norm1
    mean = torch.stack([values.mean((0, 2, 3, 4)) for values in maps]).mean(0)
    variance = torch.stack([values.var((0, 2, 3, 4)) for values in maps]).mean(0)
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, variance, rtol=1e-4, atol=1e-5)
    assert (norm.momentum, int(norm.num_batches_tracked)) == (0.1, 2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.network.named_parameters())


def test_a_training_that_began_on_a_cpu_goes_on_in_mixed_precision(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    _Trainer(task, CPU, 1).save()
    enabled = torch.amp.GradScaler("cpu", enabled=True)
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *_, **__: enabled)  # as on CUDA
    trainer = _Trainer(task, CPU, 1)
    assert trainer.scaler.state_dict()["scale"] == 2.0**16
    trainer.save()
    enabled.load_state_dict({**enabled.state_dict(), "scale": 1.0})
    assert _Trainer(task, CPU, 1).scaler.state_dict()["scale"] == 2.0**16  # that of the checkpoint


@pytest.mark.parametrize(("value", "scaled"), [("fp16", True), ("bf16", False), ("off", False)])
def test_the_environment_chooses_the_precision(
    value: str, scaled: bool, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU that counts as a GPU."""
    monkeypatch.setattr(precision, "GPU", "cpu")
    monkeypatch.setenv("nnUNet_assft_autocast", value)
    trainer = _Trainer(task, CPU, 1)
    assert trainer.scaler.is_enabled() == scaled
    weight = next(trainer.module.parameters())
    found = []

    class Model(torch.nn.Module):
        def forward(self) -> torch.Tensor:
            found.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32)
            return weight.sum()

    trainer.model = Model()
    trainer._step(())
    assert found == [{"fp16": torch.float16, "bf16": torch.bfloat16, "off": torch.float32}[value]]


def test_a_batch_has_to_be_divided_evenly(task: Task) -> None:
    with pytest.raises(AssftError, match=r"--batch_size 4 cannot be divided among 3 GPUs"):
        run_task(task, CPU, gpus=3)


def run_rank(rank: int, port: int, task: Task) -> None:
    """What `_run_rank` of `trainers.distributed` does with a GPU."""
    torch.set_num_threads(1)
    with_process_group("gloo", rank, 2, port, partial(train, task, CPU))


@pytest.mark.slow
def test_two_processes_train_the_network_of_one(task: Task, tmp_path: Path) -> None:
    task = replace(task, header=header("resenc_tiny"))  # whose normalisation is that of each patch alone
    torch.multiprocessing.spawn(run_rank, (free_port(), task), nprocs=2)
    state = torch.load(task.checkpoint, weights_only=True)
    alone = replace(task, folder=tmp_path / "alone")
    train(alone, CPU)
    assert state["losses"] == pytest.approx(losses_of(alone), rel=1e-3)
    assert state["network_weights"].keys() == task.module().state_dict().keys()  # no prefix of a wrapper

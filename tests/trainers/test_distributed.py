"""A training by two processes. On CPUs, because a test machine has no two GPUs: with gloo in place of nccl, without
synchronised batch normalisation, and with the wrapper of torch that nnU-Net ties to a GPU. All else is nnU-Net's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet_trainer_module
from torch.nn.parallel import DistributedDataParallel

from nnunet_assft.active.context import Context, open_context
from nnunet_assft.active.state import Experiment
from nnunet_assft.active.training import stages
from nnunet_assft.active.training.training_set import Stage, write_training_set
from nnunet_assft.errors import AssftError
from nnunet_assft.trainers import distributed
from nnunet_assft.trainers.assft_trainers import nnUNetTrainerASSFT
from nnunet_assft.trainers.distributed import free_port, train_on_gpus, with_process_group
from tests.conftest import CPU

N = 2


def stage_of(context: Context, *, complete: bool = True) -> Stage:
    """A stage with three cases. complete: whether every structure is annotated in all of them."""
    labels = {case: context.dataset.label_file(case) for case in context.experiment.pool[:3]}
    missing = {} if complete else {context.experiment.pool[0]: ("ball",)}
    return Stage(0, "supervised", labels, {}, context.experiment.initial_model, epochs=3, not_annotated=missing)


def run_rank(rank: int, port: int, context: Context, stage: Stage, stop_after: int | None) -> None:
    """What `_run_rank` does with a GPU."""
    nnunet_trainer_module.DDP = lambda network, device_ids: DistributedDataParallel(network)
    torch.nn.SyncBatchNorm.convert_sync_batchnorm = lambda network: network  # type: ignore[method-assign]
    torch.set_num_threads(1)
    if stop_after is not None:
        end_of_epoch = nnUNetTrainerASSFT.on_epoch_end

        def stop(trainer: Any) -> None:
            end_of_epoch(trainer)
            if trainer.current_epoch == stop_after:
                raise SystemExit(0)

        nnUNetTrainerASSFT.on_epoch_end = stop  # type: ignore[method-assign]
    fold = context.paths.checkpoint(0, stage.name).parent
    with_process_group("gloo", rank, N, port, partial(stages.train, context, stage, fold))


def weights_after(context: Context, stage: Stage, stop_after: int | None = None) -> dict[str, torch.Tensor]:
    torch.multiprocessing.spawn(run_rank, (free_port(), context, stage, stop_after), nprocs=N)
    folder = context.paths.checkpoint(0, "supervised").parent
    file = folder / ("checkpoint_final.pth" if stop_after is None else stages.LATEST)
    checkpoint = torch.load(file, map_location="cpu", weights_only=False)
    assert checkpoint["current_epoch"] == (stop_after or 3)
    weights: dict[str, torch.Tensor] = checkpoint["network_weights"]
    return weights


@pytest.mark.slow
@pytest.mark.parametrize("complete", [True, False])
def test_two_processes_train_one_network_and_go_on_where_they_ended(planned: Experiment, complete: bool) -> None:
    context = open_context(planned, CPU)
    stage = stage_of(context, complete=complete)
    write_training_set(context, stage)
    whole = weights_after(context, stage)
    start = torch.load(planned.paths.initial_network, map_location="cpu", weights_only=True)
    assert start["network_weights"].keys() == whole.keys()  # no prefix of a wrapper
    log = next(context.paths.checkpoint(0, "supervised").parent.glob("training_log_*.txt")).read_text()
    assert "Training on 3 cases" in log
    assert ("Marginal loss: what is not annotated in" in log) is not complete
    for file in context.paths.checkpoint(0, "supervised").parent.iterdir():
        file.unlink()
    weights_after(context, stage, stop_after=2)
    resumed = weights_after(context, stage)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def call_it(rank: int, n: int, port: int, train: Callable[[], None]) -> None:
    """What `_run_rank` does, without a GPU."""
    train()


def diverge() -> None:
    raise AssftError("The loss is not finite.")


@pytest.mark.slow
def test_an_error_of_a_process_is_that_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(distributed, "_run_rank", call_it)
    with pytest.raises(AssftError, match=r"^The loss is not finite\.$"):
        train_on_gpus(diverge, 1, batch_size=2)


def test_memory_is_given_back_before_the_processes_start(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("empty_cache"))
    monkeypatch.setattr(torch.multiprocessing, "spawn", lambda *_, **__: calls.append("spawn"))
    train_on_gpus(lambda: None, 2, batch_size=2)
    assert calls == ["empty_cache", "spawn"]


def test_more_gpus_than_there_are_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(AssftError, match="--gpus 2, but torch finds 1"):
        train_on_gpus(lambda: None, 2, batch_size=2)


def test_more_gpus_than_cases_in_a_batch_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    with pytest.raises(AssftError, match=r"--gpus 4, but a batch has 2 cases, and every GPU needs one\. Give --gpus 2"):
        train_on_gpus(lambda: None, 4, batch_size=2)

"""A training by two processes. On CPUs, because a test machine has no two GPUs: with gloo in place of nccl, without
synchronised batch normalisation, and with the wrapper of torch that nnU-Net ties to a GPU. All else is nnU-Net's."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet_trainer_module
from torch.nn.parallel import DistributedDataParallel

from nnunet_assft.active.context import Context, open_context
from nnunet_assft.active.state import Experiment
from nnunet_assft.active.training import stages
from nnunet_assft.active.training.training_set import Stage, write_training_set
from nnunet_assft.cluster.job import open_job
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.cases import Attempt
from nnunet_assft.runtime.files import write_text
from nnunet_assft.runtime.processes import die_with_parent_if_spawned, is_running
from nnunet_assft.trainers import distributed
from nnunet_assft.trainers.assft_trainers import nnUNetTrainerASSFT
from nnunet_assft.trainers.distributed import free_port, train_on_gpus, with_process_group
from tests.cluster.work import command_of_part
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


def on_cpu(rank: int, n: int, port: int, train: Callable[[], None]) -> None:
    """What `_run_rank` does, with gloo."""
    die_with_parent_if_spawned()
    with_process_group("gloo", rank, n, port, train)


def epochs_without_steps(folder: Path) -> None:
    """A training of processes that wait for each other in every epoch, and go on after the last one that was saved."""
    (folder / f"process_{os.getpid()}").touch()
    latest = folder / "latest"
    epoch = int(latest.read_text()) if latest.exists() else 0
    (folder / f"from_{epoch}").touch()
    dist.barrier()
    while epoch < int((folder / "epochs").read_text()):
        time.sleep(0.05)
        dist.barrier()
        epoch += 1
        if dist.get_rank() == 0:
            write_text(latest, str(epoch))


def train_in_two_processes(folder: Path) -> str:
    torch.cuda.device_count = lambda: N  # type: ignore[method-assign]
    distributed._run_rank = on_cpu
    train_on_gpus(partial(epochs_without_steps, folder), N, batch_size=N)
    return (folder / "latest").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT], ids=lambda how: how.name)
def test_a_part_that_is_ended_ends_its_processes_and_goes_on_when_it_is_run_again(
    how: signal.Signals, tmp_path: Path
) -> None:
    job, _ = open_job(tmp_path / "training", Attempt(train_in_two_processes, "training", ()))
    job.write_function()
    sweep = job.submit([("a", tmp_path, "")], 1)
    # it is ignored in the background of a shell
    command, environment = command_of_part(job, sweep, "signal.signal(signal.SIGINT, signal.default_int_handler)")
    (tmp_path / "epochs").write_text("10000")
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as part:
        try:
            while not (tmp_path / "latest").exists():
                assert part.poll() is None
                time.sleep(0.05)
            part.send_signal(how)
            part.wait(timeout=20)
        finally:
            part.kill()  # with which its processes end
    pids = [int(file.name.removeprefix("process_")) for file in tmp_path.glob("process_*")]
    assert len(pids) == N
    assert not [pid for pid in pids if is_running(pid)]
    epoch = int((tmp_path / "latest").read_text())
    (tmp_path / "epochs").write_text(str(epoch + 2))
    subprocess.run(command, env=environment, check=True)
    assert (tmp_path / f"from_{epoch}").exists()
    assert list(job.new_results({"a": ""})) == [("a", str(epoch + 2))]


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

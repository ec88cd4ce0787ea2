"""The training of an encoder by itself: epochs, checkpoints, and the encoder file in the end.

A checkpoint is written after every epoch. All that is random is drawn from the seed and the number of a patch, so a
training that was interrupted ends with the same weights on the same CPU. A GPU rounds differently each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from nnunet_assft.cluster.job import say_progress
from nnunet_assft.errors import AssftError
from nnunet_assft.network.checkpoints import remove_if_damaged
from nnunet_assft.network.encoder_file import write_encoder
from nnunet_assft.network.presets import PRESETS
from nnunet_assft.pretraining.patches import Patches
from nnunet_assft.pretraining.recipes import RECIPES, Recipe
from nnunet_assft.pretraining.settings import Pretraining
from nnunet_assft.runtime.files import atomic_path
from nnunet_assft.runtime.precision import autocast, lay_out, scales_gradients
from nnunet_assft.runtime.processes import die_with_parent
from nnunet_assft.runtime.seeding import seed_generators
from nnunet_assft.runtime.text import count
from nnunet_assft.runtime.untrusted import load_torch
from nnunet_assft.trainers.distributed import train_on_gpus

MAX_GRADIENT = 12  # norm to which gradients are clipped, as in nnU-Net
STATISTICS = 50  # patches from which the statistics of batch normalisation are taken in the end
N_EXAMPLES = 3


@dataclass(frozen=True)
class Task:
    """Everything that a pre-training needs, so that another process can do it.

    files: the preprocessed images. n_pool: how many of them are of the pool, which come first. header: what the
    encoder file will say, without the final loss. patch_size: (z, y, x). folder: where all files of it are.
    """

    settings: Pretraining
    batch_size: int
    files: tuple[Path, ...]
    n_pool: int
    header: dict[str, Any]
    patch_size: tuple[int, ...]
    folder: Path

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint_latest.pth"

    @property
    def encoder_file(self) -> Path:
        """Named like the folder, so that the files of several pre-trainings have names of their own."""
        return self.folder / f"{self.folder.name}.safetensors"

    @property
    def examples_file(self) -> Path:
        return self.folder / "examples.npz"

    @property
    def recipe(self) -> Recipe:
        return RECIPES[self.settings.method]

    @property
    def patches(self) -> Patches:
        return Patches(self.files, self.patch_size, self.settings.seed)

    @property
    def n_samples(self) -> int:
        """The number of samples that the whole training is shown."""
        return self.settings.epochs * self.settings.iterations_per_epoch * self.batch_size

    @property
    def samples(self) -> Dataset[Any]:
        return self.recipe.samples(self.patches, PRESETS[self.header["preset"]])

    def module(self) -> Any:
        """Return the network of the recipe with its first weights, which the seed determines."""
        seed_generators([self.settings.seed])
        return self.recipe.module(self.header["architecture"], len(self.header["input"]["channels"]))


def run_task(task: Task, device: torch.device, gpus: int) -> list[float]:
    """Do a pre-training, or what is left of it, and write its encoder file and examples. Returns the loss of every
    epoch."""
    remove_if_damaged(task.checkpoint)
    if len(losses_of(task)) < task.settings.epochs:
        if gpus > 1:
            if task.batch_size % gpus:
                raise AssftError(
                    f"--batch_size {task.batch_size} cannot be divided among {gpus} GPUs. Give a multiple of {gpus}."
                )
            train_on_gpus(partial(train, task, device), gpus, task.batch_size)
        else:
            train(task, device)
    losses = losses_of(task)
    module = task.module()
    module.load_state_dict(load_torch(task.checkpoint)["network_weights"])
    module.to(device)
    take_examples(task, module, device)
    take_statistics(task, module.encoder, device)
    training = {**task.header["training"], "loss": losses[-1]}
    write_encoder(task.encoder_file, module.encoder, {**task.header, "training": training})
    return losses


def losses_of(task: Task) -> list[float]:
    """Return the loss of every epoch so far, from the checkpoint."""
    if not task.checkpoint.is_file():
        return []
    losses: list[float] = load_torch(task.checkpoint)["losses"]
    return losses


def train(task: Task, device: torch.device) -> None:
    """Train from the latest checkpoint on, in this process, which may be one of several that share the batches."""
    rank, n = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    settings, trainer = task.settings, _Trainer(task, device, n)
    batches, steps = _batches(task, len(trainer.losses), rank, n, device), settings.iterations_per_epoch
    with tqdm(
        total=settings.epochs * steps,
        initial=len(trainer.losses) * steps,
        desc=f"pre-training ({settings.method})",
        unit="step",
        leave=False,
        disable=rank > 0,
    ) as bar:
        while len(trainer.losses) < settings.epochs:
            trainer.train_epoch(_counted(batches, bar))
            if rank == 0:
                trainer.save()
            epoch, loss = f"{len(trainer.losses)}/{settings.epochs}", f"{trainer.losses[-1]:.3f}"
            bar.set_postfix(epoch=epoch, loss=loss, refresh=False)
            if rank == 0:
                say_progress(f"{count(len(trainer.losses), 'epoch')} of {settings.epochs}")


def _counted(batches: Iterator[Sequence[Tensor]], bar: tqdm) -> Iterator[Sequence[Tensor]]:
    """Yield the batches, and let the bar count them."""
    for batch in batches:
        bar.update()
        yield batch


class _Trainer:
    """The network, its optimiser, and the loss of every epoch so far. n: processes that share the batches."""

    def __init__(self, task: Task, device: torch.device, n: int) -> None:
        self.task, self.device, self.n = task, device, n
        self.module = task.module().to(device)
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), task.settings.learning_rate, weight_decay=task.recipe.weight_decay
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=scales_gradients(device))
        self.losses: list[float] = []
        if task.checkpoint.is_file():
            state = load_torch(task.checkpoint)
            self.module.load_state_dict(state["network_weights"])
            self.optimizer.load_state_dict(state["optimizer"])
            if state["scaler"]:  # it is empty if the training began without one, such as on a CPU
                self.scaler.load_state_dict(state["scaler"])
            self.losses = list(state["losses"])
        lay_out(self.module, device)
        self.model: nn.Module = self.module
        if n > 1:
            on_gpu = device.type == "cuda"
            synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(self.module) if on_gpu else self.module
            self.model = DistributedDataParallel(synchronised)
        elif device.type == "cpu":
            self.module.to(memory_format=torch.channels_last_3d)  # a third faster there

    def train_epoch(self, batches: Iterator[Sequence[Tensor]]) -> None:
        """Do the steps of one epoch. Raises `AssftError` if the loss is not finite."""
        settings, epoch = self.task.settings, len(self.losses)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * self.task.recipe.rate(epoch, settings.epochs)
        self.model.train()
        losses = torch.stack([self._step(next(batches)) for _ in range(settings.iterations_per_epoch)])
        loss = losses.mean()
        if self.n > 1:
            dist.all_reduce(loss)
            loss /= self.n
        if not torch.isfinite(loss):
            raise AssftError(
                f"The loss of epoch {epoch} is not finite. Use a smaller --initial_lr than "
                f"{settings.learning_rate:g} and another folder with -o."
            )
        self.losses.append(float(loss))

    def _step(self, batch: Sequence[Tensor]) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device):
            loss = self.model(*(tensor.to(self.device, non_blocking=True) for tensor in batch))
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.module.parameters(), MAX_GRADIENT)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach().float()

    def save(self) -> None:
        state = {
            "network_weights": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "losses": self.losses,
        }
        with atomic_path(self.task.checkpoint) as partial:
            torch.save(state, partial)


def _batches(task: Task, epoch: int, rank: int, n: int, device: torch.device) -> Iterator[Sequence[Tensor]]:
    """Return the batches from an epoch on, or the share of process `rank` of n in each of them."""
    first = epoch * task.settings.iterations_per_epoch * task.batch_size
    return iter(_loader(task.samples, range(first + rank, task.n_samples, n), task.batch_size // n, device))


def _loader(samples: Dataset[Any], numbers: Sequence[int], batch_size: int, device: torch.device) -> DataLoader[Any]:
    """Return a loader of these samples. On a GPU, other processes make them."""
    on_gpu = device.type == "cuda"
    n_processes = get_allowed_n_proc_DA() if on_gpu else 0
    return DataLoader(
        samples,
        batch_size,
        sampler=numbers,
        num_workers=n_processes,
        pin_memory=on_gpu,
        worker_init_fn=_start_worker,
        multiprocessing_context="spawn" if n_processes else None,
    )


def _start_worker(_: int) -> None:
    die_with_parent()
    torch.set_num_threads(1)


# In the end -----------------------------------------------------------------------------------------------------------


def take_statistics(task: Task, encoder: nn.Module, device: torch.device) -> None:
    """Take the mean and the variance of batch normalisation in the encoder anew, from whole patches.

    Those of the training are of patches that are zero for the most part, or of crops, which no experiment shows the
    encoder. Does nothing for a network without such statistics.
    """
    norms = [layer for layer in encoder.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not norms:
        return
    before = [layer.momentum for layer in norms]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches
    encoder.train()
    numbers = range(task.n_samples, task.n_samples + max(STATISTICS, 2 * task.batch_size))
    with torch.no_grad():
        for image, _ in _loader(task.patches, numbers, max(2, task.batch_size), device):
            encoder(image.to(device))
    for layer, momentum in zip(norms, before, strict=True):
        layer.momentum = momentum


def take_examples(task: Task, module: nn.Module, device: torch.device) -> None:
    """Write what the network makes of some samples for the report, which draws it.

    Their images are those of the training, but the network has not seen these samples of them. Each array of the file
    has the samples along its first axis.
    """
    module.eval()
    samples, recipe, numbers = task.samples, task.recipe, range(task.n_samples, task.n_samples + N_EXAMPLES)
    with torch.no_grad():
        found = [recipe.take(module, *(tensor[None].to(device) for tensor in samples[number])) for number in numbers]
    with atomic_path(task.examples_file) as partial, open(partial, "wb") as file:
        arrays: dict[str, Any] = dict(zip(recipe.examples, map(np.stack, zip(*found, strict=True)), strict=True))
        np.savez_compressed(file, **arrays)

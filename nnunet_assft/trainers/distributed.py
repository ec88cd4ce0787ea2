"""Trainings on several GPUs by nnU-Net's own distributed data parallelism: one process per GPU."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.processes import die_with_parent_if_spawned


def train_on_gpus(train: Callable[[], None], n: int, batch_size: int) -> None:
    """Call `train`, which builds a trainer and runs it, in n processes, each with a GPU of its own.

    nnU-Net divides the batch among them and normalises over the whole of it (synchronised batch normalisation). Raises
    `AssftError` if there are fewer GPUs, or fewer cases in a batch, and the one that `train` raises. If this process is
    ended meanwhile, by a signal or otherwise, the others end as well.
    """
    available = torch.cuda.device_count()
    if available < n:
        raise AssftError(f"--gpus {n}, but torch finds {available}. Give a smaller number.")
    if batch_size < n:
        raise AssftError(
            f"--gpus {n}, but a batch has {batch_size} cases, and every GPU needs one. Give --gpus {batch_size}."
        )
    torch.cuda.empty_cache()  # what this process has left from scoring, which the first of them needs
    messages = torch.multiprocessing.get_context("spawn").SimpleQueue()
    try:
        with _no_child_left():
            torch.multiprocessing.spawn(_run_rank, (n, free_port(), partial(_train, train, messages)), nprocs=n)
    except (torch.multiprocessing.ProcessRaisedException, torch.multiprocessing.ProcessExitedException) as error:
        if messages.empty():
            raise
        raise AssftError(messages.get()) from error


@contextmanager
def _no_child_left() -> Iterator[None]:
    """Kill the processes that the body has started and that are still at work when it ends. Otherwise Python, when it
    exits, would wait until their training is over. Checkpoints are written atomically, so they may end at any time."""
    before = set(multiprocessing.active_children())
    try:
        yield
    finally:
        left = set(multiprocessing.active_children()) - before
        for process in left:
            process.kill()
        for process in left:
            process.join()


def _train(train: Callable[[], None], messages: Any) -> None:
    """Call `train`. messages: a queue that gets the message of an `AssftError`."""
    try:
        train()
    except AssftError as error:
        messages.put(str(error))
        raise


def _run_rank(rank: int, n: int, port: int, train: Callable[[], None]) -> None:
    die_with_parent_if_spawned()
    torch.cuda.set_device(rank)
    with_process_group("nccl", rank, n, port, train)


def with_process_group(backend: str, rank: int, n: int, port: int, train: Callable[[], None]) -> None:  # all of its say
    """Call `train` as process `rank` of n that find each other at a port of this machine."""
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    dist.init_process_group(backend, rank=rank, world_size=n)
    try:
        train()
        dist.barrier()  # a process that leaves breaks its connections to those that are still at work
    finally:
        dist.destroy_process_group()


def free_port() -> int:
    """Return a port of this machine that nobody listens to."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])

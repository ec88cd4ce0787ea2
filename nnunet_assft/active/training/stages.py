"""One training stage of a round: its training set, and nnU-Net's training on it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from nnunet_assft.active.context import Context
from nnunet_assft.active.state import Model
from nnunet_assft.active.training.training_set import Stage, write_training_set
from nnunet_assft.cluster.job import say_progress
from nnunet_assft.errors import doing
from nnunet_assft.network.checkpoints import load_weights, remove_if_damaged, weights_sha256
from nnunet_assft.nnunet_names import CONFIGURATION
from nnunet_assft.runtime.cached import cached, claim, is_claimed, set_aside
from nnunet_assft.runtime.cases import each_case
from nnunet_assft.runtime.locks import only_process
from nnunet_assft.runtime.processes import let_workers_die_with_us
from nnunet_assft.runtime.text import count
from nnunet_assft.trainers import assft_trainers
from nnunet_assft.trainers.distributed import train_on_gpus
from nnunet_assft.trainers.folds import TRAINERS, fold_of

LATEST = "checkpoint_latest.pth"
PATIENCE = 120.0  # seconds to wait for a process that trains in the same fold; a cancelled job needs some to end


def fine_tune(context: Context, stage: Stage) -> Model:
    """Write the training set of a stage, train on it unless that was done before, and return the model.

    Training starts from the weights of `stage.start` with a new optimiser and learning rate schedule.
    """
    content = stage.content()
    with doing(f"round {stage.round}: {stage.name} training"):
        result = cached(
            context.paths.step_file(stage.round, stage.name),
            content,
            lambda: asdict(train_stage(context, stage)),
            outputs=lambda model: [context.paths.result(model["checkpoint"])],
        )
    return Model(**result)


def train_stage(context: Context, stage: Stage) -> Model:
    """Train one stage, resume it from nnU-Net's latest checkpoint, or use its final checkpoint if there is one.

    An earlier training with another content of the stage file, for example because a label was replaced, is set aside
    and never resumed. A checkpoint that is damaged is removed, and the training starts again before it.
    """
    content, paths = write_training_set(context, stage), context.paths
    checkpoint = paths.checkpoint(stage.round, stage.name)
    remove_if_damaged(checkpoint)
    if not (checkpoint.is_file() and is_claimed(paths.trained_on(stage.round, stage.name), content)):
        run = partial(_train_alone, context, stage, content)
        fold = {stage.name: checkpoint.parent}
        list(each_case(run, fold, desc=_title(stage), executor=context.trainings, raises=True))
    return Model(stage.name, paths.relative(checkpoint), weights_sha256(load_weights(checkpoint)))


def _train_alone(context: Context, stage: Stage, content: Mapping[str, Any], fold: Path) -> None:
    """Train a stage in its fold, unless another process has done it meanwhile.

    The process that trains holds the lock itself, because a job goes on when the command that has submitted it ends.
    """
    paths = context.paths
    with only_process(paths.training_lock(stage.round, stage.name), f"the training in {fold}", patience=PATIENCE):
        reserve_fold(paths.trained_on(stage.round, stage.name), content)
        if not paths.checkpoint(stage.round, stage.name).is_file():
            (fold / paths.taken_from.name).unlink(missing_ok=True)  # of a checkpoint that is lost
            _run_training(context, stage, fold)


def reserve_fold(stamp: Path, content: Mapping[str, Any]) -> None:
    """Reserve the fold of `stamp` for a training on this content. One on another content is set aside."""
    if any(stamp.parent.glob("checkpoint_*.pth")) and not is_claimed(stamp, content):
        set_aside(stamp.parent)
    claim(stamp, content, displace=lambda folder: None)  # files without a checkpoint do no harm


def _title(stage: Stage) -> str:
    return f"round {stage.round}: {stage.name.replace('_', ' ')} training"


def _run_training(context: Context, stage: Stage, fold: Path) -> None:
    context.checkpoint(stage.start)  # which the trainer loads
    remove_if_damaged(fold / LATEST)  # nnU-Net would start from scratch, too, but in another way
    n = context.engine.gpus or 1
    if n > 1:
        batch_size = context.plans["configurations"][CONFIGURATION]["batch_size"]
        train_on_gpus(partial(train, context, stage, fold), n, batch_size)
    else:
        train(context, stage, fold)


def train(context: Context, stage: Stage, fold: Path) -> None:
    """Let nnU-Net train a stage in this process, which may be one of several that share the work."""
    let_workers_die_with_us()
    with open(context.paths.log_file, "a") as log, redirect_stdout(log):
        _train(context, stage, fold / LATEST)


def _train(context: Context, stage: Stage, latest: Path) -> None:
    trainer_class = getattr(assft_trainers, TRAINERS[stage.name])
    plans = {**context.plans, "continue_training": latest.is_file()}
    number = fold_of(stage.round, stage.name)
    trainer = trainer_class(plans, CONFIGURATION, number, context.dataset.dataset_json, context.device)
    if context.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    if latest.is_file():
        trainer.load_checkpoint(str(latest))
    steps = trainer.num_iterations_per_epoch  # the bar counts them, because an epoch may take minutes
    with tqdm(
        total=trainer.num_epochs * steps,
        initial=trainer.current_epoch * steps,
        desc=_title(stage),
        unit="step",
        leave=False,
        disable=trainer.local_rank > 0,
    ) as bar:

        def show(done: Any) -> None:
            loss = done.logger.get_value("train_losses", step=-1)
            bar.set_postfix(epoch=f"{done.current_epoch}/{done.num_epochs}", loss=f"{loss:.3f}", refresh=False)
            if done.local_rank == 0:
                say_progress(f"{_title(stage)}, {count(done.current_epoch, 'epoch')} of {done.num_epochs}")

        train_step = trainer.train_step

        def step(batch: Any) -> Any:
            result = train_step(batch)
            bar.update()
            return result

        trainer.train_step, trainer.after_epoch = step, show
        trainer.run_training()

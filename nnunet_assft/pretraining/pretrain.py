"""Pre-training of the encoder of an experiment's network on images without labels. READ FIRST."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nnunet_assft.active.context import Context, open_context
from nnunet_assft.active.state import Experiment
from nnunet_assft.cluster.engines import HERE, Engine
from nnunet_assft.errors import AssftError, DamagedFileError, doing
from nnunet_assft.network.encoder_file import short
from nnunet_assft.network.presets import PRESETS
from nnunet_assft.nnunet_names import CONFIGURATION
from nnunet_assft.planning.contract import input_of
from nnunet_assft.pretraining.images import Images, collect_images
from nnunet_assft.pretraining.settings import Pretraining
from nnunet_assft.pretraining.training import Task, run_task
from nnunet_assft.runtime.cached import cached, claim
from nnunet_assft.runtime.cases import each_case
from nnunet_assft.runtime.files import sha256_of
from nnunet_assft.runtime.locks import only_process
from nnunet_assft.runtime.sealed import read_sealed
from nnunet_assft.runtime.text import some

STAMP, FINISHED = "pretraining.json", "finished.json"
# entry of the stamp -> words for a folder with another one
DIFFERENCES = {"architecture": "another architecture", "input": "another input", "images": "other images"}


@dataclass(frozen=True)
class Pretrained:
    """A finished pre-training. losses: of every epoch."""

    task: Task
    losses: tuple[float, ...]


# five parameters: what is trained on what, and where
def pretrain(
    experiment: Experiment, settings: Pretraining, folder: Path, device: torch.device, engine: Engine = HERE
) -> Pretrained:
    """Train the encoder of the network of an experiment on its pool, or go on with it, and write its file to a folder.

    The pool, and the images of further folders, are preprocessed by the plans of the experiment. Neither labels nor
    test images are read for the training. Raises `AssftError` if the folder holds another pre-training.
    """
    context = open_context(experiment, device, engine)
    images = collect_images(context, settings.images)
    task = make_task(context, settings, images, folder)
    content = _content(task, images)
    claim(folder / STAMP, content, displace=partial(_refuse, content))
    with only_process(folder / ".lock", f"the pre-training in {folder}"), doing("pre-training"):
        losses = cached(folder / FINISHED, content, lambda: _run(context, task), outputs=lambda _: _outputs(task))
    return Pretrained(task, tuple(losses))


def make_task(context: Context, settings: Pretraining, images: Images, folder: Path) -> Task:
    """Return the task of a pre-training."""
    plan, preset = context.plans["configurations"][CONFIGURATION], context.experiment.settings.preset
    if preset is None or preset not in PRESETS:
        raise AssftError(
            f"Experiment {context.experiment.name!r} has the network of a model (--start), which is trained already. "
            "Pre-train with an experiment that was planned with a preset."
        )
    batch_size = settings.batch_size or plan["batch_size"]
    header = {
        "method": settings.method,
        "preset": preset,
        "architecture": PRESETS[preset].architecture,
        "input": input_of(plan, context.dataset.dataset_json),
        "training": {
            "n_images": len(images.files),
            "steps": settings.epochs * settings.iterations_per_epoch,
            "batch_size": batch_size,
            "seed": settings.seed,
            "images": sorted(map(short, images.sources)),
        },
        "dataset": context.experiment.dataset,
    }
    n_pool = len(set(images.files) & {context.image_folder / f"{case}.b2nd" for case in context.experiment.now.pool})
    return Task(settings, batch_size, images.files, n_pool, header, tuple(plan["patch_size"]), folder)


def _content(task: Task, images: Images) -> dict[str, Any]:
    """Return what identifies a pre-training: everything that its weights depend on."""
    return {
        "settings": {**task.settings.numbers, "batch_size": task.batch_size},
        "preset": task.header["preset"],
        "architecture": task.header["architecture"],
        "input": task.header["input"],
        "images": {"n": len(images.files), "sha256": sha256_of(images.checksums)},
    }


def _run(context: Context, task: Task) -> list[float]:
    run = partial(run_task, device=context.device, gpus=context.engine.gpus or 1)
    ((_, losses),) = each_case(
        run,
        {task.settings.method: task},
        # names the folder of its parts; two commands may pre-train in folders of one name at the same time
        desc=f"pre-training in {task.folder.name} {sha256_of(str(task.folder.absolute()))[:6]}",
        executor=context.trainings,
        raises=True,
    )
    assert not isinstance(losses, AssftError)
    return losses


def _outputs(task: Task) -> list[Path]:
    return [task.encoder_file, task.examples_file]


def _refuse(content: Mapping[str, Any], folder: Path) -> None:
    """Raise an error that says in what the pre-training in a folder differs from the one that is wanted."""
    other, found = _recorded(folder), []
    settings = other.get("settings", {})
    found += [
        f"--{name} was {settings[name]}, now {value}"
        for name, value in content["settings"].items()
        if name in settings and settings[name] != value
    ]
    found += [words for name, words in DIFFERENCES.items() if other.get(name) != content[name]]
    what = f"another pre-training ({some(found, 3, '; ')})" if other else "other files"
    raise AssftError(f"{folder} holds {what}. Choose another folder with -o.")


def _recorded(folder: Path) -> dict[str, Any]:
    """Return the content of the stamp in a folder; empty if there is none, or if it is damaged."""
    try:
        return read_sealed(folder / STAMP)
    except DamagedFileError:
        return {}

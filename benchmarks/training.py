"""A training step of our trainer against one of nnU-Net's own trainer, for the same network, cases, and patch.

Run benchmarks/training.py [--preset ctfm] [--size 48 96 96] [--steps 5]. It measures, in turn,

(a) nnUNetTrainer: augmentation of a batch, and its train_step;
(b) our trainer of the supervised stage: the same;
(c) a bare loop: forward pass, loss, backward pass and optimiser on a batch that is on the device already.

It prints the seconds per step with and without augmentation, which happens in this process (medians), and the ratios b
/ a and b / c (medians of the ratios within each step, in alternating order). Optimiser and augmentation differ as they
do in a training: SGD and nnU-Net's augmentation in a, AdamW and that of the paper in b. c has the optimiser of b. The
images are noise. The time to start programs and to import is not counted. On a CPU, seconds are those of processor
time, which other programs on the machine do not change much.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

os.environ["nnUNet_n_proc_DA"] = "0"  # so that augmentation is done, and measured, in this process

import numpy as np
from common import arguments, empty_folders, publish, synchronize

DATASET = "Dataset999_TrainingBenchmark"
CASES = 4


def main() -> None:
    parser = arguments("A training step of our trainer against one of nnU-Net's own.")
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each way")
    args = parser.parse_args()
    with empty_folders():
        report(args)


def report(args: argparse.Namespace) -> None:
    """Measure the three ways in turn, and print them."""
    import torch

    with redirect_stdout(StringIO()):
        stock, ours = trainers(args)
    batches = {trainer: next(trainer.dataloader_train) for trainer in (stock, ours)}
    bare = bare_step(ours, batches[ours])
    ways: dict[str, Callable[[], Any]] = {
        "a": lambda: stock.train_step(batches[stock]),
        "b": lambda: ours.train_step(batches[ours]),
        "c": bare,
        "a with augmentation": lambda: stock.train_step(next(stock.dataloader_train)),
        "b with augmentation": lambda: ours.train_step(next(ours.dataloader_train)),
    }
    clock = time.process_time if args.device == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for step in range(args.steps + 1):
        for way in list(ways) if step % 2 else reversed(ways):
            start = clock()
            ways[way]()
            synchronize(args.device)
            if step:  # the first one is for warming up
                seconds[way].append(clock() - start)

    def ratio(one: str, other: str) -> float:
        return statistics.median(x / y for x, y in zip(seconds[one], seconds[other], strict=True))

    names = {"a": "nnU-Net's own trainer", "b": "our trainer of the supervised stage", "c": "bare loop"}
    rows = []
    for way, name in names.items():
        found = {column: seconds.get(f"{way}{column}") for column in ("", " with augmentation")}
        columns = {"s per step": found[""], "s with augmentation": found[" with augmentation"]}
        shown = {column: statistics.median(times) if times else "-" for column, times in columns.items()}
        rows.append({"way": f"({way}) {name}", **shown})
    results: dict[str, float | str] = {
        "threads of torch": str(torch.get_num_threads()),
        "patch": str(list(ours.configuration_manager.patch_size)),
        "batch": str(ours.batch_size),
        "b / a": ratio("b", "a"),
        "b / a with augmentation": ratio("b with augmentation", "a with augmentation"),
        "b / c": ratio("b", "c"),
    }
    publish(args, rows, results, args.device)


def trainers(args: argparse.Namespace) -> tuple[Any, Any]:
    """Plan an experiment on smooth noise, write the training set of round 0 with all its cases, and return nnU-Net's
    trainer and ours on it, ready for a step."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from nnunet_assft.active.context import open_context
    from nnunet_assft.active.experiment import create_experiment
    from nnunet_assft.active.settings import Settings
    from nnunet_assft.active.training.training_set import Stage, write_training_set
    from nnunet_assft.nnunet_names import CONFIGURATION
    from nnunet_assft.trainers.assft_trainers import nnUNetTrainerASSFTSupervised

    write_dataset(args)
    experiment = create_experiment(999, "assft", Settings(preset=args.preset))
    context = open_context(experiment, torch.device(args.device))
    labels = {case: context.dataset.label_file(case) for case in experiment.pool}
    write_training_set(context, Stage(0, "supervised", labels, {}, experiment.initial_model, epochs=1))
    made = []
    for trainer_class in (nnUNetTrainer, nnUNetTrainerASSFTSupervised):
        plans = {**context.plans, "continue_training": False}
        trainer = trainer_class(plans, CONFIGURATION, 0, context.dataset.dataset_json, context.device)
        made.append(trainer)
    stock, ours = made
    stock.enable_deep_supervision = ours.enable_deep_supervision  # so that both have the same network and loss
    stock.preprocessed_dataset_folder = ours.preprocessed_dataset_folder
    stock.do_split = ours.do_split
    for trainer in made:
        trainer.initialize()
        trainer.dataloader_train, _ = trainer.get_dataloaders()
        trainer.network.train()
    return stock, ours


def write_dataset(args: argparse.Namespace) -> None:
    """Write images of smooth noise, and labels with all classes."""
    import SimpleITK as sitk
    from scipy.ndimage import gaussian_filter

    from nnunet_assft.runtime.files import write_json

    raw = Path(os.environ["nnUNet_raw"], DATASET)
    rng = np.random.default_rng(0)
    label = np.arange(np.prod(args.size)).reshape(args.size) * args.classes // np.prod(args.size)
    for i in range(CASES):
        image = 100 * gaussian_filter(rng.normal(size=args.size), 2).astype(np.float32) + 500
        for folder, array, suffix in (("imagesTr", image, "_0000"), ("labelsTr", label.astype(np.uint8), "")):
            (raw / folder).mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(array), str(raw / folder / f"case_{i:02d}{suffix}.nii.gz"))
    labels = {"background": 0, **{f"structure_{c}": c for c in range(1, args.classes)}}
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": CASES, "file_ending": ".nii.gz"}
    write_json(raw / "dataset.json", content)


def bare_step(trainer: Any, batch: dict[str, Any]) -> Callable[[], None]:
    """Return a training step without anything of a trainer, in the precision of the trainer."""
    from nnunet_assft.runtime.precision import autocast

    data = batch["data"].to(trainer.device)
    target = batch["target"]
    target = [t.to(trainer.device) for t in target] if isinstance(target, list) else target.to(trainer.device)

    def step() -> None:
        trainer.optimizer.zero_grad(set_to_none=True)
        with autocast(trainer.device):
            loss = trainer.loss(trainer.network(data), target)
        loss.backward()
        trainer.optimizer.step()

    return step


if __name__ == "__main__":
    main()

"""What a round costs besides training iterations and forward passes. Run benchmarks/round_overhead.py -d 4 -r 1.

The experiment must be planned, and round -r not be finished (nnUNetv2_assft_plan, then nnUNetv2_assft_round up to the
round before). The round runs in this process, on one device, and every second of it is put into one of these parts:

* training: the batches of an epoch with their augmentation, the optimiser steps and the online validation;
* forward passes: sliding-window inference for scores, pseudo-labels and test predictions, and the encoder alone;
* checksums: of files and of what is written to them, and the CRC of torch files;
* other: everything else (reading and writing of files, resampling, metrics, start and end of trainings).

The seconds are those of the processor time of this process, which other processes on the machine do not change much.
The time for imports is not counted.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from common import add_json, publish

os.environ.setdefault("nnUNet_n_proc_DA", "0")  # so that augmentation is done, and counted, in this process

PARTS = ("training", "forward passes", "checksums", "other")


class Clock:
    """Puts the processor time between two switches into the part that was at work."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.stack = ["other"]
        self.last = time.process_time()

    def switch(self) -> None:
        now = time.process_time()
        self.seconds[self.stack[-1]] += now - self.last
        self.last = now

    def enter(self, part: str) -> None:
        self.switch()
        self.stack.append(part)

    def leave(self) -> None:
        self.switch()
        self.stack.pop()

    def counted(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.enter(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.leave()

        return call


def instrument(clock: Clock) -> None:
    """Let the functions that make up the parts tell the clock when they are at work."""
    import zipfile

    from nnunet_assft.active.scoring.scorer import Scorer
    from nnunet_assft.runtime import files, sealed
    from nnunet_assft.trainers.assft_trainers import nnUNetTrainerASSFT

    for name in ("logits", "embed"):
        setattr(Scorer, name, clock.counted("forward passes", getattr(Scorer, name)))
    zipfile.ZipFile.testzip = clock.counted("checksums", zipfile.ZipFile.testzip)  # type: ignore[method-assign]
    for name in ("sha256_file", "sha256_of"):
        counted = clock.counted("checksums", getattr(files, name))
        for module in modules_with(name):
            setattr(module, name, counted)
    sealed._seal = clock.counted("checksums", sealed._seal)
    start, end = nnUNetTrainerASSFT.on_train_epoch_start, nnUNetTrainerASSFT.on_validation_epoch_end

    def begin(trainer: Any) -> None:
        clock.enter("training")
        start(trainer)

    def finish(trainer: Any, outputs: Any) -> None:
        end(trainer, outputs)
        clock.leave()

    nnUNetTrainerASSFT.on_train_epoch_start = begin  # type: ignore[method-assign]
    nnUNetTrainerASSFT.on_validation_epoch_end = finish  # type: ignore[method-assign]


def modules_with(name: str) -> list[Any]:
    """The modules of the package that have imported a function of `runtime.files`."""
    import sys

    modules = [module for key, module in list(sys.modules.items()) if key.startswith("nnunet_assft")]
    return [module for module in modules if hasattr(module, name)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Share of a round besides training iterations and forward passes.")
    parser.add_argument("-d", required=True, metavar="ID", help="dataset id or name")
    parser.add_argument("-e", default="assft", metavar="NAME", help="name of the experiment")
    parser.add_argument("-r", type=int, required=True, metavar="R", help="round")
    parser.add_argument("-device", default="cpu", help="compute device")
    add_json(parser)
    args = parser.parse_args()

    import torch

    from nnunet_assft.active.paths import ExperimentPaths
    from nnunet_assft.active.rounds import run_round
    from nnunet_assft.active.state import Experiment
    from nnunet_assft.volumes.raw_dataset import find_dataset

    experiment = Experiment.load(ExperimentPaths(find_dataset(args.d).name, args.e))
    if experiment.paths.round_file(args.r).is_file():
        parser.error(f"round {args.r} is finished; choose one that is not")
    clock = Clock()
    instrument(clock)
    clock.last, begun = time.process_time(), time.perf_counter()
    run_round(experiment, args.r, torch.device(args.device))
    clock.switch()
    total = sum(clock.seconds.values())
    rows = [
        {"part": part, "s": clock.seconds[part], "% of the round": 100 * clock.seconds[part] / total} for part in PARTS
    ]
    besides = (clock.seconds["checksums"] + clock.seconds["other"]) / total
    results: dict[str, float | str] = {
        "s of processor time": total,
        "s on the clock": time.perf_counter() - begun,
        "share besides training and forward passes": besides,
    }
    publish(args, rows, results, args.device)


if __name__ == "__main__":
    main()

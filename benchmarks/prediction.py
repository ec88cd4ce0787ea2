"""Segmentations of many cases: written by the process that predicts them, or by others meanwhile.

Run benchmarks/prediction.py [--preset ctfm] [--size 48 96 96] [--classes 16] [--cases 6]. It measures, in turn,

(a) the forward passes alone;
(b) prediction with everything in one process: the next case is not read ahead, and nothing is written by others;
(c) prediction as a round does it, with --writers other processes.

It prints the seconds per case, the ratio c / b (median over repeats), and the share of b that is not forward pass,
which is the most that can be saved. The files of b and c are compared byte by byte. The images are smooth noise with
two spacings, so that half of the predictions are resampled, and the network is not trained. The time that the processes
need to start is part of c.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

from common import arguments, empty_folders, publish, synchronize
from scoring import set_up


def main() -> None:
    parser = arguments("Segmentations written by one process, or by others meanwhile.")
    parser.add_argument("--cases", type=int, default=6, help="number of cases")
    parser.add_argument("--repeats", type=int, default=3, help="how often each way is measured")
    parser.add_argument("--writers", type=int, default=1, help="number of other processes")
    args = parser.parse_args()
    with empty_folders():
        report(args)


def report(args: argparse.Namespace) -> None:
    """Measure the three ways in turn, and print them."""
    import torch

    from nnunet_assft.runtime.processes import available_cores

    context, scorer, _, cases = set_up(args, (1.0, 1.5))
    images = {case: context.image(case) for case in cases}
    scorer.logits(images[cases[0]])  # warm-up
    folder = Path(os.environ["nnUNet_results"], "segmentations")

    def forward() -> None:
        for case in cases:
            scorer.logits(images[case], mirroring=True)
            synchronize(args.device)

    ways = {
        "a": forward,
        "b": partial(predict, context, scorer, cases, folder / "b", 0),
        "c": partial(predict, context, scorer, cases, folder / "c", args.writers),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(args.repeats):
        for way in list(ways) if repeat % 2 else reversed(ways):
            start = time.perf_counter()
            ways[way]()
            seconds[way].append((time.perf_counter() - start) / len(cases))
    written = sorted((folder / "b").iterdir())
    same = all(file.read_bytes() == (folder / "c" / file.name).read_bytes() for file in written)
    a, b, c = (statistics.median(seconds[way]) for way in ways)
    ratio = statistics.median(with_ / without for with_, without in zip(seconds["c"], seconds["b"], strict=True))
    names = {"a": "forward passes alone", "b": "one process", "c": f"{args.writers} more"}
    rows = [
        {"way": f"({way}) {name}", "s per case": found}
        for (way, name), found in zip(names.items(), (a, b, c), strict=True)
    ]
    results: dict[str, float | str] = {
        "threads of torch": str(torch.get_num_threads()),
        "available cores": str(available_cores()),
        "share of b that is no forward pass": (b - a) / b,
        "c / b": ratio,
        "files of b and c": "the same bytes" if same and written else "DIFFERENT",
    }
    publish(args, rows, results, args.device)


def predict(context: Any, scorer: Any, cases: list[str], folder: Path, writers: int) -> None:
    """Write the segmentations of the cases. writers: other processes; with 0, nothing is read ahead either."""
    from dataclasses import replace

    from nnunet_assft.active.scoring import prediction
    from nnunet_assft.runtime.cases import Once, for_each_case
    from nnunet_assft.runtime.staged import Staged

    folder.mkdir(parents=True, exist_ok=True)
    model = context.experiment.initial_model
    staged = prediction.prediction_of(context, model, partial(prediction._write, context, folder, {}), mirroring=True)
    loaded = Once(lambda: scorer)  # so that the network is not loaded again
    staged = replace(staged, compute=partial(prediction._predict, loaded, True, False), writers=partial(int, writers))
    for_each_case(staged if writers else (lambda case: Staged.__call__(staged, case)), cases, desc="predicting")


if __name__ == "__main__":
    main()

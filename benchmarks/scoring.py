"""Benchmark of three ways to score a pool with the same images and the same network. Run benchmarks/scoring.py.

(a) stock nnU-Net: predict with --save_probabilities (as `nnUNetv2_predict -npp 0 -nps 0 --disable_tta` does), then read
    CASE.npz and compute entropy, ASD and confidence with plain numpy;
(b) our pass: one case record per case from the preprocessed image;
(c) the sliding-window forward pass alone, without any statistic.

It prints the seconds per case, the ratio b / c (median over pairs of passes in alternating order), the ratio of the
costs of a and b outside the forward pass, the bytes written per case, and the peak memory of b after 1 and after 10
cases. The images are smooth noise and the network is not trained, which does not change the computation. The time to
start programs and to import is not counted.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, empty_folders, publish, synchronize

DATASET = "Dataset999_ScoringBenchmark"
TAU = 1.97609  # round 3 of 5


def main() -> None:
    parser = arguments("Scoring a pool: stock nnU-Net, our pass, and the forward pass alone.")
    parser.add_argument("--cases", type=int, default=2, help="number of cases")
    parser.add_argument("--repeats", type=int, default=3, help="pairs of b and c per case")
    parser.add_argument("--memory_of", type=int, metavar="N", help=argparse.SUPPRESS)  # used in a separate process
    args = parser.parse_args()
    if args.memory_of:
        print(peak_memory(args.memory_of, args.device))
        return
    with empty_folders():
        report(args)


def report(args: argparse.Namespace) -> None:
    """Run the three ways and print their costs."""
    from nnunet_assft.active.scoring.case_record import RECORDS
    from nnunet_assft.active.scoring.case_statistics import compute_record

    context, scorer, request, cases = set_up(args)

    images = {case: context.image(case) for case in cases}
    scorer.logits(images[cases[0]])  # warm-up
    records = Path(os.environ["nnUNet_results"], "records")

    def ours(case: str) -> None:
        record = compute_record(scorer, case, context.image(case), request)
        RECORDS.write(records / f"{case}.npz", "", record, seconds=0.0)

    def forward(case: str) -> None:
        scorer.logits(images[case])
        synchronize(args.device)

    pairs = []
    for repeat in range(args.repeats):
        for i, case in enumerate(cases):
            order: list[Callable[[str], None]] = [ours, forward] if (repeat + i) % 2 else [forward, ours]
            seconds = {function: timed(function, case) for function in order}
            pairs.append((seconds[ours], seconds[forward]))
    b, c = (statistics.median(column) for column in zip(*pairs, strict=True))
    over = statistics.median(one - other for one, other in pairs)
    stock, parts, stock_bytes = stock_way(context, cases)
    written = {
        "a": stock_bytes,
        "b": statistics.mean((records / f"{case}.npz").stat().st_size for case in cases),
        "c": 0.0,
    }
    names = {"a": "stock nnU-Net and numpy", "b": "our pass", "c": "bare forward pass"}
    seconds_of = {"a": stock, "b": b, "c": c}
    rows = [
        {"way": f"({way}) {name}", "s per case": seconds_of[way], "bytes written per case": round(written[way])}
        for way, name in names.items()
    ]
    few, many = (memory_in_own_process(args, n) for n in (1, 10))
    results: dict[str, float | str] = {
        "patch": str(list(context.plans["configurations"]["3d_fullres"]["patch_size"])),
        "b / c": statistics.median(one / other for one, other in pairs),
        "a / b outside the forward pass": (stock - c) / over
        if over > 0.01 * c
        else "b costs too little to be measured",
        **{f"s of a: {name}": seconds for name, seconds in parts.items()},
        "GiB at the peak of b after 1 case": few,
        "GiB at the peak of b after 10 cases": many,
    }
    publish(args, rows, results, args.device)


def set_up(args: argparse.Namespace, spacings: Sequence[float] = (1.0,)) -> tuple[Any, Any, Any, list[str]]:
    """Plan an experiment on smooth noise, and return its context, scorer, request and case ids.

    It also writes a model folder that nnU-Net can read. spacings: of the images in turn, in mm along each axis.
    """
    import SimpleITK as sitk
    import torch
    from scipy.ndimage import gaussian_filter

    from nnunet_assft.active.context import open_context
    from nnunet_assft.active.experiment import create_experiment
    from nnunet_assft.active.scoring.case_record import ScoringRequest
    from nnunet_assft.active.scoring.scorer import Scorer
    from nnunet_assft.active.settings import Settings
    from nnunet_assft.network.checkpoints import load_weights
    from nnunet_assft.runtime.files import write_json

    raw = Path(os.environ["nnUNet_raw"], DATASET)
    (raw / "imagesTr").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(max(2, args.cases)):
        image = 100 * gaussian_filter(rng.normal(size=args.size), 2).astype(np.float32) + 500
        volume = sitk.GetImageFromArray(image)
        volume.SetSpacing(3 * [spacings[i % len(spacings)]])
        sitk.WriteImage(volume, str(raw / "imagesTr" / f"case_{i:02d}_0000.nii.gz"))
    labels = {"background": 0, **{f"structure_{c}": c for c in range(1, args.classes)}}
    write_json(
        raw / "dataset.json",
        {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": max(2, args.cases), "file_ending": ".nii.gz"},
    )
    experiment = create_experiment(999, "assft", Settings(preset=args.preset, annotator="human"))
    context = open_context(experiment, torch.device(args.device))
    weights = load_weights(experiment.paths.initial_network)
    folder = experiment.paths.model_folder("supervised")
    write_json(folder / "plans.json", context.plans)
    write_json(folder / "dataset.json", context.dataset.dataset_json)
    (folder / "fold_0").mkdir()
    checkpoint = {
        "network_weights": weights,
        "trainer_name": "nnUNetTrainerASSFTSupervised",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    scorer = Scorer(context.plans, context.dataset.dataset_json, weights, context.device)
    return context, scorer, ScoringRequest(TAU), list(experiment.pool)[: args.cases]


def stock_way(context: Any, cases: list[str]) -> tuple[float, dict[str, float], float]:
    """Score the cases with stock nnU-Net. Returns the seconds per case, their parts, and the bytes written per case."""
    from contextlib import redirect_stdout
    from io import StringIO

    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    import nnunet_assft.trainers.assft_trainers  # noqa: F401 - so that nnU-Net finds the trainer of the checkpoint

    folder = Path(os.environ["nnUNet_results"], "stock")
    folder.mkdir()
    predictor = nnUNetPredictor(use_mirroring=False, device=context.device, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(context.paths.model_folder("supervised")), (0,))
    files = [[str(file) for file in context.dataset.images[case]] for case in cases]
    start = time.perf_counter()
    with redirect_stdout(StringIO()):
        predictor.predict_from_files_sequential(files, [str(folder / case) for case in cases], save_probabilities=True)
    predicted = time.perf_counter()
    for case in cases:
        plain_numpy(folder / f"{case}.npz")
    end = time.perf_counter()
    written = sum(file.stat().st_size for case in cases for file in folder.glob(f"{case}.*"))
    parts = {
        "preprocess, predict, export": (predicted - start) / len(cases),
        "read, numpy": (end - predicted) / len(cases),
    }
    return (end - start) / len(cases), parts, written / len(cases)


def plain_numpy(file: Path) -> tuple[float, float, float]:
    """Compute entropy, ASD and confidence in the most direct way."""
    p = np.load(file)["probabilities"]
    entropy = -(p * np.log(np.maximum(p, 1e-12))).sum(axis=0)
    mask = p[0] / TAU < p[1:].max(axis=0)
    top2 = np.sort(p, axis=0)[-2:]
    foreground = p.argmax(axis=0) != 0
    asd = float(entropy[mask].mean()) if mask.any() else 0.0
    return float(entropy.mean()), asd, float((top2[1] - top2[0])[foreground].sum())


def timed(function: Callable[[str], None], case: str) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    function(case)
    return time.perf_counter() - start


def memory_in_own_process(args: argparse.Namespace, n: int) -> float:
    """Return the result of `peak_memory` in a new process."""
    command = [sys.executable, __file__, "--memory_of", str(n), "-device", args.device]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peak_memory(n: int, device: str) -> float:
    """Compute n case records, and return the peak memory of this process in GiB."""
    import torch

    from nnunet_assft.active.context import open_context
    from nnunet_assft.active.paths import ExperimentPaths
    from nnunet_assft.active.scoring.case_record import ScoringRequest
    from nnunet_assft.active.scoring.case_statistics import compute_record
    from nnunet_assft.active.scoring.scorer import Scorer
    from nnunet_assft.active.state import Experiment
    from nnunet_assft.network.checkpoints import load_weights

    experiment = Experiment.load(ExperimentPaths(DATASET, "assft"))
    context = open_context(experiment, torch.device(device))
    weights = load_weights(experiment.paths.initial_network)
    scorer = Scorer(context.plans, context.dataset.dataset_json, weights, context.device)
    for i in range(n):
        case = experiment.pool[i % len(experiment.pool)]
        compute_record(scorer, case, context.image(case), ScoringRequest(TAU))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()

"""Rehearsal of an experiment on a very large pool. Run benchmarks/scale.py (9,262 cases: about an hour on two cores).

The images are tiny, and what a GPU would do is simulated: the logits of a case are noise with 26 channels, a training
copies the weights that it starts from. Everything else is real: plan, records, query, selection, pseudo-labels,
training sets, evaluation, splits and status. Each size is run in a process of its own.

It prints, per size, the processor time of planning, of all rounds, and of the command `nnUNetv2_assft_status`
afterwards, the peak memory, all files that were written, per case and round, and over all sizes the exponent k of time
~ cases^k.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from common import add_json, publish

DATASET = "Dataset999_Rehearsal"
SHAPE = (10, 12, 12)
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def main() -> None:
    parser = argparse.ArgumentParser(description="Rehearsal of an experiment on a very large pool.")
    parser.add_argument("--cases", type=int, nargs="+", default=[1158, 2316, 4631, 9262], metavar="N")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--channels", type=int, default=26, help="number of classes, including the background")
    parser.add_argument("--one", type=int, metavar="N", help=argparse.SUPPRESS)  # used in a separate process
    add_json(parser)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(rehearse(args.one, args.rounds, args.channels)))
        return
    measured = [in_own_process(args, n) for n in args.cases]
    rows = [
        {
            "cases": int(row["cases"]),
            "plan, s": row["plan"],
            "rounds, s": row["rounds"],
            "`status`, s": row["status"],
            "peak memory, GiB": row["memory"],
            "files per case and round": row["files"],
        }
        for row in measured
    ]
    results: dict[str, float | str] = {}
    if len(measured) > 1:
        sizes = np.log([row["cases"] for row in measured])
        for phase in ("plan", "rounds", "status"):
            exponent = np.polyfit(sizes, np.log([row[phase] for row in measured]), 1)[0]
            results[f"exponent k of {phase} ~ cases^k"] = float(exponent)
    publish(args, rows, results)


def in_own_process(args: argparse.Namespace, n: int) -> dict[str, float]:
    """Return the result of `rehearse` in a new process, with folders of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for name in FOLDERS:
            Path(folder, name).mkdir()
        environment = os.environ | {name: str(Path(folder, name)) for name in FOLDERS} | {"TQDM_DISABLE": "1"}
        options = ["--one", str(n), "--rounds", str(args.rounds), "--channels", str(args.channels)]
        run = subprocess.run([sys.executable, __file__, *options], env=environment, capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr)
    row: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    print(f"{n} cases: {row['plan'] + row['rounds']:.0f} s", file=sys.stderr, flush=True)
    return row


def rehearse(n: int, n_rounds: int, channels: int) -> dict[str, float]:
    """Plan and run an experiment with n cases, and return what it took."""
    import torch

    from nnunet_assft.active.experiment import create_experiment
    from nnunet_assft.active.rounds import run_round
    from nnunet_assft.active.settings import Settings

    torch.set_num_threads(1)
    write_dataset(n, channels)
    simulate(channels)
    start = time.process_time()
    settings = Settings(preset="tiny", rounds=n_rounds, budget="5%", test_split="1%", epochs=1)
    with redirect_stdout(StringIO()):
        experiment = create_experiment(999, "assft", settings)
    planned = time.process_time()
    for r in range(n_rounds + 1):
        run_round(experiment, r, torch.device("cpu"))
    finished = time.process_time()
    status = seconds_of_status()
    files = sum(len(names) for root in FOLDERS[1:] for _, _, names in os.walk(os.environ[root]))
    files += sum(len(names) for _, _, names in os.walk(Path(os.environ["nnUNet_raw"], DATASET, "assft")))
    return {
        "cases": n,
        "plan": planned - start,
        "rounds": finished - planned,
        "status": status,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "files": files / n / (n_rounds + 1),
    }


def seconds_of_status() -> float:
    """Return the processor time of `nnUNetv2_assft_status` as a command, with its start."""
    code = "from nnunet_assft.cli.status import main; main(['-d', '999'])"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode or "All rounds are done." not in ended.stdout:
        raise RuntimeError(f"nnUNetv2_assft_status ended with {ended.returncode}: {ended.stdout}{ended.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write_dataset(n: int, channels: int) -> None:
    """Write images of noise with a bright box in each, and their labels."""
    import SimpleITK as sitk

    raw = Path(os.environ["nnUNet_raw"], DATASET)
    for name in ("imagesTr", "labelsTr"):
        (raw / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(n):
        image, label = rng.normal(size=SHAPE).astype(np.float32), np.zeros(SHAPE, np.uint8)
        box = tuple(slice(start, start + 4) for start in rng.integers(1, 6, 3))
        image[box] += 4
        label[box] = 1 + i % (channels - 1)
        for folder, array, suffix in (("imagesTr", image, "_0000"), ("labelsTr", label, "")):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(raw / folder / f"case_{i:05d}{suffix}.nii.gz"))
    labels = {"background": 0, **{f"structure_{c}": c for c in range(1, channels)}}
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": n, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(content))


def simulate(channels: int) -> None:
    """Put noise in the place of what a GPU computes."""
    from contextlib import contextmanager

    import torch

    from nnunet_assft.active.scoring import prediction
    from nnunet_assft.active.scoring.case_record import CaseRecord
    from nnunet_assft.active.scoring.scorer import Scorer, WindowMean
    from nnunet_assft.active.training import stages

    class Noise(Scorer):
        """The logits and the embedding of an image are noise that depends on the image alone."""

        def logits(self, image: np.ndarray, *, mirroring: bool = False) -> torch.Tensor:
            self.image = image
            rng = np.random.default_rng(int(1e6 * abs(image).sum()))
            noise = rng.normal(scale=2, size=(channels, *image.shape[1:])).astype(np.float16)
            return torch.from_numpy(noise)

        def embed(self, case: str, image: np.ndarray) -> CaseRecord:
            return CaseRecord(case, _embedding(image), None)

        @contextmanager
        def bottleneck(self) -> Any:
            scorer = self

            class Windows(WindowMean):
                def mean(self) -> np.ndarray:
                    return _embedding(scorer.image)

            yield Windows()

    def copy_weights(context: Any, stage: Any, fold: Path) -> None:
        from nnunet_assft.network.checkpoints import load_weights

        weights = dict(load_weights(context.checkpoint(stage.start), stage.start.weights_sha256))
        name = next(iter(weights))
        weights[name] = weights[name] + 1e-3  # every model has a checksum of its own
        fold.mkdir(parents=True, exist_ok=True)
        torch.save({"network_weights": weights}, fold / "checkpoint_final.pth")

    prediction.Scorer = Noise  # type: ignore[misc]
    stages._run_training = copy_weights


def _embedding(image: np.ndarray) -> np.ndarray:
    return np.random.default_rng(int(1e6 * abs(image).sum()) + 1).normal(size=512)


if __name__ == "__main__":
    main()

"""How the input of the encoder before adaptation, and the pooling of its embeddings, change DKD. Run
benchmarks/prior_input.py, or add --images FOLDER with imagesTr/CASE.nii.gz and labelsTr/CASE.nii.gz; without it, the
images are those of the phantom.

For every seed, an encoder is pre-trained on images of one normalisation, and an experiment starts from it whose network
is given another one: z-scores where the encoder knows a window, and the reverse. After round 0, the pool is embedded by
E(0) with both values of the option prior_input, and by both encoders with all values of the option embedding. Nothing
else differs. The table has one row for each of the six combinations, and means over the seeds:

* norm: the mean norm of the embeddings by E(0), and their SD over the cases in percent of it;
* distance: the mean PAKD;
* rank: Spearman's correlation of PAKD with that of the default (same, mean);
* queried: how many of the cases that are queried by DKD, and by DKD and ASD, are queried with the default as well;
* error: Spearman's correlation of PAKD with 1 - Dice of the case, by the labels, which no query sees.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as our commands do
os.environ.setdefault("nnUNet_n_proc_DA", "0")  # one thread for all

DATASET = "Dataset998_PriorInput"
PAIRS = {"ctfm": "percentile", "percentile": "ctfm"}  # normalisation in the pre-training -> that of the network
N_QUERY = 5
DEFAULT = ("same", "mean")
COLUMNS = ("norm", "SD %", "distance", "rank", "DKD", "Q", "error")


def main() -> None:
    parser = argparse.ArgumentParser(description="How the input of E(0) and the pooling of embeddings change DKD.")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="with imagesTr and labelsTr (default: phantom)")
    parser.add_argument("--largest", type=float, default=np.inf, help="leave out images with a larger value than this")
    parser.add_argument("--structures", nargs="+", default=["anterior", "posterior"], help="of the labels, from 1 on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=40, help="of a pre-training, and of round 0")
    parser.add_argument("--weights", nargs="+", choices=list(PAIRS), default=list(PAIRS), help="see PAIRS")
    parser.add_argument("--cases", type=int, default=24, help="of the phantom")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            os.environ[name] = str(Path(folder, name))
            Path(folder, name).mkdir()
        print(f"{write_dataset(args)} images, seeds {args.seeds}, {args.steps} steps each")
        for weights in args.weights:
            network = PAIRS[weights]
            found: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
            for seed in args.seeds:
                for key, row in measure(network, weights, seed, args.steps):
                    found[key].append(row)
                print_table(network, weights, found)
    print(f"{(time.monotonic() - start) / 60:.0f} minutes")


def write_dataset(args: argparse.Namespace) -> int:
    """Write the raw dataset, and return the number of its images."""
    import SimpleITK as sitk

    from nnunet_assft.phantom import write_phantom_dataset
    from nnunet_assft.runtime.files import write_json

    raw = Path(os.environ["nnUNet_raw"], DATASET)
    if args.images is None:
        write_phantom_dataset(raw, n_pool=args.cases, n_test=2)
        return int(args.cases)
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True)
    files = sorted((args.images / "imagesTr").glob("*.nii.gz"))
    used = [file for file in files if sitk.GetArrayViewFromImage(sitk.ReadImage(file)).max() <= args.largest]
    for file in used:
        (raw / "imagesTr" / file.name.replace(".nii.gz", "_0000.nii.gz")).symlink_to(file)
        (raw / "labelsTr" / file.name).symlink_to(args.images / "labelsTr" / file.name)
    labels = {name: value for value, name in enumerate(["background", *args.structures])}
    content = {"channel_names": {"0": "MR"}, "labels": labels, "file_ending": ".nii.gz", "numTraining": len(used)}
    write_json(raw / "dataset.json", content)
    return len(used)


def measure(network: str, weights: str, seed: int, steps: int) -> Iterator[tuple[tuple[str, str], list[float]]]:
    """Pre-train, run round 0, and yield (input of E(0), pooling) -> the values of COLUMNS."""
    import torch

    from nnunet_assft.active.context import open_context
    from nnunet_assft.active.experiment import create_experiment
    from nnunet_assft.active.metrics import temperature
    from nnunet_assft.active.options import EMBEDDINGS, MEAN_STD, PRIOR_INPUTS, SAME, Options
    from nnunet_assft.active.rounds import run_round
    from nnunet_assft.active.scoring.case_record import ScoringRequest
    from nnunet_assft.active.scoring.case_statistics import compute_record
    from nnunet_assft.active.scoring.prediction import open_scorer
    from nnunet_assft.active.settings import Settings
    from nnunet_assft.pretraining.pretrain import pretrain
    from nnunet_assft.pretraining.settings import Pretraining

    common: dict[str, Any] = {
        "preset": "tiny",
        "seed": seed,
        "iterations_per_epoch": 10,
        "initial_lr": 4e-3,
        "test_split": "0.05",
    }
    cpu, results = torch.device("cpu"), Path(os.environ["nnUNet_results"])
    plain = create_experiment(DATASET, f"plain_{weights}_{seed}", Settings(normalization=weights, **common))
    settings = Pretraining(epochs=steps // 10, iterations_per_epoch=10, seed=seed)
    pretrained = pretrain(plain, settings, results / f"encoder_{weights}_{seed}", cpu)
    settings_of_network = Settings(
        normalization=network,
        encoder=str(pretrained.task.encoder_file),
        one_shot_epochs=steps // 10,
        options=Options(prior_input="contract"),
        **common,
    )
    experiment = create_experiment(DATASET, f"from_{weights}_{seed}", settings_of_network)
    done = run_round(experiment, 0, cpu)
    context = open_context(experiment, cpu)
    before, after = open_scorer(context, experiment.initial_model), open_scorer(context, done.model)
    before.embedding = after.embedding = MEAN_STD  # of which the means are the first half, and the SDs the second
    request = ScoringRequest(temperature(1, 5))
    now = [compute_record(after, case, context.image(case), request) for case in done.unlabelled]
    shown = {
        how: [
            before.embed(case, (context.image if how == SAME else context.prior_image)(case))
            for case in done.unlabelled
        ]
        for how in PRIOR_INPUTS
    }
    errors = [1 - dice_of(context, after, case) for case in done.unlabelled]
    parts = dict(zip(EMBEDDINGS, (slice(0, 64), slice(64, 128), slice(0, 128)), strict=True))
    pools = {
        (how, pooling): (
            np.stack([record.embedding[part] for record in shown[how]]),
            np.stack([record.embedding[part] for record in now]),
        )
        for how in PRIOR_INPUTS
        for pooling, part in parts.items()
    }
    yield from compared(done.unlabelled, pools, [record.sums for record in now], errors)


def dice_of(context: Any, scorer: Any, case: str) -> float:
    """Return the mean Dice of a case, which this benchmark may look at and no query."""
    from nnunet_assft.evaluation.dice import case_dice, mean_of

    segmentation = scorer.segmentation(scorer.logits(context.image(case)), context.properties(case))
    label = context.dataset.reader.read_seg(str(context.dataset.label_file(case)))[0][0]
    return mean_of(case_dice(segmentation, label, context.dataset.structures).values()) or 0.0


def compared(
    cases: tuple[str, ...], pools: dict[tuple[str, str], Any], sums: list[Any], errors: list[float]
) -> Iterator[tuple[tuple[str, str], list[float]]]:
    """Yield the values of COLUMNS of each pool. pools: key -> embeddings before and after adaptation."""
    from scipy.stats import spearmanr

    from nnunet_assft.active.metrics import pakd
    from nnunet_assft.active.query.pool import QueryPool
    from nnunet_assft.active.strategies import STRATEGIES

    def queried(strategy: str, key: tuple[str, str]) -> set[str]:
        pool = QueryPool(ids=cases, pretrained_embeddings=pools[key][0], embeddings=pools[key][1], sums=tuple(sums))
        return set(STRATEGIES[strategy].query(pool, N_QUERY).ids)

    def common(strategy: str, key: tuple[str, str]) -> float:
        return float(len(queried(strategy, key) & queried(strategy, DEFAULT)))

    distances = {key: pakd(*pools[key]) for key in pools}
    for key, distance in distances.items():
        norms = np.linalg.norm(pools[key][0], axis=1)
        yield (
            key,
            [
                float(norms.mean()),
                float(100 * norms.std() / norms.mean()),
                float(distance.mean()),
                float(spearmanr(distance, distances[DEFAULT])[0]),
                common("dkd_high", key),
                common("dkd_asd", key),
                float(spearmanr(distance, errors)[0]),
            ],
        )


def print_table(network: str, weights: str, found: dict[tuple[str, str], list[list[float]]]) -> None:
    """Print the means over the seeds so far, and the rank correlation in each."""
    print(f"\nnetwork: {network}; encoder pre-trained on: {weights}; seeds: {len(found['same', 'mean'])}")
    print(f"{'input':<10}{'embedding':<10}" + "".join(f"{name:>10}" for name in COLUMNS))
    for (how, pooling), rows in found.items():
        means = np.mean(rows, axis=0)
        print(f"{how:<10}{pooling:<10}" + "".join(f"{value:10.3f}" for value in means))
    of_seeds = {key: [row[COLUMNS.index("rank")] for row in rows] for key, rows in found.items()}
    print("rank by seed: " + "; ".join(f"{a}, {b} {np.round(ranks, 2).tolist()}" for (a, b), ranks in of_seeds.items()))


if __name__ == "__main__":
    main()

"""nnUNetv2_assft_demo: run the whole method on a synthetic abdominal phantom on a CPU."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_assft.cli.common import choose_device, file_name, make_parser, number, run
from nnunet_assft.runtime.environment import FOLDERS
from nnunet_assft.runtime.writable import require_folder

if TYPE_CHECKING:
    from nnunet_assft.active.state import Round

DATASET = "Dataset900_Phantom"
N_POOL, N_TEST = 20, 8


def parser() -> argparse.ArgumentParser:
    description = (
        "Plan an experiment on a synthetic abdominal phantom and run rounds 0, 1 and 2. This takes minutes on a CPU "
        "and needs no environment variables. Run the command again to resume it, or to see the result again."
    )
    p = make_parser("demo", description, dataset=False)
    p.add_argument(
        "-o",
        type=file_name,
        default=Path("nnunet_assft_demo"),
        metavar="FOLDER",
        help="folder for all files that are written",
    )
    p.add_argument(
        "--seed", type=number("seed"), default=0, metavar="N", help="seed of the phantom and of the experiment"
    )
    return p


def demo(args: argparse.Namespace) -> None:
    """Write the phantom, run all rounds on it, and print the results."""
    start = time.monotonic()
    require_folder(args.o, "-o")
    for name in FOLDERS:
        folder = args.o.resolve() / name
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(folder)
    os.environ["nnUNet_n_proc_DA"] = "0"

    from nnunet_assft.active.experiment import create_experiment
    from nnunet_assft.active.rounds import run_round
    from nnunet_assft.active.settings import Settings
    from nnunet_assft.phantom import write_phantom_dataset

    write_phantom_dataset(args.o.resolve() / "nnUNet_raw" / DATASET, n_pool=N_POOL, n_test=N_TEST, seed=args.seed)
    print(f"Phantom: {N_POOL} scans in the pool, {N_TEST} test scans, 5 organs.")
    settings = Settings(
        rounds=2,
        budget="2",
        seed=args.seed,
        preset="tiny",
        epochs=10,
        iterations_per_epoch=20,
        initial_lr=3e-3,
    )
    experiment = create_experiment(DATASET, "assft", settings)
    device = choose_device("cpu")
    rounds = []
    for r in range(experiment.n_rounds + 1):
        done = run_round(experiment, r, device)
        rounds.append(done)
        pseudo_labelled = ", ".join(done.pseudo_labelled) or "none"
        print(f"round {r}: queried {', '.join(done.queried)}; pseudo-labelled {pseudo_labelled}")
    print_table(rounds)
    minutes = (time.monotonic() - start) / 60
    print(f"{minutes:.1f} minutes. Datasets, models and scores are in {args.o.resolve()}")
    print(
        f"Next, for a page with pictures and a viewer, and for every other command:\n{next_commands(args.o.resolve())}"
    )


def next_commands(folder: Path) -> str:
    """Return lines for a shell: nnU-Net's three variables for the folder of the demo, and the report. If the commands
    are not found by their names, as in an environment that is not activated, PATH comes first."""
    report = "nnUNetv2_assft_report"
    variables = [f"{name}={shlex.quote(str(folder / name))}" for name in FOLDERS]
    if shutil.which(report) is None:
        variables.insert(0, f"PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH")
    return f"  export {' '.join(variables)}\n  {report} -d {DATASET[7:10]}"


def print_table(rounds: Sequence[Round]) -> None:
    """Print the number of cases and the test Dice of every round, as a mean and per structure."""
    structures = list(rounds[-1].dice["per_structure"])
    names = " ".join(f"{name:>12}" for name in structures)
    print(f"\n{'round':>5} {'annotated':>9} {'pseudo':>6} {'Dice':>6}  {names}")
    for done in rounds:
        dice = done.dice
        of_structures = [dice["per_structure"][name] for name in structures]
        cells = " ".join(f"{'-':>12}" if value is None else f"{value:12.3f}" for value in of_structures)
        print(f"{done.round:5d} {len(done.labelled):9d} {len(done.pseudo_labelled):6d} {dice['mean']:6.3f}  {cells}")


def main(argv: list[str] | None = None) -> None:
    run(demo, parser(), argv)

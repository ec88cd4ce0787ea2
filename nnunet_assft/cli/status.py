"""nnUNetv2_assft_status: show the finished rounds, what is missing, and the next command."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_assft.cli.common import EXIT_ERROR, load_experiment, make_parser, run
from nnunet_assft.cli.printing import print_deviations, print_least_annotated, print_new_images, print_start
from nnunet_assft.runtime.text import count

if TYPE_CHECKING:
    from nnunet_assft.active.state import Experiment, Round


def parser() -> argparse.ArgumentParser:
    p = make_parser("status", "Show the finished rounds, what is missing, and the next command.", dataset=False)
    p.add_argument("-d", metavar="ID", help="dataset id or name (without it, all experiments are listed)")
    p.add_argument("-e", default="assft", metavar="NAME", help="name of the experiment")
    p.add_argument(
        "--ext_trainer_path",
        action="store_true",
        help="print the value of nnUNet_extTrainer that stock nnU-Net commands need, and exit",
    )
    p.add_argument(
        "--verify",
        action="store_true",
        help="read every file of the experiment, with its images and labels, and compare it with its checksum",
    )
    return p


def status(args: argparse.Namespace) -> int:
    """Print the state of an experiment and the next command. Returns 1 if --verify has found something."""
    if args.ext_trainer_path:
        print(Path(__file__).parents[1] / "trainers" / "ext_trainer")
        return 0
    if args.d is None:
        print_experiments()
        return 0
    from nnunet_assft.active.state import finished_rounds, is_over
    from nnunet_assft.cluster.progress import lines_about_parts
    from nnunet_assft.report.stopping import advice
    from nnunet_assft.volumes.accepted_geometry import AcceptedGeometry

    experiment = load_experiment(args)
    if args.verify:
        return print_verification(experiment)
    done = finished_rounds(experiment)
    settings = experiment.settings
    print(
        f"{experiment.dataset}, experiment {experiment.name!r}: {settings.strategy}, "
        f"{count(experiment.n_rounds, 'round')} of {experiment.per_round(experiment.n_rounds)}, "
        f"pool of {len(experiment.now.pool)}, seed {settings.seed}"
    )
    print_start(experiment)
    print_deviations(experiment)
    for change in experiment.history:
        print(f"changed on {change.sentence()}")
    for line in AcceptedGeometry.load(experiment.paths.accepted_geometry_file).lines():
        print(line)
    print_rounds(experiment, done)
    print_least_annotated(experiment)
    print_new_images(experiment)
    if len(done) >= 2:
        stopping = advice(done)
        print(f"Stopping advice: {stopping.sentence} {stopping.caveat}".rstrip())
    for line in lines_about_parts(experiment.paths.jobs):  # of a round, or of a prediction
        print(line)
    if is_over(experiment, done):
        print("All rounds are done.")
    else:
        print_next(experiment, len(done))
    return 0


def print_experiments() -> None:
    """Print one line per experiment in nnUNet_results, with the command that shows more of it, and the runs of
    comparisons that are being worked on in parts."""
    from nnunet_assft.active.paths import ExperimentPaths, experiments_in_results
    from nnunet_assft.cluster.progress import lines_about_parts

    found = experiments_in_results()
    for paths in found:
        n_done = len(list(paths.results.glob("round_[0-9]*.json")))
        of = f"{paths.dataset}, experiment {paths.experiment!r}"
        print(f"{of}: {count(n_done, 'finished round')}. {paths.command('status')}")
    if not found:
        print(f"There is no experiment yet. {ExperimentPaths('Dataset218_NAME', 'assft').command('plan')} makes one.")
    for jobs in sorted(Path(os.environ.get("nnUNet_results", ".")).glob("Dataset*/assft_compare/*/jobs")):
        if lines := list(lines_about_parts(jobs)):
            print(f"{jobs.parents[2].name}, comparison {jobs.parent.name!r}:", *lines, sep="\n")


def print_verification(experiment: Experiment) -> int:
    """Print what does not match its checksum, and return 1 if there is anything."""
    from nnunet_assft.verification import verify

    verified = verify(experiment)
    for finding in verified.findings:
        print(finding)
    print(f"{count(verified.n_checks, 'item')} checked, {count(len(verified.findings), 'finding')}.")
    return EXIT_ERROR if verified.findings else 0


def print_rounds(experiment: Experiment, done: Sequence[Round]) -> None:
    """Print a table with one line per finished round."""
    print("round  labelled  unlabelled  pseudo-labelled  Dice (test)  model folder")
    for r in done:
        dice = f"{r.dice['mean']:.4f}" if r.dice["n_cases"] else "-"
        print(
            f"{r.round:5d}  {len(r.labelled):8d}  {len(r.unlabelled):10d}  {len(r.pseudo_labelled):15d}  {dice:>11}  "
            f"{experiment.paths.model_folder(r.model.stage).name}/fold_{r.round}"
        )


def print_next(experiment: Experiment, r: int) -> None:
    """Print the finished steps of round r, the cases without a label, and the next command."""
    from nnunet_assft.active.annotation import labels_to_come, open_request
    from nnunet_assft.active.state import STEPS

    begun = [name for name in STEPS if experiment.paths.step_file(r, name).is_file()]
    if begun:
        print(f"round {r} has begun; finished steps: {', '.join(begun)}")
    missing = labels_to_come(experiment, r) if experiment.settings.annotator == "human" else []
    if not missing:
        print(f"Next: {experiment.command('round', '-r', str(r))}")
        return
    annotators = open_request(experiment).annotators
    named = (f"{case} ({' and '.join(annotators[case])})" if annotators[case] else case for case in missing)
    print(f"waiting for the annotation of: {', '.join(named)}")
    export, back = experiment.command("annotate export", "-o", "WORK"), experiment.command("annotate import", "WORK")
    print(f"Next: {export}, then {back}")


def main(argv: list[str] | None = None) -> None:
    run(status, parser(), argv)

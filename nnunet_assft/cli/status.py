"""nnUNetv2_assft_status: what is done, what is missing, what to type next."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_assft.cli.common import load_experiment, make_parser, run
from nnunet_assft.cli.plan import print_changed


def parser() -> argparse.ArgumentParser:
    p = make_parser("status", "What is done, what is missing, and the next command.", dataset=False)
    p.add_argument("-d", metavar="ID", help="dataset id or name")
    p.add_argument("-e", default="assft", metavar="NAME", help="experiment")
    p.add_argument(
        "--ext_trainer_path",
        action="store_true",
        help="print the folder for nnUNet_extTrainer, for stock nnU-Net commands",
    )
    return p


def status(args: argparse.Namespace) -> None:
    if args.ext_trainer_path:
        print(Path(__file__).parents[1] / "trainers" / "ext_trainer")
        return
    if args.d is None:
        parser().error("-d is required (or --ext_trainer_path)")
    from nnunet_assft.active.accepted_geometry import AcceptedGeometry
    from nnunet_assft.active.annotation import labels_to_come, open_request
    from nnunet_assft.active.state import STEPS, finished_rounds
    from nnunet_assft.active.stopping import advice

    experiment = load_experiment(args)
    paths, done = experiment.paths, finished_rounds(experiment)
    print(
        f"{experiment.dataset}, experiment {experiment.name!r}: {experiment.settings.strategy}, {experiment.n_rounds} rounds of "
        f"{experiment.n_query} cases, pool of {len(experiment.pool)}, seed {experiment.settings.seed}"
    )
    print_changed(experiment)
    for line in AcceptedGeometry.load(paths).lines():
        print(line)
    print("round  labelled  unlabelled  pseudo-labelled  Dice (test)  model folder")
    for r in done:
        dice = f"{r.dice['mean']:.4f}" if r.dice["n_cases"] else "-"
        print(
            f"{r.round:5d}  {len(r.labelled):8d}  {len(r.unlabelled):10d}  {len(r.pseudo_labelled):15d}  {dice:>11}  "
            f"{paths.model_folder(r.model.stage).name}/fold_{r.round}"
        )
    if len(done) >= 2:
        stopping = advice(done)
        print(f"Stopping advice: {stopping.sentence} {stopping.caveat}".rstrip())
    if len(done) > experiment.n_rounds or (done and not done[-1].unlabelled):
        print("All rounds are done.")
        return
    begun = [name for name in STEPS if paths.step_file(len(done), name).is_file()]
    if begun:
        print(f"round {len(done)} has begun; steps done: {', '.join(begun)}")
    missing = labels_to_come(experiment, len(done)) if experiment.settings.annotator == "human" else []
    if missing:
        annotators = open_request(experiment).annotators
        print(
            "waiting for the annotation of: "
            + ", ".join(f"{case} ({' and '.join(annotators[case])})" if annotators[case] else case for case in missing)
        )
        print(
            f"Next: {experiment.command('annotate export', '-o', 'WORK')}, then "
            f"{experiment.command('annotate import', 'WORK')}"
        )
        return
    print(f"Next: {experiment.command('round', '-r', str(len(done)))}")


def main(argv: list[str] | None = None) -> None:
    run(status, parser(), argv)

"""nnUNetv2_assft_round: run or resume one round."""

from __future__ import annotations

import argparse

from nnunet_assft.cli.common import (
    accept_geometry,
    add_accept_geometry,
    add_device,
    load_experiment,
    make_parser,
    number,
    run,
)
from nnunet_assft.cli.engine_options import add_engine_options, choose_where
from nnunet_assft.cli.printing import print_round


def parser() -> argparse.ArgumentParser:
    p = make_parser("round", "Run or resume one round: query, annotate, train, select, pseudo-label, train, evaluate.")
    p.add_argument("-r", type=number("r"), metavar="R", help="round; 0 is the one-shot start (default: the next one)")
    p.add_argument(
        "--proceed_with_partial",
        action="store_true",
        help="human annotator: proceed with the cases labelled so far; the other queried cases return to the pool",
    )
    add_accept_geometry(p)
    add_device(p)
    add_engine_options(p)
    return p


def round_(args: argparse.Namespace) -> None:
    """Run the round, and print its result and the next command."""
    from nnunet_assft.active.rounds import run_round
    from nnunet_assft.active.state import finished_rounds, is_over

    experiment = load_experiment(args)
    accept_geometry(args, experiment)
    device, engine = choose_where(args)
    r = min(len(finished_rounds(experiment)), experiment.n_rounds) if args.r is None else args.r
    partial = args.proceed_with_partial
    print_round(experiment, run_round(experiment, r, device, engine=engine, proceed_with_partial=partial))
    if not is_over(experiment, finished_rounds(experiment, before=r + 1)):
        print(f"Next: {experiment.command('round', '-r', str(r + 1))}")


def main(argv: list[str] | None = None) -> None:
    run(round_, parser(), argv)

"""nnUNetv2_assft_run: plan an experiment if necessary, then run all remaining rounds."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from nnunet_assft.cli.common import accept_geometry, add_device, load_experiment, make_parser, run
from nnunet_assft.cli.engine_options import ENGINE_OPTIONS, choose_where
from nnunet_assft.cli.options import add_plan_options, make_experiment
from nnunet_assft.cli.printing import print_round

if TYPE_CHECKING:
    from nnunet_assft.active.state import Round


def parser() -> argparse.ArgumentParser:
    p = make_parser(
        "run", "Plan if necessary, then run all remaining rounds. Only a new experiment needs the options of plan."
    )
    add_plan_options(p)
    add_device(p)
    return p


def run_all(args: argparse.Namespace) -> None:
    """Plan if necessary, then run every round until the last one or until all cases are labelled."""
    from nnunet_assft.active.paths import ExperimentPaths
    from nnunet_assft.active.rounds import run_round
    from nnunet_assft.active.state import Experiment, is_over
    from nnunet_assft.volumes.raw_dataset import find_dataset_name

    device, engine = choose_where(args)  # before planning, which takes longer
    planned = ExperimentPaths(find_dataset_name(args.d), args.e).experiment_file.is_file()
    existing = load_experiment(args) if planned else None
    given = args.typed - {"d", "e", "device", "verbose", "np", "accept", "accept_geometry", *ENGINE_OPTIONS}
    if existing and not given:
        experiment = existing
        accept_geometry(args, experiment)
    else:  # if options are given, planning checks that an existing experiment was planned with them
        experiment = make_experiment(args, existing)
    done: list[Round] = []
    while not is_over(experiment, done):
        done.append(run_round(experiment, len(done), device, engine=engine))
        print_round(experiment, done[-1])
        experiment = Experiment.load(experiment.paths)  # which another command may have changed during the round


def main(argv: list[str] | None = None) -> None:
    run(run_all, parser(), argv)

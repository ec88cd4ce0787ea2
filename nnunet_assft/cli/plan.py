"""nnUNetv2_assft_plan: create an experiment."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_assft.cli.common import accept_geometry, add_accept_geometry, add_processes, make_parser, positive_int, run
from nnunet_assft.planning.domains import DOMAINS


def parser() -> argparse.ArgumentParser:
    p = make_parser(
        "plan",
        "Create an experiment: image-only fingerprint, plans, preprocessed pool and test images, first case. No label is read.",
    )
    add_plan_options(p)
    return p


def add_plan_options(p: argparse.ArgumentParser) -> None:
    """All options of `plan`, for `run` as well."""
    p.add_argument("--strategy", default="assft", metavar="NAME", help="query strategy, see --list_strategies")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="decides the first case and all training")
    p.add_argument(
        "--annotator", default="oracle", choices=["oracle", "human"], help="oracle: labels are in labelsTr already"
    )
    add_accept_geometry(p)
    add_shared_options(p)


def add_shared_options(p: argparse.ArgumentParser) -> None:
    """The options that all experiments of a comparison share."""
    p.add_argument("--list_strategies", action=_List, help="print the table of query strategies and exit")
    p.add_argument("--rounds", type=positive_int, metavar="R", help="query rounds (default: the domain's)")
    p.add_argument(
        "--budget", metavar="B", help="cases to query per round: 5%% of the pool, or a count (default: the domain's)"
    )
    p.add_argument(
        "--domain",
        default="auto",
        choices=["auto", *DOMAINS],
        metavar="NAME",
        help=f"auto looks the dataset up: {', '.join(DOMAINS)}",
    )
    p.add_argument("--preset", default="ctfm", metavar="NAME", help="network: ctfm, ctfm_dec1224, assft_paper, tiny")
    p.add_argument("--encoder", type=Path, metavar="FILE", help="pretrained CT-FM encoder (default: random start)")
    p.add_argument(
        "--normalization",
        default="percentile",
        choices=["percentile", "ctfm"],
        help="input scaling; ctfm: HU window, CT only",
    )
    p.add_argument(
        "--test_split",
        metavar="S",
        help="fraction of imagesTr or file of case ids (default: labelled imagesTs, else 0.2)",
    )
    p.add_argument(
        "--epochs",
        type=positive_int,
        metavar="N",
        help="per stage; round 0 takes the paper's share (default: the domain's)",
    )
    p.add_argument("--iterations_per_epoch", type=positive_int, default=250, metavar="N", help="batches per epoch")
    p.add_argument("--initial_lr", type=float, default=1e-4, metavar="LR", help="AdamW, polynomial decay in each stage")
    p.add_argument(
        "--deep_supervision", action="store_true", help="losses at four resolutions (the paper has one output)"
    )
    p.add_argument(
        "--option",
        action="append",
        metavar="NAME=VALUE",
        help="a variant of the method, see --list_options; may be repeated",
    )
    p.add_argument("--list_options", action=_List, help="print the variants of the method and exit")
    add_processes(p)


class _List(argparse.Action):
    """Prints and exits while the arguments are parsed, so that no -d is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **{**options, "default": argparse.SUPPRESS})

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print_strategies() if self.dest == "list_strategies" else print_options()
        parser.exit()


def print_strategies() -> None:
    from nnunet_assft.active.strategies import STRATEGIES

    for name, row in STRATEGIES.items():
        print(f"{name:<18} {row.description}\n{'':<18} needs {', '.join(sorted(row.needs))}. Source: {row.source}")
        if row.extra_cost:
            print(f"{'':<18} costs {row.extra_cost}")


def print_options() -> None:
    from nnunet_assft.active.options import table
    from nnunet_assft.active.selection import SELECTIONS

    print("--option NAME=VALUE; the first value is the default, which is the method's")
    for name, values, meaning in table():
        print(f"{name:<18} {meaning}\n{'':<18} {values}")
    print("selection:")
    for name, row in SELECTIONS.items():
        print(f"  {name:<16} {row.description}. Source: {row.source}")


def plan(args: argparse.Namespace) -> None:

    e = make_experiment(args)
    print(
        f"{e.dataset}, experiment {e.name!r}: {e.settings.strategy}, domain {e.settings.domain}, preset {e.settings.preset}"
    )
    print(f"pretrained encoder: {e.settings.encoder or 'none, a random one stands in for it'}")
    print(f"pool {len(e.pool)} cases, test {len(e.test)} ({e.test_source})")
    first_case = e.permutation[0] if e.options.first_case == "random" else "the medoid, found in round 0"
    print(f"rounds 1 to {e.n_rounds} query {e.n_query} cases each; first case {first_case}")
    print(
        f"epochs: {e.settings.training['one_shot_epochs']} in round 0, then {e.settings.training['epochs']} per stage, of "
        f"{e.settings.training['iterations_per_epoch']} iterations; initial learning rate {e.settings.training['initial_lr']:g}"
    )
    print_changed(e)
    if 1 + e.n_query * e.n_rounds > len(e.pool):
        print("The budget of all rounds exceeds the pool: the last rounds will find fewer cases, or none.")
    print(f"Next: {e.command('round', '-r', '0')}")


def print_changed(experiment) -> None:  # type: ignore[no-untyped-def]
    """Options that deviate from the method, if any do."""
    changed = experiment.options.changed()
    if changed:
        print(f"not the method's defaults: {', '.join(f'{name}={value}' for name, value in changed.items())}")


def make_experiment(args: argparse.Namespace):  # type: ignore[no-untyped-def]
    from nnunet_assft.active.experiment import create_experiment

    settings = replace(shared_settings(args), strategy=args.strategy, seed=args.seed, annotator=args.annotator)
    experiment = create_experiment(args.d, args.e, settings, args.np)
    accept_geometry(args, experiment)
    return experiment


def shared_settings(args: argparse.Namespace):  # type: ignore[no-untyped-def]
    """The settings that the options of `add_shared_options` stand for."""
    from nnunet_assft.active.options import Options
    from nnunet_assft.active.settings import Settings

    names = (
        "rounds",
        "budget",
        "domain",
        "preset",
        "test_split",
        "epochs",
        "iterations_per_epoch",
        "initial_lr",
        "deep_supervision",
        "normalization",
    )
    encoder = None if args.encoder is None else str(args.encoder.resolve())
    options = Options.parse(args.option or [])
    return Settings(encoder=encoder, options=options, **{name: getattr(args, name) for name in names})


def main(argv: list[str] | None = None) -> None:
    run(plan, parser(), argv)

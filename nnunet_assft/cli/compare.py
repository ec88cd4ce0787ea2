"""nnUNetv2_assft_compare: strategies, standard nnU-Net and bounds on the same cases; tables with statistics."""

from __future__ import annotations

import argparse
from dataclasses import replace

from nnunet_assft.cli.common import EXIT_ERROR, add_device, choose_device, make_parser, run
from nnunet_assft.cli.options import add_shared_options, settings_of
from nnunet_assft.errors import AssftError


def parser() -> argparse.ArgumentParser:
    description = (
        "Compare strategies and standard nnU-Net: same pool, test set, first case, budget, epochs, seeds. Runs what is left, then writes "
        "tables and statistics. A comparison keeps the options it was made with."
    )
    p = make_parser("compare", description, dataset=False)
    p.usage = "%(prog)s -d ID [options]"
    p.add_argument("-d", required=True, metavar="ID", help="dataset id or name; all its labels must be there")
    p.add_argument("-e", default="compare", metavar="NAME", help="comparison; its experiments are NAME_ARM_sSEED")
    p.add_argument(
        "--strategies",
        nargs="+",
        metavar="NAME",
        default=["paper"],
        help="paper: the eleven of the paper; all: every one of --list_strategies (default: paper)",
    )
    p.add_argument(
        "--references",
        nargs="+",
        metavar="NAME",
        default=["nnunet", "lower_bound", "upper_bound"],
        help="nnunet: standard nnU-Net from scratch on the cases of random, nnunet@assft: on those of assft; nnunet_finetuned; "
        "lower_bound, upper_bound: 0 and 100 %% labels; none (default: nnunet lower_bound upper_bound)",
    )
    p.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        metavar="N",
        default=[0, 1, 2],
        help="each decides a first case and all training (default: 0 1 2)",
    )
    p.add_argument(
        "--estimate", action="store_true", help="plan, measure the network, print how long the runs will take, and stop"
    )
    p.add_argument("--collect", action="store_true", help="run nothing; tables and statistics of what is finished")
    add_shared_options(p)
    add_device(p)
    return p


def compare(args: argparse.Namespace) -> int:
    from nnunet_assft.comparison.collection import write_tables
    from nnunet_assft.comparison.comparison import remember, run_comparison
    from nnunet_assft.comparison.estimate import estimate

    comparison = make_comparison(args)
    device = choose_device(args.device)
    failed = []
    if args.collect and not comparison.file.is_file():
        raise AssftError(
            f"{comparison.dataset} has no comparison {comparison.name!r} ({comparison.file} is not there). Leave --collect "
            "out to run it."
        )
    if not args.collect:
        remember(comparison, device)
        print(estimate(comparison, device), flush=True)
        if args.estimate:
            return 0
        failed = run_comparison(comparison, device, lambda line: print(line, flush=True))
    print(f"\n{write_tables(comparison)}\n\nTables: {comparison.folder / 'tables'}")
    return EXIT_ERROR if failed else 0


def make_comparison(args: argparse.Namespace):  # type: ignore[no-untyped-def]
    """What the options say. For a comparison that exists, options that were not typed are those it was made with."""
    from nnunet_assft.active.strategies import STRATEGIES
    from nnunet_assft.comparison.comparison import Comparison, parse_arms
    from nnunet_assft.volumes.raw_dataset import find_dataset

    dataset, strategies, references, seeds = find_dataset(args.d).name, args.strategies, args.references, args.seeds
    settings = settings_of(args)
    file = Comparison(dataset, args.e, (), (), settings).file
    if file.is_file():
        known = Comparison.load(file)
        if "strategies" not in args.typed:
            strategies = known.strategies
        if "references" not in args.typed:
            references = [arm for arm in known.arms if arm not in STRATEGIES]
        seeds = seeds if "seeds" in args.typed else known.seeds
        typed = args.typed & set(vars(settings))
        settings = replace(known.settings, **{name: getattr(settings, name) for name in typed})
    return Comparison(dataset, args.e, parse_arms(strategies, references), tuple(seeds), settings)


def main(argv: list[str] | None = None) -> None:
    run(compare, parser(), argv)

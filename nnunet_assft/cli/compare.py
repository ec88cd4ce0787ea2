"""nnUNetv2_assft_compare: strategies, standard nnU-Net and bounds on the same cases; tables with statistics."""

from __future__ import annotations

import argparse

from nnunet_assft.cli.common import EXIT_ERROR, add_device, choose_device, make_parser, run
from nnunet_assft.cli.plan import add_shared_options, shared_settings
from nnunet_assft.errors import AssftError

ONLY_HERE = ("estimate", "collect", "device", "verbose", "np")  # do not change what is compared


def parser() -> argparse.ArgumentParser:
    p = make_parser("compare", "Compare strategies and standard nnU-Net: same pool, test set, first case, budget, epochs, seeds. Runs what "
                    "is left, then writes tables and statistics. Options are needed for a new comparison only.", dataset=False)  # fmt: skip
    p.usage = "%(prog)s -d ID [options]"
    p.add_argument("-d", required=True, metavar="ID", help="dataset id or name; all its labels must be there")
    p.add_argument("-e", default="compare", metavar="NAME", help="comparison; its experiments are NAME_ARM_sSEED")
    p.add_argument("--arms", nargs="+", metavar="ARM", default=["paper", "nnunet", "lower_bound", "upper_bound"],
                   help="strategies; paper: the eleven of the paper, all: every one; nnunet: standard nnU-Net from scratch on the cases of "
                   "random, nnunet@assft: on those of assft; nnunet_finetuned; lower_bound, upper_bound")  # fmt: skip
    p.add_argument("--seeds", nargs="+", type=int, metavar="N", default=[0, 1, 2], help="each decides a first case and all training")
    p.add_argument("--estimate", action="store_true", help="plan, measure the network, print how long the runs will take, and stop")
    p.add_argument("--collect", action="store_true", help="run nothing; tables and statistics of what is finished")
    add_shared_options(p)
    add_device(p)
    return p


def compare(args: argparse.Namespace) -> int:
    from nnunet_assft.evaluation.collection import write_tables
    from nnunet_assft.evaluation.comparison import remember, run_comparison
    from nnunet_assft.evaluation.estimate import estimate

    comparison = make_comparison(args)
    device = choose_device(args.device)
    failed = []
    if args.collect and not comparison.file.is_file():
        raise AssftError(f"{comparison.dataset} has no comparison {comparison.name!r} ({comparison.file} is not there). Leave --collect "
                         "out to run it.")  # fmt: skip
    if not args.collect:
        remember(comparison, device)
        print(estimate(comparison, device), flush=True)
        if args.estimate:
            return 0
        failed = run_comparison(comparison, device, lambda line: print(line, flush=True))
    print(f"\n{write_tables(comparison)}\n\nTables: {comparison.folder / 'tables'}")
    return EXIT_ERROR if failed else 0


def make_comparison(args: argparse.Namespace):  # type: ignore[no-untyped-def]
    """What the options say; for a comparison that exists, without any option typed, what it was made with."""
    from nnunet_assft.evaluation.comparison import Comparison, parse_arms
    from nnunet_assft.planning.raw_dataset import find_dataset

    dataset = find_dataset(args.d).name
    bare = vars(parser().parse_args(["-d", args.d, "-e", args.e]))
    typed = any(v != bare[k] for k, v in vars(args).items() if k not in ONLY_HERE)
    comparison = Comparison(dataset, args.e, parse_arms(args.arms), tuple(args.seeds), shared_settings(args))
    return Comparison.load(comparison.file) if comparison.file.is_file() and not typed else comparison


def main(argv: list[str] | None = None) -> None:
    run(compare, parser(), argv)

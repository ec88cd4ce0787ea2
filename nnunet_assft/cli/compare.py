"""nnUNetv2_assft_compare: compare strategies, standard nnU-Net and bounds on the same cases, with statistics."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_assft.cli.common import EXIT_ERROR, add_device, file_name, make_parser, number, run
from nnunet_assft.cli.engine_options import add_engine_options, choose_where
from nnunet_assft.cli.options import add_shared_options, settings_of
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.text import named

if TYPE_CHECKING:
    from nnunet_assft.cluster.engines import Engine


def parser() -> argparse.ArgumentParser:
    description = (
        "Compare strategies and standard nnU-Net on equal terms: perform all runs that are left, then write the tables."
    )
    p = make_parser("compare", description, dataset=False)
    p.usage = "%(prog)s -d ID [options]"
    p.add_argument("-d", required=True, metavar="ID", help="dataset id or name; all its cases must have labels")
    p.add_argument("-e", default="compare", metavar="NAME", help="comparison; its experiments are NAME_ARM_sSEED")
    _add_arms(p)
    p.add_argument(
        "--seeds",
        nargs="+",
        type=number("seeds"),
        metavar="N",
        default=[0, 1, 2, 3, 4],
        help="each seed determines a first case and all training (default: 0 1 2 3 4)",
    )
    p.add_argument(
        "--test_folds",
        type=number("test_folds"),
        default=1,
        metavar="K",
        help="number of disjoint test sets of the size of --test_split (default: 1)",
    )
    p.add_argument(
        "--estimate", action="store_true", help="plan, measure the speed, print the expected time of all runs, and stop"
    )
    p.add_argument("--collect", action="store_true", help="only write the tables and statistics of finished runs")
    add_shared_options(p)
    add_device(p)
    add_engine_options(p)
    return p


def _add_arms(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--strategies",
        nargs="+",
        metavar="NAME",
        default=["paper"],
        help="names, all, or paper: its eleven; NAME+pseudo, NAME+supervised, NAME+none: with this second stage; "
        "NAME+OPTION=VALUE: with this option (default: paper)",
    )
    p.add_argument(
        "--references",
        nargs="+",
        metavar="NAME",
        default=["nnunet", "lower_bound", "upper_bound"],
        help="nnunet, nnunet_finetuned, nnunet_full, nnunet_resenc, on the cases of random, or as nnunet@assft on "
        "those of assft; lower_bound; upper_bound; none (default: nnunet lower_bound upper_bound)",
    )
    p.add_argument(
        "--encoders",
        type=file_name,
        nargs="+",
        metavar="FILE",
        default=[Path("none")],
        help="starts of every strategy: none, or pre-trained encoders (default: none)",
    )
    p.add_argument(
        "--match",
        choices=["steps", "epochs"],
        default="steps",
        help="the same steps by every round, or the same epochs per stage (default: steps)",
    )


def compare(args: argparse.Namespace) -> int:
    """Run the comparison and print its tables. Returns 1 if a run has failed."""
    from nnunet_assft.comparison.collection import write_tables
    from nnunet_assft.comparison.comparison import run_comparison
    from nnunet_assft.comparison.estimate import estimate
    from nnunet_assft.comparison.spec import plan_shared, require_same_settings, write_comparison

    twice = sorted({seed for seed in args.seeds if args.seeds.count(seed) > 1})
    if twice:
        parser().error(f"argument --seeds: {named('seed', twice)} given twice; give each seed once")
    comparison = make_comparison(args)
    device, engine = choose_where(args)
    engine = spread(engine, args.gpus)
    failed = []
    if args.collect and not comparison.file.is_file():
        raise AssftError(
            f"{comparison.dataset} has no comparison {comparison.name!r}: {comparison.file} does not exist. Run the "
            "same command without --collect first."
        )
    if comparison.file.is_file():  # asked first, because planning takes long
        require_same_settings(comparison, with_folds=args.collect)
    if not args.collect:
        write_comparison(comparison, plan_shared(comparison))
        if engine.name in ("slurm", "print"):
            print("The time is not estimated, because the jobs run on other machines.", flush=True)
        else:
            print(estimate(comparison, device), flush=True)
        if args.estimate:
            return 0
        failed = run_comparison(
            comparison, device, lambda line: print(line, flush=True), engine=engine, verbose=args.verbose
        )
    print(f"\n{write_tables(comparison)}\n\nTables: {comparison.folder / 'tables'}")
    return EXIT_ERROR if failed else 0


def spread(engine: Engine, gpus: int | None) -> Engine:
    """Return an engine that executes one run on each of so many GPUs of this machine, if their number was given."""
    from nnunet_assft.cluster.engines import visible_gpus

    if gpus is None:
        return engine
    if engine.name != "local":
        parser().error(
            "argument --gpus: a run of a comparison uses one GPU; see --engine local, which executes N runs at a time"
        )
    if (found := len(visible_gpus())) < gpus:
        raise AssftError(
            f"--gpus {gpus}, but {found} can be used here. Give a smaller number, or --parts for several runs per GPU."
        )
    return replace(engine, parts=gpus, gpus=None)


def make_comparison(args: argparse.Namespace):  # type: ignore[no-untyped-def]
    """Return the comparison that the options describe.

    If it exists already, options that are not given on the command line keep their stored values.
    """
    from nnunet_assft.comparison.arms import Comparison, parse_arms, require_valid
    from nnunet_assft.comparison.spec import read_comparison
    from nnunet_assft.volumes.raw_dataset import find_dataset_name

    dataset, strategies, references, seeds = find_dataset_name(args.d), args.strategies, args.references, args.seeds
    settings, match, test_folds = settings_of(args), args.match, args.test_folds
    encoder, encoders = _encoders(args.encoders)
    settings = replace(settings, encoder=encoder)
    file = Comparison(dataset, args.e, (), (), settings).file
    if file.is_file():
        known, _ = read_comparison(file)
        if "strategies" not in args.typed:
            strategies = [arm.id for arm in known.strategies if arm.encoder is None]
        if "references" not in args.typed:
            references = [arm.id for arm in known.arms if arm not in known.strategies]
        seeds = seeds if "seeds" in args.typed else known.seeds
        match = match if "match" in args.typed else known.match
        test_folds = test_folds if "test_folds" in args.typed else known.test_folds
        encoders = encoders if "encoders" in args.typed else dict(known.encoders)
        typed = args.typed & set(vars(settings)) | ({"encoder"} if "encoders" in args.typed else set())
        settings = replace(known.settings, **{name: getattr(settings, name) for name in typed})
    arms = parse_arms(strategies, references, encoders)
    comparison = Comparison(
        dataset, args.e, arms, tuple(seeds), settings.resolved(dataset), match, test_folds, encoders=encoders
    )
    require_valid(comparison)
    return comparison


def _encoders(files: Sequence[Path]) -> tuple[str | None, dict[str, str | None]]:
    """Return the first of --encoders, from which arms start that name none, and name -> file of the others; None stands
    for a random start. Raises `AssftError` for two files of one name."""
    found: dict[str, str | None] = {}
    for file in files:
        name = re.sub("[^A-Za-z0-9_]", "_", file.stem)
        if name in found:
            raise AssftError(
                f"--encoders names two files {name!r}, which would give their arms one name. Copy one of them to "
                "another name."
            )
        found[name] = None if str(file) == "none" else os.path.abspath(file)
    first = next(iter(found.values()), None)
    return first, dict(list(found.items())[1:])


def main(argv: list[str] | None = None) -> None:
    run(compare, parser(), argv)

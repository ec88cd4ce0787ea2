"""The options of an experiment, shared by `plan`, `run` and `compare`, and their conversion to `Settings`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING

from nnunet_assft.cli.common import (
    PrintAndExit,
    accept_geometry,
    add_accept_geometry,
    add_processes,
    file_name,
    number,
)
from nnunet_assft.cli.engine_options import add_engine_options, choose_engine
from nnunet_assft.network.presets import ENCODERS, PRESETS, EncoderSpec
from nnunet_assft.planning.choices import ANNOTATORS, NORMALIZATIONS
from nnunet_assft.planning.domains import DOMAINS
from nnunet_assft.runtime.ranges import parse_budget
from nnunet_assft.runtime.text import count, some

if TYPE_CHECKING:
    from nnunet_assft.active.settings import Settings
    from nnunet_assft.active.state import Experiment
    from nnunet_assft.runtime.cases import Executor
    from nnunet_assft.volumes.raw_dataset import RawDataset


def add_plan_options(p: argparse.ArgumentParser) -> None:
    """Add all options of an experiment."""
    p.add_argument("--strategy", default="assft", metavar="NAME", help="query strategy; see --list_strategies")
    p.add_argument(
        "--seed", type=number("seed"), default=0, metavar="N", help="determines the first case and all training"
    )
    p.add_argument(
        "--annotator", default="oracle", choices=ANNOTATORS, help="oracle: all labels are in labelsTr already"
    )
    p.add_argument(
        "--labelled",
        type=one_of_or_file,
        metavar="L",
        help="cases of round 0: existing (labels in labelsTr), none (one case is drawn), or a file of ids (default: "
        "existing for a human, none for the oracle)",
    )
    p.add_argument(
        "--accept",
        action="append",
        metavar="CASE",
        help="start with this label despite its warnings; all: every label; may be repeated",
    )
    p.add_argument(
        "--encoder",
        type=file_name,
        metavar="FILE",
        help="pre-trained; chooses --preset if none is given; see --list_encoders (default: none)",
    )
    p.add_argument("--encoder_format", metavar="NAME", help="what the file of --encoder is (default: by its keys)")
    add_accept_geometry(p)
    add_shared_options(p)
    add_engine_options(p)


def add_shared_options(p: argparse.ArgumentParser) -> None:
    """Add the options that all experiments of a comparison have in common."""
    p.add_argument(
        "--list_strategies",
        action=PrintAndExit,
        const=print_strategies,
        help="print the table of query strategies and exit",
    )
    p.add_argument("--rounds", type=number("rounds"), metavar="R", help="query rounds (default: the domain's)")
    p.add_argument(
        "--budget",
        type=budget,
        metavar="B",
        help="cases per round: 5%% of the pool, or a number (default: the domain's)",
    )
    p.add_argument(
        "--domain",
        default="auto",
        choices=["auto", *DOMAINS],
        metavar="NAME",
        help=f"auto: by the name of the dataset; {', '.join(DOMAINS)}",
    )
    p.add_argument("--preset", metavar="NAME", help="network; see --list_encoders (default: ctfm, or that of --start)")
    p.add_argument("--start", type=file_name, metavar="MODEL", help="folder or checkpoint of a whole nnU-Net v2 model")
    p.add_argument("--list_encoders", action=PrintAndExit, const=print_encoders, help=argparse.SUPPRESS)
    _add_input_options(p)
    p.add_argument(
        "--test_split",
        type=one_of_or_file,
        metavar="S",
        help="fraction of imagesTr or file of ids (default: labelled imagesTs, or 0.2)",
    )
    _add_training_options(p)
    p.add_argument(
        "--option",
        dest="options",
        action="append",
        metavar="NAME=VALUE",
        help="a variant of the method; see --list_options; may be repeated",
    )
    p.add_argument("--list_options", action=PrintAndExit, const=print_options, help=argparse.SUPPRESS)
    add_processes(p)


def _add_input_options(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--normalization",
        default="percentile",
        choices=list(NORMALIZATIONS),
        metavar="NAME",
        help="percentile; zscore: unclipped; ctfm: HU window, CT only",
    )
    p.add_argument("--spacing", type=number("spacing"), nargs=3, metavar="MM", help="of z, y and x (default: planned)")
    p.add_argument(
        "--patch_size", type=number("patch_size"), nargs=3, metavar="N", help="in z, y and x (default: planned)"
    )


def _add_training_options(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--epochs",
        type=number("epochs"),
        metavar="N",
        help="per stage; round 0 has the paper's share of it (default: the domain's)",
    )
    p.add_argument(
        "--iterations_per_epoch",
        type=number("iterations_per_epoch"),
        default=250,
        metavar="N",
        help="batches per epoch",
    )
    p.add_argument(
        "--initial_lr",
        type=number("initial_lr"),
        default=1e-4,
        metavar="LR",
        help="AdamW, polynomial decay in each stage",
    )
    p.add_argument(
        "--deep_supervision",
        action="store_true",
        help="compute losses at several resolutions (the paper has one output)",
    )


def budget(text: str) -> str:
    """Parse --budget, as a type of argparse; what it means depends on the size of the pool."""
    try:
        parse_budget(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def one_of_or_file(text: str) -> str:
    """Parse --test_split or --labelled, as a type of argparse; whether it is a file is decided with the dataset."""
    file_name(text)
    return text


def print_strategies() -> None:
    """Print the table of query strategies."""
    from nnunet_assft.active.strategies import STRATEGIES

    for name, row in STRATEGIES.items():
        print(f"{name:<18} {row.description}\n{'':<18} needs {', '.join(sorted(row.needs))}. Source: {row.source}")
        if row.extra_cost:
            print(f"{'':<18} costs {row.extra_cost}")


def print_encoders() -> None:
    """Print the table of networks, and that of pre-trained encoders."""
    print("--preset: the networks")
    for name, preset in PRESETS.items():
        print(f"  {name:<16} {preset.description}")
    print("--encoder: files of these are recognised by their keys")
    for name, row in ENCODERS.items():
        presets = [preset for preset, network in PRESETS.items() if name in network.encoders]
        fits = f"Presets: {', '.join(presets)}" if presets else "Preset: the one that the file names"
        print(f"  {name:<16} {row.source}. Licence: {row.licence}")
        print(f"  {'':<16} Images: {row.domain}; {_input(row)}. {fits}")
        print(f"  {'':<16} Tested on: {row.tested}")


def _input(row: EncoderSpec) -> str:
    """Return the input that an encoder expects, as far as it is known."""
    contract = row.contract
    known = [f"axes {row.orientation}"] if row.orientation else []
    if "spacing" in contract:
        known.append(f"{' x '.join(f'{edge:g}' for edge in contract['spacing'])} mm")
    known += contract.get("normalization", [])
    return f"input: {', '.join(known) or 'as the file says'}"


def print_options() -> None:
    """Print the table of the variants of the method, and that of the selection strategies."""
    from nnunet_assft.active.options import table
    from nnunet_assft.active.selection import SELECTIONS

    print("Use --option NAME=VALUE. The first value is the default, which is that of the method.")
    for name, values, meaning in table():
        print(f"{name:<18} {meaning}\n{'':<18} {values}")
    print("selection:")
    for name, row in SELECTIONS.items():
        print(f"  {name:<16} {row.description}. Source: {row.source}")


def settings_of(args: argparse.Namespace) -> Settings:
    """Return the settings that the options describe. A setting without an option in this command has its default."""
    from nnunet_assft.active.options import Options
    from nnunet_assft.active.settings import Settings

    starts = {name: path for name in ("encoder", "start") if (path := getattr(args, name, None))}
    values = {
        **vars(args),
        **{name: os.path.abspath(path) for name, path in starts.items()},
        "options": Options.parse(args.options or []),
    }
    return Settings(**{row.name: values[row.name] for row in fields(Settings) if row.name in values})


def make_experiment(args: argparse.Namespace, existing: Experiment | None = None) -> Experiment:
    """Plan the experiment -e of the dataset -d with the options of `add_plan_options`, and return it.

    existing: the experiment, if it is there and the options that were not typed are to be those of its plan.
    """
    from nnunet_assft.active.experiment import create_experiment

    settings = settings_of(args)
    if existing:
        typed = {row.name: getattr(settings, row.name) for row in fields(settings) if row.name in args.typed}
        settings = replace(existing.settings, **typed)
    experiment = create_experiment(args.d, args.e, settings, choose_engine(args), partial(_check_labels, args))
    accept_geometry(args, experiment)
    if existing is None:
        _print_test_cases_to_come(experiment)
    return experiment


def _print_test_cases_to_come(experiment: Experiment) -> None:
    """Print which images are no test cases because a file is missing, and how annotators are asked for labels."""
    from nnunet_assft.active.annotation import missing_labels
    from nnunet_assft.planning.test_split import TEST_FOLDER, incomplete_test_cases

    dataset = experiment.raw_dataset()
    if experiment.test_source == TEST_FOLDER and (cases := incomplete_test_cases(dataset)):
        print(
            f"Not test cases, because imagesTs or labelsTs lacks their file: {some(cases)}. If that is wrong, add it, "
            "and plan a new experiment with -e."
        )
    if experiment.settings.annotator != "human":
        return
    export = experiment.command("annotate export", "--test", "-o", "WORK")
    without = missing_labels(dataset, [*dataset.test_images])
    if without:
        print(f"imagesTs has {count(len(without), 'image')} without a label; {export} asks annotators for them.")
    if not experiment.now.test:
        advice = "" if without else f" Put scans into imagesTs that are not in the pool, and run {export}."
        print(f"There are no test cases, so no Dice is measured.{advice}")


def _check_labels(
    args: argparse.Namespace, dataset: RawDataset, cases: Sequence[str], executor: Executor
) -> dict[str, list[str]]:
    if not cases and not args.accept:
        return {}  # without the imports, which take as long as reading many images

    from nnunet_assft.annotation.existing import check_existing
    from nnunet_assft.annotation.import_labels import Consent
    from nnunet_assft.volumes.accepted_geometry import ALL

    accepted = args.accept or ()
    consent = Consent(accepted, all_warnings=ALL in accepted, geometry=args.accept_geometry or ())
    return check_existing(consent, dataset, cases, executor)

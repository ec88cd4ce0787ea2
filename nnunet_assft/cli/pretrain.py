"""nnUNetv2_assft_pretrain: train the encoder of an experiment's network on images without labels."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import fields

from nnunet_assft.cli.common import (
    add_device,
    add_processes,
    file_name,
    load_experiment,
    make_parser,
    number,
    run,
)
from nnunet_assft.cli.engine_options import add_engine_options, choose_where
from nnunet_assft.pretraining.settings import METHODS, Pretraining

DEFAULTS = Pretraining()


def parser() -> argparse.ArgumentParser:
    p = make_parser(
        "pretrain",
        "Train the encoder of an experiment's network on the images of its pool, and write a file that --encoder of "
        "nnUNetv2_assft_plan takes. No label and no test image is used. Run the same command again to continue.",
    )
    methods = "; ".join(f"{name}: {method.what}" for name, method in METHODS.items())
    p.add_argument("--method", default=DEFAULTS.method, choices=list(METHODS), metavar="NAME", help=methods)
    p.add_argument(
        "--images",
        type=file_name,
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="further images, named CASE_0000.nii.gz as in imagesTr (default: none)",
    )
    for name, letter, what in (
        ("epochs", "N", "how long it trains"),
        ("iterations_per_epoch", "N", "batches per epoch"),
        ("seed", "N", "determines the first weights and all patches"),
    ):
        p.add_argument(f"--{name}", type=number(name), default=getattr(DEFAULTS, name), metavar=letter, help=what)
    rates = ", ".join(f"{method.initial_lr:g} for {name}" for name, method in METHODS.items())
    p.add_argument("--initial_lr", type=number("initial_lr"), metavar="LR", help=f"of AdamW (default: {rates})")
    p.add_argument(
        "--batch_size",
        type=number("batch_size"),
        metavar="N",
        help="per step: patches, or for contrastive images (default: that of the plans)",
    )
    p.add_argument(
        "-o",
        type=file_name,
        metavar="FOLDER",
        help="where it is written; the file is FOLDER/FOLDER.safetensors (default: pretrained_METHOD with the results)",
    )
    add_processes(p)
    add_device(p)
    add_engine_options(p)
    return p


def pretrain(args: argparse.Namespace) -> None:
    """Train, and print where the encoder is and how to use it."""
    from nnunet_assft.pretraining.images import describe
    from nnunet_assft.pretraining.pretrain import pretrain as train
    from nnunet_assft.report.pretraining import write_pretraining_report
    from nnunet_assft.runtime.writable import require_folder

    experiment = load_experiment(args)
    chosen = {row.name: getattr(args, row.name) for row in fields(Pretraining)}
    settings = Pretraining(**{**chosen, "images": tuple(args.images)})
    if args.o:
        require_folder(args.o, "-o")
    folder = args.o or experiment.paths.results / f"pretrained_{settings.method}"
    device, engine = choose_where(args)
    done = train(experiment, settings, folder.resolve(), device, engine)
    page = write_pretraining_report(done, experiment.raw_dataset())
    task = done.task
    print(
        f"{experiment.dataset}: the encoder of the preset {task.header['preset']} was pre-trained "
        f"({settings.method}) on {describe(len(task.files), task.n_pool)}."
    )
    print(f"loss: {done.losses[0]:.3f} in the first epoch, {done.losses[-1]:.3f} in the last; {page} shows it")
    print(f"encoder: {task.encoder_file}")
    command = f"nnUNetv2_assft_plan -d {args.d} -e NAME --preset {task.header['preset']} --encoder"
    print(f"Next: {command} {shlex.quote(str(task.encoder_file))}")


def main(argv: list[str] | None = None) -> None:
    run(pretrain, parser(), argv)

"""nnUNetv2_assft_annotate: write the work folder for the annotators, import their labels, and show the progress."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_assft.cli.common import (
    EXIT_ERROR,
    add_accept_geometry,
    add_device,
    file_name,
    load_experiment,
    make_command,
    make_parser,
    number,
    run,
)
from nnunet_assft.cli.engine_options import add_engine_options, choose_where
from nnunet_assft.cli.printing import print_least_annotated
from nnunet_assft.runtime.environment import require_space
from nnunet_assft.runtime.text import count, printable
from nnunet_assft.runtime.writable import require_folder

if TYPE_CHECKING:
    from nnunet_assft.annotation.import_labels import ImportReport


def parser() -> argparse.ArgumentParser:
    p = make_parser(
        "annotate",
        "Human annotation: write a work folder, import the labels, and show which ones are missing.",
        dataset=False,
    )
    p.usage = "%(prog)s {export,import,status} -d ID [options]"
    commands = p.add_subparsers(dest="what", required=True, metavar="{export,import,status}", prog=p.prog)
    export = make_command(commands, "export", "write the work folder of the round in progress")
    export.add_argument(
        "-o", required=True, type=file_name, metavar="FOLDER", help="work folder to write; run again to complete it"
    )
    export.add_argument("--annotators", nargs="+", metavar="NAME", help="distribute the cases among these annotators")
    export.add_argument(
        "--double_read",
        type=number("double_read"),
        default=0.0,
        metavar="F",
        help="fraction of the cases that two annotators label; the label of the first is used",
    )
    export.add_argument("--no_prelabel", action="store_true", help="do not write the pre-segmentations of the model")
    export.add_argument(
        "--key_file",
        type=file_name,
        metavar="FILE",
        help="of convert dicom: also write the pre-segmentations as DICOM SEG, which name the patients",
    )
    export.add_argument("--uncertainty", action="store_true", help="also write the entropy (nats) as NIfTI")
    add_device(export)
    add_engine_options(export, trains=False)
    _add_import(make_command(commands, "import", "check returned labels and copy them to labelsTr"))
    make_command(commands, "status", "show which labels have been imported, who drew them, and which are missing")
    return p


def _add_import(back: argparse.ArgumentParser) -> None:
    back.add_argument(
        "folder", type=file_name, metavar="FOLDER", help="work folder, or a folder of CASE.nii.gz or CASE.seg.nrrd"
    )
    back.add_argument(
        "--accept", action="append", metavar="CASE", help="import this case despite its warnings; may be repeated"
    )
    back.add_argument("--accept_warnings", action="store_true", help="import all cases despite warnings")
    back.add_argument(
        "--replace", action="store_true", help="replace existing labels; the old ones are kept with the results"
    )
    add_accept_geometry(back)
    back.add_argument(
        "--overlap",
        default="refuse",
        choices=["refuse", "first", "last", "smaller"],
        metavar="RULE",
        help="voxels of several segments belong to the first, last or smaller one (default: refuse the label)",
    )
    back.add_argument(
        "--not_annotated",
        nargs="*",
        metavar="STRUCTURE",
        help="structures that nobody drew in these labels; without a name: all are drawn (default: as recorded)",
    )
    back.add_argument(
        "--key_file", type=file_name, metavar="FILE", help="of convert dicom: the case of each returned DICOM SEG"
    )
    back.add_argument(
        "--annotator_name", metavar="NAME", help="annotator of the labels (default: the subfolder's name)"
    )
    back.add_argument("--minutes", metavar="M", help="annotation time per case, in minutes")
    back.add_argument("--times", type=file_name, metavar="CSV", help="table with the columns case, annotator, minutes")


def annotate(args: argparse.Namespace) -> int:
    """Run the chosen command, and return its exit code."""
    commands = {"export": export_work, "import": import_labels, "status": print_status}
    return commands[args.what](args, load_experiment(args))


def export_work(args: argparse.Namespace, experiment: Any) -> int:
    """Write the work folder of the round in progress."""
    from nnunet_assft.active.context import open_context
    from nnunet_assft.active.state import only_process
    from nnunet_assft.annotation import export as annotation_export
    from nnunet_assft.annotation.assignment import readings
    from nnunet_assft.volumes.dicom.key_file import KeyFile
    from nnunet_assft.volumes.dicom.writing import require_highdicom

    keys = KeyFile.read(args.key_file) if args.key_file else None
    if keys:
        require_highdicom()
    options = annotation_export.ExportOptions(
        args.annotators or (), args.double_read, not args.no_prelabel, args.uncertainty, keys
    )
    require_folder(args.o, "-o")
    require_space(experiment.dataset)
    context = open_context(experiment, *choose_where(args))
    with only_process(experiment):
        done = annotation_export.export_work(context, args.o, options)
    request = done.request
    asked = count(len(request.cases), "case")
    print(f"round {request.round}: {asked} to annotate in {args.o}: {', '.join(request.cases)}")
    if not done.has_model:
        print("No model has been trained yet, so there are no pre-segmentations and no uncertainty maps.")
    for case in done.kept:
        print(f"{case}: the pre-segmentation in {args.o / 'prelabels'} was edited and is not overwritten.")
    load = readings(request.annotators)
    if load:
        print("Cases per annotator: " + ", ".join(f"{name} {n}" for name, n in load.items()))
    if any(len(names) > 1 for names in request.annotators.values()):
        print(
            "Cases with two annotators: the label of the one named first after --annotators is used; the other one "
            "serves to measure agreement."
        )
    print_least_annotated(experiment)
    print(f"Next: {experiment.command('annotate import', str(args.o))}")
    return 0


def import_labels(args: argparse.Namespace, experiment: Any) -> int:
    """Import returned labels. Returns 1 if a label was refused or has warnings that were not accepted."""
    import torch

    from nnunet_assft.active.annotation import open_request
    from nnunet_assft.active.context import open_context
    from nnunet_assft.active.state import only_process
    from nnunet_assft.annotation.agreement import write_agreement
    from nnunet_assft.annotation.import_labels import Consent
    from nnunet_assft.annotation.import_labels import import_labels as take
    from nnunet_assft.annotation.minutes import Times, checked_minutes
    from nnunet_assft.volumes.dicom.key_file import KeyFile

    minutes = None if args.minutes is None else checked_minutes(args.minutes, "--minutes")
    consent = Consent(args.accept or (), args.accept_warnings, args.replace, args.accept_geometry or (), args.overlap)
    keys = KeyFile.read(args.key_file) if args.key_file else None
    times = Times.read(args.times, args.annotator_name, minutes) if args.times else Times(args.annotator_name, minutes)
    context = open_context(experiment, torch.device("cpu"))
    require_space(experiment.dataset)
    require_folder(context.paths.raw / "labelsTr", "The folder of labels")
    with only_process(experiment):
        report = take(context, args.folder, consent, times, keys, args.not_annotated)
        print_report(report)
        agreement = write_agreement(context, open_request(experiment))
    if agreement:
        print_agreement(agreement, context.paths.agreement_file(open_request(experiment).round))
    print_next(experiment)
    return EXIT_ERROR if report.refused or report.doubtful else 0


def print_report(report: ImportReport) -> None:
    """Print one line per returned label. The names of files and segments in them may hold anything."""
    for line in report.imported:
        print(printable(line))
    for kind, lines in (("error", report.refused), ("warning", report.doubtful)):
        for line in lines:
            print(f"nnUNetv2_assft_annotate: {kind}: {printable(line)}", file=sys.stderr)


def print_agreement(rows: list[dict[str, Any]], file: Path) -> None:
    """Print the Dice between the two annotators of each case, per structure, and its mean over cases."""
    from nnunet_assft.annotation.agreement import DICE, MEAN
    from nnunet_assft.evaluation.dice import mean_of

    columns = {name: name.removeprefix(DICE) for name in rows[0] if name.startswith(DICE)} | {MEAN: "mean"}
    mean = {name: mean_of(row[name] for row in rows) for name in columns}
    print(f"Agreement between two annotators, Dice ({file}):")
    for row in [*rows, {"case": "mean", "reader_1": "", "reader_2": "", **mean}]:
        values = "  ".join(
            f"{shown} {'-' if row[name] is None else format(row[name], '.3f')}" for name, shown in columns.items()
        )
        print(f"  {row['case']}  {row['reader_1']} {row['reader_2']}  {values}")


def print_status(args: argparse.Namespace, experiment: Any) -> int:
    """Print the state of every case that the round in progress asks for."""
    from nnunet_assft.active.annotation import open_request
    from nnunet_assft.annotation.progress import progress

    request = open_request(experiment)
    rows = progress(experiment, request)
    print(
        f"round {request.round} of {experiment.dataset}, experiment {experiment.name!r}: {len(request.cases)} cases "
        "to annotate"
    )
    print("case  annotator  minutes  state")
    for row in rows:
        minutes = "-" if row.minutes is None else f"{row.minutes:g}"
        print(f"{row.case}  {row.annotator or '-'}  {minutes}  {row.state}")
    total = sum(row.minutes or 0 for row in rows)
    if total:
        print(f"{total:g} minutes so far")
    print_least_annotated(experiment)
    print_next(experiment)
    return 0


def print_next(experiment: Any) -> None:
    """Print which labels are missing, and the next command."""
    from nnunet_assft.active.annotation import labels_to_come, open_request

    request = open_request(experiment)
    missing = labels_to_come(experiment, request.round)
    again = experiment.command("round", "-r", str(request.round))
    if not missing:
        print(f"All labels have been imported. Next: {again}")
        return
    without = f" To proceed without them: {again} --proceed_with_partial" if len(missing) < len(request.cases) else ""
    print(f"Missing labels: {', '.join(missing)}. Next, once they are imported: {again}.{without}")


def main(argv: list[str] | None = None) -> None:
    run(annotate, parser(), argv)

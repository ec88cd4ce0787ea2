"""nnUNetv2_assft_annotate: write the work folder for the annotators, import their labels, and show the progress."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
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
from nnunet_assft.runtime.text import count, named, printable
from nnunet_assft.runtime.writable import require_folder

if TYPE_CHECKING:
    from nnunet_assft.active.annotation import AnnotationRequest
    from nnunet_assft.active.history import Change
    from nnunet_assft.active.state import Experiment
    from nnunet_assft.annotation.export import ExportOptions
    from nnunet_assft.annotation.import_labels import ImportReport

VERBS = "{export,review,import,status}"


def parser() -> argparse.ArgumentParser:
    p = make_parser(
        "annotate",
        "Human annotation: write a work folder, import the labels, and show which ones are missing.",
        dataset=False,
    )
    p.usage = f"%(prog)s {VERBS} -d ID [options]"
    commands = p.add_subparsers(dest="what", required=True, metavar=VERBS, prog=p.prog)
    export = make_command(commands, "export", "write the work folder of the round in progress")
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
        "--test", action="store_true", help="instead: the images of imagesTs without a label, to become test cases"
    )
    _add_work_folder(export)
    review = make_command(
        commands, "review", "write the most doubtful pseudo-labels of the last round as a work folder"
    )
    review.add_argument("-n", type=number("n"), default=5, metavar="N", help="number of pseudo-labels")
    _add_work_folder(review)
    _add_import(make_command(commands, "import", "check returned labels and copy them to labelsTr or labelsTs"))
    make_command(commands, "status", "show which labels have been imported, who drew them, and which are missing")
    return p


def _add_work_folder(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "-o", required=True, type=file_name, metavar="FOLDER", help="work folder to write; run again to complete it"
    )
    p.add_argument(
        "--key_file",
        type=file_name,
        metavar="FILE",
        help="of convert dicom: also write the pre-segmentations as DICOM SEG, which name the patients",
    )
    p.add_argument("--uncertainty", action="store_true", help="also write the entropy (nats) as NIfTI")
    add_device(p)
    add_engine_options(p, trains=False)


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
    back.add_argument(
        "--times", type=file_name, metavar="CSV", help="table with the columns case, annotator, minutes, decision"
    )


def annotate(args: argparse.Namespace) -> int:
    """Run the chosen command, and return its exit code."""
    commands = {"export": export_work, "review": export_review, "import": import_labels, "status": print_status}
    return commands[args.what](args, load_experiment(args))


def export_work(args: argparse.Namespace, experiment: Any) -> int:
    """Write the work folder of the round in progress, or of test cases."""
    from nnunet_assft.annotation.assignment import readings
    from nnunet_assft.annotation.export import ExportOptions
    from nnunet_assft.annotation.requests import begin_test_cases

    options = ExportOptions(args.annotators or (), args.double_read, not args.no_prelabel, args.uncertainty)
    request = _write_work_folder(args, experiment, options, begin_test_cases if args.test else None)
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


def export_review(args: argparse.Namespace, experiment: Any) -> int:
    """Write the work folder of a second look at pseudo-labels."""
    from functools import partial

    from nnunet_assft.annotation.export import ExportOptions
    from nnunet_assft.annotation.second_look import begin_second_look

    options = ExportOptions(uncertainty=args.uncertainty)
    request = _write_work_folder(args, experiment, options, partial(begin_second_look, n=args.n))
    print(
        f"They are the last of round {request.round} in the order of its selection, {experiment.options.selection}; "
        "worklist.csv has their scores."
    )
    print("Write accept, fix or reject into times.csv. Labels by a second look are not a part of the budget.")
    print(f"Next: {experiment.command('annotate import', str(args.o), '--times', str(args.o / 'times.csv'))}")
    return 0


def _write_work_folder(
    args: argparse.Namespace,
    experiment: Any,
    options: ExportOptions,
    begin: Callable[[Any], AnnotationRequest] | None = None,
) -> AnnotationRequest:
    """Write a work folder, print what it holds, and return its request. begin: makes the request; None for that of the
    queried cases."""
    from dataclasses import replace

    from nnunet_assft.active.annotation import name_of, require_human
    from nnunet_assft.active.context import open_context
    from nnunet_assft.active.state import only_process
    from nnunet_assft.annotation import export as annotation_export
    from nnunet_assft.report.work_page import write_work_page
    from nnunet_assft.volumes.dicom.key_file import KeyFile
    from nnunet_assft.volumes.dicom.writing import require_highdicom

    keys = KeyFile.read(args.key_file) if args.key_file else None
    if keys:
        require_highdicom()
    require_human(experiment)
    require_folder(args.o, "-o")
    require_space(experiment.dataset)
    context = open_context(experiment, *choose_where(args))
    with only_process(experiment):
        request = begin(experiment) if begin else None
        done = annotation_export.export_work(context, args.o, replace(options, keys=keys), request)
        write_work_page(context, args.o, done)
    request = done.request
    asked = count(len(request.cases), "pseudo-label" if request.second_look else "case")
    task = "to look at again" if request.second_look else "to annotate"
    print(f"{name_of(request.round)}: {asked} {task} in {args.o}: {', '.join(request.cases)}")
    if request.round is None:
        print("There are no pre-segmentations and no uncertainty maps, so that these labels do not depend on a model.")
    elif done.prelabels is None:
        print("No model has been trained yet, so there are no pre-segmentations and no uncertainty maps.")
    for case in done.kept:
        print(f"{case}: the pre-segmentation in {args.o / 'prelabels'} was edited and is not overwritten.")
    for case, remarks in done.remarks.items():
        print(f"{case}: {printable('; '.join(remarks))}.")
    why = "" if request.round is None else ", and why they were chosen"
    print(f"Open {args.o / 'worklist.html'} in a browser to see the cases{why}.")
    return request


def import_labels(args: argparse.Namespace, experiment: Any) -> int:
    """Import returned labels. Returns 1 if a label was refused or has warnings that were not accepted."""
    import torch

    from nnunet_assft.active.annotation import finished_requests
    from nnunet_assft.active.context import open_context
    from nnunet_assft.active.state import only_process
    from nnunet_assft.annotation.agreement import write_agreement
    from nnunet_assft.annotation.import_labels import Consent
    from nnunet_assft.annotation.import_labels import import_labels as take
    from nnunet_assft.annotation.minutes import Times, checked_minutes
    from nnunet_assft.annotation.requests import open_requests, open_test_cases
    from nnunet_assft.annotation.second_look import record_second_look
    from nnunet_assft.volumes.dicom.key_file import KeyFile

    minutes = None if args.minutes is None else checked_minutes(args.minutes, "--minutes")
    consent = Consent(args.accept or (), args.accept_warnings, args.replace, args.accept_geometry or (), args.overlap)
    keys = KeyFile.read(args.key_file) if args.key_file else None
    times = Times.read(args.times, args.annotator_name, minutes) if args.times else Times(args.annotator_name, minutes)
    context = open_context(experiment, torch.device("cpu"))
    require_space(experiment.dataset)
    for name in ("labelsTr", "labelsTs") if open_test_cases(experiment) else ("labelsTr",):
        require_folder(context.paths.raw / name, "The folder of labels")
    with only_process(experiment):
        report = take(context, args.folder, consent, times, keys, args.not_annotated)
        print_report(report)
        requests = [*(finished_requests(experiment) if args.replace else ()), *open_requests(experiment)]
        agreements = [(request.round, write_agreement(context, request)) for request in requests]
        change = record_second_look(experiment)
    for r, agreement in agreements:
        if agreement:
            print_agreement(agreement, context.paths.agreement_file(r))
    if change:
        print_second_look(experiment, change)
    print_next(experiment)
    return EXIT_ERROR if report.refused or report.doubtful else 0


def print_report(report: ImportReport) -> None:
    """Print one line per returned label. The names of files and segments in them may hold anything."""
    for line in report.imported:
        print(printable(line))
    for kind, lines in (("error", report.refused), ("warning", report.doubtful)):
        for line in lines:
            print(f"nnUNetv2_assft_annotate: {kind}: {printable(line)}", file=sys.stderr)


def print_second_look(experiment: Experiment, change: Change) -> None:
    """Print what the labels of a second look count for."""
    print(
        f"{named('case', change.labelled)} of the second look: labelled from round {change.first_round} on, in "
        f"addition to the {count(change.n_query, 'case')} that each round queries."
    )
    if change.first_round > change.n_rounds:
        print(f"No such round is planned; {experiment.command('extend', '--rounds', str(change.first_round))} adds it.")


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
    """Print the state of every case that annotators are asked for at present."""
    from nnunet_assft.active.annotation import name_of
    from nnunet_assft.annotation.progress import progress
    from nnunet_assft.annotation.requests import open_requests

    rows = []
    for request in open_requests(experiment):
        task = "pseudo-labels to look at again" if request.second_look else "cases to annotate"
        of = f"{experiment.dataset}, experiment {experiment.name!r}"
        print(f"{name_of(request.round)} of {of}: {len(request.cases)} {task}")
        print("case  annotator  minutes  state")
        for row in progress(experiment, request):
            minutes = "-" if row.minutes is None else f"{row.minutes:g}"
            print(f"{row.case}  {row.annotator or '-'}  {minutes}  {row.state}")
            rows.append(row)
    total = sum(row.minutes or 0 for row in rows)
    if total:
        print(f"{total:g} minutes so far")
    print_least_annotated(experiment)
    print_next(experiment)
    return 0


def print_next(experiment: Any) -> None:
    """Print which labels are missing, and the next command."""
    from nnunet_assft.active.annotation import labels_to_come, round_in_progress
    from nnunet_assft.active.state import finished_rounds, is_over

    _print_test_cases(experiment)
    if is_over(experiment, finished_rounds(experiment)):
        print("All rounds are done.")
        return
    r, queried = round_in_progress(experiment)
    missing = labels_to_come(experiment, r)
    again = experiment.command("round", "-r", str(r))
    if not missing:
        print(f"All labels have been imported. Next: {again}" if queried else f"Next: {again}")
        return
    without = f" To proceed without them: {again} --proceed_with_partial" if len(missing) < len(queried) else ""
    print(f"Missing labels: {', '.join(missing)}. Next, once they are imported: {again}.{without}")


def _print_test_cases(experiment: Any) -> None:
    """Print which labels of test cases are missing, and how those that are there are used."""
    from nnunet_assft.active.annotation import missing_labels
    from nnunet_assft.annotation.requests import open_test_cases

    request = open_test_cases(experiment)
    if request is None:
        return
    missing = missing_labels(experiment.raw_dataset(), request.cases)
    if missing:
        print(f"Missing labels of test cases: {', '.join(missing)}.")
    drawn = [case for case in request.cases if case not in missing]
    if drawn:
        join = experiment.command("extend", "--test", *drawn)
        print(f"{count(len(drawn), 'label')} of test cases can be used. To measure the next rounds by them: {join}")


def main(argv: list[str] | None = None) -> None:
    run(annotate, parser(), argv)

"""nnUNetv2_assft_score: score saved softmax outputs, without an experiment."""

from __future__ import annotations

import argparse
import sys

from nnunet_assft.cli.common import EXIT_ERROR, add_processes, file_name, make_parser, number, run

FOLDER = (
    "folder of CASE.npz, as nnUNetv2_predict --save_probabilities writes them, or CASE.b2nd (blosc2); CASE.pkl and "
    "plans.json tell where the images were cropped"
)
EMBEDDINGS = "npz with ids (N,), pretrained (N, d) and latest (N, d): adds DKD, Q and the order of annotation"


def parser() -> argparse.ArgumentParser:
    p = make_parser(
        "score",
        "Score saved nnU-Net softmax outputs and write a CSV with one row per case. No experiment is needed.",
        dataset=False,
    )
    p.add_argument("-i", type=file_name, required=True, metavar="FOLDER", help=FOLDER)
    p.add_argument("-r", type=number("r"), required=True, metavar="R", help="round of the query, from 1")
    p.add_argument("-R", type=number("R"), required=True, metavar="N", help="number of query rounds")
    p.add_argument("-o", type=file_name, required=True, metavar="FILE", help="CSV file to write")
    p.add_argument("--embeddings", type=file_name, metavar="FILE", help=EMBEDDINGS)
    add_processes(p)
    return p


def score(args: argparse.Namespace) -> int:
    """Score all cases of a folder and write the table. Returns 1 if a case could not be scored."""
    from nnunet_assft.active.scoring.saved_softmax import score_folder
    from nnunet_assft.errors import AssftError
    from nnunet_assft.runtime.csv_files import write_csv
    from nnunet_assft.runtime.text import count, printable, some
    from nnunet_assft.runtime.writable import require_apart, require_file

    if not 1 <= args.r <= args.R:
        parser().error(f"argument -r: {args.r}; expected a round from 1 to the {args.R} of -R")
    if args.embeddings:
        require_apart(args.o, "-o", args.embeddings, "--embeddings")
    require_file(args.o, "-o")
    scores = score_folder(args.i, args.r, args.R, embeddings_file=args.embeddings, num_processes=args.np)
    for case, finding in scores.findings.items():
        print(printable(f"nnUNetv2_assft_score: {case}: {finding}"), file=sys.stderr)
    if not scores.cases:
        raise AssftError(
            f"none of {len(scores.findings)} cases could be scored; nothing was written. Fix the problems listed above."
        )
    write_csv(args.o, scores.rows())
    n_scored, n_all = len(scores.cases), len(scores.cases) + len(scores.findings)
    print(f"{n_scored} of {n_all} cases scored for round {args.r} of {args.R} (tau {scores.tau:.6g}): {args.o}")
    uncropped = sum(not case.cropped for case in scores.cases)
    if uncropped:
        print(
            f"Not cropped: {uncropped} of {n_scored} cases (no CASE.pkl or no plans.json). Padding dilutes their "
            "entropy, least_confidence, margin and asd_mean."
        )
    hard = [case.case for case in scores.cases if case.is_hard]
    if hard:
        print(
            f"All probabilities of {count(len(hard), 'case')} are 0 or 1, as in a segmentation, so that these cases "
            f"look as certain as possible: {printable(some(hard))}. Save the softmax itself."
        )
    if scores.query is not None:
        first = printable(", ".join(scores.query.ids[:5]))
        print(f"Cases to annotate first: {first}{', ...' if n_scored > 5 else ''}")
    return EXIT_ERROR if scores.findings else 0


def main(argv: list[str] | None = None) -> None:
    run(score, parser(), argv)

"""nnUNetv2_assft_report: write one HTML file that opens offline, and a folder with every figure and its data."""

from __future__ import annotations

import argparse

from nnunet_assft.cli.common import add_device, file_name, make_parser, run
from nnunet_assft.cli.engine_options import add_engine_options, choose_engine, choose_where


def parser() -> argparse.ArgumentParser:
    description = "Write one HTML file that opens offline, with curves, queries, cases, a viewer and provenance."
    p = make_parser("report", description, dataset=False)
    p.add_argument("-d", required=True, metavar="ID", help="dataset id or name (218 or Dataset218_NAME)")
    p.add_argument("-e", metavar="NAME", help="name of the experiment (default: assft, or a run of the comparison)")
    p.add_argument(
        "--compare",
        nargs="?",
        const="compare",
        metavar="NAME",
        help="also report the comparison of this name (without NAME: compare)",
    )
    where = "file to write (default: report.html in the folder of the experiment or the comparison)"
    p.add_argument("-o", type=file_name, metavar="FILE", help=where)
    missing = "first compute the missing pre-segmentations of the queried cases in the report"
    p.add_argument("--prelabel", action="store_true", help=missing)
    distances = "first compute NSD and HD95 of the test cases after the last round, which takes seconds per structure"
    p.add_argument("--distances", action="store_true", help=distances)
    add_device(p)
    add_engine_options(p, trains=False)
    return p


def report(args: argparse.Namespace) -> None:
    """Write the report of an experiment, of a comparison, or of both."""
    from nnunet_assft.report.material import gather
    from nnunet_assft.report.page import write_report
    from nnunet_assft.runtime.writable import require_file

    if args.o:
        require_file(args.o, "-o")
    material = gather(args.d, args.e, args.compare)
    if args.prelabel:
        from nnunet_assft.report.prelabels import write_prelabels

        write_prelabels(material, *choose_where(args))
    if args.distances:
        from nnunet_assft.report.sections.test_cases import compute_distances

        compute_distances(material, choose_engine(args))
    home = material.comparison.folder if material.comparison else material.experiment.paths.results
    file = write_report(material, args.o or home / "report.html")
    files = file.with_name(f"{file.stem}_files")
    print(f"Wrote {file} ({file.stat().st_size / 1e6:.1f} MB); the figures and their data are in {files}.")


def main(argv: list[str] | None = None) -> None:
    run(report, parser(), argv)

"""nnUNetv2_assft_convert: turn a downloaded dataset into an nnU-Net raw dataset, or check a raw dataset."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_assft.cli.common import EXIT_ERROR, add_processes, file_name, make_parser, run
from nnunet_assft.dataset_conversion.datasets import DATASETS
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.ranges import RANGES
from nnunet_assft.runtime.writable import readable_folder, require_folder

if TYPE_CHECKING:
    from nnunet_assft.dataset_conversion.datasets import DatasetRow
    from nnunet_assft.dataset_conversion.findings import Finding
    from nnunet_assft.dataset_conversion.headers import Tolerances
    from nnunet_assft.dataset_conversion.options import ConversionOptions

DICOM, NIFTI, CHECK = "dicom", "nifti", "check"  # what is no row of DATASETS
ONLY_FOR = {"l": (NIFTI,), "channels": (NIFTI,), "labels": (DICOM, NIFTI), "key_file": (DICOM,), "series": (DICOM,)}
NOT_FOR_DICOM = ("mode", "split", "split_file", "tolerance_mm")
LINES = 20  # of errors on stderr; the report lists all of them


class _Names(argparse.Action):
    """Names with blanks or commas between them."""

    def __call__(self, _: object, namespace: argparse.Namespace, values: Any, __: object = None) -> None:
        setattr(namespace, self.dest, [name.strip() for text in values for name in text.split(",") if name.strip()])


def parser() -> argparse.ArgumentParser:
    p = make_parser(
        "convert",
        "Convert a public dataset, NIfTI files or DICOM to nnU-Net's raw format, or check a raw dataset.",
        dataset=False,
    )
    p.usage = "%(prog)s NAME -i SRC [SRC ...] [-d ID] [options]"
    p.add_argument(
        "name",
        choices=(*DATASETS, NIFTI, DICOM, CHECK),
        metavar="NAME",
        help=f"{', '.join(DATASETS)}; {NIFTI} (any images, with or without labels); {DICOM} (any CT or MR series); "
        f"{CHECK} (any nnU-Net raw dataset)",
    )
    p.add_argument(
        "-i", nargs="+", type=file_name, metavar="SRC", help="folder(s) of the images or download; check: the dataset"
    )
    p.add_argument("-d", metavar="ID", help="dataset id or name (default: that of NAME); check: instead of -i")
    _add_placement(p)
    _add_own(p)
    p.add_argument(
        "--dry_run",
        action="store_true",
        help="read names and headers, print the plan, and write nothing (dicom: the key file only)",
    )
    p.add_argument(
        "--verify_only",
        action="store_true",
        help="only compare sources and converted files with the manifest; needs no -i",
    )
    p.add_argument(
        "--overwrite",
        action="store_true",
        help="convert every case again, also with other options or over edited files",
    )
    p.add_argument("--strict", action="store_true", help="stop at the first error instead of skipping the case")
    add_processes(p)
    return p


def _add_placement(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--mode",
        default="link",
        choices=["link", "hardlink", "copy", "reference"],
        metavar="MODE",
        help="how images are placed: link, hardlink, copy; reference: listed in dataset.json only",
    )
    p.add_argument(
        "--split",
        default="default",
        choices=["default", "all"],
        metavar="SPLIT",
        help="default: the pool and test cases of the dataset; all: every case in the pool",
    )
    p.add_argument(
        "--split_file", type=file_name, metavar="FILE", help='JSON instead of --split: {"pool": [...], "test": [...]}'
    )
    p.add_argument(
        "--tolerance_mm",
        nargs=2,
        default=["0.1", "voxel"],
        metavar=("INFO", "ERROR"),
        help="offset of a label from its image in mm: harmless up to INFO, an error above ERROR (default: 0.1 voxel)",
    )


def _add_own(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "-l", nargs="+", type=file_name, metavar="SRC", help="nifti: folder(s) of the labels, each named like its image"
    )
    p.add_argument(
        "--labels",
        nargs="+",
        action=_Names,
        metavar="NAME",
        help="nifti, dicom: the structures, from id 1 on; nifti: liver=6 if labels have other values",
    )
    p.add_argument(
        "--channels", nargs="+", action=_Names, metavar="NAME", help="nifti: CT, or MRI, or such as T1 FLAIR"
    )
    p.add_argument(
        "--key_file",
        type=file_name,
        metavar="FILE",
        help="dicom: says which patient and series each case is; outside of the dataset; is written, and read again",
    )
    p.add_argument(
        "--series",
        default="one",
        metavar="WHICH",
        help="dicom: one (a patient with several is refused), all, or a file with a case id per line",
    )


def convert(args: argparse.Namespace) -> int:
    """Convert or check a dataset. Returns 1 if there is an error among the findings."""
    from nnunet_assft.dataset_conversion import convert as conversion
    from nnunet_assft.dataset_conversion.report import NEEDS_VOXELS, table_of_counts

    for name, takers in ONLY_FOR.items():
        if name in args.typed and args.name not in takers:
            parser().error(
                f"argument {_option(name)}: only {' and '.join(takers)} {'take' if takers[1:] else 'takes'} it"
            )
    if args.name == DICOM:
        return dicom(args)
    options = _options(args)
    if args.name == CHECK:
        return check(args, options)
    raw = raw_folder()
    if args.verify_only and args.name == NIFTI:
        _require(args, "d")
        return verify(conversion.existing_folder(raw, args.d))
    if args.verify_only:
        return verify(conversion.dataset_folder(args.name, raw, args.d))
    plan = conversion.scan(_row(args), args.i, raw, args.d, options)
    size = sum(case.image_bytes + case.label_bytes for case in plan.cases)
    rewritten = sum(bool(case.rewrite) for case in plan.cases)
    print(
        f"{plan.folder}\nmode {options.mode}, split: {plan.split}, {size_of(size)} in {len(plan.cases)} cases, "
        f"{rewritten} labels to rewrite, judging by their headers"
    )
    if args.dry_run:
        print_table(table_of_counts(plan, None))
        print(f"Nothing was written. {NEEDS_VOXELS}.")
        return finish(plan.findings)
    require_folder(raw, "nnUNet_raw")
    records, findings = conversion.convert(plan, options, print)
    print_table(table_of_counts(plan, records))
    code = finish(findings)
    print(f"Report: {plan.folder / conversion.REPORT}.md")
    if any(record["outputs"] for record in records.values()):
        human = " --annotator human" if any(not case.source.has_label for case in plan.cases) else ""
        print(f"Next: nnUNetv2_assft_plan -d {plan.row.id}{human}")
    return code


def _row(args: argparse.Namespace) -> DatasetRow:
    """Return the row of DATASETS, or the one that the options describe."""
    if args.name != NIFTI:
        _require(args, "i")
        return DATASETS[args.name]
    from nnunet_assft.dataset_conversion.nifti import nifti_row
    from nnunet_assft.dataset_conversion.source_cases import require_folders

    _require(args, "i", "d", "labels", "channels")
    labels = [Path(os.path.abspath(folder)) for folder in args.l or ()]
    require_folders(labels, "-l")
    return nifti_row(args.labels, args.channels, labels)


def dicom(args: argparse.Namespace) -> int:
    """Convert the DICOM series below folders. Returns 1 if there is an error among the findings."""
    from nnunet_assft.dataset_conversion.convert import REPORT, existing_folder
    from nnunet_assft.dataset_conversion.dicom import conversion

    if wrong := [name for name in NOT_FOR_DICOM if name in args.typed]:
        parser().error(f"argument {_option(wrong[0])}: {DICOM} does not take it")
    raw = raw_folder()
    if args.verify_only and args.d:
        return verify(existing_folder(raw, args.d))
    _require(args, "i", "d", "key_file", "labels")
    options = conversion.DicomOptions(
        args.key_file, tuple(args.labels), args.series, args.strict, args.overwrite, args.np
    )
    plan = conversion.scan(args.i, raw, args.d, options)
    print(plan.folder)
    if args.dry_run:
        print_table(conversion.table_of_counts(plan, None))
        print("Only the key file was written. Intensities and damaged voxels are found when the voxels are read.")
        return finish(plan.findings)
    require_folder(raw, "nnUNet_raw")
    records, findings = conversion.convert(plan, options, print)
    print_table(conversion.table_of_counts(plan, records))
    code = finish(findings)
    print(f"Report: {plan.folder / REPORT}.md")
    if any(record["outputs"] for record in records.values()):
        print(f"Next: nnUNetv2_assft_plan -d {plan.folder.name} --annotator human")
    return code


def size_of(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.2f} MB"


def verify(folder: Path) -> int:
    """Compare a converted dataset with its manifest. Returns 1 if anything differs."""
    from nnunet_assft.dataset_conversion.convert import verify_conversion

    n_cases, findings = verify_conversion(folder)
    print(f"{n_cases} cases were compared with the manifest.")
    return finish(findings)


def _require(args: argparse.Namespace, *needed: str) -> None:
    if missing := [_option(name) for name in needed if not getattr(args, name)]:
        parser().error(f"{args.name} needs {', '.join(missing)}")


def _option(name: str) -> str:
    return f"-{name}" if len(name) == 1 else f"--{name}"


def check(args: argparse.Namespace, options: ConversionOptions) -> int:
    """Check a raw dataset given by its folder or id, and write a report. Returns 1 if there is an error."""
    from nnunet_assft.dataset_conversion.check import REPORT
    from nnunet_assft.dataset_conversion.check import check as check_dataset
    from nnunet_assft.dataset_conversion.convert import existing_folder

    if (not args.i) == (not args.d) or len(args.i or [0]) > 1:
        parser().error("check takes one dataset: -i FOLDER or -d ID")
    folder = args.i[0] if args.i else existing_folder(raw_folder(), args.d)
    report = check_dataset(folder, options.tolerances, options.num_processes, voxels=not args.dry_run)
    print_table(report.counts)
    code = finish(report.findings)
    if not args.dry_run:
        try:
            report.write(folder, REPORT)
            print(f"Report: {folder / REPORT}.md")
        except OSError as error:  # the dataset may be on a read-only disk
            for finding in report.findings:
                print(finding.line())
            print(f"No report was written: {folder}: {error.strerror or error}.")
    return code


def _options(args: argparse.Namespace) -> ConversionOptions:
    from nnunet_assft.dataset_conversion.options import ConversionOptions

    return ConversionOptions(
        args.mode,
        args.split,
        args.split_file,
        _tolerances(args),
        args.strict,
        args.overwrite,
        args.np,
    )


def _tolerances(args: argparse.Namespace) -> Tolerances:
    from nnunet_assft.dataset_conversion.headers import Tolerances

    info, error = args.tolerance_mm
    mm = RANGES["tolerance_mm"]
    try:
        return Tolerances(mm.parse(info), None if error == "voxel" else mm.parse(error))
    except (ValueError, AssftError):
        parser().error(
            f"argument --tolerance_mm: {info} {error}; expected two numbers in mm, of which the first is not larger; "
            "the second may be 'voxel'"
        )


def raw_folder() -> Path:
    """Return the folder nnUNet_raw. Raises `AssftError` if it is not set or does not exist."""
    raw = os.environ.get("nnUNet_raw")
    what = readable_folder(Path(raw)) if raw else None
    if not raw or what:
        raise AssftError(
            f"nnUNet_raw is {f'{raw}, which {what}' if raw else 'not set'}; expected the folder of raw datasets. "
            "Create the folder, then run export nnUNet_raw=FOLDER."
        )
    return Path(os.path.abspath(raw))  # absolute, because dataset.json may list files in it


def print_table(rows: Iterable[tuple[str, int | None, int]]) -> None:
    """Print a table of expected and found numbers."""
    print(f"{'':32} {'expected':>9} {'found':>7}")
    for what, expected, n in rows:
        print(f"{what:32} {'' if expected is None else expected:>9} {n:>7}")


def finish(findings: Sequence[Finding]) -> int:
    """Print the number of findings per code to stdout and the errors to stderr. Returns 1 if there is an error."""
    from nnunet_assft.dataset_conversion.findings import CODES, counts, errors

    for (severity, code), n in counts(findings).items():
        print(f"{severity:8} {code:22} {n:5}  {CODES[code].meaning}")
    wrong = errors(findings)
    sys.stdout.flush()
    for finding in wrong[:LINES]:
        print(f"nnUNetv2_assft_convert: {finding.line()}", file=sys.stderr)
    if len(wrong) > LINES:
        print(f"nnUNetv2_assft_convert: {len(wrong) - LINES} more errors", file=sys.stderr)
    return EXIT_ERROR if wrong else 0


def main(argv: list[str] | None = None) -> None:
    run(convert, parser(), argv)

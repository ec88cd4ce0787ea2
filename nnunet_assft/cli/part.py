"""python -m nnunet_assft.cli.part: work on one part of a step. Engines start it; nobody types it."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_assft.cli.common import file_name, make_parser, number, run


def parser() -> argparse.ArgumentParser:
    p = make_parser("part", "Work on one part of a step of another command.", dataset=False)
    p.add_argument("sweep", type=file_name, metavar="FOLDER", help="folder of the sweep")
    p.add_argument("-num_parts", type=number("num_parts"), required=True, metavar="N", help="number of parts")
    p.add_argument("-part_id", type=number("part_id"), required=True, metavar="I", help="number of this part, from 0")
    p.add_argument("--sha256", required=True, metavar="CHECKSUM", help="checksum of the function and the cases")
    return p


def part(args: argparse.Namespace) -> None:
    """Work on the part."""
    from nnunet_assft.cluster.job import run_part

    run_part(Path(args.sweep), args.num_parts, args.part_id, args.sha256)


def main(argv: list[str] | None = None) -> None:
    run(part, parser(), argv)


if __name__ == "__main__":
    main()

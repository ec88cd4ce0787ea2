"""nnUNetv2_assft: list the commands, or run one of them: nnUNetv2_assft plan is nnUNetv2_assft_plan."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from nnunet_assft import __version__

COMMANDS = (  # in the order in which a project needs them
    "demo",
    "convert",
    "plan",
    "round",
    "run",
    "status",
    "annotate",
    "extend",
    "report",
    "compare",
    "predict",
    "export",
    "pretrain",
    "score",
)
USAGE = """usage: nnUNetv2_assft COMMAND [options], the same as nnUNetv2_assft_COMMAND [options]

Choose the scans to annotate, and train nnU-Net on them. COMMAND -h shows the options of a command."""
EXIT_USAGE = 2


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the first argument names with the other ones. Without arguments, list all commands."""
    name, *others = (sys.argv[1:] if argv is None else argv) or ["-h"]
    if name in COMMANDS:
        import_module(f"nnunet_assft.cli.{name}").main(others)
    elif name in ("-h", "--help"):
        print(USAGE, "", *(f"  {command:9} {_first_sentence(command)}" for command in COMMANDS), sep="\n")
    elif name == "--version":
        print(f"nnunet_assft {__version__}")
    else:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        print(f"nnUNetv2_assft: error: there is no command {name!r}. {hint}nnUNetv2_assft lists them.", file=sys.stderr)
        sys.exit(EXIT_USAGE)


def _first_sentence(command: str) -> str:
    return str(import_module(f"nnunet_assft.cli.{command}").parser().description).partition(". ")[0].rstrip(".")

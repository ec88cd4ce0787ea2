"""Functions shared by all commands: parsers, exit codes and error messages of one line.

The modules of commands import torch, numpy and nnU-Net only inside functions, so that `-h` is fast.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from nnunet_assft import __version__
from nnunet_assft.errors import AssftError, WaitingForAnnotation, WaitingForParts, in_one_line
from nnunet_assft.nnunet_names import check_nnunet_version
from nnunet_assft.runtime.environment import FOLDERS, make_folders_absolute, require_values
from nnunet_assft.runtime.processes import die_with_parent_if_spawned
from nnunet_assft.runtime.ranges import RANGES

if TYPE_CHECKING:
    import torch

    from nnunet_assft.active.state import Experiment, Round

EXIT_ERROR, EXIT_WAITING = 1, 3
ALMOST_FULL = 2**20  # bytes: with less free space, a failed write is blamed on the disk

die_with_parent_if_spawned()  # a worker of nnU-Net's imports the command that started it, and so comes past here


def make_parser(name: str, description: str, *, dataset: bool = True) -> argparse.ArgumentParser:
    """Return the parser of the command nnUNetv2_assft_NAME. dataset: add the options -d and -e."""
    parser = _Parser(
        prog=f"nnUNetv2_assft_{name}",
        usage=f"%(prog)s {'-d ID ' if dataset else ''}[options]",
        description=description,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    if dataset:
        add_experiment(parser)
    parser.add_argument("--verbose", action="store_true", help="show the traceback of an error")
    # not shown, so that the help of every command fits a screen
    parser.add_argument("--version", action="version", version=f"nnunet_assft {__version__}", help=argparse.SUPPRESS)
    return parser


def make_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, description: str
) -> argparse.ArgumentParser:
    """Return the parser of a subcommand, such as `annotate export`. commands: the return value of `add_subparsers`."""
    parser = commands.add_parser(
        name,
        help=description,
        description=description[0].upper() + description[1:] + ".",
        formatter_class=_Help,
        allow_abbrev=False,
    )
    add_experiment(parser)
    parser.add_argument("--verbose", action="store_true", help="show the traceback of an error")
    return parser


def add_experiment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", required=True, metavar="ID", help="dataset id or name (218 or Dataset218_NAME)")
    parser.add_argument("-e", default="assft", metavar="NAME", help="name of the experiment")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Add to the message about an unknown option the one that may be meant."""
        known = list(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                known += [option for command in action.choices.values() for option in command._option_string_actions]
        unknown = message.removeprefix("unrecognized arguments: ").split() if "unrecognized" in message else []
        meant = [near[0] for word in unknown if (near := get_close_matches(word.partition("=")[0], known, n=1))]
        hint = f". Did you mean {' and '.join(meant)}?" if meant else ""
        super().error(f"{message}{hint}")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=min(120, shutil.get_terminal_size((110, 24)).columns))

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or "default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-device",
        type=device_name,
        metavar="DEVICE",
        help="cuda, cuda:1, cpu or mps (default: cuda if available, otherwise cpu)",
    )


def add_accept_geometry(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--accept_geometry",
        action="append",
        metavar="CASE",
        help="use this label although its header does not match its image; all: every label; may be repeated",
    )


def accept_geometry(args: argparse.Namespace, experiment: Experiment) -> None:
    """Record the cases that the user has accepted with --accept_geometry."""
    from nnunet_assft.volumes.accepted_geometry import accept_geometry as accept

    accept(
        experiment.paths.accepted_geometry_file,
        args.accept_geometry or (),
        (*experiment.now.pool, *experiment.now.test),
    )


def add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-np", type=number("np"), metavar="N", help="number of processes (default: one per core, fewer for small data)"
    )


def number(option: str) -> Callable[[str], float]:
    """Return the type of argparse for an option whose numbers `runtime.ranges` lists."""

    def parse_number(text: str) -> float:
        try:
            return RANGES[option].parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse_number


def file_name(text: str) -> Path:
    """Parse the name of a file or folder, as a type of argparse: any text that is not empty."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r}; expected the name of a file or folder")
    return Path(text)


class PrintAndExit(argparse.Action):
    """An option that calls `const` and exits while the arguments are parsed, so that -d is not required."""

    def __init__(self, option_strings: Sequence[str], dest: str, const: Callable[[], None], help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, const=const, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        assert self.const is not None
        try:
            self.const()
            sys.stdout.flush()
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        parser.exit()


def device_name(text: str) -> str:
    """Parse -device, as a type of argparse; whether there is such a device is found out when it is used."""
    if not re.fullmatch(r"cpu|mps|cuda(:[0-9]{1,3})?", text):
        raise argparse.ArgumentTypeError(f"{text!r}; expected cuda, cuda:1 (or another number), cpu or mps")
    return text


def choose_device(name: str | None) -> torch.device:
    """Return the device of this name, or by default CUDA if available and otherwise the CPU.

    nnU-Net uses the first GPU that it sees, so with cuda:1 this process sees that one only.
    """
    import torch

    from nnunet_assft.cluster.engines import named_gpus

    kind, _, number = (name or "").partition(":")
    if number:  # before torch looks for GPUs, because CUDA may read the variable at the first look only
        gpus = named_gpus()
        os.environ["CUDA_VISIBLE_DEVICES"] = number if gpus is None else ",".join(gpus[int(number) :][:1])
    if kind == "cuda" and not torch.cuda.is_available():
        which = "such device; the first is cuda:0" if number else "CUDA device"
        raise AssftError(f"-device {name}, but torch finds no {which}. Leave out -device to use the CPU.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise AssftError("-device mps, but torch finds no such device. Leave out -device to use the CPU.")
    device = torch.device(kind or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        _warn_of_slow_convolutions()
    return device


def _warn_of_slow_convolutions() -> None:
    """Say that this installation is known to be slow, which nobody would notice otherwise."""
    import torch

    cudnn = torch.backends.cudnn.version() or 0
    if torch.__version__.startswith(("2.9.", "2.10.")) and cudnn < 91500:
        print(
            f"warning: torch {torch.__version__} with cuDNN {cudnn // 10000}.{cudnn // 100 % 100} takes about four "
            "times as long for 3D convolutions in mixed precision. Install cuDNN 9.15 or later: "
            "pip install -U nvidia-cudnn-cu12",
            file=sys.stderr,
        )


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Parse the arguments. `typed` holds the names of those on the command line, even if given their default value."""
    defaults = {action.dest: action.default for action in parser._actions if action.default != argparse.SUPPRESS}
    has_device = "-device" in {option for action in parser._actions for option in action.option_strings}
    if "-device" in (sys.argv[1:] if argv is None else argv) and not (has_device or parser._subparsers):
        parser.error("argument -device: this command has none; those that train or predict have it")  # not -d evice
    unset: list[str] = []  # argparse sets no default for a name that has a value, and can append to a list
    args = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(defaults, unset)))
    typed = {name: value for name, value in vars(args).items() if value is not unset}
    return argparse.Namespace(**{**defaults, **typed}, typed=frozenset(typed))


def run(
    command: Callable[[argparse.Namespace], int | None], parser: argparse.ArgumentParser, argv: list[str] | None
) -> None:
    """Parse the arguments, call the command and exit: 0 success, 1 error, 2 wrong usage, 3 waiting for others."""
    args = parse(parser, argv)
    # torch reads this on import: on a busy CPU, threads that spin while waiting make training 3 times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.filterwarnings("ignore", message=".*GradScaler.*|.*not writable.*|.*lr_scheduler.*")
    try:
        require_values()
        make_folders_absolute()
        check_nnunet_version()
        sys.exit(command(args) or 0)
    except (WaitingForAnnotation, WaitingForParts) as waiting:
        print(f"{parser.prog}: {waiting}", file=sys.stderr)
        sys.exit(EXIT_WAITING)
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; run the same command again to continue", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if args.verbose:
            traceback.print_exc()
        print(f"{parser.prog}: error: {_one_line(error)}", file=sys.stderr)
        sys.exit(EXIT_ERROR)


def _one_line(error: Exception) -> str:
    """Return the message of an error, in which a newline or anything else that cannot be printed is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in _message(error))


def _message(error: Exception) -> str:
    full = _full_disk(error)
    if full:
        return f"the disk that holds {full} is full. Free some space and run the same command again; nothing is lost."
    return in_one_line(error) + ("" if isinstance(error, AssftError) else " (--verbose shows where)")


def _full_disk(error: BaseException) -> str | None:
    """Return the folder on a full disk that made a write fail, or None. Many writers hide this cause of an error."""
    folders = [os.environ[name] for name in FOLDERS if name in os.environ]
    full = next((f for f in folders if os.path.isdir(f) and shutil.disk_usage(f).free < ALMOST_FULL), None)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return full or str(cause.filename or "the results")
        cause = cause.__cause__ or cause.__context__
    return None if isinstance(error, AssftError) else full


def load_experiment(args: argparse.Namespace) -> Experiment:
    """Load the experiment -e of the dataset -d."""
    from nnunet_assft.active.paths import ExperimentPaths
    from nnunet_assft.active.state import Experiment
    from nnunet_assft.volumes.raw_dataset import find_dataset_name

    return Experiment.load(ExperimentPaths(find_dataset_name(args.d), args.e))


def round_of(experiment: Experiment, r: int | None) -> Round:
    """Return finished round -r, or the last finished one for None. Raises `AssftError` if it is not finished."""
    from nnunet_assft.active.state import finished_rounds

    done = finished_rounds(experiment)
    if r is None:
        r = len(done) - 1
    if not 0 <= r < len(done):
        raise AssftError(
            f"Round {max(r, 0)} of experiment {experiment.name!r} is not finished; {len(done)} of "
            f"{experiment.n_rounds + 1} rounds are. Run {experiment.command('status')} to see the next command."
        )
    return done[r]

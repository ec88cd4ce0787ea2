"""The options that say where work is done. `-h` does not list them; --list_engines does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nnunet_assft.cli.common import PrintAndExit, choose_device, file_name, number
from nnunet_assft.errors import AssftError

if TYPE_CHECKING:
    import torch

    from nnunet_assft.cluster.engines import Engine

ENGINE_OPTIONS = ("engine", "parts", "gpus", "slurm", "engine_file")
EPILOG = "Several GPUs, or SLURM: --list_engines shows the options."
HELP = """\
--engine NAME             where cases and trainings are worked on (default: here)
--parts N                 parts of a step, at most (default: one per GPU, or 8 jobs)
--gpus N                  GPUs that a training uses (only of commands that train); of compare
                          with --engine local: GPUs on which runs are executed
--slurm KEY=VALUE,...     options of sbatch, such as partition=gpu,gres=gpu:1,time=240
--engine_file FILE        JSON file with defaults for engine, parts, gpus and slurm
                          (default: nnunet_assft_cluster.json in nnUNet_results, if there is one)"""


def add_engine_options(parser: argparse.ArgumentParser, *, trains: bool = True) -> None:
    """Add --engine and what belongs to it. trains: whether the command trains, and so can use --gpus."""
    parser.epilog = EPILOG
    kinds: dict[str, Callable[[str], Any]] = {"engine": str, "parts": number("parts"), "slurm": str}
    for name, kind in (kinds | {"gpus": number("gpus")} if trains else kinds).items():
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    parser.add_argument("--engine_file", type=file_name, help=argparse.SUPPRESS)
    parser.add_argument("--list_engines", action=PrintAndExit, const=print_engines, help=argparse.SUPPRESS)


def print_engines() -> None:
    """Print the engines and their options."""
    from nnunet_assft.cluster.engines import ENGINES

    for name, row in ENGINES.items():
        print(f"{name:<10} {row.description}")
    print(HELP)


def choose_where(args: argparse.Namespace) -> tuple[torch.device, Engine]:
    """Return the device and the engine that the options and the engine file describe.

    With jobs, the device is that of their machines, which this one may not have. For those of SLURM it is by default
    CUDA if they get a GPU. Nothing is known about the machines of `print`; CUDA is used, because an error is noticed
    sooner than a training on a CPU. A default that nobody asked for is said on stderr.
    """
    import torch

    engine = choose_engine(args)
    if engine.name in ("here", "local"):
        return choose_device(args.device), engine
    gets_gpu = engine.gpus or any("gpu" in f"{key}={value}" for key, value in engine.slurm.items())
    device = args.device or ("cuda" if gets_gpu or engine.name == "print" else "cpu")
    if not (args.device or gets_gpu):
        other = "-device cpu" if device == "cuda" else "--slurm gres=gpu:1 or -device cuda"
        print(f"The parts use the device {device}. For another one, add {other}.", file=sys.stderr)
    return torch.device(device.partition(":")[0]), engine  # which GPU a job gets is up to its machine


def choose_engine(args: argparse.Namespace) -> Engine:
    """Return the engine that the options and the engine file describe; an option counts more than the file."""
    from nnunet_assft.cluster.engines import ENGINES, Engine, read_site_file

    site = read_site_file(args.engine_file)
    name = site.get("engine", "here") if args.engine is None else args.engine  # not "", of a variable that is not set
    if name not in ENGINES:
        raise AssftError(f"There is no engine {name!r}. Choose one of {', '.join(ENGINES)} with --engine.")
    parts, gpus = args.parts or site.get("parts"), getattr(args, "gpus", None) or site.get("gpus")
    options = {key.replace("-", "_"): str(value) for key, value in site.get("slurm", {}).items()}
    for pair in filter(None, (args.slurm or "").split(",")):
        key, equals, value = pair.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise AssftError(f"--slurm {args.slurm}: expected KEY=VALUE,... such as partition=gpu,gres=gpu:1,time=240.")
        options[key.strip().replace("-", "_")] = value.strip()
    return Engine(name, parts, gpus, options, getattr(args, "np", None))  # not every command reads images

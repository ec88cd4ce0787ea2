"""What several benchmarks need: their options, empty folders for nnU-Net, and the form of their results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as our commands do, before torch is imported


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that describe the network, the images and the device."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--preset", default="ctfm", help="network preset")
    parser.add_argument(
        "--size", type=int, nargs=3, default=(48, 96, 96), metavar="N", help="voxels (z y x) of an image"
    )
    parser.add_argument("--classes", type=int, default=16, help="number of classes, including the background")
    parser.add_argument("-device", default="cpu", help="compute device")
    add_json(parser)
    return parser


@contextmanager
def empty_folders() -> Iterator[Path]:
    """Give nnU-Net three empty folders. They are removed at the end, with everything beside them."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            os.environ[name] = str(Path(folder, name))
            Path(folder, name).mkdir()
        yield Path(folder)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option that `publish` goes by."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")


def publish(
    args: argparse.Namespace,
    rows: Sequence[Mapping[str, Any]],
    results: Mapping[str, float | str],
    device: str = "cpu",
) -> None:
    """Print the machine, the options, the rows as a table of Markdown, and single results such as ratios.

    args: with `json`, the file to which the same is written. rows: what was measured, column -> value.
    """
    options = {name: value for name, value in vars(args).items() if name not in ("json", "one", "memory_of")}
    print(machine(device))
    print(", ".join(f"{name} {_shown(value)}" for name, value in options.items()))
    print(f"\n| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        print(f"| {' | '.join(map(_shown, row.values()))} |")
    print()
    for name, value in results.items():
        print(f"{name}: {_shown(value)}")
    if args.json:
        content = {"machine": machine(device), "options": options, "rows": list(rows), "results": dict(results)}
        args.json.write_text(json.dumps(content, indent=2, default=str) + "\n")


def _shown(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return " x ".join(map(_shown, value))
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def machine(device: str = "cpu") -> str:
    """Return the processor, the device and the versions that decide about speed."""
    found = re.search(r"^model name\s*: (.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    parts = [found[1] if found else platform.processor() or platform.machine(), f"{os.cpu_count()} cores"]
    if device.startswith("cuda"):
        import torch

        parts += [torch.cuda.get_device_name(device), f"CUDA {torch.version.cuda}"]
    parts += [f"Python {platform.python_version()}"]
    parts += [f"{package} {version(package)}" for package in ("torch", "nnunetv2", "nnunet_assft")]
    return ", ".join(parts)


def _read(file: str) -> str:
    return Path(file).read_text() if Path(file).is_file() else ""


def synchronize(device: str) -> None:
    """Wait for the GPU, if there is one."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()

"""What several benchmarks need: their options, empty folders for nnU-Net, and the machine they ran on."""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

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
    return parser


@contextmanager
def empty_folders() -> Iterator[Path]:
    """Give nnU-Net three empty folders. They are removed at the end, with everything beside them."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            os.environ[name] = str(Path(folder, name))
            Path(folder, name).mkdir()
        yield Path(folder)


def machine() -> str:
    """Return the processor and the versions that decide about speed."""
    return f"{platform.processor() or platform.machine()}, torch {version('torch')}, nnunetv2 {version('nnunetv2')}"


def synchronize(device: str) -> None:
    """Wait for the GPU, if there is one."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()

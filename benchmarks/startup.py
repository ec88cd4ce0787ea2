"""How long each command takes to print its help, which is what starting it costs. Run benchmarks/startup.py.

It prints the processor time and the time on the clock (medians over --repeats), and in the last column how many times
as long as Python itself, which is started in the same way. The last lines show what the imports of a command that
computes would add.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import add_json, publish

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = ("numpy", "torch", "nnunetv2.inference.predict_from_raw_data")


def main() -> None:
    parser = argparse.ArgumentParser(description="How long each command takes to print its help.")
    parser.add_argument("--repeats", type=int, default=5, help="how often each command is started")
    add_json(parser)
    args = parser.parse_args()
    scripts = re.findall(r"^nnUNetv2_assft_(\w+) = ", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    help_of = "from nnunet_assft.cli.{0} import main; main(['-h'])"
    programs = {"python": "pass"}
    programs |= {f"nnUNetv2_assft_{name} -h": help_of.format(name) for name in scripts}
    programs |= {f"import {name}": f"import {name}" for name in IMPORTS}
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for _ in range(args.repeats):
        for name, code in programs.items():
            measured[name].append(seconds_of(code))
    bare = statistics.median(cpu for cpu, _ in measured["python"])
    rows = []
    for name, found in measured.items():
        cpu, clock = (statistics.median(column) for column in zip(*found, strict=True))
        rows.append({"command": name, "s of processor time": cpu, "s on the clock": clock, "x Python": cpu / bare})
    publish(args, rows, {})


def seconds_of(code: str) -> tuple[float, float]:
    """Return the seconds of processor time and of the clock that a program takes."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True, env=dict(os.environ))
    clock, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, clock


if __name__ == "__main__":
    main()

"""The benchmarks run, at their smallest size, and print what they compare. No time is asserted."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALL = "--preset tiny --size 32 32 32 --classes 3"
RUNS = {
    "scoring.py": (f"{SMALL} --cases 1 --repeats 1", r"b / c = \d+\.\d+"),
    "prediction.py": (f"{SMALL} --cases 2 --repeats 1", r"files of b and c: the same bytes"),
    "training.py": (f"{SMALL} --steps 1", r"b / a = \d+\.\d+"),
    "scale.py": ("--cases 8 16 --rounds 1 --channels 3", r"plan: time grows as cases\^"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_benchmark_prints_what_it_compares(name: str) -> None:
    options, expected = RUNS[name]
    command = [sys.executable, str(BENCHMARKS / name), *options.split()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert re.search(expected, ended.stdout), ended.stdout

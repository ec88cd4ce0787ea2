"""The benchmarks run, at their smallest size, and print what they compare. No time is asserted."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALL = "--preset tiny --size 32 32 32 --classes 3"
RUNS = {
    "scoring.py": (f"{SMALL} --cases 1 --repeats 1", r"b / c: \d+\.\d+"),
    "prediction.py": (f"{SMALL} --cases 2 --repeats 1", r"files of b and c: the same bytes"),
    "training.py": (f"{SMALL} --steps 1", r"b / a: \d+\.\d+"),
    "scale.py": ("--cases 8 16 --rounds 1 --channels 3", r"exponent k of plan ~ cases\^k: -?\d"),
    "query_maths.py": ("--most 10000", r"\| records \| 10,000 \| 512 \| "),
    "startup.py": ("--repeats 1", r"\| nnUNetv2_assft_plan -h \| "),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_benchmark_prints_what_it_compares(name: str, tmp_path: Path) -> None:
    options, expected = RUNS[name]
    command = [sys.executable, str(BENCHMARKS / name), *options.split(), "--json", str(tmp_path / "results.json")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert re.search(expected, ended.stdout), ended.stdout
    written = json.loads((tmp_path / "results.json").read_text())
    assert "nnunetv2" in written["machine"]
    assert written["rows"]


def test_every_simulated_run_has_a_luck_of_its_own() -> None:
    """The mean over 12 cases of a difference has the luck of two runs, SD 3 each, and two rests, SD 4 each."""
    equal_arms = runpy.run_path(str(BENCHMARKS / "verdicts.py"))["equal_arms"]
    arm, rival = equal_arms(np.random.default_rng(0), 2, 20_000, 3)
    expected = np.sqrt(2 * (3**2 + 4**2 / 12))
    assert np.std((arm - rival).mean(axis=1)) == pytest.approx(expected, rel=0.02)

"""Work per case does not grow with the number of cases. Counts function calls, since times depend on the machine."""

from __future__ import annotations

import cProfile
import pstats
import runpy
from pathlib import Path

import pytest

from nnunet_assft.dataset_conversion.convert import convert, scan
from nnunet_assft.dataset_conversion.datasets import DATASETS
from nnunet_assft.dataset_conversion.options import ConversionOptions

BENCHMARK = Path(__file__).parents[2] / "benchmarks/convert_scan.py"


def calls(folder: Path, n: int) -> dict[str, int]:
    """Function calls of a scan and of a conversion of n cases."""
    (folder / "raw").mkdir(parents=True)
    runpy.run_path(str(BENCHMARK))["write_cases"](folder / "download", n, masks=False)
    counted = {}
    plan = None
    for step in ("scan", "convert"):
        with cProfile.Profile() as profile:
            if plan is None:
                plan = scan(DATASETS["abdomen_atlas"], [folder / "download"], folder / "raw", None, ConversionOptions())
            else:
                convert(plan, ConversionOptions(), print)
        counted[step] = pstats.Stats(profile).total_calls
    assert len(plan.cases) == n
    return counted


@pytest.mark.slow
def test_four_times_the_cases_are_four_times_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARK.parent)
    few, many = calls(tmp_path / "few", 100), calls(tmp_path / "many", 400)
    for step in ("scan", "convert"):
        assert many[step] / few[step] < 4.4, step

"""A comparison that was really run, once for all tests, and results of a made-up one, small enough to work by hand."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from nnunet_assft.active.settings import Settings
from nnunet_assft.cli.compare import main as compare_main
from nnunet_assft.comparison.arms import Comparison, arm_of, competing
from nnunet_assft.comparison.statistics import compare_arms
from tests.conftest import set_folders, write_dataset

DATASET = "Dataset901_Blobs"
ARMS = ("assft", "random", "nnunet", "lower_bound", "upper_bound")  # assft first: random takes over its round 0
SETTINGS = {
    "rounds": 1,
    "budget": "2",
    "preset": "tiny",
    "epochs": 2,
    "iterations_per_epoch": 2,
    "initial_lr": 1e-3,
}
OPTIONS = ["--strategies", "assft", "random", "--seeds", "0", "-device", "cpu"]
OPTIONS += [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
COLUMNS = ["arm", "seed", "round", "n_labelled", "case", "structure", "dice", "nsd", "hd95_mm"]


def comparison_of(*arms: str, seeds: tuple[int, ...] = (0,), match: str = "steps", **settings: object) -> Comparison:
    """The comparison of these arms, as the command makes it."""
    resolved = Settings(**{**SETTINGS, **settings}).resolved(DATASET)
    return Comparison(DATASET, "compare", tuple(map(arm_of, arms)), seeds, resolved, match)


def compare_all(results: pd.DataFrame, reference: str = "assft") -> pd.DataFrame:
    """The reference against every other arm of the results, as a comparison does it."""
    return compare_arms(results, competing(results["arm"]), reference)


def compare(*options: str) -> int:
    """The exit code of the command."""
    with pytest.raises(SystemExit) as ended:
        compare_main(["-d", "901", *OPTIONS, *options])
    return int(ended.value.code or 0)


@pytest.fixture(scope="session")
def trained_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nnU-Net's three folders with a comparison that the command finished. Ask for `finished` or `copied` instead."""
    root = tmp_path_factory.mktemp("comparison")
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_folders(root, monkeypatch)
        write_dataset(root / "nnUNet_raw")
        assert compare() == 0
    return root


@pytest.fixture
def finished(trained_root: Path, monkeypatch: pytest.MonkeyPatch) -> Comparison:
    """The comparison of ARMS, finished. Treat it as read-only."""
    set_folders(trained_root, monkeypatch)
    return comparison_of(*ARMS)


@pytest.fixture
def copied(trained_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Comparison:
    """A copy of the finished comparison in tmp_path, for tests that change it."""
    shutil.copytree(trained_root, tmp_path, dirs_exist_ok=True)
    set_folders(tmp_path, monkeypatch)
    return comparison_of(*ARMS)


@pytest.fixture
def results_of() -> Callable[..., pd.DataFrame]:
    """Rows of results.csv from {(arm, seed, round): {case: Dice}}: one structure; n_labelled is 1 + 2 r; HD95 is 10 (1
    - Dice).
    """

    def build(runs: dict[tuple[str, int, int], dict[str, float]]) -> pd.DataFrame:
        rows = [
            (arm, seed, r, 0 if arm == "lower_bound" else 1 + 2 * r, case, "liver", dice, dice, 10 * (1 - dice))
            for (arm, seed, r), cases in runs.items()
            for case, dice in cases.items()
        ]
        return pd.DataFrame(rows, columns=COLUMNS)

    return build


@pytest.fixture
def results(results_of) -> pd.DataFrame:
    """Two seeds, rounds 0 to 2, test cases a, b, c.

    In rounds 1 and 2 ASSFT is better than random in a and b, equal in c, and better than nnU-Net everywhere; in round 0
    ASSFT and random are the same.
    """
    start = {"a": 0.2, "b": 0.3, "c": 0.4}
    runs = {(arm, seed, 0): start for arm in ("assft", "random", "nnunet") for seed in (0, 1)}
    for seed, shift in ((0, 0.0), (1, 0.02)):
        runs |= {
            ("lower_bound", seed, 0): {"a": 0.0, "b": 0.01, "c": 0.02},
            ("assft", seed, 1): {"a": 0.62 + shift, "b": 0.74 + shift, "c": 0.80 + shift},
            ("random", seed, 1): {"a": 0.60, "b": 0.70, "c": 0.80 + 2 * shift - 0.02 * seed},
            ("nnunet", seed, 1): {"a": 0.50, "b": 0.55, "c": 0.60},
            ("assft", seed, 2): {"a": 0.72, "b": 0.84, "c": 0.90},
            ("random", seed, 2): {"a": 0.70, "b": 0.80, "c": 0.90},
            ("nnunet", seed, 2): {"a": 0.60, "b": 0.65, "c": 0.70},
            ("upper_bound", seed, 2): {"a": 0.90, "b": 0.92, "c": 0.94},
        }
    return results_of(runs)

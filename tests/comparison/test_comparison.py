"""The comparison as a whole: the results of every kind of arm, and what happens when something fails or is missing."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.state import Experiment, Round, finished_rounds
from nnunet_assft.comparison import estimate
from nnunet_assft.comparison.arms import Comparison, StrategyArm, arm_of
from nnunet_assft.comparison.collection import collect, write_tables
from nnunet_assft.comparison.comparison import run_comparison
from nnunet_assft.comparison.spec import read_comparison
from nnunet_assft.errors import AssftError
from nnunet_assft.network import PRESETS, build_network
from nnunet_assft.network.checkpoints import load_weights
from nnunet_assft.network.encoder_file import write_encoder
from nnunet_assft.runtime import precision
from nnunet_assft.runtime.files import sha256_file
from nnunet_assft.runtime.locks import only_process
from tests.comparison.conftest import DATASET, compare, comparison_of
from tests.conftest import CPU
from tests.network.test_encoder_file import header

ROOT = Path(__file__).parents[2]
STARTS = ("random", "entropy", "random-encoder-mae", "entropy-encoder-mae")  # arms in the names of experiments


def test_commands_that_execute_different_seeds_share_no_parts(tmp_path: Path) -> None:
    steps: list[tuple[Path, str]] = []

    def executor(function: object, items: object, desc: str) -> Iterator[tuple[int, object]]:
        steps.append((tmp_path / "jobs", desc))
        return iter(())

    engine: Any = SimpleNamespace(name="local", runs=lambda folder: executor)
    seen = []
    for seeds in ((1, 0), (0,), (2, 3)):
        comparison: Any = SimpleNamespace(name="a", dataset="b", folder=tmp_path, seeds=seeds, folds=(), arms=())
        run_comparison(comparison, CPU, engine=engine)
        seen.append(set(steps))
        steps.clear()
    first, again, others = seen
    assert first == again  # whose parts are found again
    assert first.isdisjoint(others)


@pytest.mark.slow
def test_results_of_every_arm(finished: Comparison) -> None:
    results, runs, _ = collect(finished, read_comparison(finished.file)[1])
    expected = {
        ("assft", 0, 1),
        ("assft", 1, 3),
        ("random", 0, 1),
        ("random", 1, 3),
        ("nnunet", 1, 3),
        ("lower_bound", 0, 0),
        ("upper_bound", 1, 8),
    }
    groups = dict(iter(results.groupby(["arm", "round", "n_labelled"])))
    assert set(groups) == expected
    for group in groups.values():
        assert sorted(zip(group["case"], group["structure"], strict=True)) == [
            (case, structure) for case in ("case_08", "case_09", "case_10") for structure in ("ball", "box")
        ]
        assert group["dice"].between(0, 1).all()
    assert set(runs["status"]) == {"done"}
    assert set(runs.loc[runs["round"] == 1, "device"]) == {"cpu"}  # as nnU-Net has written it at each training
    assert runs.set_index(["arm", "round"]).loc[("assft", 1), "n_pseudo"] == 2
    annotated = runs.groupby("arm")["annotated_cases"].sum().to_dict()
    assert annotated == {"random": 3, "assft": 3, "nnunet": 3, "lower_bound": 0, "upper_bound": 8}
    assert (runs.loc[runs["round"] == 1, "training_minutes"] > 0).all()


@pytest.mark.slow
def test_the_dice_of_a_round_is_that_of_the_results(finished: Comparison) -> None:
    """Both are counted by `case_dice`, from the same files."""
    for arm in finished.strategies:
        metrics = arm.metrics(finished, 0).set_index(["round", "case", "structure"])["dice"]
        for done in finished_rounds(arm.experiment(finished, 0)):
            for case, structures in done.dice["per_case"].items():
                for structure, dice in structures.items():
                    found = metrics[done.round, case, structure]
                    assert found == dice or (dice is None and math.isnan(found))


@pytest.mark.slow
def test_the_same_command_again_trains_nothing(
    finished: Comparison, trained_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def checkpoints() -> dict[str, int]:
        return {str(file): file.stat().st_mtime_ns for file in trained_root.rglob("*.pth")}

    before = checkpoints()
    assert compare() == 0
    printed = capsys.readouterr().out
    assert "0 of 5 runs are left" in printed
    assert checkpoints() == before
    assert "E(0) is a random network" in printed
    assert "standard nnU-Net starts from scratch" in printed


@pytest.mark.slow
def test_tables_and_what_is_missing(copied: Comparison) -> None:
    assert "**Missing:**" not in write_tables(copied)
    tables = {file.name for file in (copied.folder / "tables").iterdir()}
    assert {f"budgets_dice.{ending}" for ending in ("csv", "md", "tex")} <= tables
    assert {"statistics.csv", "conclusions.md", "selection.csv", "cost.md"} <= tables
    StrategyArm("assft").experiment(copied, 0).paths.round_file(1).unlink()
    shutil.rmtree(copied.folder / "nnunet")
    short = write_tables(copied)
    assert "ASSFT, seed 0: round 1 missing." in short
    assert "nnU-Net, seed 0: round 1 missing." in short
    runs = pd.read_csv(copied.folder / "runs.csv").set_index(["arm", "round"])["status"]
    assert runs["assft", 1] == runs["nnunet", 1] == "missing"
    assert runs["random", 1] == "done"
    left = {arm.id: arm.rounds_left(copied, 0) for arm in copied.arms}
    assert left == {"assft": 1, "random": 0, "nnunet": 1, "lower_bound": 0, "upper_bound": 0}


@pytest.mark.slow
def test_runs_in_other_processes_have_the_same_results(
    trained_root: Path, blobs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = ["--references", "nnunet", "lower_bound", "upper_bound"]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    assert compare(*arms, "--engine", "local", "--parts", "2") == 0
    said = re.findall(r"\] (\w+), seed 0: Dice", capsys.readouterr().out)
    assert said[:2] == ["assft", "random"]  # which reuses its round 0
    assert sorted(said[2:]) == ["lower_bound", "nnunet", "upper_bound"]
    keys = ["arm", "seed", "fold", "round", "case", "structure"]
    found, expected = (
        pd.read_csv(next(root.rglob("results.csv"))).sort_values(keys, ignore_index=True)
        for root in (blobs.parents[1], trained_root)
    )
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.slow
def test_folds_are_disjoint_and_extend_a_comparison(blobs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--test_split", "25%", "--references", "nnunet", "lower_bound", "upper_bound"]
    assert compare(*options) == 0
    assert compare("--test_folds", "2", *options) == 0
    printed = capsys.readouterr().out
    assert "5 of 10 runs are left" in printed
    assert "[  6/10] assft, seed 0, fold 1: Dice" in printed
    assert "4 test cases (0.25 of imagesTr, seed 12345, 2 disjoint folds)" in printed
    comparison, shared = read_comparison(next(blobs.parents[1].rglob("comparison.json")))
    results, runs, _ = collect(comparison, shared)
    folds = results.groupby("fold")["case"].unique()
    assert [len(cases) for cases in folds] == [2, 2]
    assert set(folds[0]) | set(folds[1]) == set(shared.test)
    assert len(shared.test) == 4
    assert set(runs["status"]) == {"done"}
    assert len(runs) == 2 * (2 + 2 + 1 + 1 + 1)
    assert "missing" not in write_tables(comparison).lower()


@pytest.mark.slow
def test_a_run_that_is_no_longer_on_the_disk_keeps_its_rows(copied: Comparison) -> None:
    _, shared = read_comparison(copied.file)

    def rows() -> dict[str, pd.DataFrame]:
        write_tables(copied)
        files = ("results", "runs", "pseudo_label_quality")
        keys = ["arm", "seed", "fold", "round"]
        tables = {name: pd.read_csv(copied.folder / f"{name}.csv") for name in files}
        return {name: table.sort_values(keys, kind="stable", ignore_index=True) for name, table in tables.items()}

    before = rows()
    paths = StrategyArm("assft").experiment(copied, 0).paths
    shutil.rmtree(paths.results)  # the bounds and nnU-Net have experiments of their own, or that of random
    after = rows()
    StrategyArm("assft").experiment(copied, 0)  # planned again, as by a command that runs other arms; not yet run
    for table_of in (after, rows()):
        for name, table in before.items():
            pd.testing.assert_frame_equal(table, table_of[name], check_dtype=False)  # whole numbers beside NaN
    (copied.folder / "pseudo_label_quality.csv").unlink()
    assert write_tables(copied)  # the rows of runs that are kept may lack a file
    others = replace(copied, settings=replace(copied.settings, initial_lr=1e-4))
    runs = collect(others, shared).runs
    assert set(runs.loc[runs["arm"] == "assft", "status"]) == {"missing"}  # other settings, other results


@pytest.mark.slow
def test_a_run_that_fails_does_not_stop_the_others(
    finished: Comparison, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = StrategyArm.run

    def fail_random(arm: StrategyArm, comparison: Comparison, seed: int, device: torch.device) -> list[float]:
        if arm == arm_of("random"):
            raise AssftError("no space")
        return run(arm, comparison, seed, device)

    monkeypatch.setattr(StrategyArm, "run", fail_random)
    assert compare() == 1
    printed = capsys.readouterr().out
    assert "[  2/5] random, seed 0: failed: no space" in printed
    assert "[  5/5] upper_bound, seed 0: Dice" in printed


def test_any_error_fails_its_run_only(nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = {"assft": PermissionError(13, "Permission denied", "x"), "random": MemoryError(), "cup": AssftError("No.")}

    def run(arm: StrategyArm, comparison: Comparison, seed: int, device: torch.device) -> list[float]:
        if arm.id in errors:
            raise errors[arm.id]
        return [0.25, 0.5]

    monkeypatch.setattr(StrategyArm, "run", run)
    said: list[str] = []
    failed = run_comparison(comparison_of("assft", "random", "cup", "badge"), torch.device("cpu"), said.append)
    assert failed == [
        "assft, seed 0: PermissionError: [Errno 13] Permission denied: 'x'",
        "random, seed 0: MemoryError: ",
        "cup, seed 0: No.",
    ]
    assert said[3].startswith("[  4/4] badge, seed 0: Dice 25.00 50.00 (")


def test_a_round_in_which_no_test_case_has_a_dice(nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with lesions, when the test cases have none and the network finds none."""
    monkeypatch.setattr(StrategyArm, "run", lambda *_: [None, math.nan, 0.5])
    said: list[str] = []
    assert run_comparison(comparison_of("random"), torch.device("cpu"), said.append) == []
    assert said[0].startswith("[  1/1] random, seed 0: Dice - - 50.00 (")


def test_a_seed_is_run_by_one_process(nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StrategyArm, "run", lambda *_: [0.5])
    comparison, cpu, said = comparison_of("random", seeds=(1, 2)), torch.device("cpu"), list[str]()
    with only_process(comparison.folder / ".lock_seed_1", "a test"):
        with pytest.raises(
            AssftError, match=f"^Process {os.getpid()} on .* is working on seed 1 of comparison 'compare'"
        ):
            run_comparison(comparison, cpu, said.append)
        assert said == []
        assert run_comparison(replace(comparison, seeds=(2,)), cpu, said.append) == []
    assert run_comparison(comparison, cpu, said.append) == []


@pytest.mark.slow
def test_rows_of_seeds_and_arms_that_another_command_runs_are_kept(copied: Comparison) -> None:
    _, shared = read_comparison(copied.file)
    collect(copied, shared)
    files = [copied.folder / f"{name}.csv" for name in ("results", "runs", "pseudo_label_quality")]
    before = [sorted(file.read_text().splitlines()) for file in files]
    alone = replace(copied, arms=(arm_of("random"),))
    assert set(collect(alone, shared).results["arm"]) == {"random"}
    assert [sorted(file.read_text().splitlines()) for file in files] == before
    results = collect(replace(alone, seeds=(0, 1)), shared)
    assert set(results.runs.loc[results.runs["seed"] == 1, "status"]) == {"missing"}
    assert [len(file.read_text().splitlines()) for file in files] == [
        len(before[0]),
        len(before[1]) + 2,
        len(before[2]),
    ]


def test_nothing_to_collect_is_one_line(blobs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("--collect") == 1
    assert "Dataset901_Blobs has no comparison 'compare'" in capsys.readouterr().err


@pytest.mark.slow
def test_estimate_runs_nothing(blobs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("--estimate") == 0
    printed = capsys.readouterr().out
    assert "5 of 5 runs are left, about " in printed
    assert "of standard nnU-Net" in printed
    assert {file.name for file in blobs.parents[1].rglob("*.pth")} == {"initial_network.pth"}
    assert compare("--collect") == 1
    assert "has no finished round" in capsys.readouterr().err


@pytest.mark.slow
def test_an_estimate_is_made_in_the_precision_of_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU that counts as a GPU."""
    monkeypatch.setattr(precision, "GPU", "cpu")
    monkeypatch.setenv("nnUNet_assft_autocast", "bf16")
    network, found = torch.nn.Conv3d(1, 2, 1), []
    network.register_forward_hook(lambda module, inputs, output: found.append(output.dtype))
    monkeypatch.setattr(estimate, "build_network", lambda *_, **__: network)
    dataset: Any = SimpleNamespace(dataset_json={"channel_names": {"0": "CT"}, "labels": {"background": 0, "ball": 1}})
    plan = {"architecture": {}, "batch_size": 1, "patch_size": (4, 4, 4)}
    estimate._times(plan, dataset, np.array([4, 4, 4]), torch.device("cpu"))
    assert set(found) == {torch.bfloat16}


def test_an_estimate_that_does_not_fit_into_memory_says_so(
    blobs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*args: object, **kwargs: object) -> torch.nn.Module:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore advice of torch")

    assert compare("--estimate") == 0  # plans
    monkeypatch.setattr("nnunet_assft.comparison.estimate.build_network", build)
    capsys.readouterr()
    assert compare("--estimate") == 0
    out = capsys.readouterr().out
    assert "does not fit into the free memory of this cpu (CUDA out of memory. Tried to allocate 2.00 GiB.)" in out
    assert "More advice" not in out


@pytest.mark.slow
def test_strategies_start_from_each_encoder_and_share_its_round_0(blobs: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    source = build_network(PRESETS["tiny"].architecture, 1, 1, initialise=True)
    write_encoder(tmp_path / "mae.safetensors", source.encoder, header("tiny"))
    starts = ["--encoders", "none", str(tmp_path / "mae.safetensors")]
    assert compare("--strategies", "random", "entropy", "--references", "none", "--epochs", "1", *starts) == 0
    of = {arm: Experiment.load(ExperimentPaths(DATASET, f"compare_{arm}_s0")) for arm in STARTS}
    weights = {arm: load_weights(experiment.paths.initial_network) for arm, experiment in of.items()}
    stem = source.encoder.conv_init.weight
    assert [torch.equal(weights[arm]["encoder.conv_init.weight"], stem) for arm in STARTS] == [False, False, True, True]
    files = [sha256_file(experiment.paths.checkpoint(0, "supervised")) for experiment in of.values()]
    assert files[0] == files[1] != files[2] == files[3]
    known, _ = read_comparison(of["random"].paths.results_of_dataset / "assft_compare" / "compare" / "comparison.json")
    results = pd.read_csv(known.folder / "results.csv")
    assert set(results["arm"]) == {"random", "entropy", "random+encoder=mae", "entropy+encoder=mae"}
    text = (known.folder / "tables" / "conclusions.md").read_text()
    assert "Encoder mae of further arms: mae.safetensors." in text
    assert "encoder mae, starts from mae.safetensors" in text


def test_the_first_case_of_an_arm_may_be_the_medoid_under_an_encoder(blobs: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    source = build_network(PRESETS["tiny"].architecture, 1, 1, initialise=True)
    write_encoder(tmp_path / "mae.safetensors", source.encoder, header("tiny"))
    arms = ("random", "random+first_case=medoid")
    assert (
        compare(
            "--strategies", *arms, "--references", "none", "--epochs", "1", "--encoders", f"{tmp_path}/mae.safetensors"
        )
        == 0
    )
    known, _ = read_comparison(
        ExperimentPaths(DATASET, "a").results_of_dataset / "assft_compare/compare/comparison.json"
    )
    drawn, by_medoid = (arm.experiment(known, 0) for arm in known.arms)
    assert Round.load(drawn.paths, 0).queried == drawn.permutation[:1]
    pool = by_medoid.pool
    rows = np.stack([np.load(by_medoid.paths.records("pretrained") / f"{case}.npz")["embedding"] for case in pool])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    medoid = pool[int((unit @ unit.sum(0)).argmax())]  # nearest to all others by the cosine
    assert Round.load(by_medoid.paths, 0).queried == (medoid,)
    assert medoid != drawn.permutation[0]  # so that they cannot share round 0
    text = (known.folder / "tables" / "conclusions.md").read_text()
    assert "the same first case for each seed (but for 'RAND, first_case=medoid')" in text
    assert "Pre-trained encoder: mae.safetensors" in text
    assert "random network" not in text

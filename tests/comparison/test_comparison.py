"""The comparison: its arms, what its runs share, and that standard nnU-Net in it is nnU-Net's own, to the last plan."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_assft.active.options import Options
from nnunet_assft.active.rounds import run_round
from nnunet_assft.active.state import Round
from nnunet_assft.active.training.stages import load_weights, weights_sha256
from nnunet_assft.cli.common import parse
from nnunet_assft.cli.compare import main as compare_main
from nnunet_assft.cli.compare import make_comparison
from nnunet_assft.cli.compare import parser as compare_parser
from nnunet_assft.comparison import comparison as comparison_module
from nnunet_assft.comparison import standard_nnunet
from nnunet_assft.comparison.collection import collect, write_tables
from nnunet_assft.comparison.comparison import (
    PAPER_STRATEGIES,
    Comparison,
    nnunet_job,
    parse_arms,
    run_arm,
    share_start,
)
from nnunet_assft.comparison.conclusions import find
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import read_json
from tests.conftest import plan_experiment, set_folders, write_dataset

CPU = torch.device("cpu")
DATASET = "Dataset901_Blobs"
SETTINGS = {
    "rounds": 1,
    "budget": "2",
    "preset": "tiny",
    "epochs": 2,
    "iterations_per_epoch": 2,
    "initial_lr": 1e-3,
    "options": Options(),
}
ARMS = ("random", "assft", "nnunet", "lower_bound", "upper_bound")
OPTIONS = [
    "-d",
    "901",
    "--strategies",
    "random",
    "assft",
    "--seeds",
    "0",
    "--rounds",
    "1",
    "--budget",
    "2",
    "--preset",
    "tiny",
    "--epochs",
    "2",
    "--iterations_per_epoch",
    "2",
    "--initial_lr",
    "1e-3",
    "-device",
    "cpu",
]


def comparison_of(*arms: str, seeds: tuple[int, ...] = (0,)) -> Comparison:
    return Comparison(DATASET, "compare", arms, seeds, SETTINGS)


def compare(*options: str) -> int:
    with pytest.raises(SystemExit) as ended:
        compare_main([*OPTIONS, *options])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison, made by the command. Treat it as read-only, or copy it."""
    root = tmp_path_factory.mktemp("comparison")
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_folders(root, monkeypatch)
        write_dataset(root / "nnUNet_raw")
        assert compare() == 0
    return root


@pytest.fixture
def in_finished(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    set_folders(finished, monkeypatch)
    return finished


# Arms ------------------------------------------------------------------------------------------------------------------


def test_groups_are_spelled_out_and_strategies_come_first() -> None:
    assert parse_arms(["paper", "random"], ["nnunet"]) == (*PAPER_STRATEGIES, "nnunet")
    assert len(PAPER_STRATEGIES) == 11
    assert set(parse_arms(["all"])) > set(PAPER_STRATEGIES)
    assert parse_arms(["random"], ["none"]) == ("random",)
    bare = compare_parser().parse_args(["-d", "901"])
    assert parse_arms(bare.strategies, bare.references) == (*PAPER_STRATEGIES, "nnunet", "lower_bound", "upper_bound")


def test_standard_nnunet_has_the_cases_of_a_strategy_that_is_there() -> None:
    assert parse_arms(["assft", "random"], ["nnunet"]) == ("assft", "random", "nnunet")
    assert parse_arms(["assft", "cup"], ["nnunet", "nnunet_finetuned"]) == (
        "assft",
        "cup",
        "nnunet@assft",
        "nnunet_finetuned@assft",
    )


@pytest.mark.parametrize(
    ("strategies", "references", "message"),
    [
        (["randon"], [], "--strategies 'randon' does not exist; there are: paper, all, random"),
        (["random", "nnunet"], [], "It is one of --references: nnunet"),
        (["random"], ["entropy"], "--references 'entropy' does not exist"),
        (["random"], ["lower_bound@random"], "'lower_bound@random' does not exist"),
        (["random"], ["nnunet@assft"], "trains on the labelled cases of assft, which is not among the strategies"),
        (["random"], ["nnunet@nobody"], "labelled cases of nobody, which is not among the strategies"),
        ([], ["lower_bound"], "--strategies names none"),
    ],
)
def test_arms_that_cannot_be_run(strategies: list[str], references: list[str], message: str) -> None:
    with pytest.raises(AssftError, match=message):
        parse_arms(strategies, references)


def test_options_that_are_not_typed_are_those_the_comparison_was_made_with(in_finished: Path) -> None:
    def asked(*options: str) -> Comparison:
        return make_comparison(parse(compare_parser(), ["-d", "901", *options]))

    made = asked(*OPTIONS[2:])
    assert made == asked() == Comparison.load(made.file)
    assert made.arms == ARMS
    assert asked("--seeds", "0", "1", "2") == replace(made, seeds=(0, 1, 2))  # typed, though it is the default
    assert asked("--references", "none").arms == ("random", "assft")
    assert asked("--preset", "ctfm").settings == made.settings | {"preset": "ctfm"}
    assert asked("--option", "tau_c=1").settings["options"].tau_c == 1
    assert asked("-e", "another").settings["preset"] == "ctfm"


# What runs share -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_shared_start_is_what_the_experiment_would_have_made_itself(blobs: Path) -> None:
    alone = plan_experiment(DATASET, "alone", strategy="coreset", **SETTINGS)
    rounds = [run_round(alone, r, CPU) for r in (0, 1)]
    source = plan_experiment(DATASET, "source", strategy="dkd_asd", **SETTINGS)
    run_round(source, 0, CPU)
    run_round(source, 1, CPU)  # embeds the pool by the pre-trained encoder
    target = plan_experiment(DATASET, "target", strategy="coreset", **SETTINGS)
    share_start(source, target, CPU)
    assert target.paths.checkpoint(0, "supervised").samefile(source.paths.checkpoint(0, "supervised"))
    evaluated = target.paths.step_file(0, "evaluate").stat().st_mtime_ns
    for done in rounds:
        again = run_round(target, done.round, CPU)
        assert replace(again, model=done.model) == done
        assert again.model.weights_sha256 == done.model.weights_sha256
        assert again.model.checkpoint.replace("target", "alone") == done.model.checkpoint
    assert (
        target.paths.step_file(0, "evaluate").stat().st_mtime_ns == evaluated
    )  # nothing of round 0 was computed again
    assert {file.name for file in target.paths.records("pretrained").glob("*.npz")} == {
        f"{case}.npz" for case in target.pool
    }


@pytest.mark.slow
def test_nothing_is_shared_between_experiments_that_differ(blobs: Path) -> None:
    source = plan_experiment(DATASET, "source", strategy="random", **SETTINGS)
    run_round(source, 0, CPU)
    for name, changed in (("seed", {"seed": 1}), ("longer", {"epochs": 40})):
        target = plan_experiment(DATASET, name, strategy="random", **{**SETTINGS, **changed})
        share_start(source, target, CPU)
        assert not target.paths.checkpoint(0, "supervised").exists()


# Standard nnU-Net ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_standard_nnunet_is_stock(in_finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same plans and fingerprint as nnU-Net's own commands make of a dataset of just these cases; same trainer but for its length."""
    comparison = comparison_of(*ARMS)
    source = comparison.experiment("random", 0)
    job = nnunet_job(comparison, "nnunet", 0, 1, source, CPU)
    labelled = Round.load(source.paths, 1).labelled
    assert set(job.images) == set(job.labels) == set(labelled)
    assert len(labelled) == 3

    raw = tmp_path / "nnUNet_raw" / DATASET  # an ordinary dataset of the labelled cases, as a user would have it
    for case in labelled:
        for kind, name in (("images", f"{case}_0000"), ("labels", case)):
            (raw / f"{kind}Tr").mkdir(parents=True, exist_ok=True)
            shutil.copy2(in_finished / "nnUNet_raw" / DATASET / f"{kind}Tr" / f"{name}.nii.gz", raw / f"{kind}Tr")
    content = read_json(in_finished / "nnUNet_raw" / DATASET / "dataset.json") | {"numTraining": 3}
    (raw / "dataset.json").write_text(json.dumps(content))
    folders = {name: str(tmp_path / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for command in (
        ["nnUNetv2_extract_fingerprint", "-d", "901", "-np", "1"],
        ["nnUNetv2_plan_experiment", "-d", "901"],
    ):
        executable = Path(sys.executable).with_name(command[0])
        subprocess.run(
            [executable, *command[1:]],
            env=os.environ | folders | {"nnUNet_n_proc_DA": "1"},
            check=True,
            capture_output=True,
        )
    for file in ("nnUNetPlans.json", "dataset_fingerprint.json"):
        assert read_json(job.preprocessed / file) == read_json(tmp_path / "nnUNet_preprocessed" / DATASET / file)

    assert torch.load(job.checkpoint, map_location="cpu", weights_only=False)["trainer_name"] == "nnUNetTrainer"
    for name in folders:
        monkeypatch.setenv(name, str(Path(job.folder) / name))
    ours = standard_nnunet.make_trainer(job)
    plans, dataset_json = (read_json(job.preprocessed / f"{name}.json") for name in ("nnUNetPlans", "dataset"))
    stock = nnUNetTrainer({**plans, "continue_training": False}, "3d_fullres", "all", dataset_json, CPU)
    assert type(ours) is nnUNetTrainer
    different = {
        name
        for name, value in vars(stock).items()
        if isinstance(value, int | float | str | bool | tuple | list | None) and getattr(ours, name) != value
    }
    assert different <= {"num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch", "log_file"}
    assert (ours.num_epochs, ours.num_iterations_per_epoch) == (2, 2)


@pytest.mark.slow
def test_fine_tuned_nnunet_starts_from_the_round_before(
    in_finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = nnunet_job(comparison_of(*ARMS), "nnunet", 0, 1, comparison_of(*ARMS).experiment("random", 0), CPU)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(Path(job.folder) / name))
    before = load_weights(job.checkpoint)
    tuned = standard_nnunet.make_trainer(replace(job, start=str(job.checkpoint)))
    weights = tuned.network.state_dict()
    carried = {name for name in before if torch.equal(before[name], weights[name])}
    assert {name for name in before if "seg_layers" not in name} <= carried
    other = {name: torch.zeros(3) if name.endswith("bias") else value for name, value in before.items()}
    torch.save({"network_weights": other}, tmp_path / "other.pth")
    standard_nnunet.make_trainer(
        replace(job, start=str(tmp_path / "other.pth"))
    )  # another network: from scratch, said in the log


@pytest.mark.slow
def test_a_checkpoint_that_was_cut_short_is_trained_again(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nnU-Net was killed while it wrote its last checkpoint; and the user stands in a folder with a package of our name."""
    shutil.copytree(finished / "nnUNet_results", tmp_path / "nnUNet_results")
    set_folders(finished, monkeypatch)
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "nnUNet_results"))
    (tmp_path / "nnunet_assft").mkdir()
    (tmp_path / "nnunet_assft" / "__init__.py").write_text("raise ImportError('not this one')")
    monkeypatch.chdir(tmp_path)
    comparison = comparison_of(*ARMS)
    job = nnunet_job(comparison, "nnunet", 0, 1, comparison.experiment("random", 0), CPU)
    trained = job.checkpoint.stat().st_mtime_ns
    predictions = standard_nnunet.run_job(job)
    assert job.checkpoint.stat().st_mtime_ns == trained  # a folder that was moved is the same job
    weights = load_weights(job.checkpoint)
    for file in (*predictions.values(), Path(job.folder) / "done.json", Path(job.folder) / "trained.json"):
        file.unlink()
    for name in ("checkpoint_final.pth", "checkpoint_latest.pth"):
        (job.fold / name).write_bytes(job.checkpoint.read_bytes()[:5000])
    assert all(file.is_file() for file in standard_nnunet.run_job(job).values())
    again = load_weights(job.checkpoint)
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_a_job_that_fails_says_where_to_look(tmp_path: Path) -> None:
    job = standard_nnunet.Job(
        folder=str(tmp_path / "job"),
        dataset=DATASET,
        dataset_json={"channel_names": {"0": "MRI"}, "labels": {"background": 0, "ball": 1}, "file_ending": ".nii.gz"},
        images={"a": [str(tmp_path / "gone.nii.gz")]},
        labels={},
        test_images={},
        epochs=1,
        iterations_per_epoch=1,
        seed=0,
        device="cpu",
    )
    with pytest.raises(AssftError, match=r"exit code 1\. The end of .*log\.txt"):
        standard_nnunet.run_job(job)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot end a process with its parent")
def test_nnunets_process_ends_with_the_comparison(tmp_path: Path) -> None:
    call = "from nnunet_assft.active.training.stages import die_with_parent; die_with_parent()"
    sleeper = f"import time; {call}; print('ready', flush=True); time.sleep(60)"
    parent = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {sleeper!r}]); print(p.pid, flush=True); p.wait()"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert process.stdout.readline() == "ready\n"
        process.kill()
    state = Path(f"/proc/{child}/stat")
    for _ in range(100):
        if not state.is_file() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("it is still there")


# The whole -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_results_of_every_arm(in_finished: Path) -> None:
    comparison = comparison_of(*ARMS)
    results, runs = collect(comparison)
    expected = {
        ("random", 0, 1),
        ("random", 1, 3),
        ("assft", 0, 1),
        ("assft", 1, 3),
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
    assert runs.set_index(["arm", "round"]).loc[("assft", 1), "n_pseudo"] == 2
    annotated = runs.groupby("arm")["annotated_cases"].sum().to_dict()
    assert annotated == {"random": 3, "assft": 3, "nnunet": 3, "lower_bound": 0, "upper_bound": 8}
    assert (runs.loc[runs["round"] == 1, "training_minutes"] > 0).all()
    round_1 = Round.load(comparison.experiment("random", 0).paths, 1)
    of_round = groups["random", 1, 3].groupby("case")["dice"].mean().mean()
    assert of_round == pytest.approx(round_1.dice["mean"])
    first = {
        arm: Round.load(comparison.experiment(arm, 0).paths, 0).model.weights_sha256 for arm in ("random", "assft")
    }
    assert first["random"] == first["assft"]


@pytest.mark.slow
def test_the_same_command_again_trains_nothing(in_finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def checkpoints() -> dict[str, int]:
        return {str(file): file.stat().st_mtime_ns for file in in_finished.rglob("*.pth")}

    before = checkpoints()
    assert compare() == 0
    printed = capsys.readouterr().out
    assert "0 of 5 runs are left" in printed
    assert checkpoints() == before
    assert "E(0) is a random network" in printed
    assert "standard nnU-Net starts from scratch" in printed


@pytest.mark.slow
def test_tables_and_what_is_missing(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(finished / "nnUNet_results", tmp_path / "nnUNet_results")
    set_folders(finished, monkeypatch)
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "nnUNet_results"))
    comparison = comparison_of(*ARMS)
    whole = write_tables(comparison)
    assert "**Missing:**" not in whole
    tables = {file.name for file in (comparison.folder / "tables").iterdir()}
    assert {f"budgets_dice.{ending}" for ending in ("csv", "md", "tex")} <= tables
    assert {"statistics.csv", "conclusions.md", "selection.csv", "cost.md"} <= tables
    comparison.experiment("assft", 0).paths.round_file(1).unlink()
    shutil.rmtree(comparison.folder / "nnunet")
    short = write_tables(comparison)
    assert "ASSFT, seed 0: round 1 missing." in short
    assert "nnU-Net, seed 0: round 1 missing." in short
    runs = pd.read_csv(comparison.folder / "runs.csv").set_index(["arm", "round"])["status"]
    assert runs["assft", 1] == runs["nnunet", 1] == "missing"
    assert runs["random", 1] == "done"


@pytest.mark.slow
def test_a_run_that_fails_does_not_stop_the_others(
    in_finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail_random(comparison: Comparison, arm: str, seed: int, device: torch.device) -> list[float]:
        if arm == "random":
            raise AssftError("no space")
        return run_arm(comparison, arm, seed, device)

    monkeypatch.setattr(comparison_module, "run_arm", fail_random)
    assert compare() == 1
    printed = capsys.readouterr().out
    assert "[  1/5] random, seed 0: failed: no space" in printed
    assert "[  5/5] upper_bound, seed 0: Dice" in printed


def test_nothing_to_collect_is_one_line(blobs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("--collect") == 1
    assert "Dataset901_Blobs has no comparison 'compare'" in capsys.readouterr().err


@pytest.mark.slow
def test_estimate_runs_nothing(blobs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("--estimate") == 0
    printed = capsys.readouterr().out
    assert "5 of 5 runs are left, about " in printed
    assert "of standard nnU-Net" in printed
    assert not list(blobs.parents[1].rglob("*.pth")) or all(
        f.name == "initial_network.pth" for f in blobs.parents[1].rglob("*.pth")
    )


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"not a checkpoint"])
def test_a_broken_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "checkpoint_final.pth").write_bytes(content)
    with pytest.raises(AssftError, match=r"The checkpoint .*checkpoint_final\.pth cannot be read"):
        load_weights(tmp_path / "checkpoint_final.pth")


def test_a_single_strategy_is_not_said_to_have_trained_longer_than_others(in_finished: Path) -> None:
    comparison = comparison_of(*ARMS)
    results, runs = collect(comparison)
    content = read_json(comparison.file)
    sentence = "ASSFT's network has had 4 more optimisation steps"  # 1 round, 2 epochs of 2 iterations
    assert sentence in find(content, results, runs, None).conclusion
    alone = results[results["arm"].isin(["assft", "nnunet"])]
    assert "ASSFT's network" not in find(content | {"arms": ["assft", "nnunet"]}, alone, runs, None).conclusion


def test_weights_of_all_runs_are_ordinary_checkpoints(in_finished: Path) -> None:
    for file in (in_finished / "nnUNet_results").rglob("checkpoint_final.pth"):
        assert len(weights_sha256(load_weights(file))) == 64

"""Algorithm 1 end to end on small real trainings: its counts, no leak of labels, and any kill at any step."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_assft.active import metrics
from nnunet_assft.active.annotation import queried_cases
from nnunet_assft.active.context import open_context
from nnunet_assft.active.options import Options
from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.rounds import run_round
from nnunet_assft.active.state import Experiment, Round, finished_rounds
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.active.training.committee import train_committee
from nnunet_assft.active.training.training_set import remove_training_sets
from nnunet_assft.cli.round import main as round_main
from nnunet_assft.errors import AssftError, WaitingForAnnotation
from nnunet_assft.network.checkpoints import load_weights
from nnunet_assft.runtime.files import read_json, sha256_file
from nnunet_assft.runtime.locks import only_process
from tests.conftest import (
    CPU,
    TINY,
    Trained,
    blob_case,
    plan_experiment,
    run_all,
    start_round_again,
    write_dataset,
    write_volume,
)
from tests.kills import before_replace, is_killed

BLOBS = "Dataset901_Blobs"


def plan_and_run(dataset: str = BLOBS, name: str = "assft", **settings: Any) -> list[Round]:
    return run_all(plan_experiment(dataset, name, **{**TINY, **settings}))


def decisions(rounds: list[Round]) -> list[dict]:
    """All that a round decides or makes; Dice is left out, since it alone may see test labels."""
    return [{key: value for key, value in asdict(done).items() if key != "dice"} for done in rounds]


# Algorithm 1 ----------------------------------------------------------------------------------------------------------


def test_counts_of_every_round(trained: Trained) -> None:
    rounds = trained.rounds
    pool = {f"case_{i:02d}" for i in range(8)}
    for r, done in enumerate(rounds):
        assert len(done.labelled) == 1 + 2 * r  # |T_l| = 1 + N_B r
        assert len(done.unlabelled) == 7 - 2 * r
        assert set(done.labelled) | set(done.unlabelled) == pool
        assert not set(done.labelled) & set(done.unlabelled)
        assert not pool & set(done.test)
        assert len(done.queried) == (2 if r else 1)
        assert set(done.queried) <= set(done.labelled)
        assert len(done.pseudo_labelled) == min(2 * r, len(done.unlabelled))  # N_SU = N_B r, as far as T_u goes
        assert set(done.pseudo_labelled) <= set(done.unlabelled)
        assert not set(done.queried) & set(done.excluded)
    assert set(rounds[2].excluded) == set(rounds[1].pseudo_labelled)  # rule 3.4
    assert [done.model.stage for done in rounds] == ["supervised", "semi", "semi"]


@pytest.mark.parametrize(
    ("strategy", "second_stage", "stages"),
    [
        ("random", "strategy", ("supervised",)),
        ("random", "supervised", ("supervised", "semi")),
        ("random", "pseudo", ("supervised", "semi")),
        ("assft", "none", ("supervised",)),
    ],
)
def test_a_second_stage_of_choice(blobs: Path, strategy: str, second_stage: str, stages: tuple[str, ...]) -> None:
    options = Options(second_stage=second_stage)
    experiment = plan_experiment(BLOBS, **{**TINY, "rounds": 1, "epochs": 1}, strategy=strategy, options=options)
    start, done = run_all(experiment)
    files = {file.stem for file in experiment.paths.stages.glob("round_*.json")}
    assert files == {"round_00_supervised", *(f"round_01_{stage}" for stage in stages)}
    assert (start.model.stage, done.model.stage) == ("supervised", stages[-1])
    assert len(done.pseudo_labelled) == (2 if second_stage == "pseudo" else 0)
    if len(stages) == 2:
        second = read_json(experiment.paths.stage_file(1, "semi"))
        assert set(second["cases"]) == {*done.labelled, *done.pseudo_labelled}
        assert second["epochs"] == read_json(experiment.paths.stage_file(1, "supervised"))["epochs"]


@pytest.mark.parametrize(
    ("strategy", "deep_supervision"), [("assft", False), ("badge", True)], ids=["assft", "badge_deep_supervision"]
)
def test_rounds_with_nnunets_own_network(blobs: Path, strategy: str, deep_supervision: bool) -> None:
    settings = {**TINY, "rounds": 1, "epochs": 1, "preset": "resenc_tiny"}
    experiment = plan_experiment(BLOBS, **settings, strategy=strategy, deep_supervision=deep_supervision)
    start, done = run_all(experiment)
    assert (len(start.labelled), len(done.labelled)) == (1, 3)
    assert len(done.pseudo_labelled) == (2 if strategy == "assft" else 0)
    assert 0 <= done.dice["mean"] <= 1
    plans = read_json(experiment.paths.plans)["configurations"]["3d_fullres"]
    assert plans["architecture"]["network_class_name"].endswith(".ResidualEncoderUNet")
    results = blobs.parents[1] / "nnUNet_results" / BLOBS
    before, after = (load_weights(results / model.checkpoint) for model in (start.model, done.model))
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    layers = {f"decoder.seg_layers.{level}.weight" for level in range(3)}
    if deep_supervision:
        assert changed >= layers - {"decoder.seg_layers.0.weight"}  # whose loss has the weight 0
    else:
        assert changed & layers == {"decoder.seg_layers.2.weight"}
    assert "encoder.stem.convs.0.conv.weight" in changed


def test_training_sets_hold_exactly_the_cases_of_their_stage(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, last = trained.experiment, trained.rounds[2]
    stages = experiment.paths.stages
    assert [folder.name for folder in stages.glob("round_*") if folder.is_dir()] == ["round_02_supervised"]
    start_round_again(experiment, 2)
    with monkeypatch.context() as patch:
        patch.setattr("nnunet_assft.active.rounds.remove_training_sets", lambda paths, r: None)
        assert run_round(experiment, 2, CPU) == last
    for stage, cases in (("supervised", last.labelled), ("semi", (*last.labelled, *last.pseudo_labelled))):
        assert {file.name for file in experiment.paths.training_set(2, stage).iterdir()} == {
            "checksums",
            *(f"{c}{e}" for c in cases for e in (".b2nd", "_seg.b2nd", ".pkl")),
        }
    remove_training_sets(experiment.paths, 1)  # as after a round that was made again
    assert experiment.paths.training_set(2, "semi").is_dir()
    remove_training_sets(experiment.paths, 2)
    assert [folder.name for folder in stages.glob("*round_*") if folder.is_dir()] == ["round_02_supervised"]


def test_pseudo_labels_are_in_the_raw_dataset_and_labels_are_untouched(trained: Trained) -> None:
    root, _, rounds = trained
    raw = root / "nnUNet_raw/Dataset901_Blobs"
    assert sorted(file.name for file in (raw / "labelsTr").iterdir()) == [f"case_{i:02d}.nii.gz" for i in range(8)]
    for i in range(8):
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(raw / f"labelsTr/case_{i:02d}.nii.gz")))
        np.testing.assert_array_equal(label, blob_case(i)[1])
    for r in (1, 2):
        folder = raw / f"assft/assft/round_{r:02d}"
        provenance = json.loads((folder / "provenance.json").read_text())
        supervised = json.loads(
            (root / f"nnUNet_results/Dataset901_Blobs/assft/assft/steps/round_{r:02d}_supervised.json").read_text()
        )
        assert provenance["model"] == supervised["result"]
        assert provenance["round"] == r
        assert sorted(provenance["cases"]) == sorted(rounds[r].pseudo_labelled)
        assert sorted(entry["rank"] for entry in provenance["cases"].values()) == list(
            range(1, len(provenance["cases"]) + 1)
        )
        for case, entry in provenance["cases"].items():
            file = folder / "pseudo_labels" / f"{case}.nii.gz"
            assert sha256_file(file) == entry["sha256"]
            assert entry["reliability"] == pytest.approx(entry["confidence"] * (1 - entry["distance"]))  # Eq. 26
            image = sitk.ReadImage(str(raw / f"imagesTr/{case}_0000.nii.gz"))
            label = sitk.ReadImage(str(file))
            for geometry in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
                assert getattr(image, geometry)() == getattr(label, geometry)()
        listed = json.loads((folder / "dataset.json").read_text())
        assert sorted(listed["dataset"]) == sorted({*rounds[r].labelled, *rounds[r].pseudo_labelled})
        assert listed["numTraining"] == len(listed["dataset"])


def test_scores_splits_and_records(trained: Trained) -> None:
    root, _, rounds = trained
    results = root / "nnUNet_results/Dataset901_Blobs/assft/assft"
    for r in (1, 2):
        with open(results / f"scores_round_{r:02d}.csv") as file:
            rows = list(csv.DictReader(file))
        ranked = sorted((row for row in rows if row["query_rank"]), key=lambda row: int(row["query_rank"]))
        assert [row["case"] for row in ranked] == list(rounds[r].queried)
        best = sorted(rows, key=lambda row: (-float(row["q"]), -float(row["dkd"]), row["case"]))
        assert [row["case"] for row in best[: len(ranked)]] == [row["case"] for row in ranked]
    splits = json.loads((results / "splits.json").read_text())
    assert [set(entry["train"]) for entry in splits] == [{*done.labelled, *done.pseudo_labelled} for done in rounds]
    assert all(set(entry["val"]) <= set(entry["train"]) for entry in splits)
    sizes = [file.stat().st_size for file in (results / "records").rglob("*.npz")]
    assert len(sizes) == 8 + (7 + 8) + (
        5 - 2 + 8
    )  # pre-trained; query and select of rounds 1 and 2, less the 2 excluded
    assert max(sizes) < 64 * 1024


def test_a_strategy_without_pseudo_labels_has_one_stage_per_round(trained: Trained) -> None:
    rounds = plan_and_run(name="random", strategy="random", rounds=1)
    assert rounds[0].labelled == trained.rounds[0].labelled  # the same first case for every strategy
    assert [done.model.stage for done in rounds] == ["supervised", "supervised"]
    assert rounds[1].queried == trained.experiment.permutation[1:3]  # nested: the permutation is consumed in order
    assert rounds[1].pseudo_labelled == ()
    assert (
        not ExperimentPaths(BLOBS, "random").records("pretrained").exists()
    )  # nothing is computed that nobody asked for


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_queries_from_what_round_0_has_left(strategy: str, trained: Trained) -> None:
    """With a human as annotator, so that the round stops after its query. The labels are gone: no query reads one."""
    start = trained.rounds[0]
    experiment = plan_experiment(
        BLOBS, "other", **{**TINY, "strategy": strategy, "annotator": "human", "labelled": "none"}
    )
    start.save(experiment.paths)
    trained_on = experiment.paths.trained_on(0, "supervised")  # read by the committee of sann
    trained_on.parent.mkdir(parents=True)
    shutil.copy(trained.experiment.paths.trained_on(0, "supervised"), trained_on)
    for file in (experiment.paths.raw / "labelsTr").iterdir():
        if file.name.removesuffix(".nii.gz") not in start.labelled:
            file.unlink()
    with pytest.raises(WaitingForAnnotation) as waiting:
        run_round(experiment, 1, CPU)
    queried = queried_cases(experiment, 1)
    assert len(set(queried)) == experiment.n_query
    assert set(queried) <= set(start.unlabelled)
    assert all(case in str(waiting.value) for case in queried)
    if STRATEGIES[strategy].query is STRATEGIES["assft"].query:
        assert tuple(queried) == trained.rounds[1].queried
    with open(experiment.paths.scores_file(1)) as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert sorted(rows) == sorted(start.unlabelled)
    assert [rows[case]["query_rank"] for case in queried] == ["1", "2"]
    needs_pretrained = "pretrained_embeddings" in STRATEGIES[strategy].needs_with(experiment.options)
    assert experiment.paths.records("pretrained").exists() == needs_pretrained  # nothing is computed unasked


def test_a_committee_of_bootstrap_samples_is_trained_as_extra_folds(trained: Trained) -> None:
    """The supervised stage of round 1 again and again: same start, same epochs, other samples and seeds."""
    experiment, paths = trained.experiment, trained.experiment.paths
    committee = train_committee(open_context(experiment, CPU), finished_rounds(experiment)[1])
    assert {model.checkpoint for model in committee.values()} == {
        f"nnUNetTrainerASSFTCommittee__nnUNetASSFTPlans__3d_fullres/fold_{fold}/checkpoint_final.pth"
        for fold in (11, 12, 13, 14)
    }
    supervised = read_json(paths.stage_file(1, "supervised"))
    weights = {read_json(paths.step_file(1, "supervised"))["result"]["weights_sha256"]}
    assert len(weights | {model.weights_sha256 for model in committee.values()}) == 5
    samples = []
    for member in committee:
        stage = read_json(paths.stage_file(1, member))
        for key in ("start_from", "start_sha256", "epochs"):
            assert stage[key] == supervised[key]
        samples.append({case: entry.get("copies", 1) for case, entry in stage["cases"].items()})
        assert set(samples[-1]) <= set(trained.rounds[1].labelled)
        assert sum(samples[-1].values()) == len(trained.rounds[1].labelled)
    assert any(sample != samples[0] for sample in samples)
    assert (
        train_committee(open_context(experiment, CPU), finished_rounds(experiment)[1]) == committee
    )  # kept, not trained again


def with_ignore_label(folder: Path) -> None:
    """Declares label 3 as ignore, and gives it to the last third of every label."""
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**content, "labels": {**content["labels"], "ignore": 3}}))
    for i in range(11):
        label = blob_case(i)[1]
        label[12:] = 3
        write_volume(folder / ("labelsTr" if i < 8 else "labelsTs") / f"case_{i:02d}.nii.gz", label)


def test_ignored_voxels_are_no_class(blobs: Path) -> None:
    with_ignore_label(blobs)
    rounds = plan_and_run(rounds=1, epochs=1)
    paths = ExperimentPaths(BLOBS, "assft")
    assert set(rounds[1].dice["per_structure"]) == {"ball", "box"}
    record = np.load(next(paths.records("round_01_query").glob("*.npz")))
    assert len(json.loads(str(record["meta"]))["sums"]["class_voxels"]) == 3  # background, ball, box
    for case in rounds[1].pseudo_labelled:
        file = paths.pseudo_label_folder(1) / "pseudo_labels" / f"{case}.nii.gz"
        assert set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(file))))) <= {0, 1, 2}
    for case in rounds[1].test:  # what lies in the ignored part does not count
        prediction = sitk.GetArrayFromImage(sitk.ReadImage(str(paths.test_predictions(1) / f"{case}.nii.gz")))[:12]
        reference = blob_case(int(case[-2:]))[1][:12]
        both = ((prediction == 1) & (reference == 1)).sum()
        expected = 2 * both / ((prediction == 1).sum() + (reference == 1).sum())
        assert rounds[1].dice["per_case"][case]["ball"] == pytest.approx(expected)


def test_options_reach_the_round(blobs: Path) -> None:
    """All at once: medoid first, labelled cases in PD, every case pseudo-labelled, refined, and drawn half as often."""
    with_ignore_label(blobs)
    names = ["first_case=medoid", "pd_labelled=true", "selection=all", "ignore_margin=0.6", "largest_component=true"]
    options = Options.parse([*names, "pseudo_weight=0.5", "exclude_pseudo=false"])
    settings = {**TINY, "options": options, "epochs": 1}
    rounds = plan_and_run(**settings)
    experiment = Experiment.load(ExperimentPaths(BLOBS, "assft"))
    assert experiment.options == options
    e_pre = [np.load(experiment.paths.records("pretrained") / f"{case}.npz")["embedding"] for case in experiment.pool]
    assert rounds[0].queried == (experiment.pool[metrics.medoid(np.stack(e_pre))],)
    assert rounds[1].pseudo_labelled == rounds[1].unlabelled
    assert rounds[2].excluded == ()
    cases = read_json(experiment.paths.stage_file(1, "semi"))["cases"]
    assert {entry["kind"]: entry.get("copies", 1) for entry in cases.values()} == {"human": 2, "pseudo": 1}
    provenance = read_json(experiment.paths.pseudo_label_folder(1) / "provenance.json")
    assert (provenance["largest_component"], provenance["ignore_margin"]) == (True, 0.6)
    assert all(len(entry["voxels"]) == 4 for entry in provenance["cases"].values())
    assert any(entry["voxels"][3] > 0 for entry in provenance["cases"].values())  # uncertain voxels are ignored
    with pytest.raises(AssftError, match=r"\(pseudo_weight was 0.5, now 1.0\)"):
        plan_experiment(901, **{**settings, "options": replace(options, pseudo_weight=1.0)})


def test_an_ignore_margin_without_ignore_label_is_refused(blobs: Path) -> None:
    with pytest.raises(
        AssftError, match=r'option ignore_margin needs an ignore label.*Add "ignore": 3 to the labels in dataset.json'
    ):
        plan_experiment(901, options=Options(ignore_margin=0.1), **TINY)


def test_small_pools_are_used_up_and_no_further(nnunet_folders: Path) -> None:
    write_dataset(nnunet_folders / "nnUNet_raw", n_pool=4, n_test=1)
    experiment = plan_experiment(BLOBS, **{**TINY, "budget": "5", "epochs": 1})
    run_round(experiment, 0, CPU)
    done = run_round(experiment, 1, CPU)
    assert sorted(done.queried) == sorted(set(experiment.pool) - {experiment.permutation[0]})
    assert done.unlabelled == ()
    assert done.pseudo_labelled == ()
    with pytest.raises(AssftError, match="nothing left to query"):
        run_round(experiment, 2, CPU)


# Labels at hand -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["assft", "random", "coreset"])
def test_round_0_trains_on_the_labels_at_hand(blobs: Path, tmp_path: Path, strategy: str) -> None:
    """A benchmark that starts with three given cases; the budget and tau of its rounds are those of any other."""
    (tmp_path / "start.txt").write_text("case_01 case_04 case_06")
    experiment = plan_experiment(
        BLOBS, **{**TINY, "rounds": 1, "epochs": 1}, strategy=strategy, labelled=str(tmp_path / "start.txt")
    )
    assert queried_cases(experiment, 0) == ["case_01", "case_04", "case_06"]
    first, second = run_all(experiment)
    assert first.labelled == first.queried == ("case_01", "case_04", "case_06")
    assert set(read_json(experiment.paths.stage_file(0, "supervised"))["cases"]) == set(first.labelled)
    assert len(second.queried) == 2  # N_B, which the labels at hand do not count towards
    assert set(second.labelled) == {*first.labelled, *second.queried}
    assert len(second.pseudo_labelled) == (2 if strategy == "assft" else 0)  # N_SU = N_B r
    if strategy == "random":
        left = [case for case in experiment.permutation if case not in first.labelled]
        assert list(second.queried) == left[:2]


def test_a_human_experiment_asks_for_no_first_case_if_there_are_labels(blobs: Path) -> None:
    for file in (blobs / "labelsTr").iterdir():
        if file.name not in ("case_02.nii.gz", "case_05.nii.gz"):
            file.unlink()
    experiment = plan_experiment(BLOBS, **{**TINY, "epochs": 1}, annotator="human")
    assert run_round(experiment, 0, CPU).labelled == ("case_02", "case_05")
    with pytest.raises(WaitingForAnnotation, match="annotation of 2 of 2 cases"):
        run_round(experiment, 1, CPU)


# No leak --------------------------------------------------------------------------------------------------------------


def restart(trained: Trained) -> Path:
    """Undoes everything but the raw dataset, whose folder is returned."""
    for name in ("nnUNet_preprocessed", "nnUNet_results"):
        shutil.rmtree(trained.root / name)
        (trained.root / name).mkdir()
    shutil.rmtree(trained.experiment.paths.raw / "assft")
    return trained.experiment.paths.raw


def test_noise_in_place_of_hidden_labels_changes_nothing(trained: Trained) -> None:
    rounds, raw = trained.rounds, restart(trained)
    for i in range(11):
        case, label = f"case_{i:02d}", blob_case(i)[1]
        if case not in rounds[-1].labelled:
            noise = np.random.default_rng(7).integers(0, 3, label.shape).astype(np.uint8)
            write_volume(raw / ("labelsTr" if i < 8 else "labelsTs") / f"{case}.nii.gz", noise)
    again = plan_and_run()
    assert decisions(again) == decisions(rounds)
    assert again[-1].dice["mean"] != rounds[-1].dice["mean"]  # the test labels were noise indeed


def test_a_label_that_appears_only_after_its_query_gives_the_same_rounds(trained: Trained, tmp_path: Path) -> None:
    """The human round trip, and the proof that no label is read before its query: it is not there."""
    rounds, raw = trained.rounds, restart(trained)
    hidden = tmp_path / "hidden"
    (raw / "labelsTr").rename(hidden)
    (raw / "labelsTr").mkdir()
    experiment = plan_experiment(BLOBS, annotator="human", **TINY)
    again = []
    for r in range(3):
        with pytest.raises(WaitingForAnnotation, match="waiting for the annotation") as waiting:
            run_round(experiment, r, CPU)
        assert all(case in str(waiting.value) for case in rounds[r].queried)
        for case in rounds[r].queried:
            shutil.copy(hidden / f"{case}.nii.gz", raw / "labelsTr")
        again.append(run_round(experiment, r, CPU))
    assert decisions(again) == decisions(rounds)


# Kill and resume ------------------------------------------------------------------------------------------------------


def in_training_step(n: int) -> None:
    """SIGKILL in the n-th training iteration of this process."""
    calls, train_step = 0, nnUNetTrainer.train_step

    def counted(self: nnUNetTrainer, batch: dict) -> dict:
        nonlocal calls
        calls += 1
        if calls == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return train_step(self, batch)

    nnUNetTrainer.train_step = counted


@pytest.mark.parametrize(
    ("kill", "at_least"),
    # nine files: a killed planning rewrites some before it comes to something new, and a case has four
    [(lambda kills: before_replace(9 + kills % 4), 12), (lambda kills: in_training_step(4), 4)],
    ids=["between two files, all the way", "inside every training"],
)
def test_killed_again_and_again_the_same_command_finishes_with_the_same_result(
    kill: Callable[[int], None], at_least: int, trained: Trained
) -> None:
    """Rounds 0 and 1, which have every step. With two iterations and a checkpoint per epoch, the 4th iteration of a
    process is in a resumed training.
    """

    def work() -> None:
        experiment = plan_experiment(BLOBS, **TINY)
        for r in (0, 1):
            run_round(experiment, r, CPU)

    pseudo_labels = {
        file: sha256_file(file) for file in trained.experiment.paths.pseudo_label_folder(1).rglob("*.nii.gz")
    }
    restart(trained)
    kills = 0
    while is_killed(partial(kill, kills), work):
        kills += 1
        assert kills < 60
    assert kills >= at_least
    assert decisions(finished_rounds(trained.experiment)) == decisions(trained.rounds[:2])
    assert {file: sha256_file(file) for file in pseudo_labels} == pseudo_labels


def test_a_finished_round_is_not_run_again(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nnUNetTrainer, "train_step", None)
    assert run_round(plan_experiment(BLOBS, **TINY), 2, CPU) == trained.rounds[2]


# Refusals -------------------------------------------------------------------------------------------------------------


def undo(trained: Trained, *rounds: int) -> None:
    """What these rounds and all later ones left in the results; earlier rounds stay."""
    paths = trained.experiment.paths
    for r in rounds:
        paths.round_file(r).unlink()
        for file in (paths.results / "steps").glob(f"round_{r:02d}_*.json"):
            file.unlink()
        for fold in paths.results_of_dataset.glob(f"nnUNetTrainer*/fold_{r}"):
            shutil.rmtree(fold)


def test_a_bad_label_stops_the_round_and_the_same_command_goes_on(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    undo(trained, 1, 2)
    victim = trained.rounds[1].queried[1]
    file = trained.experiment.paths.raw / "labelsTr" / f"{victim}.nii.gz"
    good = file.read_bytes()
    label = blob_case(int(victim[-2:]))[1]
    label[0, 0, :3] = 7
    write_volume(file, label)
    with pytest.raises(SystemExit) as stopped:
        round_main(["-d", "901", "-r", "1", "-device", "cpu"])
    assert stopped.value.code == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert victim in error
    assert "7 (3 voxels)" in error
    file.write_bytes(good)
    assert decisions([run_round(trained.experiment, 1, CPU)]) == decisions([trained.rounds[1]])


def test_rounds_come_in_order(planned: Experiment) -> None:
    with pytest.raises(AssftError, match=r"Round 2 starts from round 1, which is not finished.*-d 901 -r 0"):
        run_round(planned, 2, CPU)
    with pytest.raises(AssftError, match="has rounds 0 to 2"):
        run_round(planned, 3, CPU)


def test_two_commands_on_one_experiment_are_not_run_at_once(planned: Experiment) -> None:
    with (
        only_process(planned.paths.lock_file, "a test"),
        pytest.raises(
            AssftError, match=f"^Process {os.getpid()} on .* is working on experiment 'assft' of Dataset901_"
        ),
    ):
        run_round(planned, 0, CPU)


def test_a_training_of_other_labels_is_moved_aside_not_resumed(trained: Trained) -> None:
    experiment, first = trained.experiment, trained.rounds[0]
    paths = experiment.paths
    paths.round_file(0).unlink()  # as if the round had not been closed when the label was corrected
    case = first.labelled[0]
    write_volume(paths.raw / "labelsTr" / f"{case}.nii.gz", np.flip(blob_case(int(case[-2:]))[1], 0).copy())
    again = run_round(experiment, 0, CPU)
    assert again.model.weights_sha256 != first.model.weights_sha256
    assert (paths.model_folder("supervised") / "outdated_fold_0_1" / "checkpoint_final.pth").is_file()


# Structures that nobody drew ------------------------------------------------------------------------------------------


def lacking(experiment: Experiment, **of_cases: list[str]) -> None:
    (experiment.paths.raw / "not_annotated.json").write_text(json.dumps(of_cases))


def test_a_training_is_repeated_if_other_structures_are_annotated(trained: Trained) -> None:
    experiment, first = trained.experiment, trained.rounds[1]
    paths, case = experiment.paths, first.labelled[0]
    paths.round_file(2).unlink()
    paths.round_file(1).unlink()  # as if somebody had said it before the round was closed
    hidden = {c: ["ball"] for c in first.unlabelled}
    lacking(experiment, **hidden)
    assert run_round(experiment, 1, CPU) == first  # what is said of labels that nobody has seen changes nothing
    paths.round_file(1).unlink()
    lacking(experiment, **{case: ["ball"]})
    again = run_round(experiment, 1, CPU)
    assert again.queried == first.queried
    assert again.model.weights_sha256 != first.model.weights_sha256
    assert (paths.model_folder("supervised") / "outdated_fold_1_1" / "checkpoint_final.pth").is_file()
    for stage in ("supervised", "semi"):
        cases = read_json(paths.stage_file(1, stage))["cases"]
        assert {c: entry["not_annotated"] for c, entry in cases.items() if "not_annotated" in entry} == {case: ["ball"]}
    assert run_round(experiment, 1, CPU) == again
    paths.result(again.model.checkpoint).unlink()
    lacking(experiment)
    with pytest.raises(
        AssftError, match=f"names nothing for case {case}; when its label was trained on, it named ball"
    ):
        run_round(experiment, 1, CPU)


def test_a_structure_that_no_labelled_case_has_stops_the_round(planned: Experiment) -> None:
    (first,) = planned.start
    lacking(planned, **{first: ["box"]})
    with pytest.raises(AssftError, match=rf"box is annotated in none of the labelled cases \({first}\)") as caught:
        run_round(planned, 0, CPU)
    assert "Import a label in which it is drawn" in str(caught.value)
    assert not planned.paths.stages.joinpath("round_00_supervised").exists()


def test_test_cases_count_for_what_is_annotated_in_them(trained: Trained) -> None:
    experiment, before = trained.experiment, trained.rounds[2].dice
    for name in ("round_02.json", "steps/round_02_evaluate.json"):
        (experiment.paths.results / name).unlink()
    case, *others = before["per_case"]
    lacking(experiment, **{case: ["ball"]})
    dice = run_round(experiment, 2, CPU).dice
    assert dice["per_case"][case] == before["per_case"][case] | {"ball": None}
    assert all(dice["per_case"][other] == before["per_case"][other] for other in others)
    assert dice["per_structure"]["box"] == before["per_structure"]["box"]
    assert dice["per_structure"]["ball"] == pytest.approx(np.mean([before["per_case"][c]["ball"] for c in others]))

"""Algorithm 1 end to end on small real trainings: its counts, no leak of labels, and any kill at any step."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from filelock import FileLock
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_assft.active import metrics
from nnunet_assft.active.options import Options
from nnunet_assft.active.rounds import open_context, run_round
from nnunet_assft.active.state import Experiment, Round, finished_rounds
from nnunet_assft.active.training.committee import train_committee
from nnunet_assft.cli.round import main as round_main
from nnunet_assft.errors import AssftError, WaitingForAnnotation
from nnunet_assft.runtime.files import read_json, sha256_file
from tests.conftest import (
    SHARED_DATA,
    blob_case,
    needs_hippocampus,
    plan_experiment,
    set_folders,
    write_dataset,
    write_volume,
)
from tests.kills import before_replace, is_killed

CPU = torch.device("cpu")
SETTINGS = {"rounds": 2, "budget": "2", "preset": "tiny", "epochs": 2, "iterations_per_epoch": 2, "initial_lr": 1e-3}


def run_all(dataset: str = "Dataset901_Blobs", **settings: object) -> list[Round]:
    experiment = plan_experiment(dataset, **{**SETTINGS, **settings})
    return [run_round(experiment, r, CPU) for r in range(experiment.n_rounds + 1)]


def decisions(rounds: list[Round]) -> list[dict]:
    """All that a round decides or makes; Dice is left out, since it alone may see test labels."""
    return [{key: value for key, value in asdict(done).items() if key != "dice"} for done in rounds]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Round]]:
    """(root, rounds) of an undisturbed experiment. Treat it as read-only."""
    root = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_folders(root, monkeypatch)
        write_dataset(root / "nnUNet_raw")
        return root, run_all()


@pytest.fixture
def in_reference(reference: tuple[Path, list[Round]], monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Round]]:
    set_folders(reference[0], monkeypatch)
    return reference


# Algorithm 1 -----------------------------------------------------------------------------------------------------------


def test_counts_of_every_round(reference: tuple[Path, list[Round]]) -> None:
    _, rounds = reference
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


def test_training_sets_hold_exactly_the_cases_of_their_stage(reference: tuple[Path, list[Round]]) -> None:
    root, rounds = reference
    stages = root / "nnUNet_preprocessed/Dataset901_Blobs/assft/assft"
    for r, stage, cases in (
        (0, "supervised", rounds[0].labelled),
        (1, "supervised", rounds[1].labelled),
        (1, "semi", (*rounds[1].labelled, *rounds[1].pseudo_labelled)),
        (2, "semi", (*rounds[2].labelled, *rounds[2].pseudo_labelled)),
    ):
        folder = stages / f"round_{r:02d}_{stage}"
        assert {file.name for file in folder.iterdir()} == {
            f"{c}{e}" for c in cases for e in (".b2nd", "_seg.b2nd", ".pkl")
        }


def test_pseudo_labels_are_in_the_raw_dataset_and_labels_are_untouched(reference: tuple[Path, list[Round]]) -> None:
    root, rounds = reference
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


def test_scores_splits_and_records(reference: tuple[Path, list[Round]]) -> None:
    root, rounds = reference
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


@pytest.mark.parametrize("strategy", ["random", "dkd_asd", "coreset", "badge", "sann", "ugtst", "clasp_pe"])
def test_a_strategy_without_pseudo_labels_has_one_stage_per_round(
    strategy: str, reference: tuple[Path, list[Round]], in_reference: object
) -> None:
    rounds = run_all(name=strategy, strategy=strategy, rounds=1)
    assert rounds[0].labelled == reference[1][0].labelled  # the same first case for every strategy
    assert [done.model.stage for done in rounds] == ["supervised", "supervised"]
    assert rounds[1].pseudo_labelled == ()
    experiment = plan_experiment("Dataset901_Blobs", name=strategy, strategy=strategy, **{**SETTINGS, "rounds": 1})
    if strategy == "random":
        assert rounds[1].queried == experiment.permutation[1:3]  # nested: the permutation is consumed in order
    if strategy != "dkd_asd":
        assert not (experiment.paths.records("pretrained")).exists()  # nothing is computed that nobody asked for


def test_a_committee_of_bootstrap_samples_is_trained_as_extra_folds(in_reference: tuple[Path, list[Round]]) -> None:
    """The supervised stage of round 1 again and again: same start, same epochs, other samples and seeds."""
    settings = {**SETTINGS, "rounds": 1, "name": "random", "strategy": "random"}
    rounds = run_all(**settings)
    experiment = plan_experiment("Dataset901_Blobs", **settings)
    paths = experiment.paths
    committee = train_committee(open_context(experiment, CPU), experiment, 1)
    assert {model.checkpoint for model in committee.values()} == {
        f"nnUNetTrainerASSFTCommittee__nnUNetASSFTPlans_random__3d_fullres/fold_{fold}/checkpoint_final.pth"
        for fold in (11, 12, 13, 14)
    }
    assert len({rounds[1].model.weights_sha256, *(model.weights_sha256 for model in committee.values())}) == 5
    supervised = read_json(paths.stage_file(1, "supervised"))
    samples = []
    for member in committee:
        stage = read_json(paths.stage_file(1, member))
        for key in ("start_from", "start_sha256", "epochs"):
            assert stage[key] == supervised[key]
        samples.append({case: entry.get("copies", 1) for case, entry in stage["cases"].items()})
        assert set(samples[-1]) <= set(rounds[1].labelled)
        assert sum(samples[-1].values()) == len(rounds[1].labelled)
    assert any(sample != samples[0] for sample in samples)
    assert train_committee(open_context(experiment, CPU), experiment, 1) == committee  # kept, not trained again


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
    rounds = run_all(rounds=1)
    paths = plan_experiment(901, **{**SETTINGS, "rounds": 1}).paths
    assert set(rounds[1].dice["per_structure"]) == {"ball", "box"}
    record = np.load(next(paths.records("round_01_query").glob("*.npz")))
    assert len(json.loads(str(record["meta"]))["sums"]["class_voxels"]) == 3  # background, ball, box
    for case in rounds[1].pseudo_labelled:
        file = paths.pseudo_label_folder(1) / "pseudo_labels" / f"{case}.nii.gz"
        assert set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(file))))) <= {0, 1, 2}
    for case in rounds[1].test:  # what lies in the ignored part has no say
        prediction = sitk.GetArrayFromImage(sitk.ReadImage(str(paths.test_predictions(1) / f"{case}.nii.gz")))[:12]
        reference = blob_case(int(case[-2:]))[1][:12]
        both = ((prediction == 1) & (reference == 1)).sum()
        expected = 2 * both / ((prediction == 1).sum() + (reference == 1).sum())
        assert rounds[1].dice["per_case"][case]["ball"] == pytest.approx(expected)


def test_options_reach_the_round(blobs: Path) -> None:
    """All at once: medoid first, labelled cases in PD, every case pseudo-labelled, refined, and drawn half as often."""
    with_ignore_label(blobs)
    settings = ["first_case=medoid", "pd_labelled=true", "selection=all", "ignore_margin=0.6", "largest_component=true"]
    options = Options.parse([*settings, "pseudo_weight=0.5", "exclude_pseudo=false"])
    rounds = run_all(options=options)
    experiment = Experiment.load(plan_experiment(901, options=options, **SETTINGS).paths)
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
        plan_experiment(901, options=replace(options, pseudo_weight=1.0), **SETTINGS)


def test_an_ignore_margin_without_ignore_label_is_refused(blobs: Path) -> None:
    with pytest.raises(
        AssftError, match=r'Option ignore_margin needs an ignore label.*Add "ignore": 3 to them in dataset.json'
    ):
        plan_experiment(901, options=Options(ignore_margin=0.1), **SETTINGS)


def test_small_pools_are_used_up_and_no_further(nnunet_folders: Path) -> None:
    write_dataset(nnunet_folders / "nnUNet_raw", n_pool=4, n_test=1)
    experiment = plan_experiment("Dataset901_Blobs", **{**SETTINGS, "budget": "5"})
    run_round(experiment, 0, CPU)
    done = run_round(experiment, 1, CPU)
    assert sorted(done.queried) == sorted(set(experiment.pool) - {experiment.permutation[0]})
    assert done.unlabelled == ()
    assert done.pseudo_labelled == ()
    with pytest.raises(AssftError, match="nothing left to query"):
        run_round(experiment, 2, CPU)


# No leak ---------------------------------------------------------------------------------------------------------------


def test_noise_in_place_of_hidden_labels_changes_nothing(
    reference: tuple[Path, list[Round]], nnunet_folders: Path
) -> None:
    _, rounds = reference
    queried = set(rounds[-1].labelled)

    def noise(case: str, label: np.ndarray) -> np.ndarray:
        return label if case in queried else np.random.default_rng(7).integers(0, 3, label.shape).astype(np.uint8)

    write_dataset(nnunet_folders / "nnUNet_raw", label_of=noise)
    again = run_all()
    assert decisions(again) == decisions(rounds)
    assert again[-1].dice["mean"] != rounds[-1].dice["mean"]  # the test labels were noise indeed


def test_a_label_that_appears_only_after_its_query_gives_the_same_rounds(
    reference: tuple[Path, list[Round]], nnunet_folders: Path
) -> None:
    """The human round trip, and the proof that no label is read before its query: it is not there."""
    root, rounds = reference
    folder = write_dataset(nnunet_folders / "nnUNet_raw")
    for file in (folder / "labelsTr").iterdir():
        file.unlink()
    experiment = plan_experiment("Dataset901_Blobs", annotator="human", **SETTINGS)
    again = []
    for r in range(3):
        with pytest.raises(WaitingForAnnotation, match="waiting for the annotation") as waiting:
            run_round(experiment, r, CPU)
        assert all(case in str(waiting.value) for case in rounds[r].queried)
        for case in rounds[r].queried:
            shutil.copy(root / f"nnUNet_raw/Dataset901_Blobs/labelsTr/{case}.nii.gz", folder / "labelsTr")
        again.append(run_round(experiment, r, CPU))
    assert decisions(again) == decisions(rounds)


# Kill and resume -------------------------------------------------------------------------------------------------------


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
    # nine files: a killed planning rewrites seven before it comes to something new
    [(lambda kills: before_replace(9 + kills % 4), 12), (lambda kills: in_training_step(4), 5)],
    ids=["between two files, all the way", "inside every training"],
)
def test_killed_again_and_again_the_same_command_finishes_with_the_same_result(
    kill: Callable[[int], None], at_least: int, reference: tuple[Path, list[Round]], blobs: Path
) -> None:
    """Two iterations per epoch and a checkpoint per epoch: the 4th iteration of a process is in a resumed training."""
    kills = 0
    while is_killed(partial(kill, kills), run_all):
        kills += 1
        assert kills < 60
    assert kills >= at_least
    root, rounds = reference
    again = finished_rounds(Experiment.load(plan_experiment(blobs.name, **SETTINGS).paths))
    assert decisions(again) == decisions(rounds)
    for file in (root / "nnUNet_raw").rglob("pseudo_labels/*.nii.gz"):
        mine = blobs.parent / file.relative_to(root / "nnUNet_raw")
        assert sha256_file(mine) == sha256_file(file)
    leftovers = [p for p in blobs.parents[1].rglob(".partial*") if "steps" not in p.parts]
    assert all("partial" in p.name for p in leftovers)  # none under a final name; they are overwritten, never read


def test_a_finished_round_is_not_run_again(
    in_reference: tuple[Path, list[Round]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nnUNetTrainer, "train_step", None)
    experiment = plan_experiment("Dataset901_Blobs", **SETTINGS)
    assert run_round(experiment, 2, CPU) == in_reference[1][2]


# Refusals --------------------------------------------------------------------------------------------------------------


def test_a_bad_label_stops_the_round_and_the_same_command_goes_on(
    reference: tuple[Path, list[Round]], blobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, rounds = reference
    experiment = plan_experiment(blobs.name, **SETTINGS)
    run_round(experiment, 0, CPU)
    victim = rounds[1].queried[1]
    file = blobs / "labelsTr" / f"{victim}.nii.gz"
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
    assert decisions([run_round(experiment, 1, CPU)]) == decisions([rounds[1]])


def test_rounds_come_in_order(blobs: Path) -> None:
    experiment = plan_experiment(blobs.name, **SETTINGS)
    with pytest.raises(AssftError, match=r"Round 2 starts from round 1, which is not finished.*-d 901 -r 0"):
        run_round(experiment, 2, CPU)
    with pytest.raises(AssftError, match="has rounds 0 to 2"):
        run_round(experiment, 3, CPU)


def test_two_commands_on_one_experiment_are_not_run_at_once(blobs: Path) -> None:
    experiment = plan_experiment(blobs.name, **SETTINGS)
    with (
        FileLock(experiment.paths.lock_file),
        pytest.raises(AssftError, match="Another process is working on experiment 'assft'"),
    ):
        run_round(experiment, 0, CPU)


def test_a_training_of_other_labels_is_moved_aside_not_resumed(blobs: Path) -> None:
    experiment = plan_experiment(blobs.name, **SETTINGS)
    first = run_round(experiment, 0, CPU)
    paths = experiment.paths
    paths.round_file(0).unlink()  # as if the round had not been closed when the label was corrected
    case = first.labelled[0]
    write_volume(blobs / "labelsTr" / f"{case}.nii.gz", np.flip(blob_case(int(case[-2:]))[1], 0).copy())
    again = run_round(experiment, 0, CPU)
    assert again.model.weights_sha256 != first.model.weights_sha256
    assert (paths.model_folder("supervised") / "outdated_fold_0_1" / "checkpoint_final.pth").is_file()


# Stock nnU-Net and real images -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_stock_commands_work_on_the_model_folder(in_reference: tuple[Path, list[Round]], tmp_path: Path) -> None:
    """nnUNetv2_predict with its worker processes, nnUNetv2_evaluate_folder; the same segmentations as ours."""
    root, rounds = in_reference
    import nnunet_assft.trainers

    ext_trainer = Path(nnunet_assft.trainers.__file__).parent / "ext_trainer"
    environment = {**os.environ, "nnUNet_extTrainer": str(ext_trainer)}
    raw = root / "nnUNet_raw/Dataset901_Blobs"
    model = root / "nnUNet_results/Dataset901_Blobs/nnUNetTrainerASSFT__nnUNetASSFTPlans__3d_fullres"
    commands = [
        [
            "nnUNetv2_predict",
            "-i",
            raw / "imagesTs",
            "-o",
            tmp_path,
            "-d",
            "901",
            "-tr",
            "nnUNetTrainerASSFT",
            "-p",
            "nnUNetASSFTPlans",
            "-c",
            "3d_fullres",
            "-f",
            "2",
            "-device",
            "cpu",
            "-npp",
            "1",
            "-nps",
            "1",
        ],
        [
            "nnUNetv2_evaluate_folder",
            raw / "labelsTs",
            tmp_path,
            "-djfile",
            model / "dataset.json",
            "-pfile",
            model / "plans.json",
            "-np",
            "1",
        ],
    ]
    for command in commands:
        program = Path(sys.executable).parent / str(command[0])
        result = subprocess.run(
            [program, *map(str, command[1:])], env=environment, capture_output=True, text=True, timeout=300
        )
        assert result.returncode == 0, result.stderr[-2000:]
    ours = root / "nnUNet_results/Dataset901_Blobs/assft/assft/test_round_02"
    for case in rounds[2].test:
        stock, own = (sitk.GetArrayFromImage(sitk.ReadImage(str(f / f"{case}.nii.gz"))) for f in (tmp_path, ours))
        assert (stock != own).mean() < 1e-3  # preprocessing is repeated there; sums may round differently
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["foreground_mean"]["Dice"] == pytest.approx(rounds[2].dice["mean"], abs=0.02)


@pytest.mark.slow
@needs_hippocampus
def test_one_round_on_real_images(nnunet_folders: Path) -> None:
    source = SHARED_DATA / "hippocampus"
    folder = nnunet_folders / "nnUNet_raw/Dataset004_Hippocampus"
    for kind, suffix in (("imagesTr", "_0000"), ("labelsTr", "")):
        (folder / kind).mkdir(parents=True)
        for file in sorted((source / kind).glob("*.nii.gz"))[:8]:
            shutil.copy(file, folder / kind / f"{file.name.removesuffix('.nii.gz')}{suffix}.nii.gz")
    labels = {"background": 0, "anterior": 1, "posterior": 2}
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 8, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))
    rounds = run_all("Dataset004_Hippocampus", rounds=1, epochs=2, iterations_per_epoch=2)
    assert len(rounds[1].test) == 2
    assert len(rounds[1].labelled) == 3
    assert len(rounds[1].pseudo_labelled) == 2
    assert 0 <= rounds[1].dice["mean"] <= 1

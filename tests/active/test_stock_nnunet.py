"""Stock nnU-Net works on the models of rounds, and rounds start from a model of stock nnU-Net."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import nnunet_assft.trainers
from nnunet_assft.active.rounds import run_round
from nnunet_assft.active.state import Experiment, Round
from nnunet_assft.cli import predict
from nnunet_assft.network import build_network, load_pretrained_encoder
from nnunet_assft.network.checkpoints import load_weights
from nnunet_assft.runtime.files import read_json, write_json
from tests.conftest import CPU, SHARED_DATA, TINY, Trained, needs_hippocampus, plan_experiment, run_all

pytestmark = pytest.mark.slow
BLOBS, HIPPOCAMPUS = "Dataset901_Blobs", "Dataset004_Hippocampus"
MODEL = "nnUNetTrainer__nnUNetPlans__3d_fullres"
TRAIN = f"""
import torch
from nnunetv2.run.run_training import get_trainer_from_args
torch.set_num_threads(1)
trainer = get_trainer_from_args("{HIPPOCAMPUS}", "3d_fullres", "all", device=torch.device("cpu"))
trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 3, 10, 1
trainer.run_training()
"""


def succeeds(command: list[str | Path]) -> None:
    """Run a command that knows our classes by the environment variable alone, as a user of stock nnU-Net has it."""
    ext_trainer = Path(nnunet_assft.trainers.__file__).parent / "ext_trainer"
    result = subprocess.run(
        command,
        env={**os.environ, "nnUNet_extTrainer": str(ext_trainer), "nnUNet_n_proc_DA": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-2000:]


def stock(command: str) -> None:
    """Run a stock command of nnU-Net."""
    program, *arguments = command.split()
    succeeds([Path(sys.executable).parent / program, *arguments])


def assert_stock_prediction_is_ours(experiment: Experiment, done: Round, out: Path) -> None:
    """nnUNetv2_predict, with its worker processes, writes the segmentations of the test cases of a round to `out`.

    A network that was trained for seconds may find no structure at all, so its softmax is compared as well.
    """
    paths = experiment.paths
    images = paths.raw / "imagesTs"
    trainer = "nnUNetTrainerASSFT" if done.model.stage == "semi" else "nnUNetTrainerASSFTSupervised"
    stock(
        f"nnUNetv2_predict -i {images} -o {out} -d {experiment.dataset} -tr {trainer} -p nnUNetASSFTPlans "
        f"-c 3d_fullres -f {done.round} -device cpu -npp 1 -nps 1 --save_probabilities"
    )
    ours, segmentations = out.with_name(f"ours_{done.round}"), paths.results / f"test_round_{done.round:02d}"
    command = f"-d {experiment.dataset} -r {done.round} -i {images} -o {ours} -device cpu -npp 0 -nps 0"
    with pytest.raises(SystemExit) as ended:
        predict.main([*command.split(), "--save_probabilities"])
    assert not ended.value.code
    for case in done.test:
        theirs, own = (sitk.GetArrayFromImage(sitk.ReadImage(f / f"{case}.nii.gz")) for f in (out, segmentations))
        assert (theirs != own).mean() < 1e-3  # preprocessing is repeated there; sums may round differently
        with np.load(out / f"{case}.npz") as theirs, np.load(ours / f"{case}.npz") as own:
            np.testing.assert_allclose(own["probabilities"], theirs["probabilities"], rtol=0, atol=1e-3)
            assert own["probabilities"].std() > 0


def test_stock_commands_work_on_the_model_folder(trained: Trained, tmp_path: Path) -> None:
    root, experiment, rounds = trained
    out = tmp_path / "out"
    assert_stock_prediction_is_ours(experiment, rounds[2], out)
    model = root / f"nnUNet_results/{BLOBS}/nnUNetTrainerASSFT__nnUNetASSFTPlans__3d_fullres"
    stock(
        f"nnUNetv2_evaluate_folder {root / 'nnUNet_raw' / BLOBS / 'labelsTs'} {out} -djfile {model / 'dataset.json'} "
        f"-pfile {model / 'plans.json'} -np 1"
    )
    summary = json.loads((out / "summary.json").read_text())
    assert summary["foreground_mean"]["Dice"] == pytest.approx(rounds[2].dice["mean"], abs=0.02)


def test_stock_nnunet_predicts_with_its_own_network(blobs: Path, tmp_path: Path) -> None:
    settings = {**TINY, "preset": "resenc_tiny", "one_shot_epochs": 20, "initial_lr": 1e-2}
    experiment = plan_experiment(BLOBS, **settings)
    done = run_round(experiment, 0, CPU)
    assert done.dice["mean"] > 0.5
    assert_stock_prediction_is_ours(experiment, done, tmp_path / "out")


# Real images ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hippocampus(nnunet_folders: Path) -> Path:
    """nnU-Net's folders with a raw dataset of six pool and two test cases."""
    source, folder = SHARED_DATA / "hippocampus", nnunet_folders / "nnUNet_raw" / HIPPOCAMPUS
    for kind, suffix in (("images", "_0000"), ("labels", "")):
        for i, file in enumerate(sorted((source / f"{kind}Tr").glob("*.nii.gz"))[:8]):
            target = folder / f"{kind}{'Tr' if i < 6 else 'Ts'}"
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target / f"{file.name.removesuffix('.nii.gz')}{suffix}.nii.gz")
    labels = {"background": 0, "anterior": 1, "posterior": 2}
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 6, "file_ending": ".nii.gz"}
    write_json(folder / "dataset.json", content)
    return nnunet_folders


def assert_rounds_can_be_predicted_by_stock_nnunet(settings: dict[str, Any], out: Path) -> Experiment:
    """Rounds 0 to 2 on the hippocampus, with both kinds of stages. Returns their experiment."""
    settings = {**TINY, "budget": "1", "one_shot_epochs": 5, "iterations_per_epoch": 5, "initial_lr": 1e-2, **settings}
    experiment = plan_experiment(HIPPOCAMPUS, **settings)
    rounds = run_all(experiment)
    assert [len(done.labelled) for done in rounds] == [1, 2, 3]
    assert [len(done.pseudo_labelled) for done in rounds] == [0, 1, 2]
    for r in (0, 2):
        assert len(rounds[r].test) == 2
        assert 0 <= rounds[r].dice["mean"] <= 1
        assert_stock_prediction_is_ours(experiment, rounds[r], out / str(r))
    return experiment


@needs_hippocampus
def test_rounds_on_real_images(hippocampus: Path, tmp_path: Path) -> None:
    assert_rounds_can_be_predicted_by_stock_nnunet({"preset": "resenc_tiny"}, tmp_path / "out")


@needs_hippocampus
def test_rounds_start_from_a_model_that_stock_nnunet_has_trained(hippocampus: Path, tmp_path: Path) -> None:
    stock("nnUNetv2_extract_fingerprint -d 4 -np 1")
    stock("nnUNetv2_plan_experiment -d 4")
    file = hippocampus / "nnUNet_preprocessed" / HIPPOCAMPUS / "nnUNetPlans.json"
    plans = read_json(file)
    planned = plans["configurations"]["3d_fullres"]
    arguments = planned["architecture"]["arch_kwargs"]
    arguments["features_per_stage"] = [4 * 2**level for level in range(arguments["n_stages"])]  # for a CPU
    planned["batch_size"] = 2
    write_json(file, plans)
    stock("nnUNetv2_preprocess -d 4 -c 3d_fullres -np 1")
    succeeds([sys.executable, "-c", TRAIN])
    model = hippocampus / "nnUNet_results" / HIPPOCAMPUS / MODEL
    settings = {"preset": None, "start": str(model)}
    experiment = assert_rounds_can_be_predicted_by_stock_nnunet(settings, tmp_path / "out")
    report = experiment.encoder_report
    assert report is not None
    assert report["structures"] == {"background": True, "anterior": True, "posterior": True}
    checkpoint = model / "fold_all" / "checkpoint_final.pth"
    initial, theirs = load_weights(experiment.paths.initial_network), load_weights(checkpoint)
    assert initial.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in initial.items())
    network = build_network(planned["architecture"], 1, 2)  # the same file for --encoder
    assert load_pretrained_encoder(network, checkpoint).encoder == "nnunet"
    weights = network.encoder.state_dict()
    assert all(torch.equal(value, theirs[f"encoder.{name}"]) for name, value in weights.items())

"""The network before round 0, if it starts from a whole model of nnU-Net."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_assft.active.experiment import read_plans
from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.rounds import run_round
from nnunet_assft.active.state import Experiment
from nnunet_assft.errors import AssftError
from nnunet_assft.network.checkpoints import load_weights
from tests.conftest import CPU, LABELS, TINY, plan_experiment
from tests.network.nnunet_model import ARCHITECTURE, save, theirs

SHORT = {**TINY, "preset": None, "rounds": 1, "epochs": 1, "iterations_per_epoch": 1}


def of_blobs(content: dict[str, Any]) -> None:
    """The structures of `blobs` in another order, and one that it does not have."""
    content["init_args"]["dataset_json"]["labels"] = {"background": 0, "box": 1, "cone": 2}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The folder of a model."""
    return save(tmp_path / "model", of_blobs).parents[1]


def test_the_rounds_start_from_a_whole_model(blobs: Path, model: Path) -> None:
    experiment = plan_experiment(901, start=str(model), **SHORT)
    weights, expected = load_weights(experiment.paths.initial_network), theirs().state_dict()
    last = [name for name in expected if "seg_layers" in name]
    assert len(last) == 4  # weight and bias of the last layer, and of that of deep supervision
    assert all(torch.equal(weights[name], expected[name]) for name in expected if name not in last)
    assert all(torch.equal(weights[name][2], expected[name][1]) for name in last)  # box
    assert not any(torch.equal(weights[name][1], expected[name][2]) for name in last if "weight" in name)  # ball
    assert list(LABELS) == ["background", "ball", "box"]

    planned = read_plans(experiment)["configurations"]["3d_fullres"]
    assert planned["patch_size"] == [16, 32, 32]
    assert planned["architecture"] == ARCHITECTURE
    report = Experiment.load(experiment.paths).encoder_report
    assert report is not None
    checkpoint = model / "fold_0" / "checkpoint_final.pth"
    assert (report["path"], report["sha256"]) == (
        "checkpoint_final.pth",
        hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
    )
    assert report["structures"] == {"background": True, "ball": False, "box": True}

    rounds = [run_round(experiment, r, CPU) for r in (0, 1)]
    assert len(rounds[1].labelled) == 3
    trained = load_weights(experiment.paths.result(rounds[1].model.checkpoint))
    assert trained.keys() == expected.keys()
    assert not torch.equal(trained["decoder.seg_layers.1.weight"], weights["decoder.seg_layers.1.weight"])


def test_a_network_that_was_lost_is_made_again_from_the_model(blobs: Path, model: Path) -> None:
    experiment = plan_experiment(901, start=str(model), **SHORT)
    experiment.paths.initial_network.unlink()
    moved = model.rename(model.with_name("moved"))
    again = plan_experiment(901, start=str(moved), **SHORT)
    assert again == experiment
    assert load_weights(experiment.paths.initial_network, experiment.initial_network_sha256)


def test_a_model_that_was_moved_is_still_the_same(blobs: Path, model: Path) -> None:
    experiment = plan_experiment(901, start=str(model), **SHORT)
    moved = model.rename(model.with_name("moved"))
    assert plan_experiment(901, start=str(moved), **SHORT) == experiment
    assert plan_experiment(901, start=str(moved / "fold_0" / "checkpoint_final.pth"), **SHORT) == experiment
    with pytest.raises(AssftError, match=r"exists with other settings \(start was .*model, now .*elsewhere\)"):
        plan_experiment(901, start=str(model.with_name("elsewhere")), **SHORT)
    checkpoint = moved / "fold_0" / "checkpoint_final.pth"
    with pytest.raises(AssftError, match=r"encoder was None, now .*start was"):  # its encoder alone is another start
        plan_experiment(901, encoder=str(checkpoint), **{**SHORT, "preset": "tiny"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "tiny"}, r"PlainConvUNet of 3 levels.*the preset 'tiny' is .*leave out --preset"),
        ({"encoder": "a.pth"}, "--encoder and --start both say where the encoder comes from"),
        ({"start": ""}, "--start is empty"),
        ({"preset": "huge"}, "--preset 'huge' does not exist"),
    ],
)
def test_what_contradicts_a_model_is_refused(blobs: Path, model: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(AssftError, match=message):
        plan_experiment(901, **{**SHORT, "start": str(model), **settings})
    assert not ExperimentPaths("Dataset901_Blobs", "assft").experiment_file.exists()

"""The progress of a training, and two processes that would train in the same fold."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.rounds import run_round
from nnunet_assft.active.state import Experiment
from nnunet_assft.active.training import stages
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.locks import only_process
from nnunet_assft.trainers import assft_trainers
from tests.conftest import CPU


class Trainer:
    """Two epochs of 4 steps, of which the first was done before."""

    num_epochs, num_iterations_per_epoch, current_epoch, local_rank, save_every = 2, 4, 1, 0, 1
    after_epoch: Any = None
    logger = SimpleNamespace(get_value=lambda name, step: -0.25)

    def __init__(self, *_: object) -> None:
        pass

    def train_step(self, batch: int) -> int:
        return 10 * batch

    def run_training(self) -> None:
        assert [self.train_step(batch) for batch in range(4)] == [0, 10, 20, 30]
        self.current_epoch = 2
        self.after_epoch(self)


def test_the_bar_counts_steps_so_that_it_moves_before_an_epoch_is_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bars: list[Any] = []

    class Bar(stages.tqdm):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.seen = [self.n]
            bars.append(self)

        def update(self, n: float = 1) -> bool | None:
            moved = super().update(n)
            self.seen.append(self.n)
            return moved

    said: list[str] = []
    monkeypatch.setattr(stages, "tqdm", Bar)
    monkeypatch.setattr(stages, "say_progress", said.append)
    monkeypatch.setattr(assft_trainers, "nnUNetTrainerASSFT", Trainer)
    context: Any = SimpleNamespace(plans={}, dataset=SimpleNamespace(dataset_json={}), device=torch.device("cpu"))
    stage: Any = SimpleNamespace(name="semi", round=1)
    stages._train(context, stage, tmp_path / "checkpoint_latest.pth")
    (bar,) = bars
    assert (bar.total, bar.seen) == (8, [4, 5, 6, 7, 8])
    assert bar.postfix == "epoch=2/2, loss=-0.250"
    assert said == ["round 1: semi training, 2 epochs of 2"]  # two stages of a run do not say the same


def test_a_fold_in_which_another_process_trains_is_left_to_it(
    planned: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a job that goes on although the command that had submitted it, and held the experiment, was killed."""
    fold = planned.paths.checkpoint(0, "supervised").parent
    latest = fold / "checkpoint_latest.pth"
    fold.mkdir(parents=True)
    latest.write_bytes(b"of the job")
    monkeypatch.setattr(stages, "PATIENCE", 0)
    other = rf"Process {os.getpid()} on .* is working on the training in {fold}\. Wait for it to finish, or stop it"
    with only_process(fold.with_name(".fold_0.lock"), "a test"), pytest.raises(AssftError, match=other):
        run_round(planned, 0, CPU)
    assert [file.name for file in fold.iterdir()] == [latest.name]
    assert latest.read_bytes() == b"of the job"


def test_what_another_process_has_trained_meanwhile_is_not_trained_again(
    nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = ExperimentPaths("Dataset901_Blobs", "assft")
    trained = []

    def train(context: object, stage: object, fold: Path) -> None:
        trained.append(fold.name)
        (fold / "checkpoint_final.pth").write_bytes(b"weights")

    monkeypatch.setattr(stages, "_run_training", train)
    context: Any = SimpleNamespace(paths=paths)
    stage: Any = SimpleNamespace(name="semi", round=1)
    fold = paths.checkpoint(1, "semi").parent
    for content in ({"epochs": 2}, {"epochs": 2}, {"epochs": 3}):
        stages._train_alone(context, stage, content, fold)
    assert trained == ["fold_1", "fold_1"]
    assert sorted(path.name for path in fold.parent.glob("*fold_1*") if path.is_dir()) == [
        "fold_1",
        "outdated_fold_1_1",
    ]

"""The progress of a training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nnunet_assft.active.training import stages
from nnunet_assft.trainers import assft_trainers


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

    monkeypatch.setattr(stages, "tqdm", Bar)
    monkeypatch.setattr(assft_trainers, "nnUNetTrainerASSFT", Trainer)
    context: Any = SimpleNamespace(plans={}, dataset=SimpleNamespace(dataset_json={}), device=torch.device("cpu"))
    stage: Any = SimpleNamespace(name="semi", round=1)
    stages._train(context, stage, tmp_path / "checkpoint_latest.pth")
    (bar,) = bars
    assert (bar.total, bar.seen) == (8, [4, 5, 6, 7, 8])
    assert bar.postfix == "epoch=2/2, loss=-0.250"

"""Stages of a round by the names that nnU-Net knows them by."""

from __future__ import annotations

import pytest

from nnunet_assft.trainers import assft_trainers
from nnunet_assft.trainers.folds import COMMITTEE, TRAINERS, fold_of, training_set_of, training_set_of_fold


def test_folds_worked_by_hand() -> None:
    assert [fold_of(3, stage) for stage in ("supervised", "semi", "member_1", "member_4")] == [3, 3, 31, 34]
    assert training_set_of_fold("semi", 12) == "round_12_semi"
    assert training_set_of_fold("member", 32) == "round_03_member_2"


@pytest.mark.parametrize("r", [0, 1, 9, 10, 123])
@pytest.mark.parametrize("stage", TRAINERS)
def test_a_trainer_finds_the_training_set_of_its_stage_by_the_fold(r: int, stage: str) -> None:
    trainer = getattr(assft_trainers, TRAINERS[stage])
    assert training_set_of_fold(trainer.stage, fold_of(r, stage)) == training_set_of(r, stage)


@pytest.mark.parametrize("trainer", sorted(set(TRAINERS.values())))
def test_a_fold_of_a_trainer_is_one_training(trainer: str) -> None:
    stages = [stage for stage, name in TRAINERS.items() if name == trainer]
    folds = [fold_of(r, stage) for r in range(30) for stage in stages]
    assert len(set(folds)) == len(folds) == 30 * len(stages)
    assert len(COMMITTEE) < 10

"""The trainer, the fold and the training set of each stage of a round. This module does not import torch.

nnU-Net identifies a training by its trainer and its fold, and this package by its round and its stage. The fold is the
number of the round. Only the committee, whose members are trained for the query of a strategy, has ten folds per round:
member 2 of the committee of round 3 is fold 32.
"""

from __future__ import annotations

COMMITTEE = ("member_1", "member_2", "member_3", "member_4")
TRAINERS = {
    "supervised": "nnUNetTrainerASSFTSupervised",
    "semi": "nnUNetTrainerASSFT",
    **dict.fromkeys(COMMITTEE, "nnUNetTrainerASSFTCommittee"),
}


def fold_of(r: int, stage: str) -> int:
    """Return the fold in which nnU-Net trains this stage of round r."""
    return 10 * r + COMMITTEE.index(stage) + 1 if stage in COMMITTEE else r


def training_set_of(r: int, stage: str) -> str:
    """Return the name of the folder of the training set, which is also that of the stage file beside it."""
    return f"round_{r:02d}_{stage}"


def training_set_of_fold(trainer_stage: str, fold: int) -> str:
    """Return the same name for the stage and fold of a trainer.

    trainer_stage: `supervised`, `semi`, or `member` for the committee.
    """
    if trainer_stage == "member":
        return training_set_of(fold // 10, f"member_{fold % 10}")
    return training_set_of(fold, trainer_stage)

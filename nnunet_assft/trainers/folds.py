"""Which trainer, which fold and which training set belong to a stage of a round. Importable without torch.

nnU-Net knows a training by its trainer and its fold, this package by its round and its stage. The fold is the round;
only the committee, whose members are trained for the query of a strategy, has ten folds per round: member 2 of the
committee of round 3 is fold 32.
"""

from __future__ import annotations

COMMITTEE = ("member_1", "member_2", "member_3", "member_4")
TRAINERS = {
    "supervised": "nnUNetTrainerASSFTSupervised",
    "semi": "nnUNetTrainerASSFT",
    **dict.fromkeys(COMMITTEE, "nnUNetTrainerASSFTCommittee"),
}


def fold_of(r: int, stage: str) -> int:
    """The fold in which nnU-Net trains this stage of round r."""
    return 10 * r + COMMITTEE.index(stage) + 1 if stage in COMMITTEE else r


def training_set_of(r: int, stage: str) -> str:
    """Name of the folder of the training set, and of the stage file beside it."""
    return f"round_{r:02d}_{stage}"


def training_set_of_fold(trainer_stage: str, fold: int) -> str:
    """`training_set_of`, for a trainer. trainer_stage: `supervised`, `semi` or, in the committee, `member`."""
    if trainer_stage == "member":
        return training_set_of(fold // 10, f"member_{fold % 10}")
    return training_set_of(fold, trainer_stage)

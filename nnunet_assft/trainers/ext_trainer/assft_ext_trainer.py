"""For stock nnU-Net commands: set `nnUNet_extTrainer` to the folder of this file and nothing else."""

from nnunet_assft.trainers.assft_trainers import (
    nnUNetTrainerASSFT,
    nnUNetTrainerASSFTCommittee,
    nnUNetTrainerASSFTSupervised,
)

__all__ = ["nnUNetTrainerASSFT", "nnUNetTrainerASSFTCommittee", "nnUNetTrainerASSFTSupervised"]

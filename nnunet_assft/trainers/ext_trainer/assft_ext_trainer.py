"""The trainers for stock nnU-Net commands, which find them if `nnUNet_extTrainer` is the folder of this file."""

from nnunet_assft.trainers.assft_trainers import (
    nnUNetTrainerASSFT,
    nnUNetTrainerASSFTCommittee,
    nnUNetTrainerASSFTSupervised,
)

__all__ = ["nnUNetTrainerASSFT", "nnUNetTrainerASSFTCommittee", "nnUNetTrainerASSFTSupervised"]

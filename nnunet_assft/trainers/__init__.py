from nnunet_assft.trainers.assft_trainers import (
    nnUNetTrainerASSFT,
    nnUNetTrainerASSFTCommittee,
    nnUNetTrainerASSFTSupervised,
)

__all__ = ["nnUNetTrainerASSFT", "nnUNetTrainerASSFTCommittee", "nnUNetTrainerASSFTSupervised"]

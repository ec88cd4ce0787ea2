from nnunet_assft.trainers.assft_trainers import nnUNetTrainerASSFT, nnUNetTrainerASSFTSupervised

__all__ = ["nnUNetTrainerASSFT", "nnUNetTrainerASSFTSupervised"]

"""The one place where nnU-Net learns our classes.

nnU-Net finds a few kinds of class by name only, inside its own package: the trainer named in a checkpoint, the planner,
the normalisation schemes named in the plans. `register()` sets ours as attributes of modules that this search visits,
so no environment variable is needed in our own commands. Stock commands get here through the one-file folder
`nnunet_assft/trainers/ext_trainer` given in `nnUNet_extTrainer`: finding the trainer imports this module.

nnU-Net preprocesses in spawned workers, which import nothing of ours. What they are always sent is a
`ConfigurationManager`; declaring with `copyreg` how to rebuild it makes the worker import this module as well.
"""

from __future__ import annotations

import copyreg
from importlib.metadata import version

from nnunet_assft.errors import AssftError

SUPPORTED_NNUNET = ((2, 8, 1), (2, 9))  # from, below; pyproject.toml says the same to pip
SPLIT_SEED = 12345  # with which nnU-Net draws its splits, and this package as well


def check_nnunet_version() -> None:
    """Raise an `AssftError` unless the installed nnU-Net is one this package was tested with."""
    found = version("nnunetv2")
    numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdigit())
    if not SUPPORTED_NNUNET[0] <= numbers < SUPPORTED_NNUNET[1]:
        raise AssftError(
            f"nnunetv2 {found} is installed, but nnunet_assft needs nnunetv2 >=2.8.1,<2.9. Run: pip install 'nnunetv2>=2.8.1,<2.9'"
        )


def register() -> None:
    """Make our normalisations, planner and trainers known to nnU-Net's look-ups by name. Harmless when repeated."""
    check_nnunet_version()
    from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner
    from nnunetv2.preprocessing.normalization import default_normalization_schemes
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet_trainer_module
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

    from nnunet_assft.planning.normalization import CTFMNormalization, PercentileZScoreNormalization
    from nnunet_assft.planning.planner import ASSFTPlanner
    from nnunet_assft.trainers import assft_trainers

    for module, classes in (
        (default_normalization_schemes, (PercentileZScoreNormalization, CTFMNormalization)),
        (default_experiment_planner, (ASSFTPlanner,)),
        (
            nnunet_trainer_module,
            (
                assft_trainers.nnUNetTrainerASSFT,
                assft_trainers.nnUNetTrainerASSFTSupervised,
                assft_trainers.nnUNetTrainerASSFTCommittee,
            ),
        ),
    ):
        for cls in classes:
            setattr(module, cls.__name__, cls)
    copyreg.pickle(ConfigurationManager, lambda manager: (_configuration_manager_in_worker, (manager.configuration,)))


def _configuration_manager_in_worker(configuration: dict) -> object:
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

    register()
    return ConfigurationManager(configuration)

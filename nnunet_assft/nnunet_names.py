"""The interface to nnU-Net by names: supported versions, a configuration, a seed, and how nnU-Net finds our classes.

nnU-Net looks up some classes by name within its own package: the trainer named in a checkpoint, the planner, and the
normalisation schemes named in the plans. The decorator `known_to` makes a class an attribute of a module that this
search visits, so that importing the class is enough and our own commands need no environment variable. Stock nnU-Net
commands import our classes if `nnUNet_extTrainer` is set to the folder `nnunet_assft/trainers/ext_trainer`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from types import ModuleType
from typing import TypeVar

from nnunet_assft.errors import AssftError

SUPPORTED_NNUNET = ((2, 8, 1), (2, 9))  # at least, below; the same range as in pyproject.toml
CONFIGURATION = "3d_fullres"  # the only one that is planned, trained and predicted with
SPLIT_SEED = 12345  # seed of nnU-Net's splits, which this package uses as well

Class = TypeVar("Class", bound=type)


def check_nnunet_version() -> None:
    """Raise `AssftError` unless the installed version of nnU-Net is one that this package was tested with."""
    found = version("nnunetv2")
    numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdigit())
    if not SUPPORTED_NNUNET[0] <= numbers < SUPPORTED_NNUNET[1]:
        raise AssftError(
            f"nnunetv2 {found} is installed; expected nnunetv2 >=2.8.1,<2.9. Run pip install 'nnunetv2>=2.8.1,<2.9'."
        )


def known_to(nnunet_module: ModuleType) -> Callable[[Class], Class]:
    """Return a class decorator that lets nnU-Net find the class by its name in `nnunet_module`."""
    check_nnunet_version()

    def make_known(cls: Class) -> Class:
        setattr(nnunet_module, cls.__name__, cls)
        return cls

    return make_known

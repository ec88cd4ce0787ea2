"""What this package shares with nnU-Net by name: the versions it was tested with, and how nnU-Net finds our classes.

nnU-Net finds a few kinds of class by name only, inside its own package: the trainer named in a checkpoint, the planner,
the normalisation schemes named in the plans. The decorator `known_to` makes a class an attribute of a module that this
search visits, so importing the class is all it takes, and our own commands need no environment variable. Stock nnU-Net
commands import our classes through `nnUNet_extTrainer`, set to the one-file folder `nnunet_assft/trainers/ext_trainer`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from types import ModuleType
from typing import TypeVar

from nnunet_assft.errors import AssftError

SUPPORTED_NNUNET = ((2, 8, 1), (2, 9))  # from, below; pyproject.toml says the same to pip
SPLIT_SEED = 12345  # with which nnU-Net draws its splits, and this package as well

Class = TypeVar("Class", bound=type)


def check_nnunet_version() -> None:
    """Raise an `AssftError` unless the installed nnU-Net is one this package was tested with."""
    found = version("nnunetv2")
    numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdigit())
    if not SUPPORTED_NNUNET[0] <= numbers < SUPPORTED_NNUNET[1]:
        raise AssftError(
            f"nnunetv2 {found} is installed, but nnunet_assft needs nnunetv2 >=2.8.1,<2.9. "
            "Run: pip install 'nnunetv2>=2.8.1,<2.9'"
        )


def known_to(nnunet_module: ModuleType) -> Callable[[Class], Class]:
    """A class decorator: nnU-Net finds the class by its name where it searches `nnunet_module`."""
    check_nnunet_version()

    def make_known(cls: Class) -> Class:
        setattr(nnunet_module, cls.__name__, cls)
        return cls

    return make_known

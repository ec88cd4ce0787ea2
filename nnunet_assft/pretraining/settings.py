"""The settings of a pre-training, which the user chooses on the command line. This module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.ranges import RANGES, check


class Method(NamedTuple):
    """A method of pre-training. what: a phrase. initial_lr: of AdamW, if no other one is chosen."""

    what: str
    initial_lr: float


METHODS = {  # the rest of a method is in `pretraining.recipes`
    "mae": Method("masked auto-encoding: the network fills in the blocks of an image that it is not shown", 1e-3),
    "contrastive": Method("the encoder tells the two views of a crop from those of other crops of the image", 1e-4),
}


@dataclass(frozen=True)
class Pretraining:
    """The options of `nnUNetv2_assft_pretrain`, under the same names.

    images: folders of further images. batch_size: patches or images per step; None for that of the plans. initial_lr:
    None for that of the method.
    """

    method: str = "mae"
    epochs: int = 100
    iterations_per_epoch: int = 250
    batch_size: int | None = None
    initial_lr: float | None = None
    seed: int = 0
    images: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        """Raise `AssftError` for a value that is out of the range of its option, whoever chose it."""
        if self.method not in METHODS:
            raise AssftError(f"--method {self.method!r} does not exist; the choices are {', '.join(METHODS)}.")
        for row in fields(self):
            value = getattr(self, row.name)
            if row.name in RANGES and value is not None:
                check(row.name, value)

    @property
    def learning_rate(self) -> float:
        return METHODS[self.method].initial_lr if self.initial_lr is None else self.initial_lr

    @property
    def numbers(self) -> dict[str, Any]:
        """The settings that determine the weights, besides the images."""
        numbers = {row.name: getattr(self, row.name) for row in fields(self) if row.name != "images"}
        return {**numbers, "initial_lr": self.learning_rate}

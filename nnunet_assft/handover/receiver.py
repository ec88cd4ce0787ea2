"""What stock nnU-Net calls on a machine that has received a model. Exported plans name it, so it must not be renamed.

nnU-Net looks for normalisation schemes in its own package only. It imports the class of a network wherever that is,
and before it preprocesses an image, so the plans of a model with a scheme of this package name `build_network` as
their network: importing this module makes the schemes known, in the processes that preprocess as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from nnunet_assft.planning import normalization  # noqa: F401 - makes the schemes known to nnU-Net


def build_network(network_class: Callable[..., nn.Module], **arguments: Any) -> nn.Module:
    """Build a network of the class that nnU-Net has imported by its name in the plans."""
    return network_class(**arguments)

"""How the input that an experiment gives to its network differs from the one that the weights were trained with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nnunet_assft.runtime.text import by


def deviations(contract: Mapping[str, Any], plan: Mapping[str, Any], channels: Sequence[str]) -> list[str]:
    """Return phrases that say what differs, such as "patch 96 x 96 x 96 (128 x 128 x 128)".

    contract: see `EncoderReport`; what it does not say is not compared. plan: of a configuration, in nnU-Net's plans.
    channels: names of the input channels.
    """
    found = []
    spacing = contract.get("spacing")
    if spacing and not all(math.isclose(a, b, rel_tol=0.01) for a, b in zip(spacing, plan["spacing"], strict=False)):
        found.append(f"spacing {_spacing(plan['spacing'])} mm ({_spacing(spacing)} mm)")
    patch = contract.get("patch_size")
    if patch and list(patch) != list(plan["patch_size"]):
        found.append(f"patch {by(plan['patch_size'])} ({by(patch)})")
    schemes = contract.get("normalization")
    if schemes and set(schemes) != set(plan["normalization_schemes"]):
        found.append(f"normalization {_listed(plan['normalization_schemes'])} ({_listed(schemes)})")
    names = contract.get("channels")
    if names and [str(name).lower() for name in names] != [name.lower() for name in channels]:
        found.append(f"channels {', '.join(channels)} ({', '.join(map(str, names))})")
    return found


def _spacing(spacing: Sequence[float]) -> str:
    return " x ".join(f"{edge:.3g}" for edge in spacing)


def _listed(schemes: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(schemes))

"""How the input that an experiment gives to its network differs from the one that the weights were trained with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nnunet_assft.runtime.text import by


def input_of(plan: Mapping[str, Any], dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """Return the input that a network is given, as an `EncoderReport` describes that of its weights.

    plan: of a configuration, in nnU-Net's plans.
    """
    return {
        "channels": list(dataset_json["channel_names"].values()),
        "normalization": plan["normalization_schemes"],
        "spacing": plan["spacing"],
        "patch_size": plan["patch_size"],
    }


def deviations(contract: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return phrases that say what differs, such as "patch 96 x 96 x 96 (128 x 128 x 128)".

    contract: the input that the weights were trained with; what it does not say is not compared. given: see `input_of`.
    """
    found = []
    spacing = contract.get("spacing")
    if spacing and not all(math.isclose(a, b, rel_tol=0.01) for a, b in zip(spacing, given["spacing"], strict=False)):
        found.append(f"spacing {_spacing(given['spacing'])} mm ({_spacing(spacing)} mm)")
    patch = contract.get("patch_size")
    if patch and list(patch) != list(given["patch_size"]):
        found.append(f"patch {by(given['patch_size'])} ({by(patch)})")
    schemes = contract.get("normalization")
    if schemes and set(schemes) != set(given["normalization"]):
        found.append(f"normalization {_listed(given['normalization'])} ({_listed(schemes)})")
    names = contract.get("channels")
    if names and [str(name).lower() for name in names] != [str(name).lower() for name in given["channels"]]:
        found.append(f"channels {_listed(given['channels'])} ({_listed(map(str, names))})")
    return found


def _spacing(spacing: Sequence[float]) -> str:
    return " x ".join(f"{edge:.3g}" for edge in spacing)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))

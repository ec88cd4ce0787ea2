"""The input that weights were trained with: how that of an experiment differs, and plans that normalise like it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nnunet_assft.errors import AssftError
from nnunet_assft.network.presets import CT_NORMALIZATION, HU
from nnunet_assft.nnunet_names import CONFIGURATION
from nnunet_assft.planning.choices import NORMALIZATIONS
from nnunet_assft.runtime.text import by, count

OF_NNUNET = ("ZScoreNormalization", "NoNormalization", "RescaleTo01Normalization")  # which need no numbers


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


def normalization_of(contract: Mapping[str, Any], n_channels: int) -> tuple[list[str], dict[str, Any]]:
    """Return nnU-Net's schemes with which the weights were trained, one per channel, and the numbers of each channel
    that one of them takes.

    contract: see `EncoderReport`. Raises `AssftError` if it does not say how images were normalised, or in a way that
    is not known here.
    """
    schemes, intensities = (list(contract.get(name) or ()) for name in ("normalization", "intensities"))
    if len(set(schemes)) == 1 and len(intensities) <= 1:  # the same for every channel
        schemes, intensities = schemes[:1] * n_channels, intensities * n_channels
    found = [CT_NORMALIZATION if scheme.startswith(HU) else scheme for scheme in schemes]
    known = {*NORMALIZATIONS.values(), *OF_NNUNET, *([CT_NORMALIZATION] if len(intensities) == n_channels else [])}
    if len(found) != n_channels or not known.issuperset(found):
        raise AssftError(
            f"--option prior_input=contract: the normalization in the training of the weights was "
            f"{_listed(schemes) or 'not recorded'}, and it is not known how to apply that to "
            f"{count(n_channels, 'channel')}. Use prior_input=same."
        )
    return found, {str(i): dict(numbers) for i, numbers in enumerate(intensities)}


def normalised_as_trained(plans: Mapping[str, Any], contract: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plans with the normalisation of the weights in place of their own. Raises like `normalization_of`."""
    plan = plans["configurations"][CONFIGURATION]
    schemes, intensities = normalization_of(contract, len(plan["normalization_schemes"]))
    if schemes == plan["normalization_schemes"] and not intensities:
        return dict(plans)
    changed = {**plan, "normalization_schemes": schemes}
    return {
        **plans,
        "foreground_intensity_properties_per_channel": {
            **plans["foreground_intensity_properties_per_channel"],
            **intensities,
        },
        "configurations": {**plans["configurations"], CONFIGURATION: changed},
    }


def deviations(contract: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return phrases that say what differs, such as "patch 96 x 96 x 96 (128 x 128 x 128)".

    contract: the input that the weights were trained with; what it does not say is not compared. given: see `input_of`.
    """
    found, differing = [], _differing(contract, given)
    if spacing := differing.get("spacing"):
        found.append(f"spacing {_spacing(given['spacing'])} mm ({_spacing(spacing)} mm)")
    if patch := differing.get("patch_size"):
        found.append(f"patch {by(given['patch_size'])} ({by(patch)})")
    if schemes := differing.get("normalization"):
        found.append(f"normalization {_listed(given['normalization'])} ({_listed(schemes)})")
    names, n, n_given = contract.get("channels"), contract.get("n_channels"), len(given["channels"])
    if names and [str(name).lower() for name in names] != [str(name).lower() for name in given["channels"]]:
        found.append(f"channels {_listed(given['channels'])} ({_listed(map(str, names))})")
    elif n not in (None, n_given):
        found.append(f"{count(n_given, 'channel')} ({n})")
    return found


def options_to_adopt(
    contract: Mapping[str, Any], given: Mapping[str, Any], transpose_backward: Sequence[int]
) -> list[str]:
    """Return the options of `nnUNetv2_assft_plan` that plan the input with which the weights were trained, as far as
    there are such options. transpose_backward: that of the plans."""
    options, differing = [], _differing(contract, given)
    if spacing := differing.get("spacing"):  # the options count the axes as they are read
        options.append("--spacing " + " ".join(f"{spacing[axis]:g}" for axis in transpose_backward))
    if patch := differing.get("patch_size"):
        options.append("--patch_size " + " ".join(map(str, patch)))
    schemes = set(differing.get("normalization", ()))
    options += [f"--normalization {name}" for name, scheme in NORMALIZATIONS.items() if {scheme} == schemes]
    return options


def _differing(contract: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return spacing, patch and normalisation of the training of the weights, those that differ from the given ones."""
    spacing, patch, schemes = (contract.get(name) for name in ("spacing", "patch_size", "normalization"))
    pairs = zip(spacing or (), given["spacing"], strict=False)
    is_same = {
        "spacing": not spacing or all(math.isclose(a, b, rel_tol=0.01) for a, b in pairs),
        "patch_size": not patch or list(patch) == list(given["patch_size"]),
        "normalization": not schemes or set(schemes) == set(given["normalization"]),
    }
    return {name: contract[name] for name, same in is_same.items() if not same}


def _spacing(spacing: Sequence[float]) -> str:
    return " x ".join(f"{edge:.3g}" for edge in spacing)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))

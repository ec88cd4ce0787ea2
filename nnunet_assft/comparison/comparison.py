"""The fair comparison: arms that differ in one thing, run with the same cases, budget, epochs and seeds.

`run_comparison` is the main path. What is compared: spec.py. What an arm is and does: arms/. What came out of it:
collection.py reads what is finished, conclusions.py says what it means.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from nnunet_assft.comparison.spec import Comparison
from nnunet_assft.errors import AssftError


def run_comparison(comparison: Comparison, device: torch.device, say: Callable[[str], None] = print) -> list[str]:
    """Do every run that is left, and say one line about each.

    Returns the runs that failed, with the reason; a failure does not stop the others. comparison.json has to be there,
    see `spec.write_comparison`.
    """
    failed = []
    runs = [(arm, seed) for seed in comparison.seeds for arm in comparison.arms]
    for i, (arm, seed) in enumerate(runs, 1):
        start, name = time.monotonic(), f"{arm.id}, seed {seed}"
        try:
            dice = arm.run(comparison, seed, device)
        except AssftError as error:
            failed.append(f"{name}: {error}")
            say(f"[{i:3d}/{len(runs)}] {name}: failed: {error}")
        else:
            shown, minutes = " ".join(f"{100 * d:.2f}" for d in dice), (time.monotonic() - start) / 60
            say(f"[{i:3d}/{len(runs)}] {name}: Dice {shown} ({minutes:.1f} min)")
    return failed

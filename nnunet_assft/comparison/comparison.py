"""The fair comparison: arms that differ in one respect, run with the same cases, budget, epochs and seeds.

`run_comparison` is the main path. spec.py defines what is compared, and arms/ what an arm is and does. collection.py
collects the finished results, and conclusions.py says what they mean.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from nnunet_assft.comparison.arms import Comparison
from nnunet_assft.errors import AssftError


def run_comparison(comparison: Comparison, device: torch.device, say: Callable[[str], None] = print) -> list[str]:
    """Execute or continue all runs, and report each of them in one line with `say`.

    Returns the runs that failed, with the reason; a failure does not stop the others. comparison.json must exist, see
    `spec.write_comparison`.
    """
    failed = []
    runs = [(part, arm, seed) for part in comparison.folds for seed in comparison.seeds for arm in comparison.arms]
    for i, (part, arm, seed) in enumerate(runs, 1):
        start = time.monotonic()
        name = f"{arm.id}, seed {seed}" + (f", fold {part.fold}" if comparison.test_folds > 1 else "")
        try:
            dice = arm.run(part, seed, device)
        except AssftError as error:
            failed.append(f"{name}: {error}")
            say(f"[{i:3d}/{len(runs)}] {name}: failed: {error}")
        else:
            shown, minutes = " ".join(f"{100 * d:.2f}" for d in dice), (time.monotonic() - start) / 60
            say(f"[{i:3d}/{len(runs)}] {name}: Dice {shown} ({minutes:.1f} min)")
    return failed

"""The fair comparison: arms that differ in one respect, run with the same cases, budget, epochs and seeds.

`run_comparison` is the main path. spec.py defines what is compared, and arms/ what an arm is and does. collection.py
collects the finished results, and conclusions.py says what they mean.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack

import torch

from nnunet_assft.comparison.arms import Comparison
from nnunet_assft.errors import in_one_line
from nnunet_assft.runtime.locks import only_process


def run_comparison(
    comparison: Comparison, device: torch.device, say: Callable[[str], None] = print, *, verbose: bool = False
) -> list[str]:
    """Execute or continue all runs, and report each of them in one line with `say`.

    Returns the runs that failed, with the reason; a failure does not stop the others. comparison.json must exist, see
    `spec.write_comparison`. verbose: also print the traceback of a failure. Raises `AssftError` if another process is
    running one of these seeds; other seeds may run at the same time.
    """
    with ExitStack() as locks:
        for seed in comparison.seeds:
            work = f"seed {seed} of comparison {comparison.name!r} of {comparison.dataset}"
            locks.enter_context(only_process(comparison.folder / f".lock_seed_{seed}", work))
        return _run_all(comparison, device, say, verbose)


def _run_all(comparison: Comparison, device: torch.device, say: Callable[[str], None], verbose: bool) -> list[str]:
    failed = []
    runs = [(part, arm, seed) for part in comparison.folds for seed in comparison.seeds for arm in comparison.arms]
    for i, (part, arm, seed) in enumerate(runs, 1):
        start = time.monotonic()
        name = f"{arm.id}, seed {seed}" + (f", fold {part.fold}" if comparison.test_folds > 1 else "")
        try:
            dice = arm.run(part, seed, device)
        except Exception as error:  # also one that nobody foresaw: it is reported, and the other runs continue
            if verbose:
                traceback.print_exc()
            failed.append(f"{name}: {in_one_line(error)}")
            say(f"[{i:3d}/{len(runs)}] {name}: failed: {in_one_line(error)}")
        else:
            shown, minutes = " ".join(f"{100 * d:.2f}" for d in dice), (time.monotonic() - start) / 60
            say(f"[{i:3d}/{len(runs)}] {name}: Dice {shown} ({minutes:.1f} min)")
    return failed

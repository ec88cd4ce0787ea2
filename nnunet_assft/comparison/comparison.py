"""The fair comparison: arms that differ in one respect, run with the same cases, budget, epochs and seeds.

`run_comparison` is the main path. spec.py defines what is compared, and arms/ what an arm is and does. collection.py
collects the finished results, and conclusions.py says what they mean.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import torch

from nnunet_assft.cluster.engines import HERE, Engine
from nnunet_assft.comparison.arms import Arm, Comparison
from nnunet_assft.errors import AssftError, in_one_line
from nnunet_assft.runtime.cases import each_case
from nnunet_assft.runtime.locks import only_process

Run = tuple[Comparison, Arm, int]  # a fold of the comparison, an arm and a seed


# five parameters: what is run, where, and what is said about it
def run_comparison(
    comparison: Comparison,
    device: torch.device,
    say: Callable[[str], None] = print,
    *,
    engine: Engine = HERE,
    verbose: bool = False,
) -> list[str]:
    """Execute or continue all runs, and report each of them in one line with `say`.

    Returns the runs that failed, with the reason; a failure does not stop the others. comparison.json must exist, see
    `spec.write_comparison`. engine: where the runs are executed, each as a whole. verbose: also print the traceback of
    a failure. Raises `AssftError` if another process is running one of these seeds; other seeds may run at the same
    time.
    """
    with ExitStack() as locks:
        for seed in comparison.seeds:
            work = f"seed {seed} of comparison {comparison.name!r} of {comparison.dataset}"
            locks.enter_context(only_process(comparison.folder / f".lock_seed_{seed}", work))
        return _run_all(comparison, device, say, engine, verbose)


def _run_all(
    comparison: Comparison, device: torch.device, say: Callable[[str], None], engine: Engine, verbose: bool
) -> list[str]:
    failed, i = [], 0
    runs = [(part, arm, seed) for part in comparison.folds for seed in comparison.seeds for arm in comparison.arms]
    executor = engine.runs(comparison.folder / "jobs")
    desc = f"runs from seed {min(comparison.seeds)} on"  # another command may execute other seeds meanwhile
    for number, wave in enumerate([runs] if engine.name == HERE.name else _waves(runs), 1):
        named, step = {_name(run): run for run in wave}, f"{desc}, wave {number}"
        for name, result in each_case(partial(_run, device, verbose), named, desc=step, executor=executor):
            i += 1
            if isinstance(result, AssftError):
                failed.append(f"{name}: {result}")
                say(f"[{i:3d}/{len(runs)}] {name}: failed: {result}")
            else:
                dice, minutes = result
                shown = " ".join("-" if d is None else f"{100 * d:.2f}" for d in dice)
                say(f"[{i:3d}/{len(runs)}] {name}: Dice {shown} ({minutes:.1f} min)")
    return failed


def _waves(runs: list[Run]) -> Iterator[list[Run]]:
    """Yield runs that may be executed at the same time: each wave uses what the ones before it have finished.

    Strategies reuse round 0 of the first one with their encoder, and the references use the cases of a strategy.
    """
    strategies = [run for run in runs if run[1] in run[0].strategies]
    first = [run for run in strategies if run[1] == run[0].first_with_encoder_of(run[1])]
    yield first
    yield [run for run in strategies if run not in first]
    yield [run for run in runs if run[1] not in run[0].strategies]


def _name(run: Run) -> str:
    comparison, arm, seed = run
    return f"{arm.id}, seed {seed}" + (f", fold {comparison.fold}" if comparison.test_folds > 1 else "")


def _run(device: torch.device, verbose: bool, run: Run) -> tuple[list[float | None], float]:
    """Execute a run, and return the Dice of its rounds and the minutes that it took. The Dice is None for a round in
    which no test case has one, because there is no structure in any label or segmentation."""
    comparison, arm, seed = run
    start = time.monotonic()
    try:
        dice = arm.run(comparison, seed, device)
    except Exception as error:  # also one that nobody foresaw: it is reported, and the other runs continue
        if verbose:
            traceback.print_exc()
        raise AssftError(in_one_line(error)) from error
    return [None if d is None or math.isnan(d) else d for d in dice], (time.monotonic() - start) / 60

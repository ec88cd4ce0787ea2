"""What the gain of ASSFT over random sampling consists of: its query, its pseudo-labels, and its longer training.

ASSFT differs from random sampling in three parts: the query, the additional steps of a second stage, and the
pseudo-labels in that stage. Arms that have some of the parts are the cells of a crossed design. The share of a part is
what it adds to the area under the budget curve, on average over the orders in which the parts can be added: the Shapley
value under precedence constraints (Faigle and Kern 1992), because pseudo-labels need a second stage. The shares add up
to the whole gain.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import permutations

import pandas as pd

from nnunet_assft.active.options import NONE, PSEUDO, SECOND_STAGES, SUPERVISED
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.comparison.arms import Comparison, StrategyArm
from nnunet_assft.comparison.statistics import arm_matrix, aubc_scores, case_scores, complete, folds_of
from nnunet_assft.evaluation.intervals import crossed_mean

METHOD, BASELINE = "assft", "random"  # the conclusions compare all arms with METHOD, if it is one of them
QUERY, STEPS, PSEUDO_LABELS, WHOLE = "query", "steps of a second stage", "pseudo-labels", "all together"
COLUMNS = ["part", "gain", "ci_low", "ci_high", "n_seeds", "n_cases", "n_orders", "left_out"]
STAGES = (NONE, SUPERVISED, PSEUDO)  # each has one part more than the one before
Cell = tuple[str, str]  # (METHOD or BASELINE, second stage)
Order = list[tuple[str, Cell, Cell]]  # (part, cell before it was added, cell after)


def attribution(comparison: Comparison, results: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """Split the gain in AUBC of ASSFT over random sampling into parts, with 95 % intervals over seeds and cases.

    results: rows of results.csv. Returns COLUMNS, with one row per part and a last row for all of them together; the
    start is random sampling without a second stage if that is an arm, and otherwise with a supervised one, so that
    there is no part for the steps. n_orders: over how many orders the parts are averaged, those whose arms are all
    there. left_out: seeds and cases that are not in all of these arms, in words. Empty if there is no such order.
    """
    arms = _cells(comparison, set(results["arm"]))
    orders = _orders((QUERY, STEPS, PSEUDO_LABELS), NONE, arms) or _orders((QUERY, PSEUDO_LABELS), SUPERVISED, arms)
    if not orders:
        return pd.DataFrame(columns=COLUMNS)
    weights = _weights(orders)
    used = {cell for of_part in weights.values() for cell in of_part}
    scores = aubc_scores(case_scores(results[results["arm"].isin([arms[cell] for cell in used])], metric))
    joined = pd.concat({cell: arm_matrix(scores, arms[cell]).stack() for cell in sorted(used)}, axis=1, join="outer")
    rows = []
    for part, of_part in weights.items():
        gain = sum(weight * joined[cell] for cell, weight in of_part.items())
        with_all = gain.where(joined.notna().all(axis="columns")).unstack()
        matrix, left_out = complete(with_all)
        found = crossed_mean(matrix.to_numpy(), folds_of(results)[matrix.columns])
        rows.append((part, found.mean, *found.interval(), *matrix.shape, len(orders), left_out))
    return pd.DataFrame(rows, columns=COLUMNS)


def _cells(comparison: Comparison, there: set[str]) -> dict[Cell, str]:
    """Return cell of the design -> id of its arm, for the arms that have results.

    Every strategy with the query of ASSFT is in the row of the method; ASSFT itself goes before the others.
    """
    function = STRATEGIES[METHOD].function
    cells: dict[Cell, str] = {}
    for arm in sorted(comparison.arms, key=lambda arm: arm.id != METHOD):
        if not isinstance(arm, StrategyArm) or arm.row is None or arm.id not in there:
            continue
        if arm.variant in (None, *SECOND_STAGES) and arm.encoder is None:
            query = METHOD if arm.row.function is function else arm.kind
            cells.setdefault((query, arm.second_stage(comparison)), arm.id)
    return cells


def _orders(parts: tuple[str, ...], start: str, arms: dict[Cell, str]) -> list[Order]:
    """Return the orders in which the parts can be added to random sampling with the second stage `start`."""
    found = []
    for order in permutations(parts):
        if STEPS in order and order.index(STEPS) > order.index(PSEUDO_LABELS):
            continue
        path, cell = [], (BASELINE, start)
        for part in order:
            query, stage = cell
            after = (METHOD, stage) if part == QUERY else (query, STAGES[STAGES.index(stage) + 1])
            path.append((part, cell, after))
            cell = after
        if all(before in arms and after in arms for _, before, after in path):
            found.append(path)
    return found


def _weights(orders: list[Order]) -> dict[str, dict[Cell, float]]:
    """Return part -> (cell -> its weight in the share of the part), with all parts together at the end."""
    weights: dict[str, dict[Cell, float]] = {part: defaultdict(float) for part in (QUERY, STEPS, PSEUDO_LABELS)}
    for order in orders:
        for part, before, after in order:
            weights[part][after] += 1 / len(orders)
            weights[part][before] -= 1 / len(orders)
    (_, first, _), (_, _, last) = orders[0][0], orders[0][-1]
    shares: dict[str, dict[Cell, float]] = {part: dict(of_part) for part, of_part in weights.items() if of_part}
    return {**shares, WHOLE: {last: 1.0, first: -1.0}}

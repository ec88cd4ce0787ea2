"""The number of cases that a round queries, and the cases that it may query."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from fractions import Fraction

from nnunet_assft.active.arrays import check_count
from nnunet_assft.runtime.ranges import parse_budget


def query_budget(spec: int | float | str, n_pool: int) -> int:
    """Return N_B, the number of cases to query per round.

    spec: a number of cases (5 or "5"), or a fraction f of the initial pool (0.05, "0.05" or "5%"), which stands for
    max(1, floor(f n_pool + 1/2)) in exact arithmetic. Raises ValueError unless the number is at least 1 or
    0 < f <= 1.
    """
    n_pool = check_count(n_pool, "n_pool")
    try:
        budget = parse_budget(spec)
    except ValueError as error:
        raise ValueError(f"budget {error}.") from None
    return budget if isinstance(budget, int) else max(1, math.floor(budget * n_pool + Fraction(1, 2)))


def query_candidates(
    unlabelled: Collection[str],
    pseudo_labelled_last_round: Collection[str],
    reliability: Mapping[str, float],
    n_query: int,
) -> list[str]:
    """Return the sorted ids of Q_r (section 3.4): the unlabelled cases that were not pseudo-labelled in the last round.

    If fewer than n_query remain, excluded cases return to Q_r, the least reliable first; a tie goes to the smaller id.
    reliability: R of the excluded cases, needed only if some return. Raises ValueError for an excluded case that is not
    unlabelled, or whose reliability is needed but missing.
    """
    n_query = check_count(n_query, "n_query")
    pool, excluded = set(unlabelled), set(pseudo_labelled_last_round)
    if not excluded <= pool:
        raise ValueError(f"pseudo-labelled but not in T_u: {sorted(excluded - pool)}; expected unlabelled cases only.")
    shortage = max(0, n_query - len(pool - excluded))
    given_back: list[str] = []
    if shortage:
        unknown = sorted(case for case in excluded if not math.isfinite(reliability.get(case, math.nan)))
        if unknown:
            raise ValueError(
                f"no finite reliability for {unknown}; expected R of every excluded case when the pool is short."
            )
        given_back = sorted(excluded, key=lambda case: (reliability[case], case))[:shortage]
    return sorted((pool - excluded).union(given_back))

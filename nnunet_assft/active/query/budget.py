"""How many cases a round queries, and which cases it may choose from."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from decimal import Decimal, InvalidOperation
from numbers import Integral, Real

import numpy as np

from nnunet_assft.active.metrics import _count


def query_budget(spec: int | float | str, n_pool: int) -> int:
    """N_B, cases to query per round: a count (5, "5") as it is, a fraction f (0.05, "0.05", "5%") of the initial pool as
    max(1, floor(f n_pool + 1/2)), in decimal arithmetic. Raises ValueError for anything but a count >= 1 or 0 < f <= 1.
    """
    n_pool = _count(n_pool, "n_pool")
    text = str(spec).strip()
    is_number = isinstance(spec, str | Integral | Real) and not isinstance(spec, bool | np.bool_)
    if is_number and re.fullmatch(r"[0-9]+", text) and int(text) >= 1:
        return int(text)
    try:
        fraction = Decimal(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except InvalidOperation:
        fraction = Decimal("NaN")
    written_as_fraction = is_number and not re.fullmatch(r"[+-]?[0-9]+", text)
    if not (written_as_fraction and fraction.is_finite() and 0 < fraction <= 1):
        raise ValueError(
            f"budget {spec!r}; expected cases per round (2) or a fraction of the pool (0.05 or 5%), at most 100%."
        )
    return max(1, math.floor(fraction * n_pool + Decimal("0.5")))


def query_candidates(
    unlabelled: Collection[str],
    pseudo_labelled_last_round: Collection[str],
    reliability: Mapping[str, float],
    n_query: int,
) -> list[str]:
    """Q_r (section 3.4): the unlabelled cases without those pseudo-labelled in the last round, as sorted ids.

    If fewer than n_query remain, excluded cases are given back, lowest reliability first, ties by id.
    reliability: R of the excluded cases, needed only then. Raises ValueError for ids or values that are missing.
    """
    n_query = _count(n_query, "n_query")
    pool, excluded = set(unlabelled), set(pseudo_labelled_last_round)
    if not excluded <= pool:
        raise ValueError(f"pseudo-labelled but not unlabelled: {sorted(excluded - pool)}; expected cases of T_u only.")
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

"""The query of the paper, which combines DKD and ASD (Eqs. 1-16), and its ablations with one of them (Tables 6-7)."""

from __future__ import annotations

import warnings

import numpy as np

from nnunet_assft.active import metrics
from nnunet_assft.active.query.pool import Query, QueryPool
from nnunet_assft.active.query.shared import best_first, make_query, score_per_case


def query_dkd_asd(pool: QueryPool, n_query: int) -> Query:
    """Query the cases with the largest Q (Eqs. 1-16); a tie goes to the larger DKD, then to the smaller id."""
    columns = _dkd_columns(pool)
    dkd, asd = columns["dkd"], _asd(pool)
    chosen = metrics.select_query(dkd, asd, n_query, pool.ids)
    columns |= {
        "asd": asd,
        "dkd_minmax": metrics.minmax(dkd),
        "asd_minmax": metrics.minmax(asd),
        "dkd_rank": metrics.rank01(dkd),
        "asd_rank": metrics.rank01(asd),
        "q": metrics.query_score(dkd, asd),
    }
    return make_query(pool, chosen, columns)


def query_dkd(pool: QueryPool, n_query: int, *, largest: bool) -> Query:
    """Query the cases with the largest or the smallest DKD (Eq. 5)."""
    columns = _dkd_columns(pool)
    return make_query(pool, best_first(columns["dkd"], largest=largest)[:n_query], columns)


def query_asd(pool: QueryPool, n_query: int, *, largest: bool, tau1: bool = False) -> Query:
    """Query the cases with the largest or the smallest ASD (Eqs. 6-11).

    tau1: use the mask at temperature 1 instead of that of the round.
    """
    asd = _asd(pool, tau1=tau1)
    zeros = int((asd == 0).sum())
    if zeros > 1 and not largest:
        message = f"ASD is 0 for {zeros} of {len(asd)} cases, as it is without foreground; case ids break the tie."
        warnings.warn(message, stacklevel=2)
    return make_query(pool, best_first(asd, largest=largest)[:n_query], {"asd": asd})


def _dkd_columns(pool: QueryPool) -> dict[str, np.ndarray]:
    assert pool.embeddings is not None
    assert pool.pretrained_embeddings is not None
    pakd = metrics.pakd(pool.pretrained_embeddings, pool.embeddings)
    pd = metrics.pairwise_dissimilarity(
        pool.embeddings,
        pakd,
        pool.ids,
        pd_weights=pool.options.pd_weights,
        e_labelled=pool.labelled_embeddings if pool.options.pd_labelled else None,
    )
    return {"pakd": pakd, "pd": pd, "dkd": pakd * pd}  # Eq. 5


def _asd(pool: QueryPool, *, tau1: bool = False) -> np.ndarray:
    return score_per_case(pool, lambda sums: metrics.asd_from_sums(sums, pool.options.asd_reduction, tau1=tau1))

"""The table of query strategies: which unlabelled cases to annotate next.

A strategy is one function of a QueryPool (in `query/`) and one row of STRATEGIES, which also sets the parameters of the
function. Its contract:

* It returns the ids of min(n_query, len(pool.ids)) distinct cases, best first, and the scores that led to the choice.
* It depends on the pool alone. It reads no file and no clock, and draws random numbers only from a generator that is
  seeded by (pool.seed, pool.round).
* A tie goes to the smaller case id. The inputs are not modified.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from nnunet_assft.active.options import Options
from nnunet_assft.active.query.coverage import query_badge, query_coreset, query_typiclust
from nnunet_assft.active.query.hybrid import query_sann, query_ugtst
from nnunet_assft.active.query.method import query_asd, query_dkd, query_dkd_asd
from nnunet_assft.active.query.pool import Query, QueryPool
from nnunet_assft.active.query.random_sampling import query_random, query_random_foreground
from nnunet_assft.active.query.uncertainty import (
    query_clasp_pe,
    query_cup,
    query_entropy,
    query_least_confidence,
    query_margin,
)
from nnunet_assft.runtime.tables import Table


@dataclass(frozen=True)
class Strategy:
    """One row of the table. `query` is the entry point; it checks the pool and calls `function`."""

    function: Callable[[QueryPool, int], Query]
    needs: frozenset[str]  # fields of QueryPool that the function reads
    source: str  # publication or release that defines the strategy
    description: str
    extra_trainings: int = 0  # additional trainings per round, for the query alone
    extra_passes: int = 0  # additional forward passes per case
    semi_supervised: bool = False  # the round has a second stage, with pseudo-labelled cases
    excludes_pseudo_labelled: bool = False  # cases pseudo-labelled in the last round are not in the query pool

    def query(self, pool: QueryPool, n_query: int) -> Query:
        """Query n_query cases of the pool, or all of them if there are fewer.

        Raises ValueError if n_query is below 1 or if the pool lacks a field that the strategy needs.
        """
        n_query = operator.index(n_query)
        if n_query < 1:
            raise ValueError(f"n_query is {n_query}; expected at least one case to query.")
        needs = self.needs_with(pool.options)
        missing = sorted(name for name in needs if getattr(pool, name) is None)
        if missing:
            raise ValueError(
                f"the query pool lacks {', '.join(missing)}; this strategy needs {', '.join(sorted(needs))}."
            )
        return self.function(pool, min(n_query, len(pool.ids)))

    @property
    def passes(self) -> int:
        """The number of forward passes per case of the pool; 0 if the strategy uses no image."""
        return 0 if self.needs == {"permutation"} else 1 + self.extra_passes

    @property
    def extra_cost(self) -> str:
        """The cost beyond one forward pass per case, in words, or an empty string."""
        costs = [(self.extra_trainings, "trainings per round"), (self.extra_passes, "passes per case")]
        return " and ".join(f"{n} more {what}" for n, what in costs if n)

    def needs_with(self, options: Options) -> frozenset[str]:
        """Return `needs` together with the fields that the options add."""
        return self.needs | _LABELLED if options.pd_labelled and self.needs >= _TWO_ENCODERS else self.needs


_SUMS = frozenset({"sums"})
_TWO_ENCODERS = frozenset({"embeddings", "pretrained_embeddings"})
_LABELLED = frozenset({"embeddings", "labelled_embeddings"})

STRATEGIES: Table[Strategy] = Table(
    "nnunet_assft.strategies",
    Strategy,
    {
        "random": Strategy(
            function=query_random,
            needs=frozenset({"permutation"}),
            source="ASSFT paper, baseline RAND",
            description="cases in random order, with one permutation per seed",
        ),
        "dkd_asd": Strategy(
            function=query_dkd_asd,
            needs=_SUMS | _TWO_ENCODERS,
            source="ASSFT paper, Eqs. 1-16",
            description="largest Q: knowledge divergence and segmentation difficulty; supervised fine-tuning only",
        ),
        "assft": Strategy(
            function=query_dkd_asd,
            needs=_SUMS | _TWO_ENCODERS,
            source="ASSFT paper, Algorithm 1",
            description="largest Q, then selective semi-supervised fine-tuning on trusted pseudo-labels",
            semi_supervised=True,
            excludes_pseudo_labelled=True,
        ),
        "entropy": Strategy(
            function=query_entropy,
            needs=_SUMS,
            source="ASSFT paper, baseline ENPY; Wang and Shang 2014",
            description="largest mean entropy over all voxels",
        ),
        "least_confidence": Strategy(
            function=query_least_confidence,
            needs=_SUMS,
            source="ASSFT paper, baseline LCON; Li and Sethi 2006",
            description="largest 1 - mean p_(1) over all voxels",
        ),
        "margin": Strategy(
            function=query_margin,
            needs=_SUMS,
            source="ASSFT paper, baseline MMAR; Wang and Shang 2014",
            description="smallest mean p_(1) - p_(2) over all voxels",
        ),
        "coreset": Strategy(
            function=query_coreset,
            needs=_LABELLED,
            source="ASSFT paper, baseline Core-set; Sener and Savarese 2018, greedy part",
            description="greedy k-centre: the case farthest from all labelled and already picked cases",
        ),
        "badge": Strategy(
            function=query_badge,
            needs=frozenset({"gradients"}),
            source="ASSFT paper, baseline BADGE; Ash et al. 2020, release JordanAsh/badge; mean over voxels",
            description="k-means++ sampling of the loss gradient at the last layer",
        ),
        "sann": Strategy(
            function=partial(query_sann, candidates_per_case=2),
            needs=frozenset({"embeddings", "committee_spread"}),
            source="ASSFT paper, baseline SANN; Yang et al. 2017",
            description="2b cases on which a bootstrap committee disagrees most; of these, the b most like all cases",
            extra_trainings=4,
            extra_passes=4,
        ),
        "ugtst": Strategy(
            function=partial(query_ugtst, candidates_per_case=2),
            needs=frozenset({"embeddings", "peak_entropy"}),
            # the views are of the first release; 2b candidates and the entropy of the mean prediction of the second one
            source="ASSFT paper; Luo et al. 2024, HiLab-git/UGTST; 2b, entropy: HiLab-git/UMDM-SFADA",
            description="2b cases with the largest entropy above its first peak; of these, the centres of b clusters",
            extra_passes=8,
        ),
        "cup": Strategy(
            function=partial(query_cup, candidates_per_case=2),
            needs=_SUMS,
            source="Wang et al. 2024, release whq-xxh/SFADA-UWF-SLO; per volume",
            description="2b cases with the largest mean entropy; of these, the b with the most predicted foreground",
        ),
        "dkd_high": Strategy(
            function=partial(query_dkd, largest=True),
            needs=_TWO_ENCODERS,
            source="ASSFT paper, Tables 6-7",
            description="ablation: largest DKD (Eq. 5)",
        ),
        "dkd_low": Strategy(
            function=partial(query_dkd, largest=False),
            needs=_TWO_ENCODERS,
            source="ASSFT paper, Tables 6-7",
            description="ablation: smallest DKD (Eq. 5)",
        ),
        "asd_high": Strategy(
            function=partial(query_asd, largest=True),
            needs=_SUMS,
            source="ASSFT paper, Tables 6-7",
            description="ablation: largest ASD at tau of the round",
        ),
        "asd_low": Strategy(
            function=partial(query_asd, largest=False),
            needs=_SUMS,
            source="ASSFT paper, Tables 6-7",
            description="ablation: smallest ASD at tau of the round",
        ),
        "asd_high_tau1": Strategy(
            function=partial(query_asd, largest=True, tau1=True),
            needs=_SUMS,
            source="ASSFT paper, Tables 6-7",
            description="ablation: largest ASD at tau = 1",
        ),
        "asd_low_tau1": Strategy(
            function=partial(query_asd, largest=False, tau1=True),
            needs=_SUMS,
            source="ASSFT paper, Tables 6-7",
            description="ablation: smallest ASD at tau = 1",
        ),
        "random_foreground": Strategy(
            function=query_random_foreground,
            needs=_SUMS,
            source="own, after the foreground-aware random of nnActive",
            description="a random predicted structure, then a case in proportion to its predicted voxels of it",
        ),
        "clasp_pe": Strategy(
            function=query_clasp_pe,
            needs=frozenset({"class_entropies"}),
            source="volume-level form of ClaSP PE, release MIC-DKFZ/nnActive",
            description="66 % by the entropy of one structure each, the rest by that of all, with noise that fades",
        ),
        "typiclust": Strategy(
            function=partial(query_typiclust, neighbours=20),
            needs=_LABELLED,
            source="Hacohen et al. 2022",
            description="k-means, L + b clusters; the most typical case of the largest ones without a labelled case",
        ),
    },
)

"""Compute missing pre-segmentations of queried cases, which a round with the oracle does not write."""

from __future__ import annotations

from functools import cache

import torch

from nnunet_assft.active.context import open_context
from nnunet_assft.active.scoring.prediction import open_scorer
from nnunet_assft.active.scoring.scorer import Scorer
from nnunet_assft.annotation.preview import write_preview
from nnunet_assft.report.images import QueriedCase, queried_cases, why_no_images
from nnunet_assft.report.material import Material
from nnunet_assft.runtime.cases import for_each_case


def write_prelabels(material: Material, device: torch.device) -> None:
    """Write the missing pre-segmentations of the cases that the report shows.

    Each takes one forward pass by the model of the round before the query of the case, see `annotation.preview`.
    """
    queried = queried_cases(material)
    todo = {query.case: query for query in queried if query.round and "pre-segmentation" not in query.segmentations}
    if not todo or why_no_images(material.dataset):
        return
    context = open_context(material.experiment, device)

    @cache
    def scorer(r: int) -> Scorer:
        return open_scorer(context, material.rounds[r - 1].model)

    def write(query: QueriedCase) -> None:
        write_preview(context, query.round, query.case, material.rounds[query.round - 1].model, scorer(query.round))

    for_each_case(write, todo, desc="pre-segmentations")

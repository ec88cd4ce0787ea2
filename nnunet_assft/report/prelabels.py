"""Compute missing pre-segmentations of queried cases, which a round with the oracle does not write."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch

from nnunet_assft.active.context import open_context
from nnunet_assft.active.scoring.prediction import open_scorer
from nnunet_assft.active.scoring.scorer import Scorer
from nnunet_assft.annotation.preview import Prelabels, prelabels_of
from nnunet_assft.cluster.engines import HERE, Engine
from nnunet_assft.report.images import queried_cases, why_no_images
from nnunet_assft.report.material import Material
from nnunet_assft.runtime.cases import Once, for_each_case
from nnunet_assft.runtime.locks import only_process


def write_prelabels(material: Material, device: torch.device, engine: Engine = HERE) -> None:
    """Write the missing pre-segmentations of the cases that the report shows.

    Each takes one forward pass by the model of the round before the query of the case, see `annotation.preview`.
    engine: where the cases are worked on.
    """
    queried = queried_cases(material)
    todo = {case.case: case.round for case in queried if case.round and "pre-segmentation" not in case.segmentations}
    if not todo or why_no_images(material.dataset):
        return
    context = open_context(material.experiment, device, engine)
    prelabels = {r: found for r in todo.values() if (found := prelabels_of(context, r))}
    scorers = {r: Once(partial(open_scorer, context, each.model)) for r, each in prelabels.items()}

    def done(case: str) -> bool | None:
        return prelabels[todo[case]].described(case) is not None or None

    lock = context.paths.results / ".prelabels.lock"  # a round may be at work meanwhile, but not another report
    with only_process(lock, "the pre-segmentations for a report", patience=math.inf):
        for_each_case(
            partial(_write, prelabels, scorers),
            {case: (r, case) for case, r in todo.items()},
            desc="pre-segmentations",
            done=done,
            executor=context.cases,
        )


def _write(prelabels: Mapping[int, Prelabels], scorers: Mapping[int, Once[Scorer]], query: tuple[int, str]) -> bool:
    r, case = query
    prelabels[r].write(case, scorers[r]())
    return True

"""Pre-segmentations of queried cases that nothing kept: in a benchmark nobody asked for them."""

from __future__ import annotations

import SimpleITK as sitk
import torch
from tqdm import tqdm

from nnunet_assft.active.context import open_context
from nnunet_assft.active.scoring.prediction import open_scorer
from nnunet_assft.active.scoring.records import request_of
from nnunet_assft.annotation.preview import describe, preview
from nnunet_assft.report.images import queried_cases, why_no_images
from nnunet_assft.report.material import Material
from nnunet_assft.runtime.files import write_json
from nnunet_assft.volumes.segmentations import write_segmentation


def write_prelabels(material: Material, device: torch.device) -> None:
    """Segment every shown case with the model of the round before its query, into the folder of the previews."""
    todo = [q for q in queried_cases(material) if q.round and "pre-segmentation" not in q.segmentations]
    if not todo or why_no_images(material.dataset):
        return
    experiment = material.experiment
    context = open_context(experiment, device)
    scorers = {r: open_scorer(context, material.rounds[r - 1].model) for r in {queried.round for queried in todo}}
    for queried in tqdm(todo, desc="pre-segmentations", unit="case", leave=False):
        r, case = queried.round, queried.case
        tau = request_of(context, r).tau
        properties = context.properties(case)
        seen = preview(scorers[r], context.image(case), properties, tau)
        folder = experiment.paths.previews(r)
        write_segmentation(
            context.dataset.reader, seen.segmentation, folder / f"{case}{context.dataset.file_ending}", properties
        )
        made_from = {"model": material.rounds[r - 1].model.weights_sha256, "tau": tau}
        described = describe(seen, sitk.ReadImage(str(queried.image)), context.dataset.labels)
        write_json(folder / f"{case}.json", {"made_from": made_from, **described})

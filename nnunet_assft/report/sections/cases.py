"""Pictures of queried cases: three planes with the label and the pre-segmentation by the model of the round before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from nnunet_assft.annotation.preview import ENTROPY_STEPS
from nnunet_assft.report.images import (
    MAX_CASES,
    MAX_VOXELS,
    QueriedCase,
    Volume,
    load_volume,
    queried_cases,
    why_no_images,
)
from nnunet_assft.report.material import Material
from nnunet_assft.report.overlay import entropy_plot, overlay_plot
from nnunet_assft.report.plot import Plot
from nnunet_assft.report.sections.base import Section, grey_values, no_picture
from nnunet_assft.volumes.display import window_of


def section(material: Material) -> Section:
    title = "Queried cases"
    if why_not := why_no_images(material.dataset):
        return Section("cases", title, missing=(why_not,))
    chosen, window = queried_cases(material), window_of(material.dataset)
    plots, missing = [], []
    for i, queried in enumerate(tqdm(chosen, desc="overlays", unit="case", leave=False)):
        try:
            volume = load_volume(queried.image, queried.segmentations, MAX_VOXELS, window)
        except (RuntimeError, ValueError) as error:
            missing.append(no_picture(queried.case, error))
            continue
        shown = " and ".join(queried.segmentations) or "none, because there is no segmentation"
        caption = f"{_why(material, queried)} Contours: {shown}."
        plots.append(overlay_plot(f"case_{i + 1:02d}", queried.case, caption, volume, material.dataset.structures))
        plots += _entropy(f"entropy_{i + 1:02d}", queried, volume)
    if without := [q.case for q in chosen if q.round and "pre-segmentation" not in q.segmentations]:
        missing.append(
            f"There is no pre-segmentation and no entropy of {len(without)} of these cases; add --prelabel to compute "
            "them."
        )
    text = _text(len(chosen), sum(len(done.queried) for done in material.rounds), window)
    return Section("cases", title, (text,), missing=tuple(missing), plots=tuple(plots))


def _entropy(name: str, queried: QueriedCase, volume: Volume) -> list[Plot]:
    """Draw the entropy of a case, if its file exists and can be read."""
    if queried.entropy is None or not queried.entropy.is_file():
        return []
    try:
        steps = load_volume(queried.image, {"entropy": queried.entropy}, MAX_VOXELS, None).segmentations["entropy"]
    except (RuntimeError, ValueError):
        return []
    caption = (
        f"Where the network was unsure when round {queried.round} queried {queried.case}: the entropy of its softmax. "
        "The brighter, the less sure; the slices are those with the most entropy."
    )
    return [entropy_plot(name, f"{queried.case}: entropy", caption, volume, steps / ENTROPY_STEPS)]


def _why(material: Material, queried: QueriedCase) -> str:
    """Return when the case was queried, and the scores that it was queried for if its strategy has ranks."""
    if queried.case in material.experiment.labelled_at_start:
        return "Labelled at the start, so it was not queried."
    when = f"Queried in round {queried.round} with rank {queried.rank}."
    scores = material.scores.get(queried.round)
    if scores is None or queried.case not in set(scores["case"]):
        return when
    why = why_queried(dict(scores.set_index("case").loc[queried.case]))
    return f"{when} Why it was queried: {why}." if why else when


def why_queried(scores: Mapping[str, Any]) -> str:
    """Return in words what the scores of a queried case say, or nothing if its strategy has no ranks."""
    if not {"dkd_rank", "asd_rank"} <= set(scores):
        return ""
    return (
        f"of the other cases of the query pool, {float(scores['dkd_rank']):.0%} have changed less in the features of "
        f"the network (DKD), and the network is surer of {float(scores['asd_rank']):.0%} (ASD)"
    )


def _text(n_shown: int, n_queried: int, window: tuple[float, float] | None) -> str:
    return (
        f"{n_shown} of {n_queried} queried cases: those of the last rounds, by rank, at most {MAX_CASES}. The slices "
        f"are those with the largest segmented area, in radiological orientation. {grey_values(window)} Solid "
        "contours: the label. Dashed contours: the pre-segmentation, which is the segmentation by the model of the "
        "round before."
    )

"""Where queried, labelled and pseudo-labelled cases lie among the embeddings of all cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from sklearn.decomposition import PCA

from nnunet_assft.active.state import Round
from nnunet_assft.report.material import Embeddings, Material
from nnunet_assft.report.plot import MANY, MUTED, PAPER, SERIES, WIDE, Plot, draw_on_axes, legend_below
from nnunet_assft.report.sections.base import Section, dkd_is_random

_EDGE = {"edgecolors": PAPER, "linewidths": 0.5}
LOOKS: dict[str, dict[str, Any]] = {  # mark -> how it is drawn, the last one on top
    "unlabelled": {"s": 16, "facecolors": "none", "edgecolors": MUTED, "linewidths": 0.9, "marker": "o"},
    "pseudo-labelled": {"s": 28, "color": SERIES[2], "marker": "s", **_EDGE},
    "labelled": {"s": 28, "color": SERIES[0], "marker": "o", **_EDGE},
    "queried": {"s": 44, "color": SERIES[1], "marker": "^", **_EDGE},
}


def section(material: Material) -> Section:
    title = "Embedding map"
    plots = [_map_of_round(done, material) for done in reversed(material.rounds) if done.round in material.embeddings]
    if material.pretrained:
        plots.append(_map_before_adaptation(material.pretrained, material))
    if not plots:
        strategy = material.experiment.settings.strategy
        no_query = len(material.rounds) == 1
        why = "No round with a query is finished." if no_query else f"Strategy {strategy} computes no embeddings."
        return Section("embeddings", title, missing=(why,))
    text = (
        "The first two principal components of the embeddings of the cases (the features at the bottleneck, averaged "
        "over the scan). Every map has axes of its own, because every round has another encoder. Distances on the map "
        "are not DKD."
    )
    return Section("embeddings", title, (text,), plots=tuple(plots))


def _map_of_round(done: Round, material: Material) -> Plot:
    embeddings = material.embeddings[done.round]
    caption = (
        f"Encoder E⁽ⁱ⁾ as round {done.round} used it; {len(embeddings.cases)} cases, marked as they are after "
        "the query of this round."
    )
    name = f"embeddings_round_{done.round:02d}"
    return embedding_map(name, f"Round {done.round}", embeddings, _marks(done), caption)


def _map_before_adaptation(embeddings: Embeddings, material: Material) -> Plot:
    last = material.rounds[-1]
    title = "Encoder E⁽⁰⁾ before any adaptation" + (" (random)" if dkd_is_random(material) else "")
    caption = f"{title}; {len(embeddings.cases)} cases, marked as they are after round {last.round}."
    return embedding_map("embeddings_pretrained", title, embeddings, _marks(last), caption)


def _marks(done: Round) -> dict[str, Sequence[str]]:
    return {"queried": done.queried, "labelled": done.labelled, "pseudo-labelled": done.pseudo_labelled}


def embedding_map(
    name: str, title: str, embeddings: Embeddings, marks: Mapping[str, Sequence[str]], caption: str
) -> Plot:
    """Plot the first two principal components of at least two embeddings.

    marks: a key of LOOKS -> cases. A case with several marks is drawn with the first one, a case without a mark as
    unlabelled.
    """
    pca = PCA(n_components=2, svd_solver="full")
    points = pca.fit_transform(embeddings.rows)
    shares = 100 * np.nan_to_num(pca.explained_variance_ratio_)
    mark_of = {case: mark for mark in reversed(list(marks)) for case in marks[mark]}
    data = pd.DataFrame({"case": embeddings.cases, "pc1": points[:, 0], "pc2": points[:, 1]})
    data["mark"] = [mark_of.get(case, "unlabelled") for case in embeddings.cases]

    def draw(axes: Axes) -> None:
        for mark, look in LOOKS.items():
            part = data[data["mark"] == mark]
            if len(part):
                label = f"{mark} ({len(part)})"
                axes.scatter(part["pc1"], part["pc2"], label=label, gid=mark, rasterized=len(part) > MANY, **look)
        axes.set(xlabel=f"first component ({shares[0]:.0f} % of variance)", ylabel=f"second ({shares[1]:.0f} %)")
        legend_below(axes, 2)

    dots = {str(mark): [f"{case}, {mark}" for case in part["case"]] for mark, part in data.groupby("mark")}
    counts = ", ".join(f"{n} {mark}" for mark, n in data["mark"].value_counts().items())
    alt = f"Scatter plot of the embeddings of cases in two dimensions: {counts}."
    return Plot(name, title, caption, alt, data, draw_on_axes(draw, WIDE), dots=dots)

"""The committee of SANN: four networks fine-tuned on bootstrap samples of the labelled cases, as extra folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from nnunet_assft.active.paths import COMMITTEE
from nnunet_assft.active.state import Experiment, Model
from nnunet_assft.active.training.stages import Context, fine_tune
from nnunet_assft.runtime.files import read_json


def train_committee(context: Context, experiment: Experiment, r: int) -> dict[str, Model]:
    """Member -> model. Each is the supervised stage of round r again: same start, same epochs, but its own sample and seed.

    With one labelled case all samples are that case, and the members differ by their seed alone.
    """
    stage = read_json(context.paths.stage_file(r, "supervised"))
    start = Model("start", stage["start_from"], stage["start_sha256"])
    models = {}
    for k, member in enumerate(COMMITTEE, start=1):
        copies = bootstrap_sample(stage["cases"], [experiment.seed, r, k])
        labels = {case: context.dataset.label_file(case) for case in copies}
        models[member] = fine_tune(context, r, member, labels, {}, start=start, epochs=stage["epochs"], copies=copies)
    return models


def bootstrap_sample(cases: Mapping[str, object], seed: list[int]) -> dict[str, int]:
    """As many cases as there are, drawn with replacement: case -> how often it was drawn."""
    ordered = sorted(cases)
    drawn = np.random.default_rng(np.random.SeedSequence(seed)).integers(len(ordered), size=len(ordered))
    return dict(sorted(Counter(ordered[i] for i in drawn).items()))

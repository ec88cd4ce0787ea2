"""The committee of SANN: four networks, trained as additional folds on bootstrap samples of the labelled cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np

from nnunet_assft.active.context import Context
from nnunet_assft.active.state import Model, Round
from nnunet_assft.active.training.stages import fine_tune
from nnunet_assft.active.training.training_set import Stage
from nnunet_assft.errors import AssftError
from nnunet_assft.trainers.folds import COMMITTEE
from nnunet_assft.trainers.stage_file import read_stage_file


def train_committee(context: Context, done: Round) -> dict[str, Model]:
    """Train the committee of a finished round, and return member -> model.

    Each member repeats the supervised stage of the round from the same weights and for the same epochs, with its own
    bootstrap sample of the labelled cases and its own seed. With a single labelled case, the members differ by their
    seed alone. Raises `AssftError` if all labelled cases were withdrawn.
    """
    r = done.round
    if not done.labelled:
        raise AssftError(f"All labelled cases of round {r} were withdrawn, so no committee can be trained.")
    supervised = read_stage_file(context.paths.trained_on(r, "supervised"))
    start = Model("start", supervised["start_from"], supervised["start_sha256"])
    models = {}
    for k, member in enumerate(COMMITTEE, start=1):
        copies = bootstrap_sample(done.labelled, [context.experiment.settings.seed, r, k])
        labels = {case: context.dataset.label_file(case) for case in copies}
        missing = context.dataset.not_annotated
        stage = Stage(r, member, labels, {}, start, supervised["epochs"], copies, missing)
        models[member] = fine_tune(context, stage)
    return models


def bootstrap_sample(cases: Collection[str], seed: list[int]) -> dict[str, int]:
    """Draw len(cases) cases with replacement, and return case -> how often it was drawn."""
    ordered = sorted(cases)
    drawn = np.random.default_rng(np.random.SeedSequence(seed)).integers(len(ordered), size=len(ordered))
    return dict(sorted(Counter(ordered[i] for i in drawn).items()))

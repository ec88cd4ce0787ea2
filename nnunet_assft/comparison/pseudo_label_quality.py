"""Are the selected pseudo-labels better than the others? The paper's Fig. 5 and Table 8, for every selection strategy.

This is for benchmarks only: it reads labels that the experiment must not see, and therefore accepts only finished
rounds.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from nnunet_assft.active.context import Context, open_context
from nnunet_assft.active.finished import restore_tables
from nnunet_assft.active.options import PSEUDO
from nnunet_assft.active.scoring.prediction import open_scorer
from nnunet_assft.active.scoring.records import build_selection_pool
from nnunet_assft.active.selection import SELECTIONS
from nnunet_assft.active.state import Experiment, Model, Round, finished_rounds, only_process
from nnunet_assft.errors import AssftError
from nnunet_assft.evaluation.case_metrics import read_table
from nnunet_assft.evaluation.dice import case_dice, mean_of, wrong_share
from nnunet_assft.runtime.cached import cached, kept_result
from nnunet_assft.runtime.cases import for_each_case
from nnunet_assft.runtime.csv_files import table_text
from nnunet_assft.runtime.files import sha256_file

COLUMNS = ["round", "case", "selection", "selected", "dice", "wrong"]


def pseudo_label_quality(experiment: Experiment, r: int, device: torch.device) -> pd.DataFrame:
    """Compute the Dice of the pseudo-label of every unlabelled case in round r, and which selections choose the case.

    Returns one row per case of T_u after the query and per row of SELECTIONS: `round`, `case`, `selection`, `selected`
    (bool), `dice` (in [0, 1], mean over structures, NaN if there is none) and `wrong` (see `wrong_share`). The
    segmentation is made by the model of the supervised stage, as for pseudo-labels, but without their refinement, and
    is not kept. All selections choose from the same pool; the choice of the experiment's own selection is read from the
    round.

    An interrupted call can be continued. The result is kept at `paths.pseudo_label_quality(r)` until the model, a label
    or the table of selections changes. Raises `AssftError` if the annotator is human, if the strategy makes no
    pseudo-labels, if the round is not finished, or while another process works on the experiment.
    """
    done = _closed_round(experiment, r)
    if not done.unlabelled:
        return pd.DataFrame(columns=COLUMNS)
    again = f"Run {experiment.command('round', '-r', str(r))} to make it again."
    model = Model(**kept_result(experiment.paths.step_file(r, "supervised"), again))
    context = open_context(experiment, device)
    references = {case: sha256_file(context.dataset.label_file(case)) for case in done.unlabelled}

    def compute() -> dict[str, Any]:
        with only_process(experiment):
            quality, selected = _quality(context, r, model, references), _selected(context, done, model)
        rows = [
            (r, case, name, int(case in cases), *quality[case])
            for name, cases in selected.items()
            for case in done.unlabelled
        ]
        return {"table": table_text(pd.DataFrame(rows, columns=COLUMNS))}

    inputs = {
        "form": 2,  # of the result
        "model": model.weights_sha256,
        "labels": context.dataset.labels,
        "references": references,
        "labelled": list(done.labelled),
        "pseudo_labelled": list(done.pseudo_labelled),
        "selections": list(SELECTIONS),
        "columns": COLUMNS,
        "options": asdict(experiment.options),
        **context.dataset.not_annotated_of(done.unlabelled),
    }
    cached(experiment.paths.step_file(r, "pseudo_label_quality"), inputs, compute)
    restore_tables(experiment.paths, r, sound_steps_only=True)
    return read_pseudo_label_quality(experiment.paths.pseudo_label_quality(r))


def read_pseudo_label_quality(file: Path) -> pd.DataFrame:
    """Read a table as `pseudo_label_quality` returns it. Additional columns (`arm`, `seed`) are kept; `wrong` is NaN in
    files of version 0.1.0."""
    frame = read_table(file, {"arm": str, "case": str, "selection": str, "dice": float, "wrong": float})
    return frame.assign(wrong=frame.get("wrong", math.nan)).astype({"selected": bool})


def _closed_round(experiment: Experiment, r: int) -> Round:
    """Return round r if its hidden labels may be read."""
    name, settings = experiment.name, experiment.settings
    if settings.annotator != "oracle":
        raise AssftError(
            f"Experiment {name!r} has a human annotator, so the labels of its unlabelled cases are not known. Measure "
            "the quality of pseudo-labels in an experiment with --annotator oracle."
        )
    if settings.second_stage != PSEUDO:
        raise AssftError(
            f"Experiment {name!r} makes no pseudo-labels: with strategy {settings.strategy!r}, the second stage of its "
            f"rounds is {settings.second_stage!r}."
        )
    if r < 1:
        raise AssftError(f"Round {r} has no pseudo-labels; the first round that makes them is 1.")
    rounds = finished_rounds(experiment)
    if len(rounds) <= r:
        raise AssftError(
            f"Round {r} is not finished; {len(rounds)} of {experiment.n_rounds + 1} rounds are. Hidden labels are read "
            f"only after the round. Run {experiment.command('round', '-r', str(r))} first."
        )
    return rounds[r]


def _quality(
    context: Context, r: int, model: Model, references: dict[str, str]
) -> dict[str, tuple[float | None, float | None]]:
    """Return case -> mean Dice over structures, and share of wrong voxels. The result of each case is cached, so that
    no case is predicted twice."""
    dataset, mirroring = context.dataset, context.experiment.options.pseudo_mirroring
    scorer = open_scorer(context, model)
    folder = context.paths.records(f"round_{r:02d}_pseudo_label_quality")
    ignore_label = dataset.ignore_label

    def quality_of(case: str) -> dict[str, Any]:
        reference = dataset.as_annotated(case, context.checked_label(case, dataset.label_file(case))[0])
        logits = scorer.logits(context.image(case), mirroring=mirroring)
        segmentation = dataset.as_annotated(case, scorer.segmentation(logits, context.properties(case)))
        return {
            "dice": case_dice(segmentation, reference, dataset.structures, ignore_label=ignore_label),
            "wrong": wrong_share(segmentation, reference, ignore_label=ignore_label),
        }

    def cached_quality_of(case: str) -> dict[str, Any]:
        inputs = {
            "model": model.weights_sha256,
            "reference": references[case],
            "labels": dataset.labels,
            "mirroring": mirroring,
            "columns": COLUMNS,
            **dataset.not_annotated_of([case]),
        }
        return cached(folder / f"{case}.json", inputs, partial(quality_of, case))

    of_cases = for_each_case(cached_quality_of, list(references), desc=f"round {r}: quality of pseudo-labels")
    return {case: (mean_of(found["dice"].values()), found["wrong"]) for case, found in of_cases.items()}


def _selected(context: Context, done: Round, model: Model) -> dict[str, set[str]]:
    """Return row of SELECTIONS -> the cases that it chooses from the pool of this round."""
    experiment = context.experiment
    pool = build_selection_pool(context, done.round, model, done.labelled, done.unlabelled)
    n_select = experiment.n_select(done.round)
    selected = {name: {pool.ids[i] for i in row.function(pool, n_select).indices} for name, row in SELECTIONS.items()}
    return {**selected, experiment.options.selection: set(done.pseudo_labelled)}

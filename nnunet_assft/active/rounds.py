"""Algorithm 1 of the paper. `run_round` is the body of its loop; the functions below it follow its lines in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from nnunet_assft.active import metrics
from nnunet_assft.active.annotation import annotate
from nnunet_assft.active.context import Context, open_context
from nnunet_assft.active.finished import DATASET_JSON, PROVENANCE, finished_round, restore_tables
from nnunet_assft.active.options import NONE, PSEUDO
from nnunet_assft.active.pseudo_labels import write_pseudo_labels
from nnunet_assft.active.query.budget import query_candidates
from nnunet_assft.active.query.pool import QueryPool
from nnunet_assft.active.scoring.prediction import predict_test_cases
from nnunet_assft.active.scoring.records import (
    build_query_pool,
    build_selection_pool,
    embeddings,
    pretrained_records,
)
from nnunet_assft.active.selection import SELECTIONS
from nnunet_assft.active.state import (
    Experiment,
    Model,
    Round,
    finished_rounds,
    only_process,
    seen_by_next,
    write_splits,
)
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.active.training.shared_start import shared_round_0
from nnunet_assft.active.training.stages import fine_tune
from nnunet_assft.active.training.training_set import Stage, remove_training_sets
from nnunet_assft.cluster.engines import HERE, Engine
from nnunet_assft.errors import AssftError, DamagedFileError, doing
from nnunet_assft.evaluation.dice import Dice, evaluate_cases
from nnunet_assft.runtime.cached import cached
from nnunet_assft.runtime.csv_files import csv_text
from nnunet_assft.runtime.environment import require_space
from nnunet_assft.runtime.files import sha256_file
from nnunet_assft.runtime.text import some
from nnunet_assft.runtime.writable import require_folder
from nnunet_assft.volumes.labels import require_label
from nnunet_assft.volumes.not_annotated import NAME


def run_round(
    experiment: Experiment,
    r: int,
    device: torch.device,
    *,
    engine: Engine = HERE,
    proceed_with_partial: bool = False,
) -> Round:
    """Run round r of Algorithm 1 and return it; round 0 is the one-shot start.

    An interrupted call can be repeated and continues after its last finished step. A finished round is loaded from its
    file, and what is damaged of it is made again. engine: where cases and trainings are worked on.
    proceed_with_partial: return queried cases that are not labelled yet to T_u and run the round without them. Raises
    `AssftError` if an earlier round is not finished or an input cannot be used, `WaitingForAnnotation` if annotators
    have to label the queried cases first, and `WaitingForParts` if others work on a step.
    """
    finished = finished_round(experiment, r)
    if finished:
        return finished
    before = _round_before(experiment, r, device, engine)
    require_space(experiment.dataset)
    second_stage = experiment.settings.second_stage
    if second_stage == PSEUDO and r >= 1:
        require_folder(experiment.paths.pseudo_label_folder(r), "The folder of pseudo-labels")
    context = open_context(experiment, device, engine)
    shared = shared_round_0(context) if r == 0 else nullcontext()
    with only_process(experiment), doing(f"round {r}"), shared:
        scope = experiment.scope(r)
        queried, excluded = _query(context, r, before)  # lines 6, 10-13
        queried = annotate(context, r, queried, proceed_with_partial=proceed_with_partial)  # lines 6, 13
        labelled = tuple(sorted(scope.left & {*(before.labelled if before else ()), *queried}))  # lines 7, 14
        unlabelled = tuple(sorted(scope.left.difference(labelled)))
        start = before.model if before else experiment.initial_model  # line 2
        model = _train(context, r, "supervised", labelled, start)  # lines 6, 15
        reliability: dict[str, float] = {}
        pseudo_labels: dict[str, Path] = {}
        if second_stage == PSEUDO and r >= 1 and unlabelled:
            selected = _select(context, r, model, labelled, unlabelled)  # line 16
            reliability = {case: entry["reliability"] for case, entry in selected.items()}
            pseudo_labels = _pseudo_label(context, r, model, labelled, selected)  # line 17
        if second_stage != NONE and r >= 1:
            model = _train(context, r, "semi", labelled, model, pseudo_labels)  # lines 18-19
        done = Round(
            round=r,
            labelled=labelled,
            unlabelled=unlabelled,
            queried=tuple(queried),
            excluded=tuple(excluded),
            pseudo_labelled=tuple(sorted(reliability)),
            reliability=reliability,
            test=scope.test,
            model=model,
            dice=_evaluate(context, r, model),
        )
        _finish(experiment, done)
    return done


def _finish(experiment: Experiment, done: Round) -> None:
    """Write what says that a round is finished, and remove what is of no use any more."""
    _require_unchanged(experiment, done)
    done.save(experiment.paths)
    write_splits(experiment)
    remove_training_sets(experiment.paths, done.round)


def _require_unchanged(experiment: Experiment, done: Round) -> None:
    """Raise `DamagedFileError` if a round that was made again differs from its record."""
    with suppress(DamagedFileError):
        if not experiment.paths.round_file(done.round).is_file() or Round.load(experiment.paths, done.round) == done:
            return
        raise AssftError(
            f"Round {done.round} was made again, because its files were damaged, but its result differs from "
            f"{experiment.paths.round_file(done.round)}, on which later rounds rest. Restore the damaged files."
        )


def _round_before(experiment: Experiment, r: int, device: torch.device, engine: Engine) -> Round | None:
    if not 0 <= r <= experiment.n_rounds:
        raise AssftError(
            f"Round {r} does not exist: experiment {experiment.name!r} has rounds 0 to {experiment.n_rounds}. Choose "
            "one of them with -r."
        )
    if r == 0:
        return None
    known = [earlier for earlier in range(r) if experiment.paths.round_file(earlier).is_file()]
    for earlier in range(max(known, default=-1) + 1):
        run_round(experiment, earlier, device, engine=engine)  # makes it again if its files are damaged or lost
    done = finished_rounds(experiment, before=r)
    if len(done) < r:
        raise AssftError(
            f"Round {r} starts from round {r - 1}, which is not finished; {len(done)} of {experiment.n_rounds + 1} "
            f"rounds are. Run {experiment.command('round', '-r', str(len(done)))}"
        )
    before = seen_by_next(experiment, done[r - 1])
    if not before.unlabelled:
        raise AssftError(f"Every case of the pool is labelled after round {r - 1}, so there is nothing left to query.")
    return before


# Query: Eqs. 1-16 ---------------------------------------------------------------------------------------------------


@doing("query")
def _query(context: Context, r: int, before: Round | None) -> tuple[list[str], list[str]]:
    """Return the cases to annotate, best first, and the cases that section 3.4 excludes from this query."""
    experiment, options, scope = context.experiment, context.experiment.options, context.experiment.scope(r)
    if before is None:
        if not scope.left:
            raise AssftError("Every case of the pool was withdrawn. Add others with nnUNetv2_assft_extend.")
        return list(experiment.start) or [_first_case(context)], []  # the same for every strategy
    strategy = STRATEGIES[experiment.settings.strategy]
    excluded = before.pseudo_labelled if strategy.excludes_pseudo_labelled and options.exclude_pseudo else ()
    candidates = query_candidates(before.unlabelled, excluded, before.reliability, scope.n_query)

    def compute() -> dict[str, Any]:
        query = strategy.query(build_query_pool(context, r, before, candidates), scope.n_query)
        rank = {case: i + 1 for i, case in enumerate(query.ids)}
        rows = [
            {
                "case": case,
                "query_rank": rank.get(case, ""),
                **{name: column[i] for name, column in query.scores.items()},
            }
            for i, case in enumerate(candidates)
        ]
        excluded = sorted(set(before.unlabelled) - set(candidates))
        return {"queried": list(query.ids), "excluded": excluded, "table": csv_text(rows)}

    inputs = {
        "model": before.model.weights_sha256,
        "pool": candidates,
        "n_query": scope.n_query,
        "strategy": experiment.settings.strategy,
        "options": asdict(options),
    }
    result = cached(experiment.paths.step_file(r, "query"), inputs, compute)
    restore_tables(experiment.paths, r, sound_steps_only=True)
    return result["queried"], result["excluded"]


def _first_case(context: Context) -> str:
    """Return the first case that the embeddings of the encoder before adaptation choose."""
    experiment, pool = context.experiment, context.experiment.scope(0).pool
    how = experiment.options.first_case

    def compute() -> dict[str, Any]:
        e_pre = embeddings(pretrained_records(context, pool), pool)
        if how == "typical":
            whole = QueryPool(ids=pool, embeddings=e_pre, labelled_embeddings=e_pre[:0])
            return {"queried": list(STRATEGIES["typiclust"].query(whole, 1).ids)}
        return {"queried": [pool[metrics.medoid(e_pre, pool)]]}

    inputs = {"model": experiment.initial_network_sha256, "pool": pool, "first_case": how}
    return str(cached(experiment.paths.step_file(0, "query"), inputs, compute)["queried"][0])


# Training -----------------------------------------------------------------------------------------------------------


def _train(  # six parameters: those of a line of Algorithm 1, and the context
    context: Context,
    r: int,
    stage: str,
    labelled: Sequence[str],
    start: Model,
    pseudo_labels: Mapping[str, Path] | None = None,
) -> Model:
    """Run one stage of fine-tuning, starting from the weights of `start`."""
    _require_each_structure(context, labelled)
    settings, pseudo_labels = context.experiment.settings, pseudo_labels or {}
    human_labels = {case: context.dataset.label_file(case) for case in labelled}
    for case, file in human_labels.items():  # only those of the queried cases were looked at in this round
        require_label(context.dataset, case, file)
    return fine_tune(
        context,
        Stage(
            round=r,
            name=stage,
            human_labels=human_labels,
            pseudo_labels=pseudo_labels,
            start=start,
            epochs=settings.training["one_shot_epochs" if r == 0 else "epochs"],
            copies=_copies(labelled, pseudo_labels, settings.options.pseudo_weight),
            not_annotated=context.dataset.not_annotated,
        ),
    )


def _require_each_structure(context: Context, labelled: Sequence[str]) -> None:
    """Raise `AssftError` if a structure is annotated in none of the labelled cases. The loss would then leave its part
    of the network to chance, and pseudo-labels would have it anywhere in the background."""
    lacking = [name for name, n in context.dataset.count_annotated(labelled).items() if not n]
    if lacking:
        raise AssftError(
            f"{some(lacking)} is annotated in none of the labelled cases ({some(labelled)}), as {NAME} of "
            f"{context.dataset.name} says, so no network can learn it. Import a label in which it is drawn, or start "
            "with more labelled cases."
        )


def _copies(labelled: Sequence[str], pseudo_labels: Mapping[str, Path], pseudo_weight: float) -> dict[str, int]:
    """Return how often each case is listed for sampling: integers in the ratio of the weights, by default 1 : 1."""
    ratio = Fraction(pseudo_weight).limit_denominator(20) if pseudo_labels else Fraction(1)
    return dict.fromkeys(labelled, ratio.denominator) | dict.fromkeys(pseudo_labels, ratio.numerator)


# Selection and pseudo-labels: Eqs. 17-26 ----------------------------------------------------------------------------


@doing("selection")
def _select(
    context: Context, r: int, model: Model, labelled: Sequence[str], unlabelled: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Select N_SU unlabelled cases to pseudo-label.

    Returns case -> confidence, distance, reliability and rank, best first.
    """
    experiment, options = context.experiment, context.experiment.options
    n_select = experiment.n_select(r)

    def compute() -> dict[str, Any]:
        pool = build_selection_pool(context, r, model, labelled, unlabelled)
        selection = SELECTIONS[options.selection].function(pool, n_select)
        rank = {int(i): n + 1 for n, i in enumerate(selection.indices)}
        rows = [
            {
                "case": case,
                "selection_rank": rank.get(i, ""),
                "confidence": float(pool.confidence[i]),
                "candidate": int(i in selection.candidates),
                "distance": float(selection.distance[i]),
                "reliability": float(selection.reliability[i]),
            }
            for i, case in enumerate(unlabelled)
        ]
        selected = sorted((row for row in rows if row["selection_rank"]), key=lambda row: row["selection_rank"])
        keys = ("confidence", "distance", "reliability")
        of_cases = {
            str(row["case"]): {**{key: row[key] for key in keys}, "rank": row["selection_rank"]} for row in selected
        }
        return {"selected": of_cases, "table": csv_text(rows)}

    inputs = {
        "form": 2,  # of the result
        "model": model.weights_sha256,
        "labelled": list(labelled),
        "unlabelled": list(unlabelled),
        "n_select": n_select,
        "options": asdict(options),
    }
    result = cached(experiment.paths.step_file(r, "select"), inputs, compute)
    restore_tables(experiment.paths, r, sound_steps_only=True)
    return dict(result["selected"])


@doing("pseudo-labels")
def _pseudo_label(
    context: Context, r: int, model: Model, labelled: Sequence[str], selected: Mapping[str, dict[str, Any]]
) -> dict[str, Path]:
    """Pseudo-label the selected cases with the model of the supervised stage, and return case -> file."""
    options = context.experiment.options
    files = {case: context.pseudo_label(r, case) for case in selected}

    def compute() -> dict[str, Any]:
        write_pseudo_labels(context, r, model, labelled, selected)
        return {"cases": sorted(selected)}

    inputs = {
        "model": model.weights_sha256,
        "selected": dict(selected),
        "labelled": list(labelled),
        "refine": {
            "mirroring": options.pseudo_mirroring,
            "largest_component": options.largest_component,
            "ignore_margin": options.ignore_margin,
        },
    }
    folder = context.paths.pseudo_label_folder(r)
    written = [*files.values(), folder / DATASET_JSON, folder / PROVENANCE]
    cached(context.paths.step_file(r, "pseudo_labels"), inputs, compute, outputs=lambda _: written)
    return files


# Evaluation ---------------------------------------------------------------------------------------------------------


@doing("evaluation")
def _evaluate(context: Context, r: int, model: Model) -> Dice:
    """Return the Dice on the test cases, which are predicted with mirroring, as by `nnUNetv2_predict`.

    No other step of a round reads a test label.
    """
    experiment, dataset = context.experiment, context.dataset
    cases = experiment.scope(r).test
    if not cases:
        return {"mean": None, "sd": None, "n_cases": 0, "per_structure": {}, "per_case": {}}
    references = {case: dataset.label_file(case) for case in cases}

    def compute() -> Dice:
        for case, file in references.items():
            context.checked_label(case, file)
        predictions = predict_test_cases(context, model, cases, folder, f"round {r}: predicting test cases")
        return evaluate_cases(dataset, predictions, executor=context.cases)

    test = {case: sha256_file(file) for case, file in references.items() if file.is_file()}
    inputs = {"model": model.weights_sha256, "test": test, **dataset.not_annotated_of(cases)}
    folder, endings = experiment.paths.test_predictions(r), (dataset.file_ending, ".json")
    written = [folder / f"{case}{ending}" for case in references for ending in endings]  # segmentations and records
    return cached(experiment.paths.step_file(r, "evaluate"), inputs, compute, outputs=lambda _: written)

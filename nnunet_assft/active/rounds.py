"""Algorithm 1 of the paper. `run_round` is the body of its loop; the functions below it are its lines, in order."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from nnunet_assft.active import metrics
from nnunet_assft.active.annotation import annotate
from nnunet_assft.active.pseudo_labels import Refinement, write_pseudo_labels, write_segmentation
from nnunet_assft.active.scoring.records import embeddings, open_scorer, pretrained_records, query_pool, selection_pool
from nnunet_assft.active.selection import SELECTIONS
from nnunet_assft.active.state import (
    Experiment,
    Model,
    Round,
    command,
    finished_rounds,
    only_process,
    step,
    write_splits,
)
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.active.training.stages import Context, fine_tune
from nnunet_assft.errors import AssftError
from nnunet_assft.evaluation.dice import evaluate_cases
from nnunet_assft.planning.preprocessing import load_image, load_properties
from nnunet_assft.runtime.files import read_json, sha256_file, write_csv, write_json
from nnunet_assft.volumes.raw_dataset import find_dataset


def run_round(experiment: Experiment, r: int, device: torch.device, *, proceed_with_partial: bool = False) -> Round:
    """Round r of Algorithm 1; round 0 is its one-shot start. Goes on where an earlier call stopped; a finished round is kept.

    proceed_with_partial: queried cases that no human has labelled yet go back to T_u, and the round goes on. Raises
    `AssftError` if an earlier round is not finished or an input cannot be used, `WaitingForAnnotation` if a human has to
    label the queried cases first.
    """
    if experiment.paths.round_file(r).is_file():
        return Round.load(experiment.paths, r)
    before = _round_before(experiment, r)
    context = open_context(experiment, device)
    strategy = STRATEGIES[experiment.strategy]
    with only_process(experiment):
        queried, excluded = _query(context, experiment, r, before)  # lines 6, 10-13
        queried = annotate(context, experiment, r, queried, proceed_with_partial=proceed_with_partial)  # lines 6, 13
        labelled = tuple(sorted({*(before.labelled if before else ()), *queried}))  # lines 7, 14
        unlabelled = tuple(sorted(set(experiment.pool) - set(labelled)))
        start = before.model if before else experiment.initial_model  # line 2
        model = _train(context, experiment, r, "supervised", labelled, {}, start)  # lines 6, 15
        reliability: dict[str, float] = {}
        if strategy.semi_supervised and r >= 1 and unlabelled:
            selected = _select(context, experiment, r, model, labelled, unlabelled)  # line 16
            reliability = {case: entry["reliability"] for case, entry in selected.items()}
            pseudo_labels = _write_pseudo_labels(context, experiment, r, model, labelled, selected)  # line 17
            model = _train(context, experiment, r, "semi", labelled, pseudo_labels, model)  # lines 18-19
        dice = _evaluate(context, experiment, r, model)
        done = Round(
            round=r,
            labelled=labelled,
            unlabelled=unlabelled,
            queried=tuple(queried),
            excluded=tuple(excluded),
            pseudo_labelled=tuple(sorted(reliability)),
            reliability=reliability,
            test=experiment.test,
            model=model,
            dice=dice,
        )
        done.save(experiment.paths)
        write_splits(experiment)
    return done


def open_context(experiment: Experiment, device: torch.device) -> Context:
    """The dataset and plans of an experiment. Raises `AssftError` if an image it was planned with has gone."""
    dataset = find_dataset(experiment.dataset)
    gone = [case for case in experiment.pool if case not in dataset.images]
    if gone:
        raise AssftError(
            f"{dataset.folder / 'imagesTr'} lacks {len(gone)} cases the experiment was planned with: {', '.join(gone[:5])}. "
            "Put them back and type the same command again."
        )
    context = Context(dataset, read_json(experiment.paths.plans), experiment.paths, device)
    lost = [
        case for case in (*experiment.pool, *experiment.test) if not (context.image_folder / f"{case}.pkl").is_file()
    ]
    if lost:
        plan = command("plan", experiment.dataset, experiment.name)
        raise AssftError(
            f"{context.image_folder} lacks {len(lost)} preprocessed cases: {', '.join(lost[:5])}. "
            f"Type {plan} with the options of the experiment to preprocess them again."
        )
    return context


def _round_before(experiment: Experiment, r: int) -> Round | None:
    if not 0 <= r <= experiment.n_rounds:
        raise AssftError(
            f"Round {r} does not exist: experiment {experiment.name!r} has rounds 0 to {experiment.n_rounds}."
        )
    if r == 0:
        return None
    done = finished_rounds(experiment)
    if len(done) < r:
        next_command = command("round", experiment.dataset, experiment.name, "-r", str(len(done)))
        raise AssftError(
            f"Round {r} starts from round {r - 1}, which is not finished; {len(done)} of {experiment.n_rounds + 1} rounds "
            f"are. Type: {next_command}"
        )
    if not done[r - 1].unlabelled:
        raise AssftError(f"Every case of the pool is labelled since round {r - 1}; there is nothing left to query.")
    return done[r - 1]


# Query: Eqs. 1-16 ------------------------------------------------------------------------------------------------------


def _query(context: Context, experiment: Experiment, r: int, before: Round | None) -> tuple[list[str], list[str]]:
    """(cases to annotate, best first; cases that rule 3.4 keeps out of this query)."""
    if before is None:
        return [_first_case(context, experiment)], []  # x_1: the same for every strategy
    strategy = STRATEGIES[experiment.strategy]
    excluded = before.pseudo_labelled if strategy.excludes_pseudo_labelled and experiment.options.exclude_pseudo else ()
    pool = metrics.query_pool(before.unlabelled, excluded, before.reliability, experiment.n_query)

    def compute() -> dict[str, Any]:
        query = strategy.query(query_pool(context, experiment, r, before, pool), experiment.n_query)
        rank = {case: i + 1 for i, case in enumerate(query.ids)}
        rows = [
            {
                "case": case,
                "query_rank": rank.get(case, ""),
                **{name: column[i] for name, column in query.scores.items()},
            }
            for i, case in enumerate(pool)
        ]
        write_csv(experiment.paths.scores_file(r), rows)
        return {"queried": list(query.ids), "excluded": sorted(set(before.unlabelled) - set(pool))}

    inputs = {
        "model": before.model.weights_sha256,
        "pool": pool,
        "n_query": experiment.n_query,
        "strategy": experiment.strategy,
        "options": asdict(experiment.options),
    }
    result = step(experiment.paths.step_file(r, "query"), inputs, compute)
    return result["queried"], result["excluded"]


def _first_case(context: Context, experiment: Experiment) -> str:
    if experiment.options.first_case == "random":
        return experiment.permutation[0]

    def compute() -> dict[str, Any]:
        e_pre = embeddings(pretrained_records(context, experiment), experiment.pool)
        return {"queried": [experiment.pool[metrics.medoid(e_pre, experiment.pool)]]}

    inputs = {"model": experiment.initial_network_sha256, "pool": experiment.pool}
    return str(step(experiment.paths.step_file(0, "query"), inputs, compute)["queried"][0])


# Training --------------------------------------------------------------------------------------------------------------


def _train(
    context: Context,
    experiment: Experiment,
    r: int,
    stage: str,
    labelled: Sequence[str],
    pseudo_labels: Mapping[str, Path],
    start: Model,
) -> Model:
    """One stage of fine-tuning, from the weights of the stage before it."""
    human_labels = {case: context.dataset.label_file(case) for case in labelled}
    epochs = experiment.training["one_shot_epochs" if r == 0 else "epochs"]
    copies = _copies(labelled, pseudo_labels, experiment.options.pseudo_weight)
    return fine_tune(context, r, stage, human_labels, pseudo_labels, start=start, epochs=epochs, copies=copies)


def _copies(labelled: Sequence[str], pseudo_labels: Mapping[str, Path], pseudo_weight: float) -> dict[str, int]:
    """How often each case counts when cases are drawn: whole numbers in the ratio of the weights, by default 1 and 1."""
    ratio = Fraction(pseudo_weight).limit_denominator(20) if pseudo_labels else Fraction(1)
    return dict.fromkeys(labelled, ratio.denominator) | dict.fromkeys(pseudo_labels, ratio.numerator)


# Selection and pseudo-labels: Eqs. 17-26 -------------------------------------------------------------------------------


def _select(
    context: Context, experiment: Experiment, r: int, model: Model, labelled: Sequence[str], unlabelled: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """N_SU = N_B r unlabelled cases to pseudo-label: case -> confidence, distance, reliability, rank; best first."""

    options = experiment.options

    def compute() -> dict[str, Any]:
        pool = selection_pool(context, experiment, r, model, labelled, unlabelled)
        confidence, selection = pool.confidence, SELECTIONS[options.selection].function(pool, experiment.n_query * r)
        rank = {int(i): n + 1 for n, i in enumerate(selection.indices)}
        rows = [
            {
                "case": case,
                "selection_rank": rank.get(i, ""),
                "confidence": float(confidence[i]),
                "candidate": int(i in selection.candidates),
                "distance": float(selection.distance[i]),
                "reliability": float(selection.reliability[i]),
            }
            for i, case in enumerate(unlabelled)
        ]
        write_csv(experiment.paths.results / f"selection_round_{r:02d}.csv", rows)
        chosen = sorted((row for row in rows if row["selection_rank"]), key=lambda row: row["selection_rank"])
        keys = ("confidence", "distance", "reliability")
        return {str(row["case"]): {**{key: row[key] for key in keys}, "rank": row["selection_rank"]} for row in chosen}

    inputs = {
        "model": model.weights_sha256,
        "labelled": list(labelled),
        "unlabelled": list(unlabelled),
        "n_select": experiment.n_query * r,
        "options": asdict(options),
    }
    return step(experiment.paths.step_file(r, "select"), inputs, compute)


def _write_pseudo_labels(
    context: Context,
    experiment: Experiment,
    r: int,
    model: Model,
    labelled: Sequence[str],
    selected: Mapping[str, dict[str, Any]],
) -> dict[str, Path]:
    """Argmax predictions of the selected cases by the network of the supervised stage, in the raw dataset."""
    files = {case: context.pseudo_label(r, case) for case in selected}
    refine = Refinement(experiment.options.largest_component, experiment.options.ignore_margin)

    def compute() -> dict[str, Any]:
        human_labels = {case: context.dataset.label_file(case) for case in labelled}
        provenance = {"experiment": experiment.name, "round": r, "model": asdict(model)}
        write_pseudo_labels(context, r, open_scorer(context, model), selected, human_labels, provenance, refine)
        return {"cases": sorted(selected)}

    inputs = {
        "model": model.weights_sha256,
        "selected": dict(selected),
        "labelled": list(labelled),
        "refine": asdict(refine),
    }
    step(experiment.paths.step_file(r, "pseudo_labels"), inputs, compute, made=lambda _: files.values())
    return files


# Evaluation ------------------------------------------------------------------------------------------------------------


def _evaluate(context: Context, experiment: Experiment, r: int, model: Model) -> dict[str, Any]:
    """Dice on the test cases, predicted as `nnUNetv2_predict` does (with mirroring). Test labels are first read here."""
    if not experiment.test:
        return {"mean": None, "sd": None, "n_cases": 0, "per_structure": {}, "per_case": {}}
    dataset = context.dataset
    references = {case: dataset.label_file(case) for case in experiment.test}

    def compute() -> dict[str, Any]:
        for case, file in references.items():
            context.checked_label(case, file)
        folder = experiment.paths.test_predictions(r)
        predictions = predict_test_cases(context, experiment.test, model, folder, f"round {r}: predicting test cases")
        labels = {name: value for name, value in dataset.labels.items() if value in dataset.foreground_labels}
        return evaluate_cases(
            predictions, references, dataset.reader, labels, ignore_label=dataset.labels.get("ignore")
        )

    inputs = {
        "model": model.weights_sha256,
        "test": {case: sha256_file(file) for case, file in references.items() if file.is_file()},
    }
    return step(experiment.paths.step_file(r, "evaluate"), inputs, compute)


def predict_test_cases(
    context: Context, cases: Sequence[str], model: Model, folder: Path, desc: str
) -> dict[str, Path]:
    """Segmentations in `folder`, as `nnUNetv2_predict` makes them, with mirroring; those of the same model are kept."""
    if not (folder / "model.json").is_file() or read_json(folder / "model.json") != asdict(model):
        shutil.rmtree(folder, ignore_errors=True)
        write_json(folder / "model.json", asdict(model))
    files = {case: folder / f"{case}{context.dataset.file_ending}" for case in cases}
    todo = [case for case, file in files.items() if not file.is_file()]
    scorer = open_scorer(context, model) if todo else None
    for case in tqdm(todo, desc=desc, unit="case", leave=False, disable=not todo):
        assert scorer is not None
        properties = load_properties(context.image_folder, case)
        logits = scorer.logits(load_image(context.image_folder, case), mirroring=True)
        segmentation = scorer.segmentation(logits, properties)
        write_segmentation(context, segmentation, files[case], properties)
    return files

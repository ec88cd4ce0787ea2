"""The case records of an experiment: what a query or a selection needs to know, computed once per case and model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from nnunet_assft.active import metrics
from nnunet_assft.active.query.pool import QueryPool
from nnunet_assft.active.scoring.scorer import STATISTICS, CaseRecord, Request, Scorer
from nnunet_assft.active.selection import SelectionPool
from nnunet_assft.active.state import Experiment, Model, Round
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.active.training.committee import train_committee
from nnunet_assft.active.training.stages import Context, load_weights
from nnunet_assft.planning.preprocessing import load_image


def query_pool(context: Context, experiment: Experiment, r: int, before: Round, cases: Sequence[str]) -> QueryPool:
    """What the strategy of the experiment needs of these cases, and no more."""
    needs = STRATEGIES[experiment.strategy].needs_with(experiment.options)
    statistics = tuple(sorted(needs & set(STATISTICS)))
    fields: dict[str, Any] = {}
    if statistics or needs & {"sums", "embeddings", "labelled_embeddings"}:
        committee = train_committee(context, experiment, before.round) if "committee_spread" in needs else {}
        request = request_of(experiment, r, statistics)
        records = score(context, before.model, cases, request, f"round_{r:02d}_query", f"round {r}: scoring", committee)
        fields["sums"] = tuple(records[case].sums for case in cases)
        fields["embeddings"] = embeddings(records, cases)
        fields |= {name: np.stack([records[case].statistics[name] for case in cases]) for name in statistics}
    if "labelled_embeddings" in needs:
        plain = request_of(experiment, r, ())
        labelled = score(
            context, before.model, before.labelled, plain, f"round_{r:02d}_labelled", f"round {r}: labelled cases"
        )
        fields["labelled_embeddings"] = embeddings(labelled, before.labelled)
    if "pretrained_embeddings" in needs:
        fields["pretrained_embeddings"] = embeddings(pretrained_records(context, experiment), cases)
    return QueryPool(
        ids=tuple(cases),
        permutation=experiment.permutation,
        round=r,
        n_rounds=experiment.n_rounds,
        seed=experiment.seed,
        options=experiment.options,
        **fields,
    )


def selection_pool(
    context: Context, experiment: Experiment, r: int, model: Model, labelled: Sequence[str], unlabelled: Sequence[str]
) -> SelectionPool:
    """What a selection of round r may look at. model: of its supervised stage; labelled, unlabelled: T_l and T_u after its query."""
    options = experiment.options
    cases = [*unlabelled, *labelled]
    records = score(context, model, cases, request_of(experiment, r), f"round_{r:02d}_select", f"round {r}: selecting")
    sums = [records[case].sums for case in unlabelled]
    return SelectionPool(
        ids=tuple(unlabelled),
        confidence=np.array([metrics.confidence_from_sums(s, options.confidence) for s in sums if s is not None]),
        embeddings=embeddings(records, unlabelled),
        anchors=embeddings(records, labelled),  # all of T_l under E^(r)
        tau_c=options.tau_c,
        scale=metrics.SCALE_OF_CONFIDENCE[options.confidence],
        round=r,
        seed=experiment.seed,
    )


def request_of(experiment: Experiment, r: int, statistics: tuple[str, ...] = ()) -> Request:
    """What is computed of a case in round r."""
    options = experiment.options
    return Request(
        tau=metrics.temperature(r, experiment.n_rounds),
        second=options.second,
        statistics=statistics,
        badge_loss=options.badge_loss,
        ugtst_entropy=options.ugtst_entropy,
        seed=(experiment.seed, r),
    )


def pretrained_records(context: Context, experiment: Experiment) -> dict[str, CaseRecord]:
    """Embeddings of the whole pool by E^(p), computed once per experiment."""
    model = experiment.initial_model
    made_from = {"model": model.weights_sha256}
    folder = context.paths.records("pretrained")
    return _records(experiment.pool, folder, made_from, "pre-trained embeddings", lambda: _embedder(context, model))


def score(
    context: Context,
    model: Model,
    cases: Sequence[str],
    request: Request,
    name: str,
    desc: str,
    committee: Mapping[str, Model] | None = None,
) -> dict[str, CaseRecord]:
    """Records of these cases under a model; those that are there are not computed again."""
    made_from = {"model": model.weights_sha256, **asdict(request)}
    if committee:
        made_from["committee"] = [member.weights_sha256 for member in committee.values()]

    def scorer() -> Callable[[str], CaseRecord]:
        network = open_scorer(context, model)
        members = [open_scorer(context, member) for member in (committee or {}).values()]
        return lambda case: network.record(case, load_image(context.image_folder, case), request, members)

    return _records(cases, context.paths.records(name), made_from, desc, scorer)


def open_scorer(context: Context, model: Model) -> Scorer:
    """The network of a trained stage, ready for inference."""
    weights = load_weights(context.paths.results_of_dataset / model.checkpoint)
    return Scorer(context.plans, context.dataset.dataset_json, weights, context.device)


def embeddings(records: Mapping[str, CaseRecord], cases: Sequence[str]) -> np.ndarray:
    """(N, d) in the order of `cases`."""
    return np.stack([records[case].embedding for case in cases])


def _embedder(context: Context, model: Model) -> Callable[[str], CaseRecord]:
    network = open_scorer(context, model)
    return lambda case: network.embed(case, load_image(context.image_folder, case))


def _records(
    cases: Sequence[str],
    folder: Path,
    made_from: Mapping[str, Any],
    desc: str,
    open_network: Callable[[], Callable[[str], CaseRecord]],
) -> dict[str, CaseRecord]:
    found = {case: CaseRecord.load(folder / f"{case}.npz", made_from) for case in cases}
    records = {case: record for case, record in found.items() if record is not None}
    todo = [case for case in cases if case not in records]
    if todo:
        compute = open_network()
        for case in tqdm(todo, desc=desc, unit="case", leave=False):
            records[case] = compute(case)
            records[case].save(folder / f"{case}.npz", made_from)
    return records

"""The case records of an experiment, computed once per case and model, and the pools that are built from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_assft.active import metrics
from nnunet_assft.active.context import Context
from nnunet_assft.active.options import CONTRACT
from nnunet_assft.active.query.pool import QueryPool
from nnunet_assft.active.scoring.case_record import RECORDS, CaseRecord, ScoringRequest
from nnunet_assft.active.scoring.case_statistics import STATISTICS, compute_record
from nnunet_assft.active.scoring.prediction import open_scorer
from nnunet_assft.active.scoring.scorer import Scorer
from nnunet_assft.active.selection import SelectionPool
from nnunet_assft.active.state import Model, Round
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.active.training.committee import train_committee
from nnunet_assft.active.training.shared_start import shared_embeddings
from nnunet_assft.runtime.cached import cached, cached_or_none
from nnunet_assft.runtime.cases import Once, for_each_case
from nnunet_assft.runtime.precision import identity
from nnunet_assft.runtime.staged import Staged


def build_query_pool(context: Context, r: int, before: Round, cases: Sequence[str]) -> QueryPool:
    """Return the query pool of round r with the fields that the strategy needs. before: the previous round."""
    experiment, scope = context.experiment, context.experiment.scope(r)
    needs = STRATEGIES[experiment.settings.strategy].needs_with(experiment.options)
    statistics = tuple(sorted(needs & set(STATISTICS)))
    fields: dict[str, Any] = {}
    if statistics or needs & {"sums", "embeddings", "labelled_embeddings"}:
        committee = train_committee(context, before) if "committee_spread" in needs else {}
        request = request_of(context, r, statistics)
        records = score(context, before.model, cases, request, f"round_{r:02d}_query", committee)
        fields["sums"] = tuple(records[case].sums for case in cases)
        fields["embeddings"] = embeddings(records, cases)
        fields |= {name: np.stack([records[case].statistics[name] for case in cases]) for name in statistics}
    if "labelled_embeddings" in needs:
        labelled = embed(context, before.model, before.labelled, f"round_{r:02d}_labelled")
        none = fields["embeddings"][:0]  # all labelled cases were withdrawn
        fields["labelled_embeddings"] = embeddings(labelled, before.labelled) if labelled else none
    if "pretrained_embeddings" in needs:
        fields["pretrained_embeddings"] = embeddings(pretrained_records(context, scope.pool), cases)
    return QueryPool(
        ids=tuple(cases),
        permutation=scope.permutation,
        round=r,
        n_rounds=scope.n_rounds,
        seed=experiment.settings.seed,
        options=experiment.options,
        **fields,
    )


def build_selection_pool(
    context: Context, r: int, model: Model, labelled: Sequence[str], unlabelled: Sequence[str]
) -> SelectionPool:
    """Return the pool from which round r selects the cases to pseudo-label.

    model: that of the supervised stage of the round. labelled, unlabelled: T_l and T_u after the query of the round.
    """
    options = context.experiment.options
    name = f"round_{r:02d}_select"
    records = score(context, model, unlabelled, request_of(context, r), name)
    sums = [records[case].sums for case in unlabelled]
    return SelectionPool(
        ids=tuple(unlabelled),
        confidence=np.array([metrics.confidence_from_sums(s, options.confidence) for s in sums if s is not None]),
        embeddings=embeddings(records, unlabelled),
        anchors=embeddings(embed(context, model, labelled, name), labelled),  # all of T_l under E^(r)
        tau_c=options.tau_c,
        scale=metrics.SCALE_OF_CONFIDENCE[options.confidence],
        round=r,
        seed=context.experiment.settings.seed,
    )


def request_of(context: Context, r: int, statistics: tuple[str, ...] = ()) -> ScoringRequest:
    """Return what to compute for a case in round r."""
    experiment = context.experiment
    tau = metrics.temperature(r, experiment.scope(r).n_rounds)
    return ScoringRequest(tau=tau, statistics=statistics, seed=(experiment.settings.seed, r))


def pretrained_records(context: Context, pool: Sequence[str]) -> dict[str, CaseRecord]:
    """Return the embeddings of the whole pool by the pre-trained encoder E^(p), computed once per case."""
    image = context.prior_image if context.experiment.options.prior_input == CONTRACT else None
    with shared_embeddings(context):
        return embed(context, context.experiment.initial_model, pool, "pretrained", image)


def embed(  # five parameters: which model embeds which images, and where the records are stored
    context: Context,
    model: Model,
    cases: Sequence[str],
    name: str,
    image: Callable[[str], np.ndarray] | None = None,
) -> dict[str, CaseRecord]:
    """Return the records of these cases with the embedding alone, for which only the encoder is run.

    name: folder of the records. image: case -> what the encoder is shown; None for the preprocessed image. Records that
    exist are not computed again.
    """
    compute = partial(_embed, Once(partial(open_scorer, context, model)))
    inputs = {"model": model.weights_sha256, **_changed(context, "embedding", *(["prior_input"] if image else []))}
    return _records(context, cases, context.paths.records(name), inputs, compute, image)


def score(  # six parameters: which model scores which cases, and where the records are stored
    context: Context,
    model: Model,
    cases: Sequence[str],
    request: ScoringRequest,
    name: str,
    committee: Mapping[str, Model] | None = None,
) -> dict[str, CaseRecord]:
    """Return the records of these cases under a model. Records that exist are not computed again.

    name: folder of the records. committee: member -> model, for the statistic that compares their predictions.
    """
    inputs = {"model": model.weights_sha256, **asdict(request), **_changed(context, "embedding")}
    if committee:
        inputs["committee"] = [member.weights_sha256 for member in committee.values()]
    models = [model, *(committee or {}).values()]
    compute = partial(_score, request, [Once(partial(open_scorer, context, each)) for each in models])
    return _records(context, cases, context.paths.records(name), inputs, compute)


def _changed(context: Context, *names: str) -> dict[str, Any]:
    """Return those of these options that differ from the method. Records of the method do not name them."""
    return {name: value for name, value in context.experiment.options.changed().items() if name in names}


def embeddings(records: Mapping[str, CaseRecord], cases: Sequence[str]) -> np.ndarray:
    """Return the (N, d) embeddings in the order of `cases`."""
    return np.stack([records[case].embedding for case in cases])


def _records(  # six parameters: the cases, where their records are, and how one is computed
    context: Context,
    cases: Sequence[str],
    folder: Path,
    inputs: Mapping[str, Any],
    compute: Callable[[str, np.ndarray], CaseRecord],
    image: Callable[[str], np.ndarray] | None = None,
) -> dict[str, CaseRecord]:
    """Return the record of each case: from its file in the folder if its inputs are unchanged, otherwise computed.

    compute: called with a case and its image, see `embed`. The image of the next case is read meanwhile.
    """
    inputs = {**inputs, **identity(context.device)}  # of a pool, all have the same precision
    return for_each_case(
        Staged(read=partial(_read, image or context.image), compute=partial(_record, folder, inputs, compute)),
        cases,
        desc=f"scoring ({folder.name.replace('_', ' ')})",
        done=lambda case: cached_or_none(_file(folder, case), inputs, store=RECORDS),
        executor=context.cases,
    )


def _file(folder: Path, case: str) -> Path:
    return folder / f"{case}.npz"


def _read(image: Callable[[str], np.ndarray], case: str) -> tuple[str, np.ndarray]:
    return case, image(case)


def _record(
    folder: Path,
    inputs: Mapping[str, Any],
    compute: Callable[[str, np.ndarray], CaseRecord],
    found: tuple[str, np.ndarray],
) -> CaseRecord:
    return cached(_file(folder, found[0]), inputs, partial(compute, *found), store=RECORDS)


def _embed(scorer: Once[Scorer], case: str, image: np.ndarray) -> CaseRecord:
    return scorer().embed(case, image)


def _score(request: ScoringRequest, scorers: Sequence[Once[Scorer]], case: str, image: np.ndarray) -> CaseRecord:
    scorer, *members = (each() for each in scorers)
    return compute_record(scorer, case, image, request, members)

"""Where labels of queried cases come from. Nothing of an unlabelled case's label is read before its query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_assft.active.context import Context
from nnunet_assft.active.state import Experiment, finished_rounds
from nnunet_assft.errors import AssftError, WaitingForAnnotation
from nnunet_assft.runtime.cached import cached, cached_or_none
from nnunet_assft.runtime.cases import for_each_case
from nnunet_assft.runtime.files import read_json
from nnunet_assft.volumes.raw_dataset import RawDataset, find_dataset


def annotate(context: Context, r: int, queried: Sequence[str], *, proceed_with_partial: bool = False) -> list[str]:
    """Make sure that every queried case has a label that can be trained on. Returns the cases that count as queried.

    oracle: the label has been in labelsTr from the start. human: it has to be put there. proceed_with_partial: if some
    human labels are missing, their cases go back to the pool; this is decided once, and kept in a step file. Raises
    `WaitingForAnnotation` if human labels are missing, `AssftError` for a label that cannot be trained on.
    """
    experiment = context.experiment
    cases = counted_cases(experiment, r, queried)
    missing = missing_labels(context.dataset, cases)
    if experiment.settings.annotator == "human" and missing:
        decided = len(cases) < len(queried)
        if not proceed_with_partial or decided or len(missing) == len(cases):
            raise WaitingForAnnotation(_what_to_do(experiment, r, cases, missing, proceed_with_partial))
        cases = [case for case in cases if case not in missing]
        result = {"annotated": cases, "given_back": missing}
        cached(experiment.paths.step_file(r, "annotate"), {"queried": list(queried)}, lambda: result)

    def check(case: str) -> bool:
        context.checked_label(case, context.dataset.label_file(case))
        return True

    for_each_case(check, cases, desc="checking labels")
    return cases


def counted_cases(experiment: Experiment, r: int, queried: Sequence[str]) -> list[str]:
    """All queried cases; or those that were labelled when it was decided to go on without the others."""
    decided = cached_or_none(experiment.paths.step_file(r, "annotate"), {"queried": list(queried)})
    return list(decided["annotated"] if decided else queried)


def missing_labels(dataset: RawDataset, cases: Sequence[str]) -> list[str]:
    return [case for case in cases if not dataset.label_file(case).is_file()]


def _what_to_do(experiment: Experiment, r: int, cases: Sequence[str], missing: Sequence[str], partial: bool) -> str:
    export = experiment.command("annotate export", "-o", "WORK")
    import_ = experiment.command("annotate import", "WORK")
    again = experiment.command("round", "-r", str(r))
    none_yet = " A round cannot go on without any label." if partial and len(missing) == len(cases) else ""
    return (
        f"waiting for the annotation of {len(missing)} of {len(cases)} cases: {', '.join(missing)}.{none_yet} "
        f"{export} writes a work folder, {import_} takes the labels back; then run {again} again."
    )


# What a human is asked for --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AnnotationRequest:
    """What the round in progress asks of the annotators.

    cases: best first. annotators: case -> who annotates it, the first one's label is the label; () where nobody was
    named.
    """

    round: int
    cases: tuple[str, ...]
    annotators: dict[str, tuple[str, ...]]


def open_request(experiment: Experiment) -> AnnotationRequest:
    """The request of the round in progress. Raises `AssftError` if there is none: oracle, not queried yet, all done."""
    if experiment.settings.annotator != "human":
        raise AssftError(
            f"Experiment {experiment.name!r} has annotator {experiment.settings.annotator!r}: its labels are in "
            "labelsTr, and nothing is asked of a human. Plan with --annotator human."
        )
    done = finished_rounds(experiment)
    r = len(done)
    if r > experiment.n_rounds or (done and not done[-1].unlabelled):
        raise AssftError("All rounds are done; no annotation is asked for.")
    queried = queried_cases(experiment, r)
    if not queried:
        again = experiment.command("round", "-r", str(r))
        raise AssftError(f"Round {r} has not chosen its cases yet. Run {again}; it stops when it needs labels.")
    cases = tuple(counted_cases(experiment, r, queried))
    file = experiment.paths.annotators_file(r)
    recorded = read_json(file) if file.is_file() else {}
    return AnnotationRequest(r, cases, {case: tuple(recorded.get(case, ())) for case in cases})


def queried_cases(experiment: Experiment, r: int) -> list[str]:
    """What round r has queried, best first; empty before its query."""
    query = experiment.paths.step_file(r, "query")
    if query.is_file():
        return list(read_json(query)["result"]["queried"])
    return [experiment.permutation[0]] if r == 0 and experiment.options.first_case == "random" else []


def labels_to_come(experiment: Experiment, r: int) -> list[str]:
    """Cases that count as queried in round r and have no label yet."""
    return missing_labels(find_dataset(experiment.dataset), counted_cases(experiment, r, queried_cases(experiment, r)))

"""Where the labels of queried cases come from. The label of a case is never read before the case is queried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_assft.active.state import Experiment, finished_rounds, is_over, require_its_history
from nnunet_assft.errors import AssftError, DamagedFileError, WaitingForAnnotation
from nnunet_assft.runtime.cached import cached, cached_or_none, kept_result
from nnunet_assft.runtime.cases import for_each_case
from nnunet_assft.runtime.sealed import read_sealed
from nnunet_assft.runtime.text import count, some
from nnunet_assft.volumes.not_annotated import NAME
from nnunet_assft.volumes.raw_dataset import RawDataset

if TYPE_CHECKING:
    from nnunet_assft.active.context import Context  # with torch

REMEDY = (
    "Restore it from a backup. If nobody can, move it away; if the round had proceeded without some labels, run it "
    "again with --proceed_with_partial."
)


def annotate(context: Context, r: int, queried: Sequence[str], *, proceed_with_partial: bool = False) -> list[str]:
    """Check that every queried case has a label that can be trained on, and return the cases that count as queried.

    With the annotator `oracle`, all labels have been in labelsTr from the start; with `human`, annotators have to add
    them. proceed_with_partial: if some human labels are missing, return their cases to the pool. This decision is made
    once per round and recorded in a step file. Raises `WaitingForAnnotation` if human labels are missing, and
    `AssftError` for a label that cannot be trained on.
    """
    experiment = context.experiment
    cases = counted_cases(experiment, r, queried)
    missing = missing_labels(context.dataset, cases)
    if experiment.settings.annotator == "human" and missing:
        decided = _decision(experiment, r, queried) is not None
        if not proceed_with_partial or decided or len(missing) == len(cases):
            raise WaitingForAnnotation(_what_to_do(experiment, r, cases, missing, proceed_with_partial))
        cases = [case for case in cases if case not in missing]
        result = {"annotated": cases, "given_back": missing}
        cached(experiment.paths.step_file(r, "annotate"), {"queried": list(queried)}, lambda: result)

    jobs = {case: (case, context.dataset.state_of(case)) for case in cases}
    for_each_case(partial(_check_label, context), jobs, desc="checking labels", executor=context.cases)
    return cases


def _check_label(context: Context, job: tuple[str, object]) -> bool:
    case, _ = job
    context.checked_label(case, context.dataset.label_file(case))
    return True


def counted_cases(experiment: Experiment, r: int, queried: Sequence[str]) -> list[str]:
    """Return the queried cases without those that were withdrawn since, and without those that had no label when the
    round proceeded without them.

    Raises `DamagedFileError` if the record of that decision is damaged.
    """
    decided, left = _decision(experiment, r, queried), experiment.scope(r).left
    return [case for case in (queried if decided is None else decided) if case in left]


def _decision(experiment: Experiment, r: int, queried: Sequence[str]) -> list[str] | None:
    """Return the cases with which the round proceeded without the others; None if that was not decided."""
    file = experiment.paths.step_file(r, "annotate")
    if file.is_file():
        kept_result(file, REMEDY)  # people have decided this, so a damaged file is never replaced
    decided = cached_or_none(file, {"queried": list(queried)})
    return None if decided is None else list(decided["annotated"])


def missing_labels(dataset: RawDataset, cases: Sequence[str]) -> list[str]:
    """Return the cases without a label file, in the given order."""
    return [case for case in cases if not dataset.label_file(case).is_file()]


def _what_to_do(experiment: Experiment, r: int, cases: Sequence[str], missing: Sequence[str], partial: bool) -> str:
    export = experiment.command("annotate export", "-o", "WORK")
    import_ = experiment.command("annotate import", "WORK")
    again = experiment.command("round", "-r", str(r))
    none_yet = " A round cannot proceed without any label." if partial and len(missing) == len(cases) else ""
    return (
        f"waiting for the annotation of {len(missing)} of {len(cases)} cases: {', '.join(missing)}.{none_yet} "
        f"Run {export} to write a work folder and {import_} to take the labels back. Then run {again} again."
    )


# What a human is asked for --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AnnotationRequest:
    """The cases that annotators are asked to label.

    round: the round in progress, which has queried them, or with second_look the last finished one, which has
    pseudo-labelled them; None for test cases, which no model looks at. cases: best first; of a second look, the most
    doubtful first. annotators: case -> names of its annotators, empty if none was assigned. The label of the first
    annotator is the one that is used.
    """

    round: int | None
    cases: tuple[str, ...]
    annotators: dict[str, tuple[str, ...]]
    second_look: bool = False


def name_of(r: int | None) -> str:
    """Return what a request with this `round` is called in messages."""
    return "test cases" if r is None else f"round {r}"


def open_request(experiment: Experiment) -> AnnotationRequest:
    """Return the request of the round in progress.

    Raises `AssftError` if there is none: the annotator is the oracle, the round has not queried its cases yet, or all
    rounds are done.
    """
    require_human(experiment)
    done = finished_rounds(experiment)
    r = len(done)
    if is_over(experiment, done):
        raise AssftError("All rounds are done, so there is nothing to annotate.")
    cases = tuple(counted_cases(experiment, r, queried_cases(experiment, r)))
    if not cases:
        again = experiment.command("round", "-r", str(r))
        raise AssftError(f"Round {r} has not queried its cases yet. Run {again}; it stops when it needs labels.")
    recorded = read_assignment(experiment, r)
    return AnnotationRequest(r, cases, {case: recorded.get(case, ()) for case in cases})


def require_human(experiment: Experiment) -> None:
    """Raise `AssftError` if the labels of the experiment come from an oracle."""
    if experiment.settings.annotator != "human":
        raise AssftError(
            f"Experiment {experiment.name!r} was planned with --annotator {experiment.settings.annotator}: its "
            "labels are already in labelsTr, so there is nothing to annotate. To have annotators label its cases, "
            "plan a new experiment with --annotator human."
        )


def finished_requests(experiment: Experiment) -> list[AnnotationRequest]:
    """Return what annotators were asked for in finished rounds, without cases that were withdrawn since."""
    requests = []
    for done in finished_rounds(experiment):
        cases = tuple(case for case in done.queried if case not in experiment.withdrawn)
        annotators = read_assignment(experiment, done.round)
        requests.append(AnnotationRequest(done.round, cases, {case: annotators.get(case, ()) for case in cases}))
    return requests


def read_assignment(experiment: Experiment, r: int | None) -> dict[str, tuple[str, ...]]:
    """Return case -> its annotators, as they were assigned in round r, or for the test cases that annotators were asked
    for if r is None; empty if nobody was.

    Cases that were withdrawn since are among them, also if the round has queried anew because of that. Raises
    `DamagedFileError` if the file of the assignment is damaged.
    """
    file = experiment.paths.annotators_file(r)
    if not file.is_file():
        return {}
    export = f"annotate export{' --test' if r is None else ''}"
    remedy = f"Delete it, and run {export} with the same --annotators and --double_read as before."
    known = None if r is None else experiment.now.permutation  # all cases that the pool has had
    content = read_sealed(file, known, remedy=remedy)
    try:
        return {case: tuple(_names(names)) for case, names in content.items()}
    except ValueError as error:
        raise DamagedFileError(f"{file} is damaged ({error}). {remedy}") from error


def _names(content: Any) -> list[str]:
    """Return a list of names, of which paths are made. Raises ValueError if it is anything else."""

    def is_name(entry: Any) -> bool:
        return isinstance(entry, str) and entry == Path(entry).name and bool(entry.strip("."))

    if not isinstance(content, list) or not all(map(is_name, content)):
        raise ValueError(f"found {content!r} instead of names")
    return content


def queried_cases(experiment: Experiment, r: int) -> list[str]:
    """Return the cases that round r has queried, best first, or an empty list before its query."""
    query, again = experiment.paths.step_file(r, "query"), experiment.command("round", "-r", str(r))
    if query.is_file():
        remedy = f"Delete it, and run {again}, which queries the same cases again."
        try:
            return _names(kept_result(query, remedy)["queried"])
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedFileError(f"{query} is damaged ({error}). {remedy}") from error
    return list(experiment.start) if r == 0 else []


def round_in_progress(experiment: Experiment) -> tuple[int, list[str]]:
    """Return the first round that is not finished, and the cases that count as queried in it; none before its query.

    Raises `AssftError` if a later round is finished.
    """
    done = finished_rounds(experiment)
    r = len(done)
    for each in done:
        require_its_history(experiment, each)
    if any(experiment.paths.round_file(later).is_file() for later in range(r + 1, experiment.n_rounds + 1)):
        raise AssftError(
            f"The record of round {r} is lost, but later rounds are finished. Run "
            f"{experiment.command('round', '-r', str(r))} to make it again first."
        )
    return r, counted_cases(experiment, r, queried_cases(experiment, r))


def labels_to_come(experiment: Experiment, r: int) -> list[str]:
    """Return the cases that count as queried in round r and have no label yet."""
    return missing_labels(experiment.raw_dataset(), counted_cases(experiment, r, queried_cases(experiment, r)))


def least_annotated(experiment: Experiment) -> str:
    """Return a sentence about the structures that some labelled cases lack, the rarest first; "" if there are none.

    Labelled are the cases of the finished rounds and those of the round in progress that have a label already.
    """
    if not (experiment.paths.raw / NAME).is_file():  # the usual case, in which no image has to be listed
        return ""
    dataset, done = experiment.raw_dataset(), finished_rounds(experiment)
    r = len(done)
    queried = counted_cases(experiment, r, queried_cases(experiment, r)) if r <= experiment.n_rounds else []
    cases = {*(done[-1].labelled if done else ()), *queried}.difference(missing_labels(dataset, queried))
    cases -= experiment.withdrawn
    counts = sorted(dataset.count_annotated(cases).items(), key=lambda item: item[1])
    lacking = [f"{name} in {n}" for name, n in counts if n < len(cases)]
    if not lacking:
        return ""
    return f"Of {count(len(cases), 'labelled case')}, not all have every structure annotated: {some(lacking, 10)}."

"""A second look at pseudo-labels: the most doubtful ones of a round become a work list, and those that annotators
accept or correct are human labels from the next query on."""

from __future__ import annotations

from nnunet_assft.active.annotation import AnnotationRequest, require_human, round_in_progress
from nnunet_assft.active.finished import read_provenance
from nnunet_assft.active.history import Change, today
from nnunet_assft.active.state import Experiment, Round, finished_rounds
from nnunet_assft.annotation.records import load_readings
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import sha256_file
from nnunet_assft.runtime.sealed import read_sealed, understanding, write_sealed
from nnunet_assft.runtime.text import count, some

REMEDY = "Delete it, and run annotate review with the same -n as before."


def begin_second_look(experiment: Experiment, n: int) -> AnnotationRequest:
    """Ask for a second look at n pseudo-labels of the last finished round, and return the request.

    These are the last in the order in which they were selected, the most doubtful first. Left out are cases that the
    round in progress has queried, and cases with a label file in labelsTr, which is not opened. A smaller n later asks
    for fewer cases again, but what was asked for can still be imported. Raises `AssftError` if there is no such
    pseudo-label, or if no round would train on the labels.
    """
    require_human(experiment)
    done, queried = _last_round(experiment)
    r, (first, _) = done.round, _counts_from(experiment)
    if first > experiment.n_rounds:
        raise AssftError(
            f"Round {first} would be the first to train on these labels, but there are "
            f"{count(experiment.n_rounds, 'round')}. Run {experiment.command('extend', '--rounds', str(first))} first."
        )
    asked, dataset = _asked(experiment, r), experiment.raw_dataset()
    left = {case for case in done.pseudo_labelled if case not in {*experiment.withdrawn, *queried}}
    at_hand = {case for case in left if case not in asked and dataset.label_file(case).is_file()}
    if not left - at_hand:
        text = f"Round {r} has no pseudo-labelled case that is left for a second look."
        if at_hand:
            text += f" A label that is in labelsTr already ({some(sorted(at_hand))}) counts once its case is queried."
        raise AssftError(text)
    entries = read_provenance(experiment.paths.pseudo_label_folder(r))["cases"]
    cases = sorted(left - at_hand, key=lambda case: -entries[case]["rank"])[:n]
    next_one = experiment.scope(first)
    if set(next_one.pool) <= {*done.labelled, *queried, *next_one.looked_at, *cases}:
        cases.pop()  # so that the next round has a case to query
    if not cases:
        raise AssftError("A single case is unlabelled, and the next round needs one to query.")
    if not set(cases) <= set(asked):
        kept = [case for case in asked if case not in cases]
        write_sealed(experiment.paths.second_look_file(r), {"cases": [*cases, *kept]})
    return _request(r, tuple(cases))


def open_second_look(experiment: Experiment) -> AnnotationRequest | None:
    """Return the request for a second look at pseudo-labels of the last finished round; None if nobody asked for one.

    Cases whose labels have been imported belong to it until the next round is finished. Raises `DamagedFileError` if
    its file is damaged.
    """
    if experiment.settings.annotator != "human" or not finished_rounds(experiment):
        return None
    done, queried = _last_round(experiment)
    gone = {*experiment.withdrawn, *queried}
    cases = tuple(case for case in _asked(experiment, done.round) if case not in gone)
    return _request(done.round, cases) if cases else None


def record_second_look(experiment: Experiment) -> Change | None:
    """Make human labels of the pseudo-labels whose second look has been imported: one change in the history.

    They count from the next query on. Returns None if there are no new ones. Call it while holding the lock of the
    experiment.
    """
    request = open_second_look(experiment)
    if request is None:
        return None
    new = [case for case in request.cases if case not in experiment.now.looked_at and _is_imported(experiment, case)]
    if not new:
        return None
    now, (first, after_query) = experiment.now, _counts_from(experiment)
    change = Change(
        round=first - after_query,
        after_query=after_query,
        n_rounds=now.n_rounds,
        n_query=now.n_query,
        permutation=now.permutation,
        images_sha256=experiment.images_sha256 or "",
        date=today(),
        labelled=tuple(sorted(new)),
    )
    experiment.record(change)
    return change


def _last_round(experiment: Experiment) -> tuple[Round, list[str]]:
    """Return the last finished round, and the cases that the round in progress has queried. Raises `AssftError` if no
    round is finished."""
    _, queried = round_in_progress(experiment)
    done = finished_rounds(experiment)
    if not done:
        raise AssftError(
            "No round is finished, so there are no pseudo-labels yet. Run "
            f"{experiment.command('round', '-r', '0')} first."
        )
    return done[-1], queried


def _counts_from(experiment: Experiment) -> tuple[int, bool]:
    """Return the first round that would train on the labels, and whether the round in progress has queried already."""
    r, queried = round_in_progress(experiment)
    return r + bool(queried), bool(queried)


def _asked(experiment: Experiment, r: int) -> tuple[str, ...]:
    file = experiment.paths.second_look_file(r)
    if not file.is_file():
        return ()
    content = read_sealed(file, ("cases",), remedy=REMEDY)
    with understanding(file, REMEDY):
        return tuple(case for case in content["cases"] if case in experiment.scope(r).pool)


def _request(r: int, cases: tuple[str, ...]) -> AnnotationRequest:
    return AnnotationRequest(r, cases, dict.fromkeys(cases, ()), second_look=True)


def _is_imported(experiment: Experiment, case: str) -> bool:
    file = experiment.raw_dataset().label_file(case)
    readings = load_readings(experiment.paths.annotation_file(case))
    return file.is_file() and any(entry["label_sha256"] == sha256_file(file) for entry in readings)

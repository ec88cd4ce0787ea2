"""What annotators decide about pre-segmentations in the table of times: accept, fix or reject."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nnunet_assft.active.annotation import name_of
from nnunet_assft.active.context import Context
from nnunet_assft.annotation.label_files import image_grid, read_returned_label
from nnunet_assft.annotation.minutes import ACCEPT, FIX, Times
from nnunet_assft.annotation.preview import prelabels_of
from nnunet_assft.annotation.records import load_readings
from nnunet_assft.annotation.returned import Asked, Returned, folder_of_labels, require_openable
from nnunet_assft.annotation.work_folder import EXPORT_FILE
from nnunet_assft.errors import AssftError, DamagedFileError
from nnunet_assft.runtime.files import sha256_file
from nnunet_assft.runtime.sealed import read_sealed
from nnunet_assft.runtime.text import count


@dataclass
class Decided:
    """The decisions that no returned file answers.

    accepted: pre-segmentations that become labels. rejected: cases to be drawn from scratch; their `file` is the
    rejected pre-segmentation. problems: one line each.
    """

    accepted: list[Returned] = field(default_factory=list)
    rejected: list[Returned] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def decide(
    context: Context, folder: Path, asked: Mapping[str, Asked], returned: Sequence[Returned], times: Times
) -> Decided:
    """Return what becomes of the cases that the table of times decides about. A pre-segmentation that was saved over in
    the work folder is a problem, whatever was decided, and so is a line by somebody who does not annotate the case.
    Parameters are those of `find_returned`, and its result."""
    there = {(label.case, label.annotator) for label in returned}
    changed = saved_over(context, folder, asked, {label.case for label in returned})
    decided = Decided(problems=list(changed.values()))
    for (case, annotator), decisions in _filled_in(asked, times).items():
        if case in changed:
            continue
        try:
            if case in asked:
                _require_one_of(annotator, decisions, asked[case])
                for decision in decisions if (case, annotator) not in there else ():
                    if decision == ACCEPT or not _has_label(context, case, annotator, asked[case]):
                        _require_shown(context, folder, decision, asked[case])
                        _add(decided, context, case, annotator, decision, asked[case])
            elif decisions and not _was_labelled(context, case):
                raise AssftError(f"nobody is asked for this case, so its decision {decisions[0]} is void.")
        except AssftError as error:
            decided.problems.append(f"{case}: {error}")
    return decided


def _filled_in(asked: Mapping[str, Asked], times: Times) -> dict[tuple[str, str | None], list[str]]:
    """Return (case, annotator) -> decisions of the lines of the table of times that somebody has filled in. A line with
    minutes alone has none."""
    found: dict[tuple[str, str | None], list[str]] = {}
    for (case, name), minutes in times.rows.items():
        decision = times.decisions.get((case, name))
        if decision is not None or (name and minutes is not None):
            annotator = _annotator(case, name, asked[case], times) if case in asked else name
            found.setdefault((case, annotator), []).extend([decision] if decision else [])
    return found


def _require_one_of(annotator: str | None, decisions: Sequence[str], asked: Asked) -> None:
    """Raise `AssftError` unless a line is by an annotator of the case, and the only one that decides for this one."""
    if asked.annotators and annotator not in asked.annotators:
        stated = f"not by {annotator}" if annotator else "and the table of times does not say who has decided"
        raise AssftError(
            f"it is annotated by {' and '.join(asked.annotators)}, {stated}. Correct the annotator in the table of "
            "times."
        )
    if len(decisions) > 1:
        raise AssftError(
            f"the table of times has {count(len(decisions), 'decision')} about it ({', '.join(decisions)}). Keep one."
        )


def _require_shown(context: Context, folder: Path, decision: str, asked: Asked) -> None:
    """Raise `AssftError` if the annotator has decided about the pre-segmentation of another request, as in the work
    folder of an earlier round, or of another experiment, that had asked for the case as well."""
    if not _shows(context, folder, asked):
        look = "the second look at " if asked.second_look else ""
        of = f"{look}{name_of(asked.round)} of experiment {context.experiment.name!r}"
        raise AssftError(
            f"its decision {decision} is void, because the pre-segmentations in {folder} are not those of {of}. Decide "
            "about the one in the work folder of that round."
        )


def _shows(context: Context, folder: Path, asked: Asked) -> bool:
    """Whether a work folder was made for a request. A folder that is none has no pre-segmentations of another one."""
    stamp = folder / EXPORT_FILE
    if not stamp.is_file():
        return True
    with suppress(DamagedFileError):
        made_for, experiment = {"second_look": False, **read_sealed(stamp)}, context.experiment
        wanted: dict[str, object] = {"dataset": experiment.dataset, "experiment": experiment.name}
        wanted |= {"round": asked.round, "second_look": asked.second_look}
        return all(made_for.get(key) == value for key, value in wanted.items())
    return False


def _was_labelled(context: Context, case: str) -> bool:
    return any(entry["label_sha256"] for entry in load_readings(context.paths.annotation_file(case)))


def _has_label(context: Context, case: str, annotator: str | None, asked: Asked) -> bool:
    """Whether the label that this annotator is asked for is there."""
    dataset = context.dataset
    if asked.is_first(annotator):
        return dataset.label_file(case).is_file()
    return context.paths.second_reading(annotator or "", case, dataset.file_ending).is_file()


# six parameters: where to add it, and what is known about the case
def _add(decided: Decided, context: Context, case: str, annotator: str | None, decision: str, asked: Asked) -> None:
    """Add a case of which no file was returned. Raises `AssftError` if its decision cannot be followed."""
    if decision == FIX:
        raise AssftError("its decision is fix, but no label was returned. Save it first.")
    file = _prelabel(context, case, asked)
    if file is None:
        raise AssftError(f"there is no pre-segmentation to {decision}. Run annotate export first.")
    (decided.accepted if decision == ACCEPT else decided.rejected).append(Returned(case, annotator, file, asked))


def _annotator(case: str, name: str, asked: Asked, times: Times) -> str | None:
    if asked.annotators:
        return name or times.annotator or (asked.annotators[0] if len(asked.annotators) == 1 else None)
    return times.annotator_of(case)


def _prelabel(context: Context, case: str, request: Asked) -> Path | None:
    """Return the experiment's own copy of the pre-segmentation that a request has shown; None if there is none."""
    prelabels = prelabels_of(context, request.round, second_look=request.second_look)
    return prelabels.file(case) if prelabels and prelabels.described(case) is not None else None


# ITK-SNAP saves over the file that was opened -------------------------------------------------------------------------


def saved_over(context: Context, folder: Path, asked: Mapping[str, Asked], returned: Collection[str]) -> dict[str, str]:
    """Return case -> a line about its pre-segmentation, if that was changed in the work folder of its request. Cases
    whose label was returned, or is in labelsTr already, are left out."""
    problems = {}
    for case, request in asked.items() if (folder / EXPORT_FILE).is_file() else ():
        file = folder / "prelabels" / f"{case}{context.dataset.file_ending}"
        if case in returned or context.dataset.label_file(case).is_file() or not (file.is_file() or file.is_symlink()):
            continue
        if not _shows(context, folder, request):
            continue
        try:
            require_openable(file, folder)
        except AssftError as error:
            problems[case] = f"{case} ({file}): {error}"
            continue
        if _is_changed(context, case, file, request):
            place = folder_of_labels(folder).joinpath(*request.annotators[:1], file.name)
            problems[case] = (
                f"{case} ({file}): the pre-segmentation was saved over, and labels are not taken from this folder. If "
                f"this is the finished label, move it to {place}."
            )
    return problems


def _is_changed(context: Context, case: str, file: Path, request: Asked) -> bool:
    own = _prelabel(context, case, request)
    if own is None or sha256_file(own) == sha256_file(file):
        return False
    grid = image_grid(context.dataset.images[case][0])
    try:  # a program may have saved the same voxels in other bytes
        before, now = (read_returned_label(each, context.dataset.labels, grid).array for each in (own, file))
    except AssftError:
        return True
    return not np.array_equal(before, now)

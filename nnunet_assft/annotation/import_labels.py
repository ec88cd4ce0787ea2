"""Check the labels that annotators return, and write those that pass to labelsTr, or labelsTs for test cases."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from nnunet_assft.active.annotation import AnnotationRequest
from nnunet_assft.active.context import Context
from nnunet_assft.annotation.decisions import decide
from nnunet_assft.annotation.export import require_own_labels, require_plain_volumes
from nnunet_assft.annotation.gate import Expected, GatedLabel, LabelSummary, gate
from nnunet_assft.annotation.label_files import FORMATS
from nnunet_assft.annotation.minutes import ACCEPT, REJECT, Times
from nnunet_assft.annotation.preview import prelabels_of
from nnunet_assft.annotation.records import (
    keep_aside,
    load_readings,
    reading_of,
    rejected_by,
    save_record,
    summaries_so_far,
)
from nnunet_assft.annotation.requests import open_requests
from nnunet_assft.annotation.returned import (
    Returned,
    asked_for,
    find_returned,
    folder_of_labels,
    require_this_dataset,
)
from nnunet_assft.annotation.segments import REFUSE
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.cases import for_each_case
from nnunet_assft.runtime.files import sha256_file
from nnunet_assft.runtime.text import count, some
from nnunet_assft.volumes.accepted_geometry import ALL, check_accepted
from nnunet_assft.volumes.dicom.key_file import KeyFile
from nnunet_assft.volumes.images import read_image
from nnunet_assft.volumes.labels import find_misfit
from nnunet_assft.volumes.not_annotated import check_structures, save_not_annotated
from nnunet_assft.volumes.segmentations import InFileAxes, write_segmentation
from nnunet_assft.volumes.whole_files import whole_file


@dataclass(frozen=True)
class Consent:
    """What the person who runs the command has accepted.

    cases: cases whose warnings are accepted. all_warnings: whether all warnings are accepted. replace: whether existing
    labels may be replaced. geometry: cases whose voxels are taken as they are stored, whatever their header says; ALL
    stands for every case. overlap: who keeps the voxels of several segments, see `segments.merge`.
    """

    cases: Collection[str] = ()
    all_warnings: bool = False
    replace: bool = False
    geometry: Collection[str] = ()
    overlap: str = REFUSE

    def covers(self, case: str) -> bool:
        return self.all_warnings or case in self.cases

    def covers_geometry(self, case: str) -> bool:
        return case in self.geometry or ALL in self.geometry


@dataclass
class ImportReport:
    """One line per label. refused: labels that must be corrected. doubtful: labels that are imported once their
    warnings are accepted."""

    imported: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)


def import_labels(  # six parameters: the labels, and what is said about them
    context: Context,
    folder: Path,
    consent: Consent,
    times: Times,
    keys: KeyFile | None = None,
    not_annotated: Sequence[str] | None = None,
) -> ImportReport:
    """Import every label in `folder` that passes the gate. The others are reported and change nothing.

    folder, keys: see `find_returned`; it may hold the labels of some of the cases only. not_annotated: structures that
    nobody drew in these labels; None if what is known about each case still holds. Raises `AssftError` if the
    experiment is not waiting for labels, or if the folder holds none.
    """
    requests = open_requests(context.experiment)
    asked = asked_for(context.experiment, requests, replace=consent.replace)
    require_plain_volumes(context.dataset)
    require_own_labels(context.dataset, [case for request in requests for case in request.cases])
    require_this_dataset(context.experiment, folder)
    _check_names(context, requests, consent, times)
    missing = None if not_annotated is None else _structures(context, not_annotated)
    returned, problems = find_returned(context.experiment, folder, asked, times, keys)
    decided = decide(context, folder, asked, returned, times)
    returned, problems = [*returned, *decided.accepted], [*problems, *decided.problems]
    if not (returned or decided.rejected or problems):
        raise AssftError(
            f"{folder_of_labels(folder)} holds no label; expected files named CASE{' or CASE'.join(FORMATS)}. Save the "
            f"labels there, for example as {requests[0].cases[0]}.nii.gz."
        )
    earlier = summaries_so_far(context) if returned else {}

    def take(label: Returned) -> _Outcome:
        others = [summary for case, summary in earlier.items() if case != label.case]
        return _Import(context, label, consent, times, missing).run(others)

    failures: dict[str, AssftError] = {}
    labels = {str(i): label for i, label in enumerate(returned)}  # two annotators may have accepted the same file
    outcomes = for_each_case(take, labels, desc="importing labels", failures=failures)
    return ImportReport(
        imported=[
            *(outcome.imported for outcome in outcomes.values() if outcome.imported),
            *(_reject(context, case, times) for case in decided.rejected),
        ],
        refused=[*problems, *(f"{label}: {failures[i]}" for i, label in labels.items() if i in failures)],
        doubtful=[line for outcome in outcomes.values() for line in outcome.doubtful],
    )


def _reject(context: Context, rejected: Returned, times: Times) -> str:
    """Record that a pre-segmentation was rejected, and return a line about it."""
    case, annotator = rejected.case, rejected.annotator
    known = reading_of(load_readings(context.paths.annotation_file(case)), annotator)
    entry: dict[str, Any] = {
        "annotator": annotator,
        "minutes": times.of(case, annotator, known.get("minutes")),
        "decision": REJECT,
        "file": None,
        "source_sha256": None,
        "label_sha256": None,
        "notes": [],
        "accepted": [],
        "overlap": None,
        "volumes_ml": {},
        "left_mm": {},
    }
    save_record(context, rejected, entry)
    return f"{case}: the pre-segmentation was rejected{f' by {annotator}' if annotator else ''}; draw it from scratch"


def _check_names(context: Context, requests: Sequence[AnnotationRequest], consent: Consent, times: Times) -> None:
    now = context.experiment.now
    pool = tuple(dict.fromkeys((*now.pool, *(case for request in requests for case in request.cases))))
    # a table that was written before still lists withdrawn cases, and those that are test cases now
    known = {*pool, *now.test, *context.experiment.withdrawn}
    for option, named in (("--accept", consent.cases), ("--times", times.cases)):
        unknown = sorted(set(named) - known)
        if unknown:
            raise AssftError(
                f"{option} names {some(unknown)}; the dataset has no such case. Expected case ids such as {pool[0]}."
            )
    check_accepted(consent.geometry, pool)


def _structures(context: Context, names: Sequence[str]) -> tuple[str, ...]:
    try:
        return check_structures(names, context.dataset.labels)
    except AssftError as error:
        raise AssftError(f"--not_annotated: {error}.") from error


@dataclass(frozen=True)
class _Outcome:
    imported: str = ""
    doubtful: Sequence[str] = ()


@dataclass(frozen=True)
class _Import:
    """The import of one label into `target`. wanted: structures that nobody drew in it; None if nothing is said."""

    context: Context
    returned: Returned
    consent: Consent
    times: Times
    wanted: tuple[str, ...] | None = None

    @property
    def target(self) -> Path:
        case, dataset = self.returned.case, self.context.dataset
        if self.returned.is_first:
            return dataset.label_to_write(case)
        return self.context.paths.second_reading(self.returned.annotator or "", case, dataset.file_ending)

    @property
    def missing(self) -> tuple[str, ...]:
        """The structures that nobody drew in the label: those that the command names, or else what is known."""
        if self.wanted is not None:
            return self.wanted
        if self.returned.is_first:
            return self._noted
        readings = load_readings(self.context.paths.annotation_file(self.returned.case))
        return tuple(reading_of(readings, self.returned.annotator).get("not_annotated") or ())

    @property
    def _noted(self) -> tuple[str, ...]:
        """What the dataset says about the label in labelsTr."""
        return self.context.dataset.not_annotated.get(self.returned.case, ())

    def run(self, earlier: Sequence[LabelSummary]) -> _Outcome:
        """Import the label. earlier: summaries of the human labels of other cases.

        Raises `AssftError` for a label that cannot be imported.
        """
        source = sha256_file(self.returned.file)
        known = self._known(source)
        if known and known["source_sha256"] == source and self._is_in(known) and self._is_as_wanted(known):
            return self._is_in_already(known)
        if known and known["annotator"] != self.returned.annotator:
            return replace(self, returned=replace(self.returned, annotator=known["annotator"])).run(earlier)
        case, target = self.returned.case, self.target
        gated = self._gated(earlier)
        is_there = target.is_file()
        difference = self._difference(gated.label) if is_there else ""
        if difference and not self.consent.replace:
            raise AssftError(
                f"there is already a label that {difference} ({target}). Add --replace to use the new one; the old one "
                f"is then kept in {self.context.paths.annotations / 'replaced'}."
            )
        if gated.warnings and not self.consent.covers(case):
            advice = f"Add --accept {case} if this is correct."
            return _Outcome(doubtful=[f"{self.returned}: {warning}. {advice}" for warning in gated.warnings])
        kept = keep_aside(self.context, case, target) if difference else None
        if difference and self.returned.is_first and set(self.missing) != set(self._noted):
            target.unlink()  # so that no label is ever there with what another one lacks
        if self.returned.is_first:
            save_not_annotated(self.context.dataset.folder, {case: self.missing})
        if difference or not is_there:
            write_segmentation(self.context.dataset.reader, gated.label, target, self._properties)
        entry = self._entry(gated, source, known, differs=bool(difference))
        forgotten = self._forgotten(entry)
        save_record(self.context, self.returned, entry)
        return _Outcome(_imported(self.returned, gated, self.missing, kept, forgotten))

    def _known(self, source: str) -> dict[str, Any]:
        """The recorded entry of this annotator's label, or else that of this very file, or of the label that a file by
        nobody in particular replaces.

        A file that was imported under a name keeps it: --annotator_name of a later import does not rename it.
        """
        case, annotator = self.returned.case, self.returned.annotator
        readings = load_readings(self.context.paths.annotation_file(case))
        known = reading_of(readings, annotator)
        if known or self.returned.asked.annotators or (case, annotator) in self.times.rows:
            return known
        labels = [entry for entry in readings if entry["annotator"] and entry["label_sha256"]]
        return next((entry for entry in labels if annotator is None or entry["source_sha256"] == source), {})

    def _is_in(self, known: Mapping[str, Any]) -> bool:
        return self.target.is_file() and sha256_file(self.target) == known["label_sha256"]

    def _is_as_wanted(self, known: Mapping[str, Any]) -> bool:
        """Whether its overlapping segments, if it had any, were treated as this command says, if it says anything, and
        whether the same structures are annotated."""
        missing = list(self.missing)
        if (known.get("not_annotated") or []) != missing or (self.returned.is_first and list(self._noted) != missing):
            return False
        return self.consent.overlap == REFUSE or known.get("overlap") in (None, self.consent.overlap)

    def _is_in_already(self, known: Mapping[str, Any]) -> _Outcome:
        case, annotator = self.returned.case, known["annotator"]
        told = {
            "minutes": self.times.of(case, annotator, known["minutes"]),
            "decision": self.times.decision_of(case, annotator) or known.get("decision"),
        }
        if {**known, **told} != known:
            save_record(self.context, self.returned, {**known, **told})
        return _Outcome(f"{self.returned.case}: {_by(known['annotator'])} has been imported already")

    def _gated(self, earlier: Sequence[LabelSummary]) -> GatedLabel:
        """Put the label through the gate, which compares it with the pre-segmentation of the case, if there is one."""
        case, asked = self.returned.case, self.returned.asked
        prelabels = prelabels_of(self.context, asked.round, second_look=asked.second_look)
        described = prelabels.described(case) if prelabels else None
        expected = Expected(earlier=earlier, not_annotated=self.missing, accepted=self._decision == ACCEPT)
        if prelabels and described:
            prelabel = InFileAxes(sitk.GetArrayFromImage(sitk.ReadImage(str(prelabels.file(case)))))
            expected = replace(expected, prelabel=prelabel, predicted_ml=described["volumes_ml"])
        return gate(
            self.returned.file,
            self.context.dataset.images_of(case)[0],
            self.context.dataset.labels,
            expected,
            accept_geometry=self.consent.covers_geometry(case),
            overlap=self.consent.overlap,
            slices=self.returned.slices,
        )

    def _difference(self, label: InFileAxes) -> str:
        """Return how the label in `target` differs, as nnU-Net reads both, as a predicate; "" if it does not."""
        case, dataset = self.returned.case, self.context.dataset
        try:
            if find_misfit(dataset, case, self.target):
                return "does not lie on its image"
            with whole_file(self.target) as whole:
                there = dataset.reader.read_seg(str(whole))[0][0]
        except Exception:  # readers raise exceptions of many types
            return "cannot be read"
        differing = int((there != label.in_reader_axes(self._properties)).sum())
        return f"differs in {count(differing, 'voxel')}" if differing else ""

    @cached_property
    def _properties(self) -> dict[str, Any]:
        """Those that nnU-Net's reader returns for the image."""
        case, dataset = self.returned.case, self.context.dataset
        if self.returned.asked.round is None:  # not preprocessed before it belongs to the experiment
            return read_image(dataset.images_of(case), dataset.reader).properties
        return self.context.properties(case)

    @property
    def _decision(self) -> str | None:
        """What its annotator decided about the pre-segmentation; a rejection of an earlier import stands."""
        case, annotator, asked = self.returned.case, self.returned.annotator, self.returned.asked
        decided = self.times.decision_of(case, annotator)
        rejected = rejected_by(self.context.paths.annotation_file(case), asked.round, second_look=asked.second_look)
        # an annotator to whom nothing was assigned may be named by a later import only
        stands = annotator in rejected if asked.annotators else bool(rejected)
        return decided or (REJECT if stands else None)

    def _forgotten(self, entry: Mapping[str, Any]) -> list[str]:
        """Return clauses about the minutes and decisions on record that this entry replaces without having any."""
        readings = load_readings(self.context.paths.annotation_file(self.returned.case))
        lost = []
        for old in readings:
            is_same = old["annotator"] == entry["annotator"]
            if not is_same and old["annotator"] in self.returned.asked.annotators:
                continue  # stays beside it
            said = [f"{old['minutes']:g} minutes"] if not is_same and old["minutes"] is not None else []
            if old.get("decision") and not (is_same and entry["decision"]):
                said.append(f"the decision {old['decision']}")
            if said:
                lost.append(f"what was recorded of {_by(old['annotator'])} is replaced: {', '.join(said)}")
        return lost

    def _entry(self, gated: GatedLabel, source: str, known: Mapping[str, Any], *, differs: bool) -> dict[str, Any]:
        """differs: from the label that was there before, whose minutes and decision stand unless others are given. Only
        a pre-segmentation itself is accepted."""
        before = None if differs and known.get("decision") == ACCEPT else known.get("decision")
        given = self.times.of(self.returned.case, self.returned.annotator)
        return {
            "annotator": self.returned.annotator,
            "minutes": given if given is not None else known.get("minutes"),
            "decision": self._decision or before,
            # a DICOM file may be named after the patient
            "file": self.returned.file.name if self.returned.slices is None else None,
            "source_sha256": source,
            "label_sha256": sha256_file(self.target),
            "notes": list(gated.notes),
            "accepted": list(gated.warnings),
            "overlap": gated.overlap,
            "not_annotated": list(self.missing),
            **asdict(gated.summary),
        }


def _by(annotator: str | None) -> str:
    return f"the label by {annotator}" if annotator else "the label"


def _imported(
    returned: Returned, gated: GatedLabel, missing: Sequence[str], replaced: str | None, forgotten: Sequence[str]
) -> str:
    volumes = ", ".join(f"{name} {ml:.3g} ml" for name, ml in gated.summary.volumes_ml.items() if ml) or "no structure"
    remarks = [*gated.notes, *(["warnings accepted: " + "; ".join(gated.warnings)] if gated.warnings else [])]
    remarks += [f"not annotated: {', '.join(missing)}"] if missing else []
    remarks += [*([f"old label kept as {replaced}"] if replaced else []), *forgotten]
    kind = _by(returned.annotator) if returned.is_first else f"second reading by {returned.annotator}"
    return f"{returned.case}: {kind} imported, {volumes}" + (f" ({'; '.join(remarks)})" if remarks else "")

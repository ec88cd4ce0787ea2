"""Labels that come back from annotators: found in a folder, put through the gate, and only then written to labelsTr."""

from __future__ import annotations

import difflib
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from nnunet_assft.active.annotation import Request, open_request
from nnunet_assft.active.context import Context
from nnunet_assft.active.state import Experiment, finished_rounds
from nnunet_assft.annotation.export import EXPORT_FILE, prelabel_file, require_plain_volumes
from nnunet_assft.annotation.gate import GatedLabel, LabelSummary, gate, summarize
from nnunet_assft.annotation.label_files import ENDINGS, grid_of
from nnunet_assft.annotation.minutes import Times
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import atomic_path, read_json, sha256_file, write_json
from nnunet_assft.volumes.placement import to_reader_axes
from nnunet_assft.volumes.segmentations import write_segmentation

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Consent:
    """What the person at the terminal has agreed to."""

    cases: Collection[str] = ()  # their warnings are accepted
    all_warnings: bool = False
    replace: bool = False  # labels that are there already

    def covers(self, case: str) -> bool:
        return self.all_warnings or case in self.cases


@dataclass
class ImportReport:
    """One line per label. refused: must be mended; doubtful: imported once its warnings are accepted."""

    imported: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Returned:
    case: str
    annotator: str | None
    file: Path
    round: int
    readers: tuple[str, ...]  # of the case; () where nobody was named

    @property
    def is_first(self) -> bool:
        """Whether this label is the label; else it is a second reading."""
        return not self.readers or self.annotator == self.readers[0]


def import_labels(context: Context, folder: Path, consent: Consent, times: Times) -> ImportReport:
    """Takes every label in `folder` that passes the gate; the others are reported and change nothing.

    folder: a work folder, or any folder of CASE.nii.gz, CASE.nrrd or CASE.seg.nrrd, perhaps in subfolders named after the
    annotators. A part of the cases is fine. Raises `AssftError` if nothing is asked for, or nothing is there.
    """
    experiment = context.experiment
    request = open_request(experiment)
    require_plain_volumes(context)
    for option, named in (("--accept", consent.cases), ("--times", times.cases)):
        unknown = sorted(set(named) - set(experiment.pool))
        if unknown:
            raise AssftError(
                f"{option} names {', '.join(unknown[:5])}; the dataset has no such case. Expected ids such as {request.cases[0]}."
            )
    report = ImportReport()
    found = _find(context, folder, request, consent, times, report)
    earlier = _summaries_so_far(context) if found else {}
    for returned in tqdm(found, desc="importing labels", unit="case", leave=False):
        try:
            _import(context, returned, {c: s for c, s in earlier.items() if c != returned.case}, consent, times, report)
        except AssftError as error:  # noqa: PERF203 - the others go on
            report.refused.append(f"{returned.case} ({returned.file}): {error}")
    return report


def reading_of(record: Mapping[str, Any], annotator: str | None) -> dict[str, Any]:
    """What the record of a case says of one annotator's label; empty if nothing."""
    return next((entry for entry in record.get("readings", ()) if entry["annotator"] == annotator), {})


def load_record(context: Context, case: str) -> dict[str, Any]:
    """The record of an imported case; empty if there is none."""
    file = context.paths.annotation_file(case)
    return dict(read_json(file)) if file.is_file() else {}


# Finding labels --------------------------------------------------------------------------------------------------------


def _find(
    context: Context,
    folder: Path,
    request: Request,
    consent: Consent,
    times: Times,
    report: ImportReport,
) -> list[_Returned]:
    """The labels in a folder whose case and annotator are clear, by case; what is unclear goes to the report."""
    experiment = context.experiment
    base = folder / "annotations" if (folder / EXPORT_FILE).is_file() else folder
    if not base.is_dir():
        raise AssftError(
            f"{base} is not a folder. Give the work folder, or a folder that holds CASE.nii.gz or CASE.seg.nrrd."
        )
    asked = {case: (request.round, request.readers[case]) for case in request.cases}
    if consent.replace:
        asked = _labelled_before(experiment) | asked
    endings = tuple(sorted({*ENDINGS, context.dataset.file_ending}, key=len, reverse=True))
    names = {name for _, readers in asked.values() for name in readers}
    files: dict[tuple[str, str | None], Path] = {}
    n_files = 0
    for sub in (None, *sorted(path.name for path in base.iterdir() if path.is_dir() and not path.name.startswith("."))):
        for file in sorted(
            path for path in (base / (sub or "")).iterdir() if path.is_file() and not path.name.startswith(".")
        ):
            ending = next((ending for ending in endings if file.name.lower().endswith(ending)), None)
            if ending is None:
                continue
            n_files += 1
            case = file.name[: -len(ending)]
            try:
                _require_asked(case, asked, experiment, request.round)
                annotator = _annotator(case, sub, asked[case][1], names, times)
                if (case, annotator) in files:
                    other = files.pop((case, annotator))
                    raise AssftError(f"{other.name} and {file.name} are both there; keep the one that counts.")
            except AssftError as error:
                report.refused.append(f"{case} ({file}): {error}")
            else:
                files[case, annotator] = file
    if not n_files:
        raise AssftError(
            f"{base} holds no label; expected files named CASE{' or CASE'.join(ENDINGS)}, such as {request.cases[0]}.nii.gz."
        )
    return [
        _Returned(case, annotator, file, *asked[case])
        for (case, annotator), file in sorted(files.items(), key=lambda item: (item[0][0], item[0][1] or ""))
    ]


def _labelled_before(experiment: Experiment) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Cases of finished rounds, whose labels may be replaced: case -> (round, readers)."""
    cases: dict[str, tuple[int, tuple[str, ...]]] = {}
    for done in finished_rounds(experiment):
        file = experiment.paths.readers_file(done.round)
        readers = read_json(file) if file.is_file() else {}
        cases |= {case: (done.round, tuple(readers.get(case, ()))) for case in done.queried}
    return cases


def _require_asked(case: str, asked: Mapping[str, Any], experiment: Experiment, r: int) -> None:
    if case in asked:
        return
    expected = f"expected {', '.join(sorted(asked))}"
    if case in experiment.pool:
        raise AssftError(
            f"round {r} does not ask for this case; {expected}. A label of an earlier round is replaced with --replace."
        )
    near = difflib.get_close_matches(case, list(asked), n=1)
    raise AssftError(f"the dataset has no case {case!r}; {expected}." + (f" Did you mean {near[0]}?" if near else ""))


def _annotator(
    case: str, folder: str | None, readers: Sequence[str], names: Collection[str], times: Times
) -> str | None:
    """Who drew a label: the folder says it, else --annotator_name or the table of times, else the only reader of the case."""
    if folder is not None and folder not in names:
        raise AssftError(
            f"the folder {folder} is named after no annotator; expected {', '.join(sorted(names)) or 'no subfolder'}."
        )
    name = folder or times.annotator_of(case) or (readers[0] if len(readers) == 1 else None)
    if readers and name is None:
        raise AssftError(
            f"it is read by {' and '.join(readers)}; put it into a folder of that name, or say whose it is with "
            "--annotator_name."
        )
    if readers and name not in readers:
        raise AssftError(f"it is read by {' and '.join(readers)}, not by {name}.")
    return name


# One label -------------------------------------------------------------------------------------------------------------


def _import(
    context: Context,
    returned: _Returned,
    earlier: Mapping[str, LabelSummary],
    consent: Consent,
    times: Times,
    report: ImportReport,
) -> None:
    case, annotator = returned.case, returned.annotator
    dataset = context.dataset
    target = (
        dataset.label_file(case)
        if returned.is_first
        else context.paths.second_reading(annotator or "", case, dataset.file_ending)
    )
    record, source = load_record(context, case), sha256_file(returned.file)
    known = reading_of(record, annotator) or _from_this_file(record, returned, source, times)
    if known and known["source_sha256"] == source and target.is_file() and sha256_file(target) == known["label_sha256"]:
        minutes = times.of(case, known["annotator"], known["minutes"])
        if minutes != known["minutes"]:
            _save_record(context, returned, record, {**known, "minutes": minutes})
        report.imported.append(f"{case}: {_by(known['annotator'])} is in already")
        return
    gated = _gated(context, returned, list(earlier.values()))
    is_there = target.is_file()
    differing = _differing_voxels(gated.array, target) if is_there else 0
    if differing and not consent.replace:
        raise AssftError(
            f"a label is there already and differs in {differing} voxels ({target}). Add --replace to take the new one; "
            f"the old one is then kept in {context.paths.annotations / 'replaced'}."
        )
    if gated.warnings and not consent.covers(case):
        report.doubtful += [
            f"{case} ({returned.file}): {warning}. Add --accept {case} if it is right." for warning in gated.warnings
        ]
        return
    kept = _kept_aside(context, case, target) if differing else None
    if differing or not is_there:
        properties = context.properties(case)
        write_segmentation(context.dataset.reader, to_reader_axes(gated.array, properties), target, properties)
    given = times.of(case, annotator)
    entry = {
        "annotator": annotator,
        "minutes": given if given is not None else known.get("minutes"),
        "file": returned.file.name,
        "source_sha256": source,
        "label_sha256": sha256_file(target),
        "notes": list(gated.notes),
        "accepted": list(gated.warnings),
        **asdict(gated.summary),
    }
    _save_record(context, returned, record, entry)
    report.imported.append(_imported(returned, gated, kept))


def _from_this_file(record: Mapping[str, Any], returned: _Returned, source: str, times: Times) -> dict[str, Any]:
    """A reading that came in from this very file under a name: --annotator_name of a later import is not said of it."""
    if returned.readers or (returned.case, returned.annotator) in times.rows:
        return {}
    return next(
        (entry for entry in record.get("readings", ()) if entry["annotator"] and entry["source_sha256"] == source), {}
    )


def _gated(context: Context, returned: _Returned, earlier: Sequence[LabelSummary]) -> GatedLabel:
    """The label after the gate, compared with what the model made of this case, if there was one."""
    prelabel = prelabel_file(context, returned.round, returned.case)
    preview = context.paths.previews(returned.round) / f"{returned.case}.json"
    known = prelabel.is_file() and preview.is_file()
    return gate(
        returned.file,
        context.dataset.images[returned.case][0],
        context.dataset.labels,
        prelabel=sitk.GetArrayFromImage(sitk.ReadImage(str(prelabel))) if known else None,
        predicted_ml=read_json(preview)["volumes_ml"] if known else None,
        earlier=earlier,
    )


def _summaries_so_far(context: Context) -> dict[str, LabelSummary]:
    """Of the human labels of finished rounds; the order in which labels of this round come in plays no role."""
    done = finished_rounds(context.experiment)
    cases = done[-1].labelled if done else ()
    return {case: _summary_of(context, case) for case in cases if context.dataset.label_file(case).is_file()}


def _summary_of(context: Context, case: str) -> LabelSummary:
    """Volumes and sides of a human label: from its record, or from the file if it was put there by hand."""
    file = context.dataset.label_file(case)
    digest = sha256_file(file)
    for entry in load_record(context, case).get("readings", ()):
        if entry["label_sha256"] == digest:
            return LabelSummary(entry["volumes_ml"], entry["left_mm"])
    label = sitk.ReadImage(str(file))
    return summarize(sitk.GetArrayFromImage(label), grid_of(label), context.dataset.labels)


def _differing_voxels(array: np.ndarray, file: Path) -> int:
    """How many voxels of a label file are different; all of them if it cannot be read."""
    try:
        there = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
    except RuntimeError:
        return array.size
    return int((there != array).sum()) if there.shape == array.shape else array.size


def _kept_aside(context: Context, case: str, label: Path) -> str:
    """Copies a label that will be replaced; named by its content, so that doing it twice keeps one."""
    name = f"{case}_{sha256_file(label)[:8]}{context.dataset.file_ending}"
    with atomic_path(context.paths.annotations / "replaced" / name) as partial:
        shutil.copyfile(label, partial)
    return name


def _save_record(context: Context, returned: _Returned, record: Mapping[str, Any], entry: Mapping[str, Any]) -> None:
    """The entry takes the place of an earlier one by the same annotator; those of the other readers of the case stay."""
    others = [
        old
        for old in record.get("readings", ())
        if old["annotator"] in returned.readers and old["annotator"] != entry["annotator"]
    ]
    name = re.compile(rf"{re.escape(returned.case)}_[0-9a-f]{{8}}{re.escape(context.dataset.file_ending)}")
    content = {
        "schema_version": SCHEMA_VERSION,
        "case": returned.case,
        "round": returned.round,
        "readings": [*others, dict(entry)],
        # from the folder: whatever was cut off between the two, what was kept is named
        "replaced": sorted(
            file.name for file in (context.paths.annotations / "replaced").glob("*") if name.fullmatch(file.name)
        ),
    }
    write_json(context.paths.annotation_file(returned.case), content)


def _by(annotator: str | None) -> str:
    return f"the label by {annotator}" if annotator else "the label"


def _imported(returned: _Returned, gated: GatedLabel, replaced: str | None) -> str:
    volumes = ", ".join(f"{name} {ml:.3g} ml" for name, ml in gated.summary.volumes_ml.items() if ml) or "no structure"
    remarks = [*gated.notes, *(["warnings accepted: " + "; ".join(gated.warnings)] if gated.warnings else [])]
    remarks += [f"old label kept as {replaced}"] if replaced else []
    kind = _by(returned.annotator) if returned.is_first else f"second reading by {returned.annotator}"
    return f"{returned.case}: {kind} imported, {volumes}" + (f" ({'; '.join(remarks)})" if remarks else "")

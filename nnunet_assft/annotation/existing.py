"""The gate for labels that are in labelsTr before the first round: they are checked like labels that are returned."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import SimpleITK as sitk

from nnunet_assft.annotation.gate import Expected, LabelSummary, summarize, undrawn, warnings_of
from nnunet_assft.annotation.import_labels import Consent
from nnunet_assft.annotation.label_files import image_grid
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.cases import Executor, for_each_case
from nnunet_assft.runtime.text import count, some
from nnunet_assft.volumes.accepted_geometry import ALL
from nnunet_assft.volumes.labels import find_misfit, misplaced, read_label
from nnunet_assft.volumes.not_annotated import annotated
from nnunet_assft.volumes.raw_dataset import RawDataset
from nnunet_assft.volumes.readers import PLAIN_READERS
from nnunet_assft.volumes.segmentations import InFileAxes


def check_existing(
    consent: Consent, dataset: RawDataset, cases: Sequence[str], executor: Executor
) -> dict[str, list[str]]:
    """Check the labels of cases that are labelled at the start, and return case -> its warnings that were accepted.

    A label has to lie on its image and to have known values only. It is compared with the labels of the other cases as
    a returned label is compared with those of finished rounds. Nothing is repaired, because labelsTr is not written to.
    With a reader that annotation programs do not have, only position and values are checked. Raises `AssftError` that
    names the labels that cannot be used, or that need consent.
    """
    unknown = sorted(set(consent.cases) - {*cases, ALL})
    if unknown:
        raise AssftError(
            f"--accept names {some(unknown)}; expected cases to start with ({some(cases) or 'none here'}), or {ALL}."
        )
    failures: dict[str, AssftError] = {}
    jobs = {case: (case, dataset.state_of(case)) for case in cases}
    seen = for_each_case(
        partial(_look_at, dataset, consent), jobs, desc="checking labels", failures=failures, executor=executor
    )
    if failures:
        raise AssftError(
            f"{count(len(failures), 'label')} of the {len(cases)} to start with cannot be used "
            f"({some(failures.values(), 3, '; ')})."
        )
    found = {case: _warnings(case, seen, dataset) for case in seen}
    doubtful = {case: warnings for case, warnings in found.items() if warnings}
    open_ = [f"{case}: {'; '.join(warnings)}" for case, warnings in doubtful.items() if not consent.covers(case)]
    if open_:
        raise AssftError(
            f"Your consent is needed for {count(len(open_), 'label')} of the {len(cases)} to start with "
            f"({some(open_, 3, '. ')}). Correct what is wrong, and accept the others with --accept CASE (or all)."
        )
    return doubtful


def _look_at(dataset: RawDataset, consent: Consent, job: tuple[str, object]) -> tuple[LabelSummary, list[str]]:
    """Return the volumes and positions of the structures, and warnings about structures that should not be there.

    job: a case, and the state of its files. Raises `AssftError` for a label that must not be used.
    """
    case, _ = job
    file = dataset.label_file(case)
    misfit = find_misfit(dataset, case, file)
    if misfit and not (misfit.same_shape and consent.covers_geometry(case)):
        raise misplaced(case, file, misfit)
    read_label(dataset, case, file)
    if type(dataset.reader).__name__ not in PLAIN_READERS:
        return LabelSummary({}, {}), []
    voxels = InFileAxes(sitk.GetArrayFromImage(sitk.ReadImage(str(file))))
    missing = dataset.not_annotated.get(case, ())
    labels = annotated(dataset.labels, missing)
    _, warnings = undrawn(voxels, dataset.labels, Expected(not_annotated=missing))
    return summarize(voxels, image_grid(dataset.images[case][0]), labels), warnings


def _warnings(case: str, seen: dict[str, tuple[LabelSummary, list[str]]], dataset: RawDataset) -> list[str]:
    summary, warnings = seen[case]
    if not summary.volumes_ml:  # not measured
        return []
    others = [other for name, (other, _) in seen.items() if name != case]
    expected = Expected(earlier=others, not_annotated=dataset.not_annotated.get(case, ()))
    return [*warnings, *warnings_of(summary, dataset.labels, expected)]

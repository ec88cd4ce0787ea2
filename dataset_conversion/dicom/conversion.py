"""DICOM to an nnU-Net raw dataset without labels: scan, then convert. READ FIRST.

No name, id, date or path of a patient comes into the dataset, a finding or a message: a series is called by its case
id, and only the key file says what that is.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_assft import __version__
from nnunet_assft.dataset_conversion.apply import duplicates, open_manifest, require_untouched
from nnunet_assft.dataset_conversion.case_conversion import merged_findings
from nnunet_assft.dataset_conversion.convert import REPORT, id_and_name, id_clash, refuse_own_folder
from nnunet_assft.dataset_conversion.datasets import CONVERTED_FROM, CT, DICOM, MRI, READER
from nnunet_assft.dataset_conversion.dicom.voxels import ENDING, Job, convert_series
from nnunet_assft.dataset_conversion.file_placement import COPIES_IN_MEMORY
from nnunet_assft.dataset_conversion.findings import ERROR, Finding, errors, found, ordered
from nnunet_assft.dataset_conversion.labels import BACKGROUND
from nnunet_assft.dataset_conversion.manifest import Manifest, Record, output_state
from nnunet_assft.dataset_conversion.report import Report, text_of
from nnunet_assft.dataset_conversion.source_cases import require_folders
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.cases import for_each_case, in_processes
from nnunet_assft.runtime.files import refuse_endless, sha256_of, write_text
from nnunet_assft.runtime.processes import number_of_processes
from nnunet_assft.runtime.text import count, reason, some
from nnunet_assft.volumes.dataset_json import check_labels, read_dataset_json
from nnunet_assft.volumes.dicom.key_file import OF_DATASET, Identity, KeyFile, held, identity
from nnunet_assft.volumes.dicom.slices import (
    COPY,
    DIRECTORY,
    NOT_DICOM,
    OTHER_OBJECT,
    Found,
    Slice,
    find_slices,
)
from nnunet_assft.volumes.dicom.stack import Refused, Stack, stack
from nnunet_assft.volumes.names import DATASET

CHANNELS = {"CT": CT, "MR": MRI}
ONE, ALL = "one", "all"  # series of a patient; otherwise, a file lists them
CASE_EXAMPLE = "dcm_k7m2qx_01"
WORDS = {
    NOT_DICOM: "files that are not DICOM",
    DIRECTORY: "DICOMDIR files",
    OTHER_OBJECT: "DICOM objects without images",
    COPY: "copies of a file",
}
BYTES_PER_VOXEL = 8  # while slices are decoded


@dataclass(frozen=True)
class DicomOptions:
    """The options of one run.

    key_file: see `key_file`. labels: the structures to annotate, in the order of their ids. series: ONE, ALL, or the
    name of a file that lists case ids. strict, overwrite, num_processes: as of `options.ConversionOptions`.
    """

    key_file: Path
    labels: tuple[str, ...]
    series: str = ONE
    strict: bool = False
    overwrite: bool = False
    num_processes: int | None = None


@dataclass
class DicomPlan:
    """What a conversion will do. cases: case id -> the volume to write. counts: rows of the report."""

    folder: Path
    labels: dict[str, int]
    keys: KeyFile
    cases: dict[str, Stack]
    counts: dict[str, int]
    findings: list[Finding]

    @property
    def channel(self) -> str:
        return CHANNELS[next(iter(self.cases.values())).modality]


def scan(roots: Sequence[Path], raw: Path, dataset: str, options: DicomOptions) -> DicomPlan:
    """Find all series below the folders, and plan which of them become cases. Only the key file is written.

    Raises `AssftError` if nothing can be planned.
    """
    folder = _folder(raw, dataset)
    labels = {name: value for value, name in enumerate((BACKGROUND, *options.labels))}
    check_labels(labels, "--labels")
    require_folders(roots)
    refuse_own_folder(roots, folder)
    places = [place / folder.name for place in (raw, *_other_places())]
    # errors are told before all headers are read
    _require_own_cases(KeyFile.open(options.key_file, places), Manifest.load(folder))
    files = find_slices(roots, options.num_processes)
    if not files.slices:
        raise AssftError(
            f"No DICOM image was found among {count(files.n_files, 'file')} in {', '.join(map(str, roots))}. Give the "
            "folder of a DICOM export with -i."
        )
    with held(options.key_file):
        keys = KeyFile.open(options.key_file, places)
        plan = _plan(folder, labels, files, keys, options)
        keys.save()
    plan.findings = ordered([*plan.findings, *id_clash(folder.name, raw)])
    return plan


def _plan(folder: Path, labels: dict[str, int], files: Found, keys: KeyFile, options: DicomOptions) -> DicomPlan:
    """Name the series, choose which of them become cases, and describe all of them in the key file."""
    by_identity: dict[Identity, list[Slice]] = defaultdict(list)
    for slice_ in files.slices:
        by_identity[identity([slice_])].append(slice_)
    names = keys.name_all(by_identity)
    series = {names[one]: members for one, members in sorted(by_identity.items(), key=lambda item: names[item[0]])}
    volumes = {case: stack(members) for case, members in series.items()}
    usable = {case: volume for case, volume in volumes.items() if isinstance(volume, Stack)}
    studies = {case: members[0].study for case, members in series.items()}
    cases, of_choice = _choose(usable, studies, keys, options.series)
    findings = [_finding(case, volume) for case, volume in volumes.items() if isinstance(volume, Refused)] + of_choice
    for case, members in series.items():
        if case not in cases and keys.is_of_dataset(case):
            continue  # its image stays, whatever was found now, and so do the slices that it was made of
        volume = volumes[case]
        placed = volume.files if isinstance(volume, Stack) else [slice_.file for slice_ in members]
        keys.describe(case, members, placed, _state(case, cases, findings))
    keys.unreadable = list(map(str, files.unreadable))
    counts = _counts(files, len({_patient(case) for case in series}), len(series), len(usable))
    return DicomPlan(folder, labels, keys, cases, counts, [*findings, *_unreadable(files)])


def convert(
    plan: DicomPlan, options: DicomOptions, say: Callable[[str], None]
) -> tuple[dict[str, Record], list[Finding]]:
    """Write the planned cases that are not done yet. Images of earlier runs stay.

    Returns the records of all cases by id, and all findings. say: called with a sentence if some cases are done
    already. Raises `AssftError` before the first write if the dataset as a whole has an error or, with
    `options.strict`, if any series has one; later, if the folder cannot be written to.
    """
    _refuse(plan, options)
    kept: dict[str, object] = {"dataset": plan.folder.name, "channel": plan.channel, "labels": plan.labels}
    manifest = open_manifest(plan.folder, kept, overwrite=options.overwrite)
    if not options.overwrite:
        require_untouched(manifest)
    jobs = [
        Job(case, volume, plan.folder, plan.channel, _made_with(plan, volume)) for case, volume in plan.cases.items()
    ]
    todo = [job for job in jobs if options.overwrite or not _is_done(job, manifest)]
    if len(todo) < len(jobs):
        say(f"{len(jobs) - len(todo)} of {len(jobs)} cases are done already and unchanged; {len(todo)} remain.")
    try:
        _write_images(todo, manifest, options)
        findings = ordered(
            [*plan.findings, *merged_findings(list(manifest.cases.values())), *duplicates(manifest.cases)]
        )
        _write_results(plan, manifest, findings, keep=not options.overwrite)
    except OSError as error:
        raise AssftError(
            f"{plan.folder} cannot be written: {error.strerror or type(error).__name__}. Fix that and run the same "
            "command again; finished cases are kept."
        ) from error
    return manifest.cases, findings


def _folder(raw: Path, dataset: str) -> Path:
    """Return the folder of the dataset that -d names. An id alone means the dataset that has it, if there is one."""
    number, name = id_and_name(dataset)
    existing = sorted(path for path in raw.glob(f"Dataset{number:03d}_*") if path.is_dir())
    if not name and len(existing) == 1:
        return existing[0]
    folder = f"Dataset{number:03d}_{name or DICOM}"
    DATASET.check(folder, "-d")
    return raw / folder


def _require_own_cases(keys: KeyFile, manifest: Manifest | None) -> None:
    """Raise `AssftError` if the dataset has cases that are not in the key file: their scans would become cases again,
    under other ids."""
    others = sorted(manifest.cases.keys() - keys.entries.keys()) if manifest else []
    if others and manifest:
        raise AssftError(
            f"--key_file {keys.path} does not have {some(others)} of {manifest.folder.name}, whose scans would become "
            "cases again. Give the key file with which the dataset was made, or another dataset with -d."
        )


def _other_places() -> list[Path]:
    """Return nnU-Net's other folders, which have a folder of the same name for each dataset."""
    places = (os.environ.get(name) for name in ("nnUNet_preprocessed", "nnUNet_results"))
    return [Path(place) for place in places if place]


def _patient(case: str) -> str:
    return case.rpartition("_")[0]


def _finding(case: str, refused: Refused) -> Finding:
    severity = ERROR if refused.code == "non_orthonormal" else None  # which in a NIfTI file is a warning
    return found(refused.code, case, refused.text, severity)


def _choose(
    usable: Mapping[str, Stack], studies: Mapping[str, str], keys: KeyFile, series: str
) -> tuple[dict[str, Stack], list[Finding]]:
    """Return the series that become cases, and findings on the others. studies: case id -> study of each series.

    Raises `AssftError` if the file of --series cannot be used.
    """
    if series == ALL:
        return dict(usable), []
    if series != ONE:
        return _listed(usable, _read_list(Path(series), keys))
    of_patient: dict[str, list[str]] = defaultdict(list)
    for case in usable:
        of_patient[_patient(case)].append(case)
    cases, findings = {}, []
    for patient, own in of_patient.items():
        if len(own) == 1:
            cases[own[0]] = usable[own[0]]
            continue
        n_studies = count(len({studies[case] for case in own}), "study").replace("studys", "studies")
        listed = "; ".join(f"{case} ({usable[case].words})" for case in own)
        text = f"{len(own)} series in {n_studies} can be used: {listed}; expected one for each patient"
        findings.append(found("several_series", patient, text))
    return cases, findings


def _listed(usable: Mapping[str, Stack], wanted: Sequence[str]) -> tuple[dict[str, Stack], list[Finding]]:
    cases = {case: volume for case, volume in usable.items() if case in wanted}
    return cases, [
        found("not_chosen", case, f"the file of --series does not name it: {volume.words}")
        for case, volume in usable.items()
        if case not in cases
    ]


def _read_list(file: Path, keys: KeyFile) -> list[str]:
    try:
        refuse_endless(file)
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise AssftError(
            f"--series {file} cannot be read ({reason(error)}). Expected the word {ONE} or {ALL}, or a text file "
            "with one case id per line."
        ) from error
    cases = [line for line in lines if line]
    unknown = [case for case in cases if case not in keys.entries]
    if unknown or not cases:
        # what stands there is not repeated: it may be the id of a patient
        number = lines.index(unknown[0]) + 1 if unknown else 0
        what = f"no case id of the key file in line {number}" if unknown else "no line"
        raise AssftError(f"--series {file} has {what}; expected one case id per line, as {CASE_EXAMPLE}.")
    return cases


def _state(case: str, cases: Mapping[str, Stack], findings: Sequence[Finding]) -> str:
    """Return what becomes of a series, for the key file."""
    if case in cases:
        return OF_DATASET
    why = next(finding for finding in findings if finding.case in (case, _patient(case)))
    return f"left out ({why.code}): {why.message}"


def _unreadable(files: Found) -> list[Finding]:
    n = len(files.unreadable)
    return [found("unreadable_files", "", f"{count(n, 'DICOM file')} cannot be parsed")] if n else []


def _counts(files: Found, n_patients: int, n_series: int, n_usable: int) -> dict[str, int]:
    passed_over = {WORDS[kind]: n for kind, n in files.passed_over.items()}
    images = {"files": files.n_files, "DICOM images": len(files.slices)}
    return {**images, **passed_over, "patients": n_patients, "series": n_series, "series that can be used": n_usable}


def _refuse(plan: DicomPlan, options: DicomOptions) -> None:
    clash = [finding for finding in plan.findings if finding.code == "dataset_id_clash"]
    if wrong := clash or (errors(plan.findings) if options.strict else []):
        raise AssftError(("" if clash else "--strict: ") + wrong[0].line())
    if not plan.cases:
        first = "".join(f" The first reason: {finding.line()}" for finding in plan.findings[:1])
        raise AssftError(f"No series can be converted, and only the key file was written.{first}")
    modalities = Counter(volume.modality for volume in plan.cases.values())
    if len(modalities) > 1:
        raise AssftError(
            f"The series are of two modalities, CT ({modalities['CT']}) and MR ({modalities['MR']}); expected "
            "one. Give --series a file with the case ids of one of them; the key file has the modality of each."
        )


def _made_with(plan: DicomPlan, volume: Stack) -> str:
    """Return the checksum of all that determines an image. Without the secret of the key file, nobody can guess the
    sizes and times of the source files from it."""
    return sha256_of([plan.keys.secret, volume.states, volume.shape, volume.affine.tolist(), plan.channel])


def _is_done(job: Job, manifest: Manifest) -> bool:
    record = manifest.cases.get(job.case)
    return (
        record is not None
        and record["made_with"] == job.made_with
        and bool(record["outputs"])
        and not any(output_state(manifest.folder, output, thorough=False) for output in record["outputs"])
    )


def _write_images(todo: Sequence[Job], manifest: Manifest, options: DicomOptions) -> None:
    if not todo:
        return
    manifest.begin()

    def keep(case: str, record: Record) -> None:
        manifest.add(case, record)
        if options.strict and (wrong := errors(merged_findings([record]))):
            raise AssftError(f"--strict: {wrong[0].line()}")

    largest = max(int(np.prod(job.stack.shape)) for job in todo) * BYTES_PER_VOXEL
    size = sum(size for job in todo for size, _ in job.stack.states)
    processes = number_of_processes(
        options.num_processes, total_bytes=size, bytes_per_process=COPIES_IN_MEMORY * largest
    )
    executor = in_processes(processes)
    for_each_case(convert_series, {job.case: job for job in todo}, desc="Converting", finished=keep, executor=executor)


def _write_results(plan: DicomPlan, manifest: Manifest, findings: list[Finding], *, keep: bool) -> None:
    """Write the report, the manifest, and then dataset.json. keep: what somebody has added to dataset.json."""
    done = sum(bool(record["outputs"]) for record in manifest.cases.values())
    facts = {"dataset": plan.folder.name, "converted by": f"nnunet_assft {__version__}", "modality": plan.channel}
    Report(plan.folder.name, table_of_counts(plan, manifest.cases), findings, facts).write(plan.folder, REPORT)
    content = {
        "channel_names": {"0": plan.channel},
        "labels": plan.labels,
        "file_ending": ENDING,
        "overwrite_image_reader_writer": READER,
        "converted_by": f"nnunet_assft {__version__}",
        CONVERTED_FROM: DICOM,
    }
    file = plan.folder / "dataset.json"
    if keep and file.exists():
        content |= read_dataset_json(plan.folder)
    text = text_of({**content, "numTraining": done})
    manifest.dataset_json = sha256_of(text)
    manifest.finish()
    if done:
        write_text(file, text)


def table_of_counts(plan: DicomPlan, converted: Mapping[str, Record] | None) -> list[tuple[str, int | None, int]]:
    """Return rows (what, None, found). converted: the records of a conversion, or None before it."""
    rows: list[tuple[str, int | None, int]] = [(what, None, n) for what, n in plan.counts.items()]
    if converted is None:
        return [*rows, ("cases planned", None, len(plan.cases))]
    return [*rows, ("cases in the dataset", None, sum(bool(record["outputs"]) for record in converted.values()))]

"""A download becomes an nnU-Net raw dataset: scan, then apply. READ FIRST: every dataset takes these same steps."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnunet_assft import __version__
from nnunet_assft.dataset_conversion.apply import (
    apply,
    duplicates,
    open_manifest,
    require_all_there,
    require_no_foreign_files,
    require_untouched,
    verify,
)
from nnunet_assft.dataset_conversion.case_conversion import Conversion, merged_findings
from nnunet_assft.dataset_conversion.datasets import DATASETS, DatasetRow
from nnunet_assft.dataset_conversion.findings import Finding, errors, found, ordered
from nnunet_assft.dataset_conversion.headers import Tolerances
from nnunet_assft.dataset_conversion.labels import LabelMap, canonical_name, map_labels
from nnunet_assft.dataset_conversion.manifest import NAME, Manifest, Record
from nnunet_assft.dataset_conversion.placing import possible_mode, require_space
from nnunet_assft.dataset_conversion.report import dataset_json, label_rows, table_of_counts, text_of, write_report
from nnunet_assft.dataset_conversion.scan import (
    Plan,
    Scanning,
    most_frequent_ending,
    scan_cases,
    split_cases,
    usable_cases,
)
from nnunet_assft.dataset_conversion.sources import Sources, collect
from nnunet_assft.dataset_conversion.splits import SPLITS, read_split_file
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import sha256_of, write_text

REPORT = "conversion_report"


@dataclass(frozen=True)
class Options:
    """split: "default" (the dataset's own) or "all"; split_file: instead of it; mode: a key of `placing.MODES`."""

    mode: str = "link"
    split: str = "default"
    split_file: Path | None = None
    tolerances: Tolerances = field(default_factory=Tolerances)
    strict: bool = False
    overwrite: bool = False
    num_processes: int = 1


def scan(name: str, roots: Sequence[Path], raw: Path, dataset: str | None, options: Options) -> Plan:
    """Reads names and headers of a download and plans its conversion into a folder below `raw`. Writes nothing.

    name: a key of DATASETS; dataset: id or folder name instead of the usual one. Raises `AssftError` if nothing can be planned.
    """
    lists = read_split_file(options.split_file) if options.split_file else None
    sources = collect(DATASETS[name], roots)
    row = _resolved(DATASETS[name], sources, dataset)
    _refuse_own_folder(roots, raw / row.folder)
    split = row.split if options.split == "default" else options.split
    label_map, findings = _label_map(row, sources)
    usable, unusable, counts = usable_cases(row, sources)
    counts |= _count(sources.findings, "other_modality", "cases of the other modality")
    rule = SPLITS[split][1] if lists is None else "split file"
    plan = Plan(row, raw / row.folder, label_map, most_frequent_ending(usable), rule, options.tolerances)
    parts, unsplit = split_cases(row, usable, split, lists)
    structures = tuple(canonical_name(structure) for structure in row.labels)
    scanning = Scanning(options.tolerances, row.channel, plan.file_ending, structures)
    plan.cases, scanned = scan_cases(usable, parts, scanning, options.num_processes)
    plan.counts = counts
    findings += [
        *sources.findings,
        *unusable,
        *unsplit,
        *scanned,
        *_count_findings(row, counts),
        *id_clash(row.folder, raw),
    ]
    plan.findings = ordered(findings)
    return plan


def convert(plan: Plan, options: Options, say: Callable[[str], None]) -> tuple[dict[str, Record], list[Finding]]:
    """Executes a plan. Returns the records of all cases by name, and all findings.

    say: gets a line before anything is placed in another mode than the one asked for, and one if cases are done already.
    Raises `AssftError`, before the first write, if the dataset as a whole has an error (an id that is taken, another dataset in
    the folder, too little space) or, with `options.strict`, any case; later, if the folder cannot be written to.
    """
    refuse(plan, options)
    kept = _kept_options(plan, options)
    manifest = open_manifest(plan.folder, kept, overwrite=options.overwrite)
    if not options.overwrite:
        require_untouched(manifest)
        require_all_there(
            manifest, {case.name for case in plan.cases} | {finding.case for finding in errors(plan.findings)}
        )
    mode, message = _usable_mode(plan, options)
    if message:
        say(message)
    conversion = _conversion(plan, mode)
    require_no_foreign_files(manifest, (target for case in plan.cases for target in conversion.targets(case)))
    if mode == "copy" and not manifest.cases:
        require_space(plan.folder, sum(case.image_bytes + case.label_bytes for case in plan.cases))
    records = apply(
        plan.cases,
        conversion,
        manifest,
        num_processes=options.num_processes,
        overwrite=options.overwrite,
        strict=options.strict,
        say=say,
    )
    findings = ordered([*plan.findings, *merged_findings(list(records.values())), *duplicates(records)])
    _write_results(plan, manifest, findings, mode, message)
    return records, findings


def refuse(plan: Plan, options: Options) -> None:
    """Raises `AssftError` if the plan must not be executed: an error of the dataset as a whole, or of any case with `strict`."""
    wrong = [finding for finding in errors(plan.findings) if options.strict or not finding.case]
    if wrong:
        raise AssftError(("--strict: " if wrong[0].case else "") + wrong[0].line())
    if not plan.cases:
        raise AssftError("No case can be converted; nothing was written. --dry_run lists the reasons.")


def verify_conversion(folder: Path) -> tuple[int, list[Finding]]:
    """Compares all sources and converted files with the manifest by checksum. Returns the number of cases, and findings."""
    manifest = Manifest.load(folder)
    if manifest is None:
        raise AssftError(f"{folder} has no {NAME}. There is nothing to verify; convert the dataset first.")
    return len(manifest.cases), ordered(verify(manifest))


def dataset_folder(name: str, raw: Path, dataset: str | None) -> Path:
    """The folder of a dataset; for a Decathlon task, whose name is in the download, an existing one with the id."""
    row = DATASETS[name]
    if row.id:
        return raw / _renamed(row, dataset).folder
    if dataset is None:
        raise AssftError(
            f"{name} converts many datasets, and which one is meant was not said. Name it with -d, by its id or folder."
        )
    folders = sorted(raw.glob(f"Dataset{int(dataset):03d}_*")) if dataset.isdigit() else [raw / dataset]
    if len(folders) != 1 or not folders[0].is_dir():
        raise AssftError(f"Dataset {dataset} was not found in {raw}. Name the converted dataset with -d.")
    return folders[0]


def id_clash(folder_name: str, raw: Path) -> list[Finding]:
    """Another dataset name with this id in one of nnU-Net's folders: nnU-Net refuses both. The id is the three digits."""
    prefix = folder_name[:10]
    places = {raw, *(Path(os.environ[v]) for v in ("nnUNet_preprocessed", "nnUNet_results") if os.environ.get(v))}
    others = sorted(
        {
            p
            for place in places
            if place.is_dir()
            for p in place.glob(f"{prefix}*")
            if p.is_dir() and p.name != folder_name
        }
    )
    return [
        found("dataset_id_clash", "", f"{other} has the id of {folder_name}; expected none") for other in others[:1]
    ]


def _resolved(row: DatasetRow, sources: Sources, dataset: str | None) -> DatasetRow:
    """The row with what only the download (Decathlon) or -d says."""
    if row.layout == "msd":
        row = _decathlon_row(row, sources, dataset)
    return _renamed(row, dataset)


def _refuse_own_folder(roots: Sequence[Path], folder: Path) -> None:
    """A file must not become a link to itself."""
    for root in roots:
        if folder.resolve() in (root.resolve(), *root.resolve().parents):
            raise AssftError(
                f"{root} is the dataset folder that would be written. Give the folder of the download with -i."
            )


def _renamed(row: DatasetRow, dataset: str | None) -> DatasetRow:
    match = re.fullmatch(r"(?:Dataset)?(\d{1,3})(?:_(\w+))?", dataset or str(row.id))
    if match is None or int(match[1]) == 0:
        raise AssftError(f"-d is {dataset}; expected an id from 1 to 999, or a name such as Dataset218_NAME.")
    return replace(row, id=int(match[1]), name=match[2] or row.name)


def _decathlon_row(row: DatasetRow, sources: Sources, dataset: str | None) -> DatasetRow:
    content = sources.dataset_json
    modality = content.get("modality") or content.get("channel_names") or {}
    names = list(modality.values() if isinstance(modality, dict) else modality)
    if len(names) != 1:
        raise AssftError(
            f"This task has {len(names)} channels in 4D images; they would have to be re-encoded. "
            "Use nnUNetv2_convert_MSD_dataset, then nnUNetv2_assft_convert check."
        )
    by_id = sorted((value, name) for name, value in (sources.labels or {}).items())
    if [value for value, _ in by_id] != list(range(len(by_id))):
        raise AssftError(f"The labels of this task are {sources.labels}; expected 0, 1, 2, ... without gaps.")
    first = next(file for case in sources.cases.values() for file in case.files) if sources.cases else Path()
    task = next(
        (
            re.fullmatch(r"Task(\d+)_(\w+)", part)
            for part in reversed(first.parts)
            if re.fullmatch(r"Task(\d+)_(\w+)", part)
        ),
        None,
    )
    if task is None and dataset is None:
        raise AssftError(
            "The folder's name has no task number, as Task04_Hippocampus has. Choose the dataset's id with -d."
        )
    return replace(
        row,
        id=int(task[1]) if task else 1,  # replaced by -d
        name=task[2] if task else re.sub(r"\W", "", str(content.get("name") or "")) or "Decathlon",
        channel=str(names[0]),
        labels=tuple(name for value, name in by_id if value),
        description=str(content.get("description", "")),
        reference=str(content.get("reference", row.reference)),
        release=str(content.get("release", "")),
        licence=str(content.get("licence", row.licence)),
        expected_labels=content.get("numTraining"),
        expected_cases=content.get("numTraining"),
    )


def _label_map(row: DatasetRow, sources: Sources) -> tuple[LabelMap, list[Finding]]:
    try:
        return map_labels(sources.labels or row.source_labels, row.target_labels, row.dropped), []
    except ValueError as error:
        documented = map_labels(row.source_labels, row.target_labels, row.dropped)
        return documented, [found("unknown_structure", "", f"dataset.json of the download: {error}")]


def _count(findings: list[Finding], code: str, words: str) -> dict[str, int]:
    n = sum(finding.code == code for finding in findings)
    return {words: n} if n else {}


def _count_findings(row: DatasetRow, counts: dict[str, int]) -> list[Finding]:
    expected = {"labelled cases": row.expected_labels, "labelled cases with image": row.expected_cases}
    return [
        found("count_differs", "", f"{counts[what]} {what} were found; published are {n}")
        for what, n in expected.items()
        if n is not None and counts[what] != n
    ]


def _kept_options(plan: Plan, options: Options) -> dict[str, Any]:
    """What a second run must repeat: it decides where the files of a case are."""
    lists = sha256_of(sorted(map(sorted, read_split_file(options.split_file)))) if options.split_file else None
    return {"dataset": plan.row.folder, "mode": options.mode, "split": options.split, "split_file_sha256": lists}


def _usable_mode(plan: Plan, options: Options) -> tuple[str, str]:
    first = [case.source.images[0] for case in plan.cases]
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        return possible_mode(options.mode, first, plan.folder)
    except OSError as error:
        raise AssftError(
            f"{plan.folder} cannot be written: {error.strerror or error}. Correct that and type the same command again."
        ) from error


def _conversion(plan: Plan, mode: str) -> Conversion:
    by_id = plan.row.layout == "amos"
    return Conversion(plan.folder, plan.label_map, plan.row.labels, (plan.row.channel,), plan.file_ending, by_id, mode)


def _write_results(plan: Plan, manifest: Manifest, findings: list[Finding], mode: str, message: str) -> None:
    """Report, manifest, and dataset.json last: with it the dataset is complete."""
    row = plan.row
    facts = {
        "dataset": row.folder,
        "converted by": f"nnunet_assft {__version__}",
        "mode": mode,
        "note": message,
        "split": plan.split,
        "licence": row.licence,
        "citation": row.citation,
        "reference": row.reference,
    }
    table = table_of_counts(plan, manifest.cases)
    write_report(
        plan.folder, REPORT, title=row.folder, facts=facts, table=table, labels=label_rows(plan), findings=findings
    )
    text = text_of(dataset_json(plan, manifest.cases, manifest.options, mode))
    keep = (
        manifest.dataset_json == sha256_of(text) and manifest.edited_dataset_json()
    )  # somebody's own, and nothing new to say
    manifest.dataset_json = sha256_of(text)
    manifest.finish()
    if not keep:
        write_text(plan.folder / "dataset.json", text)

"""Convert a download to an nnU-Net raw dataset: scan, then convert. READ FIRST: all datasets take these steps."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_assft import __version__
from nnunet_assft.dataset_conversion.apply import (
    apply,
    duplicates,
    open_manifest,
    require_all_there,
    require_no_foreign_files,
    require_no_other_label,
    require_untouched,
    verify,
)
from nnunet_assft.dataset_conversion.case_conversion import Conversion, absent_structures, merged_findings
from nnunet_assft.dataset_conversion.datasets import DATASETS, DatasetRow
from nnunet_assft.dataset_conversion.file_placement import possible_mode, require_space
from nnunet_assft.dataset_conversion.findings import Finding, errors, found, ordered
from nnunet_assft.dataset_conversion.labels import LabelMap, map_labels
from nnunet_assft.dataset_conversion.manifest import NAME, Manifest, Record
from nnunet_assft.dataset_conversion.options import ConversionOptions
from nnunet_assft.dataset_conversion.report import (
    Report,
    channel_names,
    dataset_json,
    label_rows,
    table_of_counts,
    text_of,
)
from nnunet_assft.dataset_conversion.scan import (
    Plan,
    Scanning,
    most_frequent_ending,
    scan_cases,
    split_cases,
    usable_cases,
)
from nnunet_assft.dataset_conversion.source_cases import Sources, collect
from nnunet_assft.dataset_conversion.splits import SPLITS, read_split_file
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import sha256_of, write_text
from nnunet_assft.runtime.text import count
from nnunet_assft.volumes.dataset_json import check_channel_names, check_labels
from nnunet_assft.volumes.names import DATASET, dataset_id, shown
from nnunet_assft.volumes.not_annotated import read_entries, save_not_annotated

REPORT = "conversion_report"


def scan(row: DatasetRow, roots: Sequence[Path], raw: Path, dataset: str | None, options: ConversionOptions) -> Plan:
    """Read the names and headers of a download and plan its conversion into a folder in `raw`. Nothing is written.

    row: one of DATASETS, or that of `nifti`. dataset: an id or a folder name that replaces the usual one. Raises
    `AssftError` if nothing can be planned.
    """
    lists = read_split_file(options.split_file) if options.split_file else None
    sources = collect(row, roots)
    row = _renamed(sources.row, dataset)
    check_channel_names(channel_names(row), f"dataset.json of {row.folder}")
    check_labels(row.target_labels, f"dataset.json of {row.folder}")
    refuse_own_folder(roots, raw / row.folder)
    split = row.split if options.split == "default" else options.split
    label_map, findings = _label_map(row, sources)
    usable, unusable, counts = usable_cases(row, sources)
    counts |= _count(sources.findings, "other_modality", "cases of the other modality")
    rule = SPLITS[split][1] if lists is None else "split file"
    plan = Plan(row, raw / row.folder, label_map, most_frequent_ending(usable), rule, options.tolerances)
    parts, unsplit = split_cases(row, usable, split, lists)
    scanning = Scanning(options.tolerances, row.channels[0], plan.file_ending)
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


def convert(
    plan: Plan, options: ConversionOptions, say: Callable[[str], None]
) -> tuple[dict[str, Record], list[Finding]]:
    """Execute a plan. Returns the records of all cases by name, and all findings.

    say: called with a sentence before files are placed in a mode other than the requested one, and if some cases are
    done already. Raises `AssftError` before the first write if the dataset as a whole has an error (its id is taken,
    the folder holds another dataset, too little space) or, with `options.strict`, if any case has an error; later, if
    the folder cannot be written to.
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
    require_no_other_label(manifest, plan.cases, conversion)
    if mode == "copy" and not manifest.cases:
        require_space(plan.folder, sum(case.image_bytes + case.label_bytes for case in plan.cases))
    said = _not_annotated(manifest.cases)
    records = apply(plan.cases, conversion, manifest, options, say)
    _update_not_annotated(plan.folder, said, _not_annotated(records))
    structures = {name: value for name, value in plan.row.target_labels.items() if value}
    findings = ordered(
        [
            *plan.findings,
            *merged_findings(list(records.values())),
            *duplicates(records),
            *absent_structures(records.values(), structures),
        ]
    )
    _write_results(plan, manifest, findings, mode, message)
    return records, findings


def refuse(plan: Plan, options: ConversionOptions) -> None:
    """Raise `AssftError` if the dataset as a whole has an error, if no case can be converted or, with
    `options.strict`, if any case has an error."""
    wrong = [finding for finding in errors(plan.findings) if options.strict or not finding.case]
    if wrong:
        raise AssftError(("--strict: " if wrong[0].case else "") + wrong[0].line())
    if not plan.cases:
        first = "".join(f" The first reason: {finding.line()}" for finding in plan.findings[:1])
        raise AssftError(f"No case can be converted, and nothing was written.{first} --dry_run shows all reasons.")


def verify_conversion(folder: Path) -> tuple[int, list[Finding]]:
    """Compare all sources and converted files with the manifest by checksum.

    Returns the number of cases, and the findings. Raises `AssftError` if the folder has no manifest.
    """
    manifest = Manifest.load(folder)
    if manifest is None:
        raise AssftError(f"{folder} has no {NAME}, so there is nothing to verify. Convert the dataset first.")
    return len(manifest.cases), ordered(verify(manifest))


def dataset_folder(name: str, raw: Path, dataset: str | None) -> Path:
    """Return the folder of a converted dataset.

    For datasets whose name only the download states, such as Decathlon tasks, this is the existing folder that -d
    names. Raises `AssftError` if there is no such folder.
    """
    row = DATASETS[name]
    if row.id:
        return raw / _renamed(row, dataset).folder
    if dataset is None:
        raise AssftError(
            f"{name} stands for many datasets, and the one that is meant is unknown. Give its id or its folder name "
            "with -d."
        )
    return existing_folder(raw, dataset)


def existing_folder(raw: Path, dataset: str) -> Path:
    """Return the folder of the dataset with this id or name. Raises `AssftError` unless there is exactly one."""
    number = dataset_id(dataset)
    if number is None:
        DATASET.check(dataset, "-d")
    folders = [raw / dataset] if number is None else sorted(raw.glob(f"Dataset{number:03d}_*"))
    folders = [folder for folder in folders if folder.is_dir()]
    if len(folders) != 1:
        raise AssftError(
            f"-d {dataset}: {count(len(folders), 'dataset')} of this id or name in {raw}; expected one. Give an id "
            "from 1 to 999 or the name of a folder."
        )
    return folders[0]


def id_clash(folder_name: str, raw: Path) -> list[Finding]:
    """Return a finding if one of nnU-Net's folders holds another dataset with this id: nnU-Net then refuses both."""
    prefix = folder_name[: len("Dataset000")]
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
        found("dataset_id_clash", "", f"{other} has the id of {folder_name}; expected no other dataset with this id")
        for other in others[:1]
    ]


def refuse_own_folder(roots: Sequence[Path], folder: Path) -> None:
    """Raise `AssftError` if the download is in the folder that would be written, because files would become links to
    themselves."""
    for root in roots:
        if folder.resolve() in (root.resolve(), *root.resolve().parents):
            raise AssftError(
                f"{root} is in the dataset folder that would be written. Give the folder of the download with -i."
            )


def _renamed(row: DatasetRow, dataset: str | None) -> DatasetRow:
    """Return the row with the id and name of -d. Raises `AssftError` if -d is not valid, or if neither the row nor -d
    has an id."""
    if not row.id and dataset is None:
        raise AssftError(
            "The download does not state the id of its dataset, as a folder name such as Task04_Hippocampus would. "
            "Choose an id with -d."
        )
    number, name = id_and_name(str(row.id) if dataset is None else dataset)
    renamed = replace(row, id=number, name=name or row.name)
    DATASET.check(renamed.folder, "-d")
    return renamed


def id_and_name(dataset: str) -> tuple[int, str]:
    """Return the id and the name that -d gives; the name is "" if it gives an id only. Raises `AssftError` for any
    other text."""
    match = re.fullmatch(r"(?:Dataset)?([0-9]{1,3})(?:_(\w+))?", dataset)
    if match is None or int(match[1]) == 0:
        raise AssftError(f"The dataset is {shown(dataset)}; expected -d with an id from 1 to 999 or Dataset218_NAME.")
    return int(match[1]), match[2] or ""


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
        found("count_differs", "", f"{counts[what]} {what} were found; the published number is {n}")
        for what, n in expected.items()
        if n is not None and counts[what] != n
    ]


def _kept_options(plan: Plan, options: ConversionOptions) -> dict[str, Any]:
    """Return the options that a second run must repeat, because they determine where the files of a case are."""
    lists = sha256_of(sorted(map(sorted, read_split_file(options.split_file)))) if options.split_file else None
    kept = {"dataset": plan.row.folder, "mode": options.mode, "split": options.split, "split_file_sha256": lists}
    described = {"channels": list(plan.row.channels), "labels": plan.row.target_labels} if plan.row.unlabelled else {}
    return {**kept, **described}


def _usable_mode(plan: Plan, options: ConversionOptions) -> tuple[str, str]:
    labels = [case.source.label for case in plan.cases if case.source.label]  # which may lie on another disk
    files = [*(image for case in plan.cases for image in case.source.images), *labels]
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        return possible_mode(options.mode, files, plan.folder)
    except OSError as error:
        raise AssftError(
            f"{plan.folder} cannot be written: {error.strerror or error}. Fix that and run the same command again."
        ) from error


def _conversion(plan: Plan, mode: str) -> Conversion:
    row = plan.row
    return Conversion(
        plan.folder, plan.label_map, row.labels, row.channels, plan.file_ending, row.case_numbers is not None, mode
    )


def _not_annotated(records: Mapping[str, Record]) -> dict[str, list[str]]:
    """Return converted case -> structures that nobody drew in its label, according to the download."""
    return {name: record.get("not_annotated", []) for name, record in records.items() if record["outputs"]}


def _update_not_annotated(folder: Path, before: Mapping[str, list[str]], now: Mapping[str, list[str]]) -> None:
    """Write what the download says to not_annotated.json; what somebody else has written there about a case is kept.

    before, now: what the last conversion and this one say of all their cases.
    """
    there = read_entries(folder)
    entries = {case: names for case, names in now.items() if there.get(case, []) == before.get(case, [])}
    save_not_annotated(folder, {**entries, **{case: () for case in there if case not in now}})


def _write_results(plan: Plan, manifest: Manifest, findings: list[Finding], mode: str, message: str) -> None:
    """Write the report, the manifest, and then dataset.json, which marks the dataset as complete."""
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
    Report(row.folder, table, findings, facts, label_rows(plan)).write(plan.folder, REPORT)
    text = text_of(dataset_json(plan, manifest.cases, manifest.options, mode))
    nothing_new = manifest.dataset_json == sha256_of(text)
    keep_edited = nothing_new and manifest.edited_dataset_json()
    manifest.dataset_json = sha256_of(text)
    manifest.finish()
    if not keep_edited:
        write_text(plan.folder / "dataset.json", text)

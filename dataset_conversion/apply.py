"""Second phase: write the planned dataset. It can be interrupted at any point, and the same command then continues."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from nnunet_assft.dataset_conversion.case_conversion import Conversion, convert_case, merged_findings
from nnunet_assft.dataset_conversion.file_placement import processes_for
from nnunet_assft.dataset_conversion.findings import Finding, errors, found
from nnunet_assft.dataset_conversion.manifest import NAME, Manifest, Record, output_state, sources_unchanged
from nnunet_assft.dataset_conversion.options import ConversionOptions
from nnunet_assft.dataset_conversion.scan import PlannedCase
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.cases import for_each_case, in_processes
from nnunet_assft.runtime.files import sha256_file
from nnunet_assft.runtime.text import some

FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")


def open_manifest(folder: Path, options: dict[str, object], *, overwrite: bool) -> Manifest:
    """Return the manifest to continue with, or a new one.

    Raises `AssftError` if the folder holds another dataset, or if it was converted with other options and `overwrite`
    is not set.
    """
    manifest = Manifest.load(folder)
    if manifest is None:
        present = [name for name in (*FOLDERS, "dataset.json") if (folder / name).exists()]
        if present:
            raise AssftError(
                f"{folder} holds {', '.join(present)}, which this command did not write: there is no {NAME}. Use the "
                "dataset as it is (nnUNetv2_assft_convert check), choose another id with -d, or move it away."
            )
        return Manifest(folder, options)
    changed = [key for key in options if manifest.options.get(key) != options[key]]
    if changed and not overwrite:
        was = ", ".join(f"{key} {manifest.options.get(key)!r} (now {options[key]!r})" for key in changed)
        raise AssftError(
            f"{folder} was converted with {was}. Use the same options again, or add --overwrite to replace the dataset."
        )
    manifest.options = options
    return manifest


def require_untouched(manifest: Manifest) -> None:
    """Raise `AssftError` if a converted file was edited, because edited files are never replaced."""
    changed = [
        output["path"]
        for record in manifest.cases.values()
        for output in record["outputs"]
        if not (manifest.folder / output["path"]).is_symlink()
        and output_state(manifest.folder, output, thorough=False) == "changed"
    ]
    if changed:
        files = some((manifest.folder / path for path in changed), 1)
        raise AssftError(f"{files} changed after the conversion. Move away what changed, or add --overwrite.")


def require_all_there(manifest: Manifest, explained: set[str]) -> None:
    """Raise `AssftError` if a converted case is neither planned nor reported: a folder may have been forgotten."""
    lost = sorted(name for name, record in manifest.cases.items() if record["outputs"] and name not in explained)
    if lost:
        raise AssftError(
            f"{len(lost)} converted cases are no longer in the download ({some(lost)}). Give all of its folders "
            "with -i, or add --overwrite to remove them from the dataset."
        )


def require_no_foreign_files(manifest: Manifest, planned: Iterable[str]) -> None:
    """Raise `AssftError` if an image or label folder holds a file that this conversion did not and will not write."""
    known = {output["path"] for record in manifest.cases.values() for output in record["outputs"]} | set(planned)
    for name in FOLDERS:
        if not (manifest.folder / name).is_dir():
            continue
        for entry in os.scandir(manifest.folder / name):
            if not entry.name.startswith(".") and f"{name}/{entry.name}" not in known:
                raise AssftError(
                    f"{entry.path} was not written by this conversion. Move it away and run the same command again."
                )


def require_no_other_label(manifest: Manifest, cases: Iterable[PlannedCase], conversion: Conversion) -> None:
    """Raise `AssftError` if a case that was converted without a label has one on both sides: in the source, and in the
    dataset, where annotators have added it."""
    for case in cases:
        target = conversion.label_target(case)
        written = {output["path"] for output in manifest.cases.get(case.name, {}).get("outputs", ())}
        if case.source.has_label and written and target not in written and (manifest.folder / target).exists():
            raise AssftError(
                f"{manifest.folder / target} was added after the conversion, and there is now another label of this "
                "case among the files to convert. Keep one: move the other away and run the same command again."
            )


def is_done(case: PlannedCase, conversion: Conversion, record: Record | None) -> bool:
    """Whether the case was converted from these files in this way, and its files are still as they were written.

    This is the rule of `runtime.cached`, but not its function, which keeps one file per result and only asks whether
    outputs exist. Here one manifest holds thousands of cases, and an output that somebody edited must be noticed.
    """
    return (
        record is not None
        and record["made_with"] == conversion.made_with(case)
        and sources_unchanged(record, case.source.files)
        and not any(output_state(conversion.folder, output, thorough=False) for output in record["outputs"])
    )


def apply(
    cases: list[PlannedCase],
    conversion: Conversion,
    manifest: Manifest,
    options: ConversionOptions,
    say: Callable[[str], None],
) -> dict[str, Record]:
    """Convert every case that is not done, and remove the files of cases that are no longer planned.

    Returns the records by name. say: called with a sentence if some cases are done already. Raises `AssftError` if the
    folder cannot be written to, if a worker process was killed, or, with `options.strict`, at the first error.
    """
    done = manifest.cases
    todo = [case for case in cases if options.overwrite or not is_done(case, conversion, done.get(case.name))]
    if len(todo) < len(cases):
        say(f"{len(cases) - len(todo)} of {len(cases)} cases are done already and unchanged; {len(todo)} remain.")
    try:
        _begin(manifest, cases, todo, options)

        def keep(name: str, record: Record) -> None:
            if name in manifest.cases:
                _remove_outputs(manifest.folder, manifest.cases[name], keep=_files_of(record))
            manifest.add(name, record)
            if options.strict and (wrong := errors(merged_findings([record]))):
                raise AssftError(f"--strict: {wrong[0].line()}")

        for_each_case(
            partial(convert_case, conversion=conversion),
            {case.name: case for case in todo},
            desc="Converting",
            finished=keep,
            executor=in_processes(processes_for(todo, options.num_processes)),
        )
    except OSError as error:
        raise AssftError(
            f"{error.filename or manifest.folder} cannot be written: {error.strerror or error}. "
            "Fix that and run the same command again; finished cases are kept."
        ) from error
    except MemoryError as error:
        raise AssftError(
            "The memory is exhausted. Run the same command with a smaller -np; finished cases are kept."
        ) from error
    return manifest.cases


def _begin(manifest: Manifest, cases: list[PlannedCase], todo: list[PlannedCase], options: ConversionOptions) -> None:
    """Mark the dataset as incomplete if it has to change, and remove the files of cases that are no longer planned."""
    planned = {case.name for case in cases}
    gone = [name for name in manifest.cases if name not in planned]
    if todo or gone:
        file = manifest.folder / "dataset.json"
        if not options.overwrite and manifest.edited_dataset_json():
            raise AssftError(
                f"{file} was edited, and the dataset has to change. Keep a copy of it, then add --overwrite."
            )
        manifest.begin()
        file.unlink(missing_ok=True)  # its existence says that the dataset is complete
    for name in gone:
        _remove_outputs(manifest.folder, manifest.cases.pop(name), keep=set())


def _files_of(record: Record) -> set[str]:
    """The paths of the files that a case has in the dataset folder."""
    return {output["path"] for output in record["outputs"] if output["action"] != "reference"}


def _remove_outputs(folder: Path, record: Record, keep: set[str]) -> None:
    for path in _files_of(record) - keep:
        (folder / path).unlink(missing_ok=True)


def duplicates(records: dict[str, Record]) -> list[Finding]:
    """Return findings for cases whose image has the same voxels as that of an earlier case."""
    first: dict[str, str] = {}
    findings = []
    for name, record in sorted(records.items()):
        if not record["content"]:
            continue
        other = first.setdefault(record["content"], name)
        if other != name:
            where = "" if records[other]["part"] == record["part"] else ", one in the pool and one in the test set"
            findings.append(
                found("duplicate_content", name, f"the image has the same voxels as that of {other}{where}")
            )
    return findings


def verify(manifest: Manifest) -> list[Finding]:
    """Compare every source and every output with the manifest by checksum. Returns a finding for each difference."""
    findings = []
    for name, record in sorted(manifest.cases.items()):
        for source in record["sources"]:
            file = Path(source["path"])
            if source["sha256"] and not (file.is_file() and sha256_file(file) == source["sha256"]):
                state = "has changed" if file.is_file() else "is gone"
                findings.append(found("source_changed", name, f"{file} {state} since it was read"))
        states = {output["path"]: output_state(manifest.folder, output, thorough=True) for output in record["outputs"]}
        findings += [
            found(f"output_{state}", name, f"{manifest.folder / path} is {state}; expected the file as converted")
            for path, state in states.items()
            if state
        ]
    return findings

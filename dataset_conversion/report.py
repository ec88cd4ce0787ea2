"""Write what a conversion has found and done: dataset.json, and a report as JSON and as Markdown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nnunet_assft import __version__
from nnunet_assft.dataset_conversion.datasets import CONVERTED_FROM, NIFTI, READER, DatasetRow
from nnunet_assft.dataset_conversion.findings import CODES, Finding, counts
from nnunet_assft.dataset_conversion.manifest import Record
from nnunet_assft.dataset_conversion.scan import Plan, PlannedCase
from nnunet_assft.dataset_conversion.source_cases import POOL, TEST
from nnunet_assft.nnunet_names import SPLIT_SEED
from nnunet_assft.runtime.files import write_json, write_text

LISTED = 50  # findings of one code on the page; the JSON file has all of them
NEEDS_VOXELS = (
    "NaN, label ids, fractions, empty labels, intensity ranges, damaged gzip data and duplicates are found when files "
    "are read"
)


def table_of_counts(plan: Plan, converted: dict[str, Record] | None) -> list[tuple[str, int | None, int]]:
    """Return rows (what, expected, found), which compare the published numbers with those of this download. What was
    not found and is not expected has no row.

    converted: the records of a conversion, or None before it.
    """
    expected = {"labelled cases": plan.row.expected_labels, "labelled cases with image": plan.row.expected_cases}
    rows = [(what, expected.get(what), n) for what, n in plan.counts.items() if n or expected.get(what) is not None]
    if converted is None:
        rows += [(f"{part} cases planned", None, len(plan.part(part))) for part in (POOL, TEST)]
    else:
        parts = Counter(record["part"] for record in converted.values() if record["outputs"])
        rows += [(f"{part} cases converted", None, parts[part]) for part in (POOL, TEST)]
    return rows


def label_rows(plan: Plan) -> list[tuple[str, str, int | None, int, str]]:
    """Return rows (name in the source, name here, old id, new id, action), which say how labels are mapped by name."""
    here = {value: name for name, value in plan.row.target_labels.items()}
    rows: list[tuple[str, str, int | None, int, str]] = []
    for old, new in sorted(plan.label_map.ids.items()):
        name = plan.label_map.names.get(old, "background")
        action = "dropped" if old in plan.label_map.dropped else "kept" if old == new else "renumbered"
        rows.append((name, here[new], old, new, action))
    return rows


def channel_names(row: DatasetRow) -> dict[str, str]:
    """Return the entry of dataset.json."""
    return {str(channel): name for channel, name in enumerate(row.channels)}


def dataset_json(plan: Plan, records: dict[str, Record], options: dict[str, Any], mode: str) -> dict[str, Any]:
    """Return the content of dataset.json: what nnU-Net needs, with licence, citation and provenance."""
    row = plan.row
    done = {name: record for name, record in sorted(records.items()) if record["outputs"]}
    content: dict[str, Any] = {
        "channel_names": channel_names(row),
        "labels": row.target_labels,
        "numTraining": sum(record["part"] == POOL for record in done.values()),
        "file_ending": plan.file_ending,
        "overwrite_image_reader_writer": READER,
        **({CONVERTED_FROM: NIFTI} if row.unlabelled else _origin(row)),
        "converted_by": f"nnunet_assft {__version__}",
        "conversion": {**options, "split_rule": plan.split, "seed": SPLIT_SEED, "tolerances": plan.tolerances.words()},
    }
    if mode == "reference":
        content["dataset"] = {
            case.name: _by_reference(plan, case, done[case.name])
            for case in plan.cases
            if case.part == POOL and case.name in done
        }
    return content


def _origin(row: DatasetRow) -> dict[str, str]:
    return {
        "name": row.name,
        "description": row.description,
        "reference": row.reference,
        "release": row.release,
        "licence": row.licence,
        "citation": row.citation,
    }


def _by_reference(plan: Plan, case: PlannedCase, record: Record) -> dict[str, Any]:
    """Return the files of a case. A label that does not exist yet will be in the folder of the dataset."""
    files = [
        output["source"] if output["action"] == "reference" else str(plan.folder / output["path"])
        for output in record["outputs"]
    ]
    n = len(case.source.images)
    label = files[n] if case.source.has_label else str(plan.folder / f"labelsTr/{case.name}{plan.file_ending}")
    return {"images": files[:n], "label": label}


def text_of(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


@dataclass(frozen=True)
class Report:
    """The report of a conversion or a check.

    counts: rows (what, expected, found). facts: key -> value, for the top of the page. labels: rows of `label_rows`.
    """

    title: str
    counts: Sequence[tuple[str, int | None, int]]
    findings: Sequence[Finding]
    facts: Mapping[str, Any] = field(default_factory=dict)
    labels: Sequence[tuple[str, str, int | None, int, str]] = ()

    def write(self, folder: Path, stem: str) -> None:
        """Write `STEM.json`, which is complete, and `STEM.md`, which lists at most LISTED findings of each code."""
        label_keys = ("source", "name", "old_id", "new_id", "action")
        content = {
            "title": self.title,
            **self.facts,
            "counts": [{"what": what, "expected": expected, "found": n} for what, expected, n in self.counts],
            "labels": [dict(zip(label_keys, row, strict=True)) for row in self.labels],
            "findings": [asdict(finding) for finding in self.findings],
        }
        write_json(folder / f"{stem}.json", content)
        write_text(folder / f"{stem}.md", "\n".join(self._page()) + "\n")

    def _page(self) -> Iterator[str]:
        yield from (f"# {self.title}", "")
        yield from (f"* {key}: {value}" for key, value in self.facts.items() if value not in (None, ""))
        yield from ("", *_table(("", "expected", "found"), self.counts))
        if self.labels:
            header = ("in the source", "here", "old id", "new id", "")
            yield from ("", "## Labels", "", *_table(header, self.labels))
        yield from ("", "## Findings", "")
        if not self.findings:
            yield "None."
            return
        numbers = counts(self.findings)
        rows = [(severity, code, n, CODES[code].meaning) for (severity, code), n in numbers.items()]
        yield from _table(("severity", "code", "number", "meaning"), rows)
        for severity, code in numbers:
            chosen = [f for f in self.findings if (f.severity, f.code) == (severity, code)]
            yield from ("", f"### {severity}: {code} ({len(chosen)})", "")
            yield from (f"{CODES[code].meaning}. {CODES[code].advice}".strip(), "")
            yield from (f"* {f.case or 'dataset'}: {f.message}" for f in chosen[:LISTED])
            if len(chosen) > LISTED:
                yield f"* and {len(chosen) - LISTED} more in the JSON file"


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield "|" + "|".join(f" {name} " if name else " " for name in header) + "|"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join("" if value is None else str(value) for value in row) + " |"

"""What a conversion found and did: dataset.json, and the report as JSON and as a page to read."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nnunet_assft import __version__
from nnunet_assft.dataset_conversion.datasets import READER
from nnunet_assft.dataset_conversion.findings import CODES, SEVERITIES, Finding, counts
from nnunet_assft.dataset_conversion.labels import canonical_name
from nnunet_assft.dataset_conversion.manifest import Record
from nnunet_assft.dataset_conversion.scan import Plan
from nnunet_assft.dataset_conversion.sources import POOL, TEST
from nnunet_assft.nnunet_names import SPLIT_SEED
from nnunet_assft.runtime.files import write_json, write_text

LISTED = 50  # findings of one code on the page; the JSON file has all
NEEDS_VOXELS = "NaN, label ids, fractions, empty labels, intensity ranges, damaged gzip data and duplicates are found when files are read"


def table_of_counts(plan: Plan, converted: dict[str, Record] | None) -> list[tuple[str, int | None, int]]:
    """(what, expected, found): the published numbers beside those of this download."""
    expected = {"labelled cases": plan.row.expected_labels, "labelled cases with image": plan.row.expected_cases}
    rows = [(what, expected.get(what), n) for what, n in plan.counts.items()]
    if converted is None:
        rows += [(f"{part} cases planned", None, len(plan.part(part))) for part in (POOL, TEST)]
    else:
        parts = Counter(record["part"] for record in converted.values() if record["outputs"])
        rows += [(f"{part} cases converted", None, parts[part]) for part in (POOL, TEST)]
    return rows


def label_rows(plan: Plan) -> list[tuple[str, str, int | None, int, str]]:
    """(name in the source, name here, old id, new id, what happens): how labels were related, by name."""
    here = {canonical_name(name): name for name in plan.row.target_labels}
    rows: list[tuple[str, str, int | None, int, str]] = []
    for old, new in sorted(plan.label_map.ids.items()):
        name = plan.label_map.names.get(old, "background")
        target = "background" if new == 0 else here[canonical_name(name)]
        action = "dropped" if old in plan.label_map.dropped else "kept" if old == new else "renumbered"
        rows.append((name, target, old, new, action))
    return rows


def dataset_json(plan: Plan, records: dict[str, Record], options: dict[str, Any], mode: str) -> dict[str, Any]:
    """nnU-Net's dataset.json with licence, citation and provenance."""
    row = plan.row
    done = {name: record for name, record in sorted(records.items()) if record["outputs"]}
    content: dict[str, Any] = {
        "channel_names": {"0": row.channel},
        "labels": row.target_labels,
        "numTraining": sum(record["part"] == POOL for record in done.values()),
        "file_ending": plan.file_ending,
        "overwrite_image_reader_writer": READER,
        "name": row.name,
        "description": row.description,
        "reference": row.reference,
        "release": row.release,
        "licence": row.licence,
        "citation": row.citation,
        "converted_by": f"nnunet_assft {__version__}",
        "conversion": {**options, "split_rule": plan.split, "seed": SPLIT_SEED, "tolerances": plan.tolerances.words()},
    }
    if mode == "reference":
        content["dataset"] = {
            name: _by_reference(plan.folder, record) for name, record in done.items() if record["part"] == POOL
        }
    return content


def _by_reference(folder: Path, record: Record) -> dict[str, Any]:
    *images, label = (
        output["source"] if output["action"] == "reference" else str(folder / output["path"])
        for output in record["outputs"]
    )
    return {"images": images, "label": label}


def text_of(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def write_report(
    folder: Path,
    stem: str,
    *,
    title: str,
    facts: dict[str, Any],
    table: list[tuple[str, int | None, int]],
    labels: list[tuple[str, str, int | None, int, str]],
    findings: list[Finding],
) -> None:
    """`STEM.json` and `STEM.md` in `folder`."""
    content = {
        "title": title,
        **facts,
        "counts": [{"what": what, "expected": expected, "found": n} for what, expected, n in table],
        "labels": [dict(zip(("source", "name", "old_id", "new_id", "action"), row, strict=True)) for row in labels],
        "findings": [asdict(finding) for finding in findings],
    }
    write_json(folder / f"{stem}.json", content)
    write_text(folder / f"{stem}.md", "\n".join(_page(title, facts, table, labels, findings)) + "\n")


def _page(
    title: str,
    facts: dict[str, Any],
    table: list[tuple[str, int | None, int]],
    labels: list[tuple[str, str, int | None, int, str]],
    findings: list[Finding],
) -> list[str]:
    lines = [f"# {title}", "", *(f"* {key}: {value}" for key, value in facts.items() if value not in (None, ""))]
    lines += ["", "| | expected | found |", "|---|---|---|"]
    lines += [f"| {what} | {'' if expected is None else expected} | {n} |" for what, expected, n in table]
    if labels:
        lines += ["", "## Labels", "", "| in the source | here | old id | new id | |", "|---|---|---|---|---|"]
        lines += [f"| {source} | {name} | {old} | {new} | {action} |" for source, name, old, new, action in labels]
    lines += ["", "## Findings", ""]
    if not findings:
        return [*lines, "None."]
    lines += ["| severity | code | number | meaning |", "|---|---|---|---|"]
    lines += [
        f"| {severity} | {code} | {n} | {CODES[code].meaning} |" for (severity, code), n in counts(findings).items()
    ]
    for severity in SEVERITIES:
        for code in sorted({f.code for f in findings if f.severity == severity}):
            chosen = [f for f in findings if (f.severity, f.code) == (severity, code)]
            lines += [
                "",
                f"### {severity}: {code} ({len(chosen)})",
                "",
                f"{CODES[code].meaning}. {CODES[code].advice}".strip(),
                "",
            ]
            lines += [f"* {f.case or 'dataset'}: {f.message}" for f in chosen[:LISTED]]
            lines += [f"* and {len(chosen) - LISTED} more in the JSON file"] if len(chosen) > LISTED else []
    return lines

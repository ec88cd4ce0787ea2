"""What is known about the steps that are being worked on in parts, for `nnUNetv2_assft_status`."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnunet_assft.cluster.job import Sweep
from nnunet_assft.runtime.processes import is_running
from nnunet_assft.runtime.text import count, named

SILENCE = 10  # minutes without a sign of life, of which a part gives one per minute


def lines_about_parts(jobs: Path) -> Iterator[str]:
    """Yield a line for every step that is being worked on in parts, and one for every part that is at work or failed.

    jobs: the folder of the steps of an experiment.
    """
    for folder in sorted(jobs.glob("*/sweep_*")):
        sweep = Sweep(folder)
        reports = _of_parts(sweep)
        states = Counter(report["state"] for report in reports)
        waiting = sweep.parts - len(reports)
        shown = [f"{n} {state}" for state, n in sorted(states.items())] + ([f"{waiting} waiting"] if waiting else [])
        finished = sum(report["finished"] for report in reports)
        jobs_of = f", {named('job', sweep.ids())}" if sweep.ids() else ""
        name = folder.parent.name.replace("_", " ")
        attempt = "" if folder.name == "sweep_001" else f" ({folder.name.replace('_', ' ')})"
        parts = f"{count(sweep.parts, 'part')}: {', '.join(shown) or 'not started'}"
        yield f"{name}{attempt}: {count(finished, 'case')} done; {parts}{jobs_of}"
        for report in reports:
            if report["state"] != "finished":
                yield f"  part {report['part']}: {_where(report)}{_log(folder, report)}"


def _of_parts(sweep: Sweep) -> list[dict[str, Any]]:
    """Return what the latest process of each part has said. A part whose job was requeued has had several, and a case
    that one of them has finished is finished."""
    latest: dict[int, dict[str, Any]] = {}
    for report in sorted(sweep.reports(), key=lambda report: report.get("began", 0.0)):
        before = latest.get(report["part"], report)
        finished = max(report["finished"], before["finished"])
        latest[report["part"]] = {**report, "state": _state(report), "finished": finished}
    return [latest[part] for part in sorted(latest)]


def _log(sweep: Path, report: dict[str, Any]) -> str:
    """Return where the log of a failed part is, if there is one: that of a process, or of a job of submitit."""
    files = (sweep / f"part_{report['part']:03d}.log", sweep / "logs" / f"{report['job']}_0_log.err")
    found = [str(file) for file in files if report["state"] == "failed" and file.is_file()]
    return f"; see {found[0]}" if found else ""


def _state(report: dict[str, Any]) -> str:
    """Return the state of a part. One that was killed could not say so, and on another machine it is silent."""
    if report["state"] != "running":
        return str(report["state"])
    if report["host"] == socket.gethostname():
        return "running" if is_running(report["pid"]) else "failed"
    return "silent" if _minutes_of_silence(report) >= SILENCE else "running"


def _minutes_of_silence(report: dict[str, Any]) -> int:
    return int((time.time() - report["seen"]) // 60)


def _where(report: dict[str, Any]) -> str:
    job = f", job {report['job']}" if report["job"] else ""
    at = f"{report['state']} on {report['host']} (process {report['pid']}{job})"
    doing = f", at {report['case']}" if report["case"] else ""
    progress = f", {report['progress']}" if report["progress"] else ""
    silence = f", no sign of life for {_minutes_of_silence(report)} minutes" if report["state"] == "silent" else ""
    error = f": {report['error']}" if report["error"] else ""
    return at + doing + progress + silence + error

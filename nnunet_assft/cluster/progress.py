"""What is known about the steps that are being worked on in parts, for `nnUNetv2_assft_status`."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnunet_assft.cluster.job import Sweep
from nnunet_assft.runtime.processes import is_running
from nnunet_assft.runtime.text import count, named


def lines_about_parts(jobs: Path) -> Iterator[str]:
    """Yield a line for every step that is being worked on in parts, and one for every part that is at work or failed.

    jobs: the folder of the steps of an experiment.
    """
    for folder in sorted(jobs.glob("*/sweep_*")):
        sweep = Sweep(folder)
        reports = [{**report, "state": _state(report)} for report in sweep.reports()]
        states = Counter(report["state"] for report in reports)
        waiting = sweep.parts - len({report["part"] for report in reports})
        shown = [f"{n} {state}" for state, n in sorted(states.items())] + ([f"{waiting} waiting"] if waiting else [])
        finished = sum(report["finished"] for report in reports)
        jobs_of = f", {named('job', sweep.ids())}" if sweep.ids() else ""
        name = folder.parent.name.replace("_", " ")
        attempt = "" if folder.name == "sweep_001" else f" ({folder.name.replace('_', ' ')})"
        parts = f"{count(sweep.parts, 'part')}: {', '.join(shown) or 'not started'}"
        yield f"{name}{attempt}: {count(finished, 'case')} done; {parts}{jobs_of}"
        for report in reports:
            if report["state"] != "finished":
                yield f"  part {report['part']}: {_where(report)}"


def _state(report: dict[str, Any]) -> str:
    """Return the state of a part. One that was killed on this machine could not say so."""
    here = report["host"] == socket.gethostname()
    gone = report["state"] == "running" and here and not is_running(report["pid"])
    return "failed" if gone else str(report["state"])


def _where(report: dict[str, Any]) -> str:
    job = f", job {report['job']}" if report["job"] else ""
    at = f"{report['state']} on {report['host']} (process {report['pid']}{job})"
    doing = f", at {report['case']}" if report["case"] else ""
    progress = f", {report['progress']}" if report["progress"] else ""
    error = f": {report['error']}" if report["error"] else ""
    return at + doing + progress + error

"""Numbers worked out by hand from the equations, one entry per example: `inputs` and `expected`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_EXAMPLES: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text())["examples"]


def worked_example(name: str) -> dict[str, Any]:
    example: dict[str, Any] = _EXAMPLES[name]
    return example

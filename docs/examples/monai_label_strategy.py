"""An example: MONAI Label offers the cases of a work folder, in the order of its worklist.csv.

Point MONAI Label's studies at WORK/images and register the class in your app's `init_strategies`:

    def init_strategies(self) -> dict[str, Strategy]:
        return {"assft": AssftWorkList("/path/to/WORK/worklist.csv", annotator="anna")}

nnunet_assft does not depend on MONAI Label, and this file also runs without it. Labels are still returned with
`nnUNetv2_assft_annotate import`, which checks them.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

try:
    from monailabel.interfaces.tasks.strategy import Strategy
except ImportError:

    class Strategy:  # type: ignore[no-redef]
        """What MONAI Label expects of a strategy: a description, and that it can be called."""

        def __init__(self, description: str) -> None:
            self.description = description


class AssftWorkList(Strategy):
    """The next unlabelled case of the work list, best first; with an annotator, the next one of that annotator."""

    def __init__(self, worklist: str | Path, annotator: str | None = None) -> None:
        super().__init__("Cases that nnunet_assft has queried, best first")
        self.worklist = Path(worklist)
        self.annotator = annotator

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any] | None:
        """{"id": image, ...the row of the work list}, or None when nothing is left to label.

        The datastore names an image by its file without the ending: CASE_0000.
        """
        unlabelled = set(datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels")))
        with open(self.worklist, encoding="utf-8", newline="") as file:  # an export may have rewritten it
            for row in csv.DictReader(file):
                image = f"{row['case']}_0000"
                mine = self.annotator is None or self.annotator in row.get("annotators", "").split()
                if mine and image in unlabelled:
                    return {"id": image, **row}
        return None

"""What is kept of one case under one model: a few kB, never a softmax."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from nnunet_assft.active.metrics import VoxelSums
from nnunet_assft.runtime.files import atomic_path


@dataclass(frozen=True)
class Request:
    """What is computed of each case. It is part of what a record is made from.

    tau, second: see `metrics.voxel_sums`. statistics: names of STATISTICS, ascending; the rest is for those that use it.
    """

    tau: float
    second: str = "order"
    statistics: tuple[str, ...] = ()
    badge_loss: str = "ce"
    ugtst_entropy: str = "mean"
    seed: tuple[int, ...] = (0,)  # of random views


@dataclass(frozen=True)
class CaseRecord:
    """embedding: (d,) float64, mean over the sliding windows of the global average of the bottleneck.

    sums: None where only the encoder ran. statistics: what STATISTICS gave, by name; numbers and small arrays.
    """

    case: str
    embedding: np.ndarray
    sums: VoxelSums | None
    statistics: Mapping[str, np.ndarray] = field(default_factory=dict)


class RecordStore:
    """Keeps a CaseRecord as an npz file, see `runtime.cached`."""

    def read(self, file: Path) -> tuple[str, CaseRecord]:
        try:
            with np.load(file) as content:
                meta = json.loads(str(content["meta"]))
                arrays = {name: content[name] for name in content.files if name != "meta"}
                embedding = arrays.pop("embedding")
        except (EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{file} is damaged: {error}") from error
        sums = meta["sums"] and VoxelSums(**{**meta["sums"], "class_voxels": tuple(meta["sums"]["class_voxels"])})
        return meta["inputs_sha256"], CaseRecord(meta["case"], embedding, sums, arrays)

    def write(self, file: Path, inputs_sha256: str, result: CaseRecord, seconds: float) -> None:
        """Equal records give equal bytes, so the seconds are not kept."""
        sums = asdict(result.sums) if result.sums else None
        meta = {"case": result.case, "inputs_sha256": inputs_sha256, "sums": sums}
        buffer = io.BytesIO()
        np.savez(buffer, embedding=result.embedding, meta=np.array(json.dumps(meta)), **result.statistics)  # type: ignore[arg-type]
        with atomic_path(file) as partial:
            partial.write_bytes(buffer.getvalue())


RECORDS = RecordStore()

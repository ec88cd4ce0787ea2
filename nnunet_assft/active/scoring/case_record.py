"""Case records: what is computed for a case with one model and stored, a few kB per case and never a softmax."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from nnunet_assft.active.metrics import VoxelSums
from nnunet_assft.runtime.files import write_bytes


@dataclass(frozen=True)
class ScoringRequest:
    """What to compute for each case. It is part of the inputs by which a cached record is recognised."""

    tau: float  # temperature of the round (Eq. 7)
    statistics: tuple[str, ...] = ()  # names of `case_statistics.STATISTICS`, ascending
    seed: tuple[int, ...] = (0,)  # for the random views of the image


@dataclass(frozen=True)
class CaseRecord:
    """The embedding, the sums and the statistics of one case."""

    case: str
    embedding: np.ndarray  # (d,) float64, mean over the sliding windows of the bottleneck, pooled over space
    sums: VoxelSums | None  # None if only the encoder was run
    statistics: Mapping[str, np.ndarray] = field(default_factory=dict)  # name -> number or small array


class RecordStore:
    """Stores a CaseRecord as an npz file, for `runtime.cached`."""

    def read(self, file: Path) -> tuple[str, CaseRecord]:
        """Return the checksum of the inputs and the record. A damaged file raises ValueError, KeyError or TypeError."""
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
        """Write the record. The seconds are not stored, so that equal records have equal bytes."""
        sums = asdict(result.sums) if result.sums else None
        meta = {"case": result.case, "inputs_sha256": inputs_sha256, "sums": sums}
        buffer = io.BytesIO()
        np.savez(buffer, embedding=result.embedding, meta=np.array(json.dumps(meta)), **result.statistics)  # type: ignore[arg-type]
        write_bytes(file, buffer.getvalue())


RECORDS = RecordStore()

"""Benchmark of the query and selection (Eqs. 1-16 and 23-26) and of case records, by the number of cases.

Run benchmarks/query_maths.py. It measures

* the maths: DKD, Q, the query and the selection, with N embeddings of d values in memory;
* records: writing N case records, and reading them again as a round does, with embeddings of d values and 16 classes.

It prints the seconds of processor time and the peak memory so far, and for each row the exponent b of cost ~ N^b
between N and a tenth of N.
"""

from __future__ import annotations

import argparse
import math
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import add_json, publish

from nnunet_assft.active import metrics
from nnunet_assft.active.scoring.case_record import RECORDS, CaseRecord
from nnunet_assft.runtime.cached import cached_or_none, keep

CLASSES = 16


def query_and_select(n: int, d: int) -> float:
    """Return the seconds for DKD, Q, the query and the selection of n cases with embeddings of d values."""
    rng = np.random.default_rng(0)
    e_pre = rng.random((n, d), dtype=np.float32)
    e_cur = e_pre + rng.normal(0, 0.1, (n, d)).astype(np.float32)
    asd, confidence = rng.random(n), rng.random(n)
    start = time.process_time()
    dkd = metrics.dkd(e_pre, e_cur)
    metrics.select_query(dkd, asd, n_query=max(1, n // 20))
    metrics.select_reliable(confidence, e_cur, e_cur[:100], n_select=max(1, n // 20))
    return time.process_time() - start


def write_and_read_records(n: int, d: int) -> float:
    """Return the seconds for writing n case records and reading them, one file per case."""
    rng = np.random.default_rng(0)
    sums = metrics.VoxelSums.zero(CLASSES)
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        for i in range(n):
            case = f"case_{i:06d}"
            keep(Path(folder, f"{case}.npz"), {"model": 0}, CaseRecord(case, rng.random(d), sums), store=RECORDS)
        for i in range(n):
            if cached_or_none(Path(folder, f"case_{i:06d}.npz"), {"model": 0}, store=RECORDS) is None:
                raise RuntimeError(f"record {i} was not read")
        return time.process_time() - start


ROWS: dict[str, tuple[Callable[[int, int], float], tuple[tuple[int, int], ...]]] = {
    "query and selection": (query_and_select, ((10_000, 512), (100_000, 512), (1_000_000, 64))),
    "records": (write_and_read_records, ((10_000, 512), (100_000, 512))),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Query, selection and case records by the number of cases.")
    parser.add_argument("--most", type=int, default=1_000_000, metavar="N", help="leave out rows with more cases")
    add_json(parser)
    args = parser.parse_args()
    query_and_select(1_000, 64)  # warm-up: imports and first calls
    rows = []
    for name, (measure, sizes) in ROWS.items():
        for n, d in sizes:
            if n > args.most:
                continue
            seconds = measure(n, d)
            exponent = math.log10(seconds / measure(n // 10, d))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            rows.append({"what": name, "N": n, "d": d, "s": seconds, "exponent": exponent, "peak memory, GiB": peak})
    publish(args, rows, {})


if __name__ == "__main__":
    main()

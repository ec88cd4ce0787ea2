"""Benchmark of the query and selection (Eqs. 1-16 and 23-26) by the number of cases. Run benchmarks/query_maths.py.

It prints the seconds and the peak memory for two pools, and the exponent b of cost ~ N^b between each of them and a
pool of a tenth of its size.
"""

from __future__ import annotations

import math
import resource
import time

import numpy as np

from nnunet_assft.active import metrics


def query_and_select(n: int, d: int, seed: int = 0) -> float:
    """Return the seconds for DKD, Q, the query and the selection of n cases with embeddings of d values."""
    rng = np.random.default_rng(seed)
    e_pre = rng.random((n, d), dtype=np.float32)
    e_cur = e_pre + rng.normal(0, 0.1, (n, d)).astype(np.float32)
    asd, confidence = rng.random(n), rng.random(n)
    start = time.perf_counter()
    dkd = metrics.dkd(e_pre, e_cur)
    metrics.select_query(dkd, asd, n_query=max(1, n // 20))
    metrics.select_reliable(confidence, e_cur, e_cur[:100], n_select=max(1, n // 20))
    return time.perf_counter() - start


def main() -> None:
    query_and_select(1_000, 64)  # warm-up: imports and first calls
    for n, d in ((10_000, 512), (1_000_000, 64)):
        seconds = query_and_select(n, d)
        exponent = math.log10(seconds / query_and_select(n // 10, d))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        cost = f"{seconds:6.2f} s, peak {peak:.2f} GiB"
        print(f"N = {n:9,d}, d = {d:3d}: {cost}, exponent {exponent:.2f} from N = {n // 10:,d}")


if __name__ == "__main__":
    main()

"""Split cases into the pool (imagesTr) and the test set (imagesTs)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nnunet_assft.dataset_conversion.datasets import DatasetRow
from nnunet_assft.dataset_conversion.source_cases import POOL, TEST, SourceCase
from nnunet_assft.errors import AssftError
from nnunet_assft.nnunet_names import SPLIT_SEED
from nnunet_assft.runtime.files import read_json
from nnunet_assft.volumes.names import CASE_ID

LARGEST_TEST_SHARE = 3  # at most a third of a small copy becomes the test set

Split = Callable[[DatasetRow, dict[str, SourceCase]], set[str]]  # names of the test cases


def _official(_: DatasetRow, cases: dict[str, SourceCase]) -> set[str]:
    return {name for name, case in cases.items() if case.part == TEST}


def _random(row: DatasetRow, cases: dict[str, SourceCase]) -> set[str]:
    names = sorted(cases)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(names))
    return {names[i] for i in order[: _n_test(row, len(names))]}


def _hash(row: DatasetRow, cases: dict[str, SourceCase]) -> set[str]:
    """Return the names with the smallest checksums: if a copy has k cases more or fewer, at most k others move."""
    return set(sorted(cases, key=lambda name: hashlib.sha256(name.encode()).digest())[: _n_test(row, len(cases))])


def _all(_: DatasetRow, __: dict[str, SourceCase]) -> set[str]:
    return set()


def _n_test(row: DatasetRow, n: int) -> int:
    """Return the published number of test cases, or the same share of a partial copy if the published number of cases
    is known."""
    share = row.n_test * n / row.expected_cases if row.split == "random" and row.expected_cases else row.n_test
    return min(round(share), n // LARGEST_TEST_SHARE)


SPLITS: dict[str, tuple[Split, str]] = {
    "official": (_official, "official training cases / official validation cases"),
    "random": (_random, f"sorted case ids, numpy permutation with seed {SPLIT_SEED}"),
    "hash": (_hash, "the smallest sha256 of the case id are the test set"),
    "all": (_all, "all cases in the pool"),
}


def read_split_file(file: Path) -> tuple[set[str], set[str]]:
    """Read pool and test of a JSON file `{"pool": [...], "test": [...]}`. Raises `AssftError` for any other content."""
    try:
        content = read_json(file)
    except (OSError, ValueError) as error:
        raise AssftError(
            f"--split_file {file} cannot be read: {error}. Expected JSON with the lists 'pool' and 'test'."
        ) from error
    lists = [content.get(key) for key in (POOL, TEST)] if isinstance(content, dict) else [None]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        raise AssftError(
            f"--split_file {file} does not hold the two lists of case ids 'pool' and 'test'. Write it as "
            '{"pool": ["case_a", ...], "test": ["case_b", ...]}.'
        )
    for case in (*content[POOL], *content[TEST]):
        CASE_ID.check(case, f"--split_file {file}")
    return set(content[POOL]), set(content[TEST])

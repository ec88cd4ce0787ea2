"""Case records: what is read is what was written; a file that is damaged or made from something else is not taken."""

import dataclasses
import io

import numpy as np
import pytest
import torch

from nnunet_assft.active.scoring.case_record import RECORDS, CaseRecord
from nnunet_assft.active.scoring.case_statistics import STATISTICS
from nnunet_assft.active.scoring.voxel_statistics import voxel_sums_of_logits
from nnunet_assft.runtime.cached import cached_or_none
from nnunet_assft.runtime.files import sha256_of
from tests.active.scoring.test_voxel_statistics import random_logits

SHAPES = {"class_entropies": (26,), "committee_spread": (), "gradients": (26, 32), "peak_entropy": ()}


def big_record(*, statistics: bool = False) -> CaseRecord:
    """The largest that exists: CT-FM's 512 features, 26 classes of millions of voxels, all statistics if asked for."""
    rng = np.random.default_rng(0)
    sums = voxel_sums_of_logits(random_logits(26, torch.float32), 2.0)
    sums = dataclasses.replace(sums, class_voxels=tuple(n + 10**8 for n in sums.class_voxels))
    arrays = {name: np.asarray(rng.normal(size=shape)) for name, shape in SHAPES.items()} if statistics else {}
    return CaseRecord("case_1", rng.normal(size=512), sums, arrays)


@pytest.mark.parametrize(
    ("record", "most_bytes"),
    [
        (big_record(), 8_000),
        (big_record(statistics=True), 64_000),
        (CaseRecord("case_1", np.array([0.1, 1e-300, -3.0]), None), 8_000),
    ],
    ids=["sums", "statistics", "embedding alone"],
)
def test_a_record_is_read_as_it_was_written_and_is_small(tmp_path, record, most_bytes):
    assert SHAPES.keys() == STATISTICS.keys()
    file = tmp_path / "records" / "case_1.npz"
    RECORDS.write(file, "0f" * 32, record, seconds=1.0)
    checksum, found = RECORDS.read(file)
    assert (checksum, found.case, found.sums) == ("0f" * 32, record.case, record.sums)
    assert found.statistics.keys() == record.statistics.keys()
    arrays = {"embedding": record.embedding, **record.statistics}
    for name, value in {"embedding": found.embedding, **found.statistics}.items():
        assert (value.shape, value.dtype) == (arrays[name].shape, arrays[name].dtype)
        assert value.tobytes() == arrays[name].tobytes()
    assert [other.name for other in file.parent.iterdir()] == ["case_1.npz"]
    assert file.stat().st_size < most_bytes


def test_equal_records_have_equal_bytes(tmp_path):
    for seconds in (1.0, 2.0):
        RECORDS.write(tmp_path / f"{seconds}.npz", "0f" * 32, big_record(), seconds=seconds)
    assert (tmp_path / "1.0.npz").read_bytes() == (tmp_path / "2.0.npz").read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_record_counts_as_missing(tmp_path, share):
    file = tmp_path / "case_1.npz"
    RECORDS.write(file, sha256_of({"tau": 2.0}), big_record(), seconds=1.0)
    assert cached_or_none(file, {"tau": 2.0}, store=RECORDS) is not None
    assert cached_or_none(file, {"tau": 3.0}, store=RECORDS) is None
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    assert cached_or_none(file, {"tau": 2.0}, store=RECORDS) is None


@pytest.mark.parametrize("content", [b"not a record at all", None])
def test_a_file_of_another_kind_counts_as_missing(tmp_path, content):
    if content is None:  # a sound npz of someone else
        buffer = io.BytesIO()
        np.savez(buffer, something=np.zeros(3))
        content = buffer.getvalue()
    (tmp_path / "case_1.npz").write_bytes(content)
    assert cached_or_none(tmp_path / "case_1.npz", {}, store=RECORDS) is None
    assert cached_or_none(tmp_path / "case_2.npz", {}, store=RECORDS) is None

"""What the query pool refuses, and that it sorts every array with the ids."""

import math

import numpy as np
import pytest

from nnunet_assft.active.query.pool import PER_CASE, QueryPool
from tests.active.query.pools import sums_of


def test_pools_that_are_refused():
    e = np.ones((2, 3))
    broken = np.array([[1.0, 1.0], [np.nan, 1.0]])
    sums = [sums_of(0.1), sums_of(float("nan"))]
    for make, message in (
        (lambda: QueryPool(ids=()), "pool is empty"),
        (lambda: QueryPool(ids=("b", "a")), "not ascending"),
        (lambda: QueryPool.create(["a", "a"]), "distinct"),
        (lambda: QueryPool(ids=("a",), round=2), "round 2 of 1"),
        (lambda: QueryPool(ids=("a",), round=0), "round 0 of 1"),
        (lambda: QueryPool.create(["a"], embeddings=e), "embeddings has 2 rows"),
        (lambda: QueryPool(ids=("a",), pretrained_embeddings=e), "one row for each of the 1 cases"),
        (lambda: QueryPool.create(["b", "a"], embeddings=broken), "embeddings of case a contains NaN"),
        (
            lambda: QueryPool.create(["a", "b"], pretrained_embeddings=broken),
            "pretrained_embeddings of case b contains NaN",
        ),
        (lambda: QueryPool.create(["a", "b"], sums=sums), "sums of case b contains NaN"),
        (lambda: QueryPool(ids=("a",), labelled_embeddings=broken), "labelled_embeddings contains NaN"),
        (
            lambda: QueryPool(ids=("a", "b"), embeddings=e, labelled_embeddings=e[:, :2]),
            r"has shape \(2, 2\); expected \(L, 3\)",
        ),
        (lambda: QueryPool(ids=("a", "b"), permutation=("a", "c")), r"cases \['b'\] are not in the random permutation"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", PER_CASE)
def test_a_value_that_is_not_finite_is_refused_with_its_case(name: str, bad: float, dtype: type):
    array = np.zeros((3,) + (2,) * (PER_CASE[name] - 1), dtype=dtype)
    array.reshape(3, -1)[1, -1] = bad
    with pytest.raises(ValueError, match=f"{name} of case b contains NaN or inf"):
        QueryPool.create(["c", "b", "a"], **{name: array})
    with pytest.raises(ValueError, match="labelled_embeddings contains NaN or inf"):
        QueryPool(ids=("a",), labelled_embeddings=np.array([[0.0, bad]], dtype=dtype))


@pytest.mark.parametrize("name", PER_CASE)
def test_arrays_of_another_shape_are_refused(name: str):
    array = np.zeros((3,) + (2,) * (PER_CASE[name] - 1))
    for wrong in (array[:2], array[..., None], array[0]):
        with pytest.raises(ValueError, match=f"{name} has shape"):
            QueryPool(ids=("a", "b", "c"), **{name: wrong})
    with pytest.raises(ValueError, match=f"{name} has 2 rows"):
        QueryPool.create(["a", "b", "c"], **{name: array[:2]})


def test_create_sorts_every_array_with_the_ids():
    arrays = {name: np.arange(3.0).reshape((3,) + (1,) * (n_axes - 1)) for name, n_axes in PER_CASE.items()}
    pool = QueryPool.create(["b", "c", "a"], **arrays)
    assert pool.ids == ("a", "b", "c")
    for name in PER_CASE:
        assert getattr(pool, name).ravel().tolist() == [2.0, 0.0, 1.0]
    assert QueryPool.create(["b", "a"], embeddings=None, labelled_embeddings=None).embeddings is None

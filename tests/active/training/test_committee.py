"""Bootstrap samples of the committee of SANN."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_assft.active.training.committee import bootstrap_sample

few = settings(max_examples=25, deadline=None)


@few
@given(
    st.sets(st.text("ab12", min_size=1, max_size=3), min_size=1, max_size=12),
    st.lists(st.integers(0, 99), min_size=1, max_size=3),
)
def test_a_bootstrap_sample_keeps_the_size(cases: set[str], seed: list[int]):
    copies = bootstrap_sample(dict.fromkeys(sorted(cases)), seed)
    assert sum(copies.values()) == len(cases)
    assert copies.keys() <= cases
    assert min(copies.values()) >= 1
    assert list(copies) == sorted(copies)
    assert bootstrap_sample(dict.fromkeys(sorted(cases, reverse=True)), seed) == copies


def test_a_bootstrap_sample_is_drawn_with_replacement():
    """Each of 3 cases once on average; a case is left out with chance 8 / 27."""
    samples = [bootstrap_sample(dict.fromkeys("abc"), [7, 1, member]) for member in range(1500)]
    assert [sum(s.get(case, 0) for s in samples) / 1500 for case in "abc"] == pytest.approx([1.0] * 3, abs=0.07)
    assert [sum(case not in s for s in samples) / 1500 for case in "abc"] == pytest.approx([8 / 27] * 3, abs=0.04)
    assert Counter(len(s) for s in samples)[3] / 1500 == pytest.approx(6 / 27, abs=0.04)
    assert bootstrap_sample({"only": 1}, [0, 1, 1]) == {"only": 1}


def test_members_seeds_and_rounds_have_samples_of_their_own():
    cases = dict.fromkeys(f"{i:02d}" for i in range(20))
    samples = {
        tuple(bootstrap_sample(cases, [seed, r, k]).items())
        for seed in range(3)
        for r in range(1, 4)
        for k in range(1, 5)
    }
    assert len(samples) == 36

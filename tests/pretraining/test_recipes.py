"""The learning rates of the methods, by hand, and that the tables of the methods name the same ones."""

from __future__ import annotations

import pytest

from nnunet_assft.pretraining.recipes import RECIPES, cosine_after_warm_up, polynomial
from nnunet_assft.pretraining.settings import METHODS
from nnunet_assft.report.pretraining import EXAMPLES_OF


def test_every_method_has_a_recipe_and_a_section() -> None:
    assert METHODS.keys() == RECIPES.keys() == EXAMPLES_OF.keys()


def test_learning_rates() -> None:
    assert [polynomial(epoch, 4) for epoch in range(4)] == pytest.approx([1, 0.75**0.9, 0.5**0.9, 0.25**0.9])
    long = [cosine_after_warm_up(epoch, 110) for epoch in range(110)]
    assert long[:11] == pytest.approx([n / 11 for n in range(1, 12)])
    assert (long[60], long[85]) == pytest.approx((0.5, (1 - 0.5**0.5) / 2))  # half of the hundred, and three quarters
    assert [cosine_after_warm_up(epoch, 3) for epoch in range(3)] == pytest.approx([1, 0.75, 0.25])  # no warm-up

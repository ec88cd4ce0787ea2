from __future__ import annotations

from dataclasses import replace

from nnunet_assft.active.history import Change
from nnunet_assft.report.material import Material
from nnunet_assft.report.sections.head import head
from tests.report.conftest import without_dice


def test_facts_and_advice(material: Material) -> None:
    found = head(material)
    assert found.facts["Dice after round 1"] == "0.600 ± 0.100 (mean ± SD over 3 test cases)"
    assert found.facts["Finished"] == "1 of 2 query rounds of 2 cases each; 3 of 8 cases are annotated"
    assert found.facts["Pre-trained encoder"].startswith("none")
    assert "From round 0 to 1 the mean Dice of 3 test cases changed by +0.3500" in found.advice[0]


def test_what_changed_after_the_last_round_is_not_mixed_with_what_was_annotated_in_it(material: Material) -> None:
    """A labelled case is withdrawn, two join, and the budget is smaller from the next round on."""
    experiment = material.experiment
    change = Change(2, False, 2, 1, experiment.permutation, added=("n1", "n2"), withdrawn=("case_0",))
    found = head(replace(material, experiment=replace(experiment, history=(change,))))
    assert found.facts["Finished"] == (
        "1 of 2 query rounds of 2 cases each (1 from round 2 on); 3 of 8 cases are annotated"
    )


def test_without_labels_of_test_cases_there_is_no_dice(material: Material) -> None:
    found = head(without_dice(material))
    assert found.facts["Dice after round 1"] == "no test case has a label"


def test_one_round_is_too_early_for_advice(material: Material) -> None:
    first = material.rounds[0]
    first = replace(first, dice={**first.dice, "sd": None, "n_cases": 1})
    found = head(replace(material, rounds=(first,)))
    assert "No advice is possible yet" in found.advice[0]
    assert found.facts["Dice after round 0"] == "0.250 (mean over 1 test case)"

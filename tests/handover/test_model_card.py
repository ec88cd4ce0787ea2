"""The model card: what was measured, and on what."""

from __future__ import annotations

import dataclasses

import pytest

from nnunet_assft.active.experiment import read_plans
from nnunet_assft.active.history import Change
from nnunet_assft.active.state import Experiment, Round
from nnunet_assft.handover.model_card import ALL, markdown, model_card
from nnunet_assft.handover.stock_model import stock_plans
from tests.conftest import Trained

DICE = {
    "mean": 0.5,
    "sd": 0.1,
    "n_cases": 2,
    "per_structure": {"ball": 0.5, "box": 0.4, "tube": None},
    "per_case": {
        "case_08": {"ball": 0.25, "box": 0.25, "tube": None},
        "case_09": {"ball": 0.75, "box": None, "tube": None},
    },
}


def card_of(experiment: Experiment, done: Round) -> dict:
    card = model_card(experiment, done, experiment.raw_dataset(), stock_plans(read_plans(experiment)))
    return {**card, "files": {"plans.json": "00ff"}}


def test_dice_with_intervals_worked_by_hand(trained: Trained) -> None:
    card = card_of(trained.experiment, dataclasses.replace(trained.rounds[1], dice=DICE))
    # two cases: their bootstrap means are the smaller, the middle and the larger value, 1 : 2 : 1
    assert card["dice"]["structures"] == {
        "ball": {"dice": 0.5, "low": 0.25, "high": 0.75, "n_cases": 2},
        "box": {"dice": 0.25, "low": None, "high": None, "n_cases": 1},
        "tube": {"dice": None, "low": None, "high": None, "n_cases": 0},
        ALL: {"dice": 0.5, "low": 0.25, "high": 0.75, "n_cases": 2},
    }
    assert card["dice"]["measured_on"].startswith("2 test scans, on which no stage was trained.")
    assert "as in a benchmark" in card["dice"]["measured_on"]
    text = markdown(card)
    assert "| ball | 0.5 | 0.25 | 0.75 | 2 |" in text
    assert "| box | 0.25 | - | - | 1 |" in text
    assert "No label of a test scan has tube, so nothing is known about it." in text
    assert [line["round"] for line in card["rounds"]] == [0, 1]
    assert "case_" not in text


def test_the_network_of_a_model_is_called_by_its_class(trained: Trained) -> None:
    assert card_of(trained.experiment, trained.rounds[1])["training"]["network"] == "preset tiny"
    started = dataclasses.replace(trained.experiment.settings, preset="start", start="/somewhere/model")
    card = card_of(dataclasses.replace(trained.experiment, settings=started), trained.rounds[1])
    assert card["training"]["network"] == "the CTFMSegmentationNet of the model that training started from"


def test_test_scans_that_joined_later_were_not_labelled_before_the_first_round(trained: Trained) -> None:
    done, now = dataclasses.replace(trained.rounds[2], dice=DICE), trained.experiment.now
    human = dataclasses.replace(trained.experiment.settings, annotator="human")
    planned = dataclasses.replace(trained.experiment, settings=human)

    def measured_on(*joined: str, experiment: Experiment = planned) -> str:
        changes = [Change(r, False, 3, 2, now.permutation, added_test=(case,)) for r, case in enumerate(joined, 1)]
        return card_of(dataclasses.replace(experiment, history=tuple(changes)), done)["dice"]["measured_on"]

    before = "as its test scans. They were labelled before the first round."
    assert measured_on() == f"2 test scans, on which no stage was trained. The dataset has them {before}"
    assert measured_on("case_09") == (
        "2 test scans, on which no stage was trained. "
        "1 of them joined in round 1, with labels that were there by then. "
        f"The dataset has the others {before}"
    )
    none = dataclasses.replace(planned, test=(), test_source="none")
    assert measured_on("case_08", "case_09", experiment=none) == (
        "2 test scans, on which no stage was trained. "
        "2 of them joined in rounds 1, 2, with labels that were there by then."
    )


def test_the_budget_of_every_round_is_in_the_card(trained: Trained) -> None:
    experiment = trained.experiment
    change = Change(2, False, 3, 1, experiment.permutation)
    changed = dataclasses.replace(experiment, history=(change,))
    budgets = [card_of(changed, done)["choice_of_cases"]["budget per round"] for done in trained.rounds]
    assert budgets == ["2 scans", "2 scans", "2 scans (1 from round 2 on)"]


def test_a_model_that_was_never_measured_says_so(trained: Trained) -> None:
    nothing = {"mean": None, "sd": None, "n_cases": 0, "per_structure": {"ball": None, "box": None}, "per_case": {}}
    human = dataclasses.replace(trained.experiment.settings, annotator="human")
    experiment = dataclasses.replace(trained.experiment, settings=human, test=(), test_source="none")
    text = markdown(card_of(experiment, dataclasses.replace(trained.rounds[1], dice=nothing)))
    assert "Measured on: Nothing: the experiment had no labelled test scans" in text
    assert "| structure |" not in text
    assert "Its quality is unknown." in text
    assert "annotated by: annotators" in text


@pytest.mark.parametrize(
    ("encoder", "licence"), [("ct_fm", "weights Apache-2.0, code MIT"), ("removed", "not recorded")]
)
def test_the_encoder_and_its_licence(trained: Trained, encoder: str, licence: str) -> None:
    assert card_of(trained.experiment, trained.rounds[0])["encoder"] is None
    report = {"path": "/home/meier/weights/ct_fm.pt", "sha256": "ab", "encoder": encoder}
    card = card_of(dataclasses.replace(trained.experiment, encoder_report=report), trained.rounds[0])
    assert card["encoder"]["licence"] == licence
    assert card["encoder"]["file"] == "ct_fm.pt"
    assert "meier" not in markdown(card)


def test_pseudo_labels_are_a_limit(trained: Trained) -> None:
    done = trained.rounds[2]
    assert done.pseudo_labelled
    (limit,) = (line for line in card_of(trained.experiment, done)["limits"] if "pseudo-label" in line)
    assert f"trained on {len(done.pseudo_labelled)} pseudo-label" in limit


def test_scans_that_were_withdrawn_are_a_limit(trained: Trained) -> None:
    experiment, (case, *_) = trained.experiment, trained.rounds[0].labelled
    limits = card_of(experiment, trained.rounds[1])["limits"]
    now = experiment.now
    change = Change(3, False, now.n_rounds, now.n_query, now.permutation, withdrawn=(case,))
    after = card_of(dataclasses.replace(experiment, history=(change,)), trained.rounds[1])
    assert [line for line in after["limits"] if line not in limits] == [
        "1 scan that it was trained on had to be withdrawn afterwards."
    ]
    assert after["data"]["scans in the pool"] == len(experiment.pool)  # that of the round
    change = dataclasses.replace(change, seen_by_encoder=(case,))
    after = card_of(dataclasses.replace(experiment, history=(change,)), trained.rounds[1])
    assert "1 scan that its encoder was pre-trained on had to be withdrawn afterwards." in after["limits"]


def test_structures_that_nobody_drew_in_some_scans_are_counted(trained: Trained) -> None:
    experiment, done = trained.experiment, trained.rounds[1]
    assert "drawn" not in str(card_of(experiment, done)["data"])
    (experiment.paths.raw / "not_annotated.json").write_text(f'{{"{done.labelled[0]}": ["box"]}}')
    text = markdown(card_of(experiment, done))
    assert "of these, scans in which a structure was drawn, where not in all: box in 2" in text

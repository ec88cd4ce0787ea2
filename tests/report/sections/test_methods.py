"""The paragraph for a paper says what was done."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nnunet_assft.active.history import Change
from nnunet_assft.active.options import Options
from nnunet_assft.report.material import Material
from nnunet_assft.report.sections import base, provenance
from nnunet_assft.report.sections.methods import paragraph, section
from tests.report.conftest import with_settings, without_dice


def test_the_paragraph(material: Material) -> None:
    text = paragraph(material)
    assert text.startswith(
        "From a pool of 8 scans, 3 were annotated with the reference labels of the dataset in 1 round of up to 2 scans "
        "after a first one. They were chosen with the strategy assft ("
    )
    assert "The network (preset tiny) started from random weights and was trained with nnU-Net 2.8.1" in text
    assert "Options: tau_c=3.0." in text
    assert text.endswith("The Dice was measured on 3 test cases that no stage was trained on.")
    assert "Isensee" in section(material).text[1]


def test_the_paragraph_has_the_pool_and_the_start_that_there_were(material: Material) -> None:
    first, last = material.rounds
    change = Change(2, False, 3, 4, (*material.experiment.permutation, "new"), added=("new",))  # after the last round
    experiment = replace(
        material.experiment,
        history=(change,),
        encoder_report={"encoder": "own"},
        settings=replace(material.experiment.settings, strategy="random", options=Options(second_stage="supervised")),
    )
    started = replace(first, labelled=("case_0", "case_1", "case_2"))
    text = paragraph(replace(material, experiment=experiment, rounds=(started, last)))
    assert text.startswith("From a pool of 8 scans, 3 were annotated")
    assert "in 1 round of up to 2 scans after a first 3. " in text
    assert "started from a pre-trained encoder and" in text
    assert "epochs on the first scans and then 2 per stage" in text
    assert "In a second stage of each round, the network was trained further on the same scans." in text


def test_a_network_that_came_with_its_weights_is_called_by_its_class(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = with_settings(material, preset="start", start="/somewhere/nnUNetTrainer__nnUNetPlans__3d_fullres")
    text = "The network (the {} of the model that training started from) started from the weights of a trained model"
    assert text.format("network") in paragraph(started)  # the plans are not there
    architecture = {"network_class_name": "a.b.PlainConvUNet", "arch_kwargs": {}}
    plans = {"configurations": {"3d_fullres": {"architecture": architecture}}}
    monkeypatch.setattr(base, "read_plans", lambda experiment: plans)
    assert text.format("PlainConvUNet") in paragraph(started)
    facts = dict(provenance.section(started).tables[0].data.to_numpy())
    assert facts["domain, network, normalization"].split(", ")[1] == (
        "the PlainConvUNet of the model that training started from"
    )


def test_a_changed_budget_and_a_second_look_are_told(material: Material) -> None:
    experiment, (first, last) = material.experiment, material.rounds
    permutation = experiment.permutation
    history = (
        Change(2, False, 3, 2, permutation, labelled=("case_1",)),
        Change(3, False, 3, 4, permutation),
    )
    third = replace(last, round=3, labelled=(*last.labelled, "case_1"), unlabelled=last.unlabelled[1:])
    changed = replace(material, experiment=replace(experiment, history=history), rounds=(first, last, third))
    assert paragraph(changed).startswith(
        "From a pool of 8 scans, 4 were annotated with the reference labels of the dataset in 3 rounds of up to 2 "
        "scans (4 from round 3 on) after a first one, 1 of the 4 by a second look at pseudo-labels. They"
    )


def test_what_was_not_measured_is_said(material: Material) -> None:
    text = paragraph(without_dice(with_settings(material, annotator="human")))
    assert "3 were annotated by annotators in" in text
    assert text.endswith("No test cases with labels were available, so no Dice was measured.")

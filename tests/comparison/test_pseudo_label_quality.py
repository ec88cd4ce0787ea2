"""Quality of pseudo-labels: the Dice of a trained experiment against nnU-Net's evaluator."""

from __future__ import annotations

import csv
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics

from nnunet_assft.active.context import open_context
from nnunet_assft.active.options import Options
from nnunet_assft.active.rounds import run_round
from nnunet_assft.active.scoring.prediction import open_scorer
from nnunet_assft.active.scoring.scorer import Scorer
from nnunet_assft.active.selection import SELECTIONS
from nnunet_assft.active.state import Experiment, Model, Round
from nnunet_assft.comparison import pseudo_label_quality as module
from nnunet_assft.comparison.arms import Comparison, StrategyArm
from nnunet_assft.comparison.pseudo_label_quality import pseudo_label_quality, read_pseudo_label_quality
from nnunet_assft.errors import AssftError, DamagedFileError
from nnunet_assft.evaluation.dice import Dice, case_dice, mean_of
from nnunet_assft.runtime.csv_files import write_csv
from nnunet_assft.runtime.files import read_json
from nnunet_assft.runtime.sealed import read_sealed, write_sealed
from tests.comparison.conftest import SETTINGS
from tests.conftest import plan_experiment, write_dataset

CPU = torch.device("cpu")


def test_a_file_keeps_case_names_and_numbers_as_they_are(tmp_path):
    rows = [
        {"arm": "assft", "seed": 0, "round": 1, "case": "007", "selection": "all", "selected": 1, "dice": 0.1 + 0.2},
        {"arm": "assft", "seed": 0, "round": 1, "case": "NA", "selection": "all", "selected": 0, "dice": ""},
    ]
    write_csv(tmp_path / "q.csv", rows)
    found = read_pseudo_label_quality(tmp_path / "q.csv")
    assert list(found["case"]) == ["007", "NA"]
    assert list(found["selected"]) == [True, False]
    assert found["dice"][0] == 0.1 + 0.2
    assert math.isnan(found["dice"][1])
    assert found["wrong"].isna().all()  # version 0.1.0 did not write it


# On an experiment -----------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(copied: Comparison) -> Experiment:
    """Rounds 0 and 1 of ASSFT, finished."""
    return StrategyArm("assft").experiment(copied, 0)


@pytest.mark.slow
def test_dice_is_nnunets_on_the_written_pseudo_labels(trained):
    paths, done = trained.paths, run_round(trained, 1, CPU)
    quality = pseudo_label_quality(trained, 1, CPU)
    assert list(quality.columns) == ["round", "case", "selection", "selected", "dice", "wrong"]
    assert set(quality["round"]) == {1}
    assert len(quality) == len(SELECTIONS) * len(done.unlabelled) == 25
    one_dice = quality.groupby("case")["dice"].agg(["min", "max"])
    assert tuple(one_dice.index) == done.unlabelled
    assert (one_dice["min"] == one_dice["max"]).all()  # the model's, whoever selects
    dice = one_dice["min"]
    context = open_context(trained, CPU)
    assert len(done.pseudo_labelled) == 2
    for case in done.pseudo_labelled:
        reference = paths.raw / "labelsTr" / f"{case}.nii.gz"
        metrics = compute_metrics(str(reference), str(context.pseudo_label(1, case)), context.dataset.reader, [1, 2])[
            "metrics"
        ]
        assert dice[case] == np.mean([metrics[1]["Dice"], metrics[2]["Dice"]])
        files = (reference, context.pseudo_label(1, case))
        label, pseudo = (context.dataset.reader.read_seg(str(file))[0] for file in files)
        either = (label > 0) | (pseudo > 0)
        assert set(quality.loc[quality["case"] == case, "wrong"]) == {np.mean(label[either] != pseudo[either])}
    assert 0 < dice.max() < 1

    selected = quality[quality["selected"]].groupby("selection")["case"].agg(set)
    assert selected["reliable"] == set(done.pseudo_labelled)
    assert selected["all"] == set(done.unlabelled)
    with open(paths.results / "selection_round_01.csv") as file:
        rows = list(csv.DictReader(file))
    by_confidence = sorted(rows, key=lambda row: (-float(row["confidence"]), row["case"]))
    assert selected["confidence_only"] == {row["case"] for row in by_confidence[:2]}
    assert selected["random"] == {
        done.unlabelled[i] for i in np.random.default_rng(np.random.SeedSequence([0, 1])).permutation(5)[:2]
    }
    assert list(dict.fromkeys(quality["selection"])) == list(SELECTIONS)
    assert not list(paths.results.glob("**/round_01_pseudo_label_quality/*.nii.gz"))


@pytest.mark.slow
def test_it_is_computed_once_goes_on_after_a_cut_and_is_made_again_for_another_label_or_model(trained, monkeypatch):
    folder = trained.paths.records("round_01_pseudo_label_quality")
    shutil.rmtree(folder)
    trained.paths.step_file(1, "pseudo_label_quality").unlink()
    predicted, logits = [], Scorer.logits

    def cut_off_at(limit: int) -> None:
        def counted(self, image, **options):
            if len(predicted) == limit:
                raise KeyboardInterrupt
            predicted.append(1)
            return logits(self, image, **options)

        monkeypatch.setattr(Scorer, "logits", counted)

    cut_off_at(3)
    with pytest.raises(KeyboardInterrupt):
        pseudo_label_quality(trained, 1, CPU)
    assert len(list(folder.glob("*.json"))) == 3
    cut_off_at(-1)
    first = pseudo_label_quality(trained, 1, CPU)
    assert len(predicted) == 5  # each case once
    pd.testing.assert_frame_equal(pseudo_label_quality(trained, 1, CPU), first)
    assert len(predicted) == 5

    labels = trained.paths.raw / "labelsTr"
    shutil.copy(labels / f"{first['case'][1]}.nii.gz", labels / f"{first['case'][0]}.nii.gz")
    again = pseudo_label_quality(trained, 1, CPU)
    assert len(predicted) == 6
    assert again["dice"][0] != first["dice"][0]
    assert list(again["dice"][1:5]) == list(first["dice"][1:5])

    file = trained.paths.step_file(1, "supervised")
    step = read_sealed(file)
    write_sealed(file, {**step, "result": {**step["result"], "weights_sha256": "of another training"}})
    with pytest.raises(DamagedFileError, match="its weights do not match their checksum"):
        pseudo_label_quality(trained, 1, CPU)


@pytest.mark.slow
def test_what_the_round_has_chosen_is_taken_from_the_round(trained):
    """An experiment that says it takes all: the round has two pseudo-labels, and two are marked."""
    says_all = replace(trained, settings=replace(trained.settings, options=Options(selection="all")))
    quality = pseudo_label_quality(says_all, 1, CPU)
    selected = quality[quality["selected"] & (quality["selection"] == "all")]
    assert tuple(selected["case"]) == run_round(trained, 1, CPU).pseudo_labelled


@pytest.mark.slow
def test_no_label_of_an_open_round_is_looked_at(trained, monkeypatch):
    monkeypatch.setattr(module, "open_context", lambda *_: pytest.fail("the dataset was opened"))
    with pytest.raises(AssftError, match="Round 0 has no pseudo-labels"):
        pseudo_label_quality(trained, 0, CPU)
    trained.paths.round_file(1).unlink()
    with pytest.raises(AssftError, match=r"Round 1 is not finished; 1 of 2 rounds are\. Hidden labels are read"):
        pseudo_label_quality(trained, 1, CPU)


def test_experiments_without_known_labels_or_pseudo_labels_are_refused(blobs: Path):
    human = plan_experiment("Dataset901_Blobs", name="human", annotator="human", labelled="none", **SETTINGS)
    with pytest.raises(AssftError, match=r"'human' has a human annotator.*--annotator oracle"):
        pseudo_label_quality(human, 1, CPU)
    random = plan_experiment("Dataset901_Blobs", name="random", strategy="random", **SETTINGS)
    with pytest.raises(AssftError, match=r"'random' makes no pseudo-labels.*second stage of its rounds is 'none'"):
        pseudo_label_quality(random, 1, CPU)


@pytest.mark.slow
def test_what_another_selection_chose_and_pseudo_labels_without_their_refinement(nnunet_folders: Path):
    write_dataset(nnunet_folders / "nnUNet_raw", n_pool=5, n_test=1)
    options = Options(selection="distance_only", largest_component=True)
    experiment = plan_experiment("Dataset901_Blobs", options=options, **{**SETTINGS, "budget": "1"})
    done = [run_round(experiment, r, CPU) for r in (0, 1)][1]
    quality = pseudo_label_quality(experiment, 1, CPU)
    own = quality[(quality["selection"] == "distance_only") & quality["selected"]]
    assert tuple(own["case"]) == done.pseudo_labelled
    context = open_context(experiment, CPU)
    (case,) = done.pseudo_labelled
    scorer = open_scorer(context, Model(**read_json(experiment.paths.step_file(1, "supervised"))["result"]))
    raw = scorer.segmentation(scorer.logits(context.image(case)), context.properties(case))
    reference = context.dataset.reader.read_seg(str(context.dataset.label_file(case)))[0][0]
    assert own["dice"].item() == mean_of(case_dice(raw, reference, {"ball": 1, "box": 2}).values())


def test_a_pool_that_is_used_up_has_no_pseudo_labels(blobs: Path):
    experiment = plan_experiment("Dataset901_Blobs", **SETTINGS)
    model = replace(experiment.initial_model, stage="supervised")
    dice: Dice = {"mean": None, "sd": None, "n_cases": 0, "per_structure": {}, "per_case": {}}
    for r in (0, 1):
        Round(r, experiment.pool, (), (), (), (), {}, experiment.test, model, dice).save(experiment.paths)
    nothing = pseudo_label_quality(experiment, 1, CPU)
    assert (len(nothing), list(nothing.columns)) == (0, ["round", "case", "selection", "selected", "dice", "wrong"])

"""Selected against unselected: the U test by hand, and the Dice of a trained experiment against nnU-Net's evaluator."""

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

from nnunet_assft.active import rounds
from nnunet_assft.active.options import Options
from nnunet_assft.active.rounds import open_context, run_round
from nnunet_assft.active.scoring import records
from nnunet_assft.active.scoring.prediction import open_scorer
from nnunet_assft.active.scoring.scorer import Scorer
from nnunet_assft.active.selection import SELECTIONS
from nnunet_assft.active.state import Model, Round
from nnunet_assft.comparison.pseudo_label_quality import pseudo_label_quality, read_pseudo_label_quality, selection_test
from nnunet_assft.errors import AssftError
from nnunet_assft.evaluation.dice import case_dice, mean_of
from nnunet_assft.runtime.files import read_json, write_csv, write_json
from tests.conftest import plan_experiment, write_dataset

CPU = torch.device("cpu")
SETTINGS = {"rounds": 2, "budget": "2", "preset": "tiny", "epochs": 2, "iterations_per_epoch": 4, "initial_lr": 1e-3}


def frame(
    selected: list[float], unselected: list[float], r: int = 1, selection: str = "reliable", **front: object
) -> pd.DataFrame:
    rows = [
        {**front, "round": r, "case": f"s{i}", "selection": selection, "selected": True, "dice": d}
        for i, d in enumerate(selected)
    ]
    rows += [
        {**front, "round": r, "case": f"u{i}", "selection": selection, "selected": False, "dice": d}
        for i, d in enumerate(unselected)
    ]
    return pd.DataFrame(rows)


# The U test ------------------------------------------------------------------------------------------------------------


def test_the_u_test_worked_by_hand():
    """0.9 beats 3 of {0.4, 0.6, 0.7}, 0.65 beats 2: U = 5 of 6. Of the C(5, 2) = 10 orders, U is 6 once, 5 once, 0 once, 1 once."""
    (row,) = selection_test(frame([0.9, 0.65], [0.4, 0.6, 0.7])).to_dict("records")
    assert (row["round"], row["selection"], row["n_selected"], row["n_unselected"]) == (1, "reliable", 2, 3)
    assert (row["u"], row["p"], row["reason"]) == (5.0, pytest.approx(0.4), "")
    assert (row["median_selected"], row["median_unselected"]) == (pytest.approx(0.775), 0.6)
    assert (row["mean_selected"], row["mean_unselected"]) == (pytest.approx(0.775), pytest.approx(1.7 / 3))


def test_ties_count_half_and_use_the_normal_approximation():
    """Pairs: 0.5 against 0.5 (1/2) and 0.3 (1), 0.7 against both (2): U = 3.5 of 4. Mean 2, variance (4/12)(5 - 6/12) = 1.5."""
    (row,) = selection_test(frame([0.5, 0.7], [0.5, 0.3])).to_dict("records")
    z = (3.5 - 2 - 0.5) / math.sqrt(1.5)
    assert row["u"] == 3.5
    assert row["p"] == pytest.approx(math.erfc(z / math.sqrt(2)))


def test_small_groups_cannot_be_significant():
    assert selection_test(frame([0.9, 0.8], [0.1, 0.2]))["p"].item() == pytest.approx(1 / 3)
    assert selection_test(frame([0.5, 0.5], [0.5, 0.5, 0.5]))["p"].item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("selected", "unselected", "reason"),
    [
        ([0.5, 0.6], [], "no unselected case"),
        ([], [0.5], "no selected case"),
        ([0.5], [math.nan], "no unselected case"),
        ([math.nan], [math.nan], "no selected and no unselected case"),
    ],
)
def test_an_empty_group_has_no_p_and_says_so(selected, unselected, reason):
    (row,) = selection_test(frame(selected, unselected)).to_dict("records")
    assert row["reason"] == reason
    assert math.isnan(row["u"])
    assert math.isnan(row["p"])
    assert (row["n_selected"], row["n_unselected"]) == (sum(d == d for d in selected), sum(d == d for d in unselected))


def test_cases_without_dice_do_not_count():
    with_nan, without = selection_test(frame([0.9, math.nan], [0.1, 0.2])), selection_test(frame([0.9], [0.1, 0.2]))
    pd.testing.assert_frame_equal(with_nan, without)


def test_rounds_selections_arms_and_seeds_are_tested_apart():
    parts = [
        frame([0.9], [0.1, 0.2], r, name, arm="assft", seed=seed)
        for seed in (1, 0)
        for r in (1, 2)
        for name in ("reliable", "all")
    ]
    table = selection_test(pd.concat(parts))
    assert list(table.columns[:4]) == ["arm", "seed", "round", "selection"]
    assert list(zip(table["seed"], table["round"], table["selection"], strict=True)) == [
        (seed, r, name) for seed in (1, 0) for r in (1, 2) for name in ("reliable", "all")
    ]
    assert set(table["n_selected"]) == {1}


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


# On an experiment ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    """Rounds 0 and 1 of 2, finished. Treat it as read-only."""
    root = tmp_path_factory.mktemp("quality")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (root / name).mkdir()
            monkeypatch.setenv(name, str(root / name))
        write_dataset(root / "nnUNet_raw")
        experiment = plan_experiment("Dataset901_Blobs", **SETTINGS)
        for r in (0, 1):
            run_round(experiment, r, CPU)
        yield experiment


@pytest.mark.slow
def test_dice_is_nnunets_on_the_written_pseudo_labels(trained):
    paths, done = trained.paths, run_round(trained, 1, CPU)
    quality = pseudo_label_quality(trained, 1, CPU)
    assert list(quality.columns) == ["round", "case", "selection", "selected", "dice"]
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
    table = selection_test(quality).set_index("selection")
    assert list(table.index) == list(SELECTIONS)
    assert table.loc["all", "reason"] == "no unselected case"
    assert not list(paths.results.glob("**/round_01_pseudo_label_quality/*.nii.gz"))


@pytest.mark.slow
def test_it_is_computed_once_goes_on_after_a_cut_and_is_made_again_for_another_label_or_model(trained, monkeypatch):
    folder = trained.paths.records("round_01_pseudo_label_quality")
    shutil.rmtree(folder, ignore_errors=True)
    trained.paths.step_file(1, "pseudo_label_quality").unlink(missing_ok=True)
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

    label = trained.paths.raw / "labelsTr" / f"{first['case'][0]}.nii.gz"
    kept = label.read_bytes()
    try:
        shutil.copy(trained.paths.raw / "labelsTr" / f"{first['case'][1]}.nii.gz", label)
        again = pseudo_label_quality(trained, 1, CPU)
    finally:
        label.write_bytes(kept)
    assert len(predicted) == 6
    assert again["dice"][0] != first["dice"][0]
    assert list(again["dice"][1:5]) == list(first["dice"][1:5])

    file = trained.paths.step_file(1, "supervised")
    step = read_json(file)
    try:
        write_json(file, {**step, "result": {**step["result"], "weights_sha256": "of another training"}})
        pseudo_label_quality(trained, 1, CPU)
    finally:
        write_json(file, step)
    assert len(predicted) == 6 + 5 + 8  # segmentations of T_u, and records of the whole pool


@pytest.mark.slow
def test_what_the_round_has_chosen_is_taken_from_the_round(trained):
    """An experiment that says it takes all: the round has two pseudo-labels, and two are marked."""
    quality = pseudo_label_quality(replace(trained, options=Options(selection="all")), 1, CPU)
    selected = quality[quality["selected"] & (quality["selection"] == "all")]
    assert tuple(selected["case"]) == run_round(trained, 1, CPU).pseudo_labelled


@pytest.mark.slow
def test_no_label_of_an_open_round_is_looked_at(trained, monkeypatch):
    monkeypatch.setattr(records, "open_scorer", None)
    monkeypatch.setattr(rounds, "open_context", None)
    with pytest.raises(AssftError, match=r"Round 2 is not finished; 2 of 3 rounds are\. Hidden labels are looked at"):
        pseudo_label_quality(trained, 2, CPU)
    with pytest.raises(AssftError, match="Round 0 has no pseudo-labels"):
        pseudo_label_quality(trained, 0, CPU)


def test_experiments_without_known_labels_or_pseudo_labels_are_refused(blobs: Path):
    human = plan_experiment("Dataset901_Blobs", name="human", annotator="human", **SETTINGS)
    with pytest.raises(AssftError, match=r"'human' has a human annotator.*--annotator oracle"):
        pseudo_label_quality(human, 1, CPU)
    random = plan_experiment("Dataset901_Blobs", name="random", strategy="random", **SETTINGS)
    with pytest.raises(
        AssftError, match=r"Strategy 'random' of experiment 'random' makes no pseudo-labels; expected: assft\."
    ):
        pseudo_label_quality(random, 1, CPU)


@pytest.mark.slow
def test_what_another_selection_chose_and_pseudo_labels_without_their_refinement(nnunet_folders: Path):
    write_dataset(nnunet_folders / "nnUNet_raw", n_pool=5, n_test=1)
    options = Options(selection="distance_only", largest_component=True)
    experiment = plan_experiment("Dataset901_Blobs", options=options, **{**SETTINGS, "budget": "1", "rounds": 1})
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
    for r in (0, 1):
        Round(r, experiment.pool, (), (), (), (), {}, experiment.test, experiment.initial_model, {}).save(
            experiment.paths
        )
    nothing = pseudo_label_quality(experiment, 1, CPU)
    assert (len(nothing), list(nothing.columns)) == (0, ["round", "case", "selection", "selected", "dice"])
    assert selection_test(nothing).empty

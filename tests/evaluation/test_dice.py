"""Dice tables, worked by hand on volumes of a few voxels, and against nnU-Net's own evaluator."""

import numpy as np
import pytest
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_assft.evaluation.dice import case_dice, evaluate_cases, mean_of
from tests.conftest import write_volume
from tests.evaluation.conftest import dataset_with

LABELS = {"liver": 1, "spleen": 2, "kidney": 3}


@pytest.fixture
def evaluate(tmp_path):
    """Evaluates {case: (reference, prediction)}, each a flat list of 8 labels."""

    def run(cases: dict[str, tuple[list[int], list[int]]], **options):
        dataset = dataset_with(tmp_path, options.pop("labels", LABELS), **options)
        predictions = {case: tmp_path / f"{case}.nii.gz" for case in cases}
        for case, arrays in cases.items():
            for file, values in zip((dataset.label_file(case), predictions[case]), arrays, strict=True):
                write_volume(file, np.array(values, np.uint8).reshape(2, 2, 2))
        return evaluate_cases(dataset, predictions)

    return run


def test_dice_worked_by_hand(evaluate):
    found = evaluate(
        {
            "a": (
                [0, 1, 1, 1, 2, 2, 0, 0],
                [0, 1, 1, 0, 2, 2, 2, 0],
            ),  # liver 2*2/(3+2), spleen 2*2/(2+3), no kidney anywhere
            "b": (
                [0, 1, 0, 0, 3, 3, 3, 3],
                [0, 1, 2, 0, 3, 0, 0, 0],
            ),  # liver 1, spleen only predicted, kidney 2*1/(4+1)
        }
    )
    assert found["per_case"]["a"] == {"liver": pytest.approx(0.8), "spleen": pytest.approx(0.8), "kidney": None}
    assert found["per_case"]["b"] == {"liver": 1.0, "spleen": 0.0, "kidney": pytest.approx(0.4)}
    mean_a, mean_b = 0.8, (1 + 0 + 0.4) / 3  # a structure that is nowhere has no say
    assert found["mean"] == pytest.approx((mean_a + mean_b) / 2)
    assert found["sd"] == pytest.approx((mean_a - mean_b) / np.sqrt(2))  # two values, n - 1
    assert found["n_cases"] == 2
    assert found["per_structure"] == {
        "liver": pytest.approx(0.9),
        "spleen": pytest.approx(0.4),
        "kidney": pytest.approx(0.4),
    }


def test_a_structure_that_was_missed_is_0(evaluate):
    found = evaluate({"a": ([1, 1, 0, 0, 0, 0, 0, 0], [0] * 8)})
    assert found["per_case"]["a"] == {"liver": 0.0, "spleen": None, "kidney": None}
    assert (found["mean"], found["sd"], found["n_cases"]) == (0.0, None, 1)  # one value has no SD


def test_voxels_with_the_ignore_label_do_not_count(evaluate):
    case = {"a": ([0, 1, 1, 4, 4, 4, 2, 0], [0, 1, 0, 1, 2, 3, 2, 0])}
    ignoring = evaluate(case, ignore_label=4)
    assert ignoring["per_case"]["a"] == {"liver": pytest.approx(2 / 3), "spleen": 1.0, "kidney": None}
    counting = evaluate(case)
    assert counting["per_case"]["a"] == {"liver": 0.5, "spleen": pytest.approx(2 / 3), "kidney": 0.0}


def test_a_case_without_any_structure_is_left_out(evaluate):
    found = evaluate({"empty": ([0] * 8, [0] * 8), "b": ([1] * 8, [1] * 4 + [0] * 4), "c": ([1] * 8, [1] * 8)})
    assert found["per_case"]["empty"] == dict.fromkeys(LABELS)
    assert found["n_cases"] == 2
    assert found["mean"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["per_structure"] == {"liver": pytest.approx((2 / 3 + 1) / 2), "spleen": None, "kidney": None}


def test_nothing_known_at_all_is_none(evaluate):
    found = evaluate({"empty": ([0] * 8, [0] * 8)})
    assert (found["mean"], found["sd"], found["n_cases"]) == (None, None, 0)


def test_structures_follow_the_names_not_the_values(evaluate):
    found = evaluate({"a": ([1, 1, 2, 2, 0, 0, 0, 0], [1, 1, 2, 0, 0, 0, 0, 0])}, labels={"spleen": 2, "liver": 1})
    assert found["per_case"]["a"] == {"spleen": pytest.approx(2 / 3), "liver": 1.0}


@pytest.mark.parametrize("ignore_label", [None, 3])
def test_every_dice_is_nnunets(evaluate, tmp_path, ignore_label):
    rng = np.random.default_rng(5)
    labels = {"liver": 1, "spleen": 2}
    found = evaluate(
        {case: (list(rng.integers(0, 4, 8)), list(rng.integers(0, 3, 8))) for case in "abcdef"},
        labels=labels,
        ignore_label=ignore_label,
    )
    for case, dice in found["per_case"].items():
        reference, prediction = (str(tmp_path / folder / f"{case}.nii.gz") for folder in ("labelsTr", "."))
        metrics = compute_metrics(reference, prediction, SimpleITKIO(), [1, 2], ignore_label)["metrics"]
        assert dice == {name: metrics[value]["Dice"] for name, value in labels.items()}
    means = [np.mean(list(dice.values())) for dice in found["per_case"].values()]
    assert found["sd"] == pytest.approx(np.std(means, ddof=1))


def test_cases_come_in_ascending_order(evaluate):
    found = evaluate({case: ([1] * 8, [1] * 8) for case in ("c", "a", "b")})
    assert list(found["per_case"]) == ["a", "b", "c"]


def test_mean_of_what_is_known():
    assert mean_of([1.0, None, 0.0]) == 0.5
    assert mean_of([None]) is None


def test_dice_of_a_case_in_memory_is_that_of_its_files(evaluate):
    reference, segmentation = [0, 1, 1, 4, 4, 4, 2, 0], [0, 1, 0, 1, 2, 3, 2, 0]
    for ignore_label in (None, 4):
        on_disk = evaluate({"a": (reference, segmentation)}, ignore_label=ignore_label)["per_case"]["a"]
        assert case_dice(np.array(segmentation), np.array(reference), LABELS, ignore_label=ignore_label) == on_disk


def test_a_structure_that_nobody_drew_has_no_dice(evaluate):
    """In case a nobody drew the spleen, of which the prediction has two voxels; one of them is a missed liver voxel."""
    cases = {
        "a": ([1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 2, 2, 0, 0, 0, 0]),  # liver 2*2/(3+2)
        "b": ([1, 1, 2, 2, 0, 0, 0, 0], [1, 1, 2, 0, 0, 0, 0, 0]),  # liver 1, spleen 2*1/(2+1)
    }
    found = evaluate(cases, not_annotated={"a": ("spleen",), "c": ("liver",)})
    assert found["per_case"]["a"] == {"liver": pytest.approx(0.8), "spleen": None, "kidney": None}
    assert found["per_case"]["b"] == {"liver": 1.0, "spleen": pytest.approx(2 / 3), "kidney": None}
    assert found["per_structure"]["spleen"] == pytest.approx(2 / 3)
    assert found["mean"] == pytest.approx((0.8 + (1 + 2 / 3) / 2) / 2)
    assert evaluate(cases)["per_case"]["a"]["spleen"] == 0.0  # as if it were absent


def test_remains_of_a_structure_that_nobody_drew_do_not_count(evaluate):
    found = evaluate({"a": ([1, 2, 0, 0, 0, 0, 0, 0], [1, 2, 2, 0, 0, 0, 0, 0])}, not_annotated={"a": ["spleen"]})
    assert found["per_case"]["a"] == {"liver": 1.0, "spleen": None, "kidney": None}

"""Experiment, Round, the memo of a step, splits: what is written is what is read, and nothing else is taken for it."""

import dataclasses
import json

import numpy as np
import pytest

from nnunet_assft.active.options import Options
from nnunet_assft.active.state import Experiment, Model, Round, finished_rounds, step, write_splits
from nnunet_assft.errors import AssftError

POOL = tuple(f"case_{i:02d}" for i in range(8))


@pytest.fixture
def experiment(nnunet_folders) -> Experiment:
    return Experiment(
        dataset="Dataset901_Blobs",
        name="assft",
        strategy="assft",
        seed=7,
        n_rounds=3,
        n_query=2,
        budget="25%",
        annotator="oracle",
        domain="generic",
        preset="tiny",
        normalization="percentile",
        encoder={"path": "/encoders/ct_fm.safetensors", "report": {"n_keys": 90}},
        pool=POOL,
        test=("case_08", "case_09"),
        test_source="imagesTs",
        permutation=POOL[::-1],
        training={"epochs": 2, "initial_lr": 1e-4},
        options=Options(asd_reduction="mean", pd_weights="reversed", tau_c=1.5, exclude_pseudo=False),
        initial_network_sha256="0f" * 32,
        versions={"nnunetv2": "2.8.1"},
    )


def a_round(r: int, *, labelled: tuple[str, ...] = POOL[:1], pseudo: tuple[str, ...] = ()) -> Round:
    return Round(
        round=r,
        labelled=labelled,
        unlabelled=tuple(case for case in POOL if case not in labelled),
        queried=labelled[-1:],
        excluded=POOL[5:6],
        pseudo_labelled=pseudo,
        reliability=dict.fromkeys(pseudo, 1234.5),
        test=("case_08", "case_09"),
        model=Model("semi" if pseudo else "supervised", f"model/fold_{r}/checkpoint_final.pth", "ab" * 32),
        dice={
            "mean": 0.5,
            "sd": None,
            "n_cases": 1,
            "per_structure": {"ball": 0.5},
            "per_case": {"case_08": {"ball": 0.5}},
        },
    )


# step ------------------------------------------------------------------------------------------------------------------


class Counted:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, int]:
        self.calls += 1
        return {"call": self.calls}


def test_a_step_with_the_same_inputs_is_not_computed_again(tmp_path):
    compute, file = Counted(), tmp_path / "steps" / "round_01_query.json"
    assert step(file, {"model": "a", "pool": ["x", "y"]}, compute) == {"call": 1}
    assert step(file, {"pool": ["x", "y"], "model": "a"}, compute) == {"call": 1}  # the order of keys says nothing
    assert compute.calls == 1


@pytest.mark.parametrize(
    "other", [{"model": "b", "pool": ["x", "y"]}, {"model": "a", "pool": ["y", "x"]}, {"model": "a"}]
)
def test_a_step_with_other_inputs_is_computed_again(tmp_path, other):
    compute, file = Counted(), tmp_path / "step.json"
    first = {"model": "a", "pool": ["x", "y"]}
    step(file, first, compute)
    assert step(file, other, compute) == {"call": 2}
    assert step(file, other, compute) == {"call": 2}
    assert step(file, first, compute) == {"call": 3}  # only the latest is kept


def test_a_step_that_fails_leaves_what_was_there(tmp_path):
    file = tmp_path / "step.json"
    step(file, {"model": "a"}, Counted())

    def fails() -> dict[str, int]:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        step(file, {"model": "b"}, fails)
    unused = Counted()
    assert step(file, {"model": "a"}, unused) == {"call": 1}
    assert unused.calls == 0


# Experiment and Round --------------------------------------------------------------------------------------------------


def test_an_experiment_is_read_as_it_was_written(experiment):
    experiment.save()
    assert Experiment.load(experiment.paths) == experiment


def test_an_experiment_that_is_not_there_says_how_to_make_it(experiment):
    with pytest.raises(AssftError, match=r"no experiment 'assft'.*nnUNetv2_assft_plan -d 901"):
        Experiment.load(experiment.paths)


@pytest.mark.parametrize("version", [1, 3, None])
def test_another_schema_version_is_refused(experiment, version):
    experiment.save()
    content = json.loads(experiment.paths.experiment_file.read_text())
    if version is None:
        del content["schema_version"]
    else:
        content["schema_version"] = version
    experiment.paths.experiment_file.write_text(json.dumps(content))
    with pytest.raises(AssftError, match=f"schema version {version}, expected 2"):
        Experiment.load(experiment.paths)


def test_a_round_is_read_as_it_was_written(experiment):
    done = a_round(2, labelled=POOL[:3], pseudo=POOL[3:5])
    done.save(experiment.paths)
    assert Round.load(experiment.paths, 2) == done


def test_a_round_with_a_value_that_json_lacks_is_not_written(experiment):
    done = dataclasses.replace(a_round(0), dice={"mean": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        done.save(experiment.paths)
    assert not experiment.paths.round_file(0).exists()


@pytest.mark.parametrize(
    ("there", "n_finished"),
    [
        ((), 0),
        ((0,), 1),
        ((0, 1, 2, 3), 4),
        ((0, 1, 3), 2),
        ((1, 2), 0),
        ((0, 1, 2, 3, 4), 4),
    ],  # R = 3: there is no round 4
)
def test_finished_rounds_stop_at_a_gap(experiment, there, n_finished):
    for r in there:
        a_round(r).save(experiment.paths)
    assert [done.round for done in finished_rounds(experiment)] == list(range(n_finished))


# splits.json -----------------------------------------------------------------------------------------------------------


def test_splits_have_the_form_of_nnunets_splits_final(experiment):
    a_round(0).save(experiment.paths)
    a_round(1, labelled=POOL[:3], pseudo=(POOL[6], POOL[4])).save(experiment.paths)
    write_splits(experiment)
    splits = json.loads(experiment.paths.splits_file.read_text())
    assert len(splits) == 2  # fold = round; nnU-Net reads splits[fold]["train"] and ["val"]
    assert splits[0]["train"] == ["case_00"]
    assert splits[1]["train"] == ["case_00", "case_01", "case_02", "case_04", "case_06"]
    assert splits[1]["val"] == ["case_00", "case_01", "case_02"]
    assert splits[1]["unlabelled"] == list(POOL[3:])
    assert splits[1]["pseudo_labelled"] == ["case_06", "case_04"]
    assert splits[1]["queried"] == ["case_02"]
    assert splits[1]["excluded"] == ["case_05"]
    for entry in splits:
        assert not {*entry["train"], *entry["val"]} & set(entry["test"])
        assert set(entry["labelled"]) | set(entry["unlabelled"]) == set(POOL)


# command ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("round", "Dataset218_AMOS", "assft", "-r", "3"), "nnUNetv2_assft_round -d 218 -r 3"),
        (("plan", "Dataset218_AMOS"), "nnUNetv2_assft_plan -d 218"),
        (("status", "Dataset007_X", "pilot"), "nnUNetv2_assft_status -d 7 -e pilot"),
    ],
)
def test_commands_are_what_one_types(arguments, expected):
    assert command(*arguments) == expected


def test_numpy_values_do_not_slip_into_a_round(experiment):
    """json refuses them; a float64 mean is a Python float subclass and reads back equal."""
    with pytest.raises(TypeError):
        dataclasses.replace(a_round(0), dice={"mean": np.float32(0.5)}).save(experiment.paths)


def test_a_step_whose_file_has_gone_is_done_again(tmp_path):
    made = tmp_path / "made"
    calls = []

    def compute():
        calls.append(1)
        made.write_text("x")
        return {"n": len(calls)}

    def run():
        return step(tmp_path / "step.json", {"a": 1}, compute, made=lambda result: [made])

    assert [run(), run()] == [{"n": 1}, {"n": 1}]
    made.unlink()
    assert [run(), run()] == [{"n": 2}, {"n": 2}]

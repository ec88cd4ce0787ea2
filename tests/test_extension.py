"""Images that join or are withdrawn, more rounds and another budget: what changes, what stays, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from nnunet_assft.active import metrics
from nnunet_assft.active.annotation import open_request
from nnunet_assft.active.experiment import create_experiment, prepare
from nnunet_assft.active.history import write_history
from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.rounds import run_round
from nnunet_assft.active.settings import Settings
from nnunet_assft.active.state import (
    Experiment,
    Round,
    finished_rounds,
    is_over,
    require_its_history,
    seen_by_next,
)
from nnunet_assft.errors import AssftError, DamagedFileError
from nnunet_assft.extension import Wish, extend, influence
from nnunet_assft.runtime.cached import cached
from nnunet_assft.runtime.files import read_json
from nnunet_assft.runtime.sealed import write_sealed
from nnunet_assft.verification import verify
from tests.cli.annotate.experiment import QUERIED, plan_round_1
from tests.conftest import CPU, TINY, Trained, blob_case, copy_template, set_folders, write_volume

BLOBS = "Dataset901_Blobs"


def arrive(experiment: Experiment, *numbers: int, labels: bool = True, brighter: float = 0) -> list[str]:
    """New images in imagesTr, with or without labels in labelsTr. Returns their case ids."""
    raw, cases = experiment.paths.raw, [f"case_{i:02d}" for i in numbers]
    for i, case in zip(numbers, cases, strict=True):
        image, label = blob_case(i)
        write_volume(raw / f"imagesTr/{case}_0000.nii.gz", image + np.float32(brighter))
        if labels:
            write_volume(raw / f"labelsTr/{case}.nii.gz", label)
    return cases


def reloaded(experiment: Experiment) -> Experiment:
    return Experiment.load(experiment.paths)


# The rounds that follow -----------------------------------------------------------------------------------------------


def go_on(hide: Callable[[Experiment], None]) -> Round:
    """After round 2 of 2, two images join the pool and one the test cases; one of the labelled cases is withdrawn."""
    experiment = Experiment.load(ExperimentPaths(BLOBS, "assft"))
    (test,) = arrive(experiment, 11)
    arrive(experiment, 12, 13)
    hide(experiment)
    withdrawn = experiment.permutation[0]  # the first case
    extend(experiment, Wish(n_rounds=3, budget="1", test=[test], withdrawn=[withdrawn, "case_08"]))
    return run_round(reloaded(experiment), 3, CPU)


def test_a_round_after_changes_and_noise_in_place_of_its_hidden_labels(
    trained: Trained, trained_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, rounds = trained.experiment, trained.rounds
    done = go_on(lambda _: None)
    experiment = reloaded(experiment)
    assert finished_rounds(experiment) == [*rounds, done]
    assert verify(experiment).findings == []
    first, scope = experiment.permutation[0], experiment.scope(3)
    assert set(scope.pool) == {*(f"case_{i:02d}" for i in (*range(8), 12, 13))} - {first}
    assert done.test == ("case_09", "case_10", "case_11")
    assert set(done.dice["per_case"]) == set(done.test)
    assert len(done.queried) == 1  # the new budget
    assert set(done.labelled) == {*rounds[2].labelled, *done.queried} - {first}
    assert {*done.labelled, *done.unlabelled} == set(scope.pool)
    # N_SU: 2 + 2 + 1 queries up to this round, of the 3 + 2 - 1 unlabelled cases that are left
    assert experiment.n_select(3) == 5
    assert len(done.pseudo_labelled) == len(done.unlabelled) == 4
    assert metrics.temperature(3, scope.n_rounds) == 1.5  # the last round; round 2 was the last one of its time
    assert experiment.scope(2).n_rounds == 2
    for stage in ("supervised", "semi"):
        assert first not in read_json(experiment.paths.stage_file(3, stage))["cases"]
    found = influence(experiment, first)
    assert (found.planned, found.rounds["queried"], found.rounds["labelled"]) == (True, [0], [0, 1, 2])
    assert [model.rpartition("/")[2] for model in found.models] == ["fold_0", "fold_1", "fold_2", "fold_1", "fold_2"]

    # its files may be deleted: nobody misses them
    for root in (experiment.paths.raw, experiment.paths.preprocessed, experiment.paths.results):
        for file in root.rglob(f"{first}*"):
            if "records" not in file.parts:
                file.unlink()
    assert verify(experiment).findings == []
    assert run_round(experiment, 2, CPU) == rounds[2]

    # the same again, where nobody knows the labels that were hidden, and those of the pool cannot even be read
    (tmp_path / "again").mkdir()
    copy_template(trained_template, tmp_path / "again")
    set_folders(tmp_path / "again", monkeypatch)

    def hide(other: Experiment) -> None:
        for i in (*range(8), 12, 13):
            if f"case_{i:02d}" not in {*rounds[2].labelled, *done.queried}:
                (other.paths.raw / f"labelsTr/case_{i:02d}.nii.gz").write_bytes(b"noise")
        for folder, i in (("Ts", 9), ("Ts", 10), ("Tr", 11)):
            noise = np.random.default_rng(7).integers(0, 3, blob_case(i)[1].shape).astype(np.uint8)
            write_volume(other.paths.raw / f"labels{folder}/case_{i:02d}.nii.gz", noise)

    again = go_on(hide)
    assert again.dice != done.dice  # the test labels were noise indeed
    assert {**asdict(again), "dice": None} == {**asdict(done), "dice": None}


# What is recorded -----------------------------------------------------------------------------------------------------


def test_a_repeated_command_changes_nothing_and_an_interrupted_one_nothing_either(
    planned: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert extend(planned, Wish()) == planned  # nothing is new
    assert not planned.paths.history_file.exists()
    arrive(planned, 12, 13)
    with monkeypatch.context() as broken:
        broken.setattr(Experiment, "record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            extend(planned, Wish(n_rounds=4))
    assert reloaded(planned) == planned
    with monkeypatch.context() as broken:  # once the history is written, the change counts
        broken.setattr(Experiment, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            extend(planned, Wish(n_rounds=4, budget="20%"))
    changed = reloaded(planned)
    (change,) = changed.history
    assert (change.round, change.after_query, change.added, change.remarks) == (0, False, ("case_12", "case_13"), ())
    assert (change.n_rounds, change.n_query) == (4, 2)  # 20 % of 10 cases
    assert changed.start == planned.start  # the first case was decided when the experiment was planned
    assert sorted(change.permutation) == sorted((*planned.pool, "case_12", "case_13"))
    content = planned.paths.history_file.read_bytes()
    assert extend(changed, Wish(n_rounds=4, budget="2")) == changed
    assert planned.paths.history_file.read_bytes() == content
    # planning again with the old options still finds the experiment
    assert create_experiment(901, "assft", Settings(**TINY)) == changed


def test_images_unlike_the_others_are_named_with_numbers(planned: Experiment) -> None:
    arrive(planned, 12, brighter=100)
    (remark,) = extend(planned, Wish()).history[0].remarks
    assert re.fullmatch(
        r"case_12: the median intensity of its channel 0 is 20\d\.\d; those of the images of the plans are "
        r"\d+(\.\d+)? to 10\d\.\d",
        remark,
    )


def test_withdrawn_images_may_be_deleted_and_never_come_back(planned: Experiment) -> None:
    first, second = planned.permutation[:2]
    for case in (first, "case_09"):  # of the pool, and a test case
        next(planned.paths.raw.glob(f"images*/{case}_0000.nii.gz")).unlink()
    with pytest.raises(
        AssftError, match=rf"lacks the images of 2 cases .*assft_extend -d 901 --withdraw {first} case_09"
    ):
        run_round(planned, 0, CPU)
    changed = extend(planned, Wish(withdrawn=[first, "case_09"]))
    assert changed.start == (second,)
    assert first not in changed.now.pool
    assert changed.now.test == ("case_08", "case_10")
    prepare(changed, changed.raw_dataset())
    assert verify(changed).findings == []
    assert influence(changed, first).sentence(first) == f"{first}: the plans were made from its image"
    arrive(planned, int(first[-2:]))
    assert extend(changed, Wish(withdrawn=[first])) == changed
    with pytest.raises(AssftError, match=f"--test names {first}; expected cases that are new"):
        extend(changed, Wish(test=[first]))


def test_the_command_for_images_that_are_gone_names_all_of_them(planned: Experiment) -> None:
    """It is refused if it leaves one out, so naming five at a time would never come to an end."""
    gone = planned.pool[:6]
    for case in gone:
        (planned.paths.raw / f"imagesTr/{case}_0000.nii.gz").unlink()
    with pytest.raises(AssftError, match=rf"the images of 6 cases .* nnUNetv2_assft_extend .* {' '.join(gone)}\.$"):
        prepare(planned, planned.raw_dataset())
    assert extend(planned, Wish(withdrawn=gone)).now.pool == planned.pool[6:]


def test_an_image_that_was_replaced_meanwhile_is_noticed(planned: Experiment) -> None:
    arrive(planned, 12)
    write_volume(planned.paths.raw / "imagesTr/case_03_0000.nii.gz", blob_case(33)[0])
    for wish in (Wish(), Wish(withdrawn=["case_05"])):
        with pytest.raises(AssftError, match="The image case_03 changed after experiment 'assft'"):
            extend(planned, wish)


def test_a_command_that_has_begun_before_a_change_is_refused(planned: Experiment) -> None:
    extend(planned, Wish(n_rounds=4))
    with pytest.raises(AssftError, match="changed by another command meanwhile"):
        run_round(planned, 0, CPU)


def test_the_cases_that_an_experiment_was_planned_with_are_compared_after_a_change_too(
    planned: Experiment, tmp_path: Path
) -> None:
    """Its test cases are those of imagesTs, case_08 to case_10, and none is labelled at the start."""
    arrive(planned, 12)
    changed = extend(planned, Wish(withdrawn=["case_05"]))
    tests, others = tmp_path / "tests.txt", tmp_path / "others.json"
    tests.write_text("case_10 case_09 case_08")
    others.write_text('{"test": ["case_08", "case_05"], "labelled": ["case_01"]}')
    settings = Settings(**TINY)
    for same in ({}, {"labelled": "none"}, {"test_split": str(tests)}):
        assert create_experiment(BLOBS, "assft", replace(settings, **same)) == changed
    for name, value, was in (
        ("test_split", "0.25", None),
        ("test_split", str(others), None),
        ("test_split", str(tmp_path / "missing.txt"), None),
        ("labelled", str(others), "none"),
    ):
        words = re.escape(f"exists with other settings ({name} was {was}, now {value})")
        with pytest.raises(AssftError, match=words):
            create_experiment(BLOBS, "assft", replace(settings, **{name: value}))


def test_a_history_that_is_lost_is_noticed(trained: Trained) -> None:
    experiment, last = trained.experiment, trained.rounds[2]
    assert is_over(experiment, trained.rounds)
    arrive(experiment, 12)
    changed = extend(experiment, Wish(n_rounds=3))
    assert not is_over(changed, trained.rounds)
    assert seen_by_next(changed, last).unlabelled == (*last.unlabelled, "case_12")
    third = replace(last, round=3, unlabelled=(*last.unlabelled, "case_12"))
    third.save(experiment.paths)
    assert reloaded(experiment) == changed
    require_its_history(changed, third)
    with pytest.raises(DamagedFileError, match=r"round_02.json has other cases than follow from .*history.json"):
        require_its_history(changed, replace(last, unlabelled=third.unlabelled))
    more = extend(changed, Wish(n_rounds=4))
    write_history(experiment.paths.history_file, more.history[:1])  # an old backup
    with pytest.raises(DamagedFileError, match=r"history.json lacks 1 recorded change. Restore it from a"):
        reloaded(experiment)
    experiment.paths.history_file.unlink()
    with pytest.raises(DamagedFileError, match=r"history.json lacks 2 recorded changes"):
        reloaded(experiment)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (Wish(n_rounds=1), "--rounds 1: round 2 has begun or is finished; expected 2 or more"),
        (Wish(test=["case_01"]), "--test names case_01; expected cases that are new. A case of the pool, or one"),
        (Wish(test=["case_99"]), "--test names case_99; there is no such image"),
        (Wish(test=["case_12"]), r"no label file for 1 new case of Dataset901_Blobs \(case_12\)"),
        (Wish(), r"no label file for 1 new case of Dataset901_Blobs \(case_12\)"),  # of an oracle
        (Wish(withdrawn=["cas_01"]), "--withdraw names cas_01; neither the experiment nor the dataset has such a case"),
        (Wish(test=["case_12"], withdrawn=["case_12"]), "--withdraw and --test both name case_12"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value)[5:40],
)
def test_what_cannot_be_asked_for(trained: Trained, wish: Wish, words: str) -> None:
    arrive(trained.experiment, 12, labels=False)
    with pytest.raises(AssftError, match=words):
        extend(trained.experiment, wish)
    assert not trained.experiment.paths.history_file.exists()


# A round in progress --------------------------------------------------------------------------------------------------


def test_a_round_that_waits_for_labels_loses_withdrawn_cases_and_gains_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = plan_round_1(tmp_path, monkeypatch)
    assert open_request(experiment).cases == tuple(QUERIED)
    arrive(experiment, 12, labels=False)
    write_sealed(experiment.paths.annotators_file(1), {case: ["anna"] for case in QUERIED})
    changed = extend(experiment, Wish(budget="1", withdrawn=[QUERIED[1]]))
    assert open_request(changed).annotators == {QUERIED[0]: ("anna",), QUERIED[2]: ("anna",)}
    assert changed.history[0].after_query
    assert "case_12" not in changed.scope(1).pool
    assert "case_12" in changed.scope(2).pool
    assert (changed.scope(1).n_query, changed.scope(2).n_query) == (2, 1)
    assert QUERIED[1] in changed.scope(1).pool  # its query saw the case
    assert QUERIED[1] not in changed.scope(1).left
    assert influence(changed, QUERIED[1]).rounds["queried"] == [1]
    # if none of the queried cases is left, the round queries anew, and then among the new images as well
    anew = extend(changed, Wish(withdrawn=[QUERIED[0], QUERIED[2]]))
    assert not anew.history[1].after_query
    assert "case_12" in anew.scope(1).pool
    with pytest.raises(AssftError, match="Round 1 has not queried its cases yet"):
        open_request(anew)
    experiment.paths.step_file(1, "query").unlink()
    cached(experiment.paths.step_file(1, "query"), {}, lambda: {"queried": ["case_12"], "excluded": []})
    assert open_request(anew).annotators == {"case_12": ()}  # the assignment was that of the cases before

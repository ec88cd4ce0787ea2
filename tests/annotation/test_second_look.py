"""A second look at pseudo-labels: which are doubtful, what becomes of them, and the round that trains on them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_assft.active.annotation import open_request
from nnunet_assft.active.finished import read_provenance
from nnunet_assft.active.rounds import run_round
from nnunet_assft.active.state import Experiment, finished_rounds, require_its_history, seen_by_next
from nnunet_assft.annotation.requests import open_requests
from nnunet_assft.annotation.second_look import begin_second_look, open_second_look, record_second_look
from nnunet_assft.cli.annotate import main as annotate_main
from nnunet_assft.errors import AssftError, DamagedFileError, WaitingForAnnotation
from nnunet_assft.extension import Wish, extend
from nnunet_assft.runtime.cached import cached
from nnunet_assft.runtime.files import read_json
from nnunet_assft.trainers.stage_file import read_stage_file
from nnunet_assft.verification import verify
from tests.conftest import CPU, Trained, blob_case, write_volume


@pytest.fixture
def human(trained: Trained) -> Experiment:
    """The experiment of `trained` after round 1 of 2, as if a human had drawn its labels: no other case has one."""
    experiment, paths = trained.experiment, trained.experiment.paths
    replace(experiment, settings=replace(experiment.settings, annotator="human")).save()
    for case in trained.rounds[1].unlabelled:
        (paths.raw / f"labelsTr/{case}.nii.gz").unlink()
    paths.round_file(2).unlink()
    for file in paths.results.glob("steps/round_02_*"):
        file.unlink()
    for folder in (*paths.stages.glob("round_02*"), *paths.results_of_dataset.glob("nnUNetTrainer*/fold_2")):
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    return Experiment.load(paths)


def doubtful(experiment: Experiment) -> list[str]:
    """The pseudo-labelled cases of round 1, the last selected first."""
    entries = read_provenance(experiment.paths.pseudo_label_folder(1))["cases"]
    return sorted(entries, key=lambda case: -entries[case]["rank"])


def voxels(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def annotate(*words: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        annotate_main([str(word) for word in words])
    return int(exit_.value.code or 0)


def test_accepted_and_corrected_pseudo_labels_are_trained_on_and_rejected_ones_are_not(
    human: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = doubtful(human)
    work, paths = tmp_path / "second", human.paths
    before_the_look = paths.experiment_file.read_bytes()
    assert annotate("review", "-d", 901, "-o", work, "-n", 9, "-device", "cpu") == 0
    assert f"round 1: 2 pseudo-labels to look at again in {work}: {first}, {second}" in capsys.readouterr().out
    pseudo = paths.pseudo_label_folder(1) / f"pseudo_labels/{first}.nii.gz"
    np.testing.assert_array_equal(voxels(work / f"prelabels/{first}.nii.gz"), voxels(pseudo))
    header, *rows = (work / "worklist.csv").read_text().splitlines()
    assert header.startswith("case,rank,selection_rank,confidence,distance,reliability,predicted_ml_ball")
    assert rows[0].startswith(f"{first},1,2,")
    # the first is accepted, the second rejected
    (work / "times.csv").write_text(f"case,annotator,minutes,decision\n{first},,1.5,accept\n{second},,0.5,Reject\n")
    both = ("import", "-d", 901, work, "--times", work / "times.csv", "--accept_warnings")
    assert annotate(*both) == 0
    out = capsys.readouterr().out
    assert f"{second}: the pre-segmentation was rejected; draw it from scratch" in out
    assert f"case {first} of the second look: labelled from round 2 on, in addition to the 2 cases" in out
    np.testing.assert_array_equal(voxels(paths.raw / f"labelsTr/{first}.nii.gz"), voxels(pseudo))
    for case, minutes, decision in ((first, 1.5, "accept"), (second, 0.5, "reject")):
        record = read_json(paths.annotation_file(case))
        (entry,) = record["readings"]
        assert (record["round"], record["second_look"]) == (1, True)
        assert (entry["minutes"], entry["decision"]) == (minutes, decision)
    # an import that was killed before its last step is completed by the same command
    history = Experiment.load(paths).history
    paths.history_file.unlink()
    paths.experiment_file.write_bytes(before_the_look)
    assert annotate(*both) == 0
    assert f"{first}: the label has been imported already" in capsys.readouterr().out
    assert Experiment.load(paths).history == history
    # the other one is drawn from scratch; the rejection stays on record, and repeating changes nothing
    write_volume(work / f"annotations/{second}.nii.gz", blob_case(int(second[-2:]))[1])
    assert annotate(*both, "--minutes", 20) == 0
    assert read_json(paths.annotation_file(second))["readings"][0]["decision"] == "reject"
    experiment = Experiment.load(paths)
    assert [change.labelled for change in experiment.history] == [(first,), (second,)]
    assert experiment.history[:1] == history
    assert annotate(*both) == 0
    assert f"{first}: the label has been imported already" in capsys.readouterr().out
    assert Experiment.load(paths) == experiment

    with pytest.raises(WaitingForAnnotation):
        run_round(experiment, 2, CPU)
    asked = open_request(experiment).cases
    assert len(asked) == 2  # the budget is as before
    assert not {first, second}.intersection(asked)
    for case in asked:
        write_volume(paths.raw / f"labelsTr/{case}.nii.gz", blob_case(int(case[-2:]))[1])
    done = run_round(experiment, 2, CPU)
    assert {first, second, *asked} < set(done.labelled)
    assert {first, second} & set(done.pseudo_labelled) == set()
    trained_on = read_stage_file(paths.trained_on(2, "supervised"))["cases"]
    assert trained_on[first]["kind"] == "human"
    assert verify(experiment).findings == []
    with pytest.raises(DamagedFileError, match="has other cases than follow from"):
        require_its_history(experiment, replace(done, labelled=done.labelled[1:], unlabelled=(done.labelled[0],)))


def test_a_second_look_after_the_query_counts_from_the_round_after_it(human: Experiment) -> None:
    """The round in progress has queried one of the two pseudo-labelled cases, so it is asked for anyway."""
    first, second = doubtful(human)
    cached(human.paths.step_file(2, "query"), {}, lambda: {"queried": [first], "excluded": []})
    too_late = r"^Round 3 would be the first to train on these labels, but there are 2 rounds\. .*--rounds 3 first"
    with pytest.raises(AssftError, match=too_late):
        begin_second_look(human, 5)
    experiment = extend(human, Wish(n_rounds=3))
    request = begin_second_look(experiment, 5)
    assert (request.round, request.cases) == (1, (second,))
    assert [each.cases for each in open_requests(experiment)] == [(first,), (second,)]
    assert record_second_look(experiment) is None  # nothing was imported yet
    write_volume(experiment.paths.raw / "back" / f"{second}.nii.gz", blob_case(int(second[-2:]))[1])
    assert annotate("import", "-d", 901, experiment.paths.raw / "back", "--accept_warnings") == 0
    experiment = Experiment.load(experiment.paths)
    assert (experiment.history[-1].round, experiment.history[-1].after_query) == (2, True)
    assert (experiment.scope(2).looked_at, experiment.scope(3).looked_at) == ((), (second,))


def test_a_case_that_was_withdrawn_after_the_query_is_not_left_for_the_next_one(human: Experiment) -> None:
    """Of five unlabelled cases two are pseudo-labelled, two were queried, and the last one was withdrawn since."""
    first, second = doubtful(human)
    *queried, last = [case for case in finished_rounds(human)[1].unlabelled if case not in {first, second}]
    cached(human.paths.step_file(2, "query"), {}, lambda: {"queried": queried, "excluded": []})
    experiment = extend(human, Wish(n_rounds=3, withdrawn=[last]))
    assert begin_second_look(experiment, 5).cases == (first,)


def test_what_there_is_to_look_at(human: Experiment) -> None:
    """Labels that nobody may read yet are left out by the names of their files, and one case is left to be queried."""
    first, second = doubtful(human)
    hidden = human.paths.raw / f"labelsTr/{second}.nii.gz"
    hidden.write_bytes(b"nobody may read this")
    assert begin_second_look(human, 5).cases == (first,)
    hidden.unlink()
    assert begin_second_look(human, 1).cases == (first,)
    assert begin_second_look(human, 2).cases == (first, second)
    request = open_second_look(human)
    assert request is not None
    assert request.cases == (first, second)
    others = sorted(set(human.pool) - {first, second})
    last = replace(finished_rounds(human)[-1], labelled=tuple(others), unlabelled=tuple(sorted((first, second))))
    last.save(human.paths)
    assert begin_second_look(human, 2).cases == (first,)
    assert seen_by_next(human, last).unlabelled == tuple(sorted((first, second)))
    human.paths.second_look_file(1).write_text("{")
    with pytest.raises(DamagedFileError, match=r"second_look_round_01.json is damaged .* run annotate review with the"):
        begin_second_look(human, 1)


def test_a_benchmark_has_no_second_look(trained: Trained) -> None:
    with pytest.raises(AssftError, match="was planned with --annotator oracle: its labels are already in labelsTr"):
        begin_second_look(trained.experiment, 1)

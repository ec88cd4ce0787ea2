"""Round 0 and the embeddings by E^(p) are computed by one experiment, and are then what the others would have made."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_assft.active.context import open_context
from nnunet_assft.active.options import Options
from nnunet_assft.active.rounds import run_round
from nnunet_assft.active.scoring.records import pretrained_records
from nnunet_assft.active.state import Experiment
from nnunet_assft.active.training import shared_start
from nnunet_assft.active.training.shared_start import taken_from
from nnunet_assft.errors import AssftError
from nnunet_assft.network.checkpoints import load_weights, weights_sha256
from nnunet_assft.runtime.cached import seconds_of
from nnunet_assft.runtime.files import read_json
from nnunet_assft.runtime.locks import only_process
from nnunet_assft.verification import verify
from tests.conftest import CPU, TINY, Trained, blob_case, plan_experiment, set_folders, write_dataset, write_volume
from tests.kills import is_killed

BLOBS = "Dataset901_Blobs"


class Trainings:
    """The optimisation steps that were made since the test began."""

    steps = 0


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    counted, train_step = Trainings(), nnUNetTrainer.train_step

    def step(self: nnUNetTrainer, batch: dict) -> dict:
        counted.steps += 1
        return train_step(self, batch)

    monkeypatch.setattr(nnUNetTrainer, "train_step", step)
    return counted


def other(name: str = "other", **settings: Any) -> Experiment:
    """An experiment of the same dataset with the same settings but its strategy, and those that are given."""
    return plan_experiment(BLOBS, name, **{**TINY, "strategy": "random", **settings})


def of_round_0(experiment: Experiment) -> dict[str, bytes]:
    """The files of round 0 that hold no name of the experiment and no time, relative to the results."""
    paths = experiment.paths
    files = [*paths.test_predictions(0).iterdir(), paths.splits_file]
    content = {file.name: file.read_bytes() for file in files if not file.name.endswith(".json")}
    content["weights"] = weights_sha256(load_weights(paths.checkpoint(0, "supervised"))).encode()
    content["made from"] = read_json(paths.step_file(0, "evaluate"))["inputs_sha256"].encode()
    return content


# Taken ----------------------------------------------------------------------------------------------------------------


def test_round_0_is_taken_and_is_what_the_experiment_would_have_made_itself(
    trained: Trained, trainings: Trainings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target, source = other(), trained.experiment.paths
    taken = run_round(target, 0, CPU)
    assert trainings.steps == 0
    assert "Round 0 is that of experiment 'assft'" in capsys.readouterr().err
    seconds = seconds_of(source.step_file(0, "supervised"))
    assert taken_from(target.paths) == {"experiment": "assft", "seconds": seconds}
    checkpoint = target.paths.checkpoint(0, "supervised")
    assert checkpoint.read_bytes() == source.checkpoint(0, "supervised").read_bytes()
    assert not checkpoint.samefile(source.checkpoint(0, "supervised"))  # so that they are damaged one by one
    assert verify(target).findings == []
    files, after = of_round_0(target), run_round(target, 1, CPU)

    alone = trained.root / "alone"
    set_folders(alone, monkeypatch)
    write_dataset(alone / "nnUNet_raw")
    itself = other()
    made = run_round(itself, 0, CPU)
    assert trainings.steps > 0
    assert taken_from(itself.paths) is None
    assert made == taken  # also where the name of the experiment is in a path
    assert of_round_0(itself) == files
    assert itself.paths.round_file(0).read_bytes() == (trained.root / _below(itself.paths.round_file(0))).read_bytes()
    assert run_round(itself, 1, CPU) == after


def _below(file: Path) -> Path:
    """The path of a file below the root of nnU-Net's folders."""
    return file.relative_to(file.parents[4])


def test_a_third_experiment_learns_who_trained_it_and_needs_the_source_no_more(
    trained: Trained, trainings: Trainings
) -> None:
    second, third = other("second"), other("third", strategy="entropy", rounds=1, budget="1")
    run_round(second, 0, CPU)
    shutil.rmtree(trained.experiment.paths.results)
    shutil.rmtree(trained.experiment.paths.model_folder("supervised"))
    run_round(third, 0, CPU)
    assert trainings.steps == 0
    assert taken_from(third.paths) == taken_from(second.paths)
    assert [verify(experiment).findings for experiment in (second, third)] == [[], []]
    assert run_round(third, 1, CPU).labelled


def test_a_round_that_was_taken_is_made_again_with_and_without_its_source(
    trained: Trained, trainings: Trainings
) -> None:
    target = other()
    taken, checkpoint = run_round(target, 0, CPU), target.paths.checkpoint(0, "supervised")
    checkpoint.unlink()
    assert run_round(target, 0, CPU) == taken
    assert trainings.steps == 0
    shutil.rmtree(trained.experiment.paths.results)
    checkpoint.unlink()
    assert run_round(target, 0, CPU) == taken
    assert trainings.steps == 2
    assert taken_from(target.paths) is None  # it has trained it itself by now


def test_the_source_takes_back_what_it_has_lost(trained: Trained, trainings: Trainings) -> None:
    source = trained.experiment
    run_round(other(), 0, CPU)
    source.paths.checkpoint(0, "supervised").unlink()
    assert run_round(source, 0, CPU) == trained.rounds[0]
    assert trainings.steps == 0
    assert taken_from(source.paths) is None
    assert verify(source).findings == []


@pytest.mark.parametrize("first_case", ["medoid", "typical"])
def test_a_first_case_that_the_embeddings_choose_is_shared_with_them(
    first_case: str, blobs: Path, trainings: Trainings
) -> None:
    options = Options(first_case=first_case)
    source = other("source", options=options, epochs=1)
    made, steps = run_round(source, 0, CPU), trainings.steps
    target = other("target", options=options, epochs=1, strategy="coreset")
    assert run_round(target, 0, CPU).queried == made.queried
    assert trainings.steps == steps
    assert taken_from(target.paths) is not None
    files = [sorted(each.paths.records("pretrained").iterdir()) for each in (source, target)]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
    drawn = other("drawn", epochs=1)
    run_round(drawn, 0, CPU)
    assert taken_from(drawn.paths) is None  # because it is another question, even if the answer were the same


def test_embeddings_are_taken_when_they_are_asked_for(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    target, source = other(strategy="coreset"), trained.experiment.paths.records("pretrained")
    run_round(target, 0, CPU)
    records = target.paths.records("pretrained")
    assert not records.exists()
    monkeypatch.setattr("nnunet_assft.active.scoring.records.open_scorer", lambda *_: pytest.fail("it is computed"))
    assert set(pretrained_records(open_context(target, CPU), target.pool)) == set(target.pool)
    files = [{file.name: file.read_bytes() for file in folder.iterdir()} for folder in (records, source)]
    assert files[0] == files[1]


# Not taken ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"one_shot_epochs": 2},
        {"seed": 1},
        {"initial_lr": 2e-3},
        {"iterations_per_epoch": 1},
        {"deep_supervision": True},
        {"patch_size": (16, 16, 16)},
        {"labelled": "cases.txt"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_nothing_is_taken_from_an_experiment_that_differs(
    settings: dict[str, Any], trained: Trained, trainings: Trainings, tmp_path: Path
) -> None:
    if "labelled" in settings:
        (tmp_path / "cases.txt").write_text("case_01 case_04")
        settings = {"labelled": str(tmp_path / "cases.txt")}
    target = other(**settings)
    run_round(target, 0, CPU)
    assert trainings.steps > 0
    assert taken_from(target.paths) is None


def replace_label(trained: Trained) -> None:
    (case,) = trained.rounds[0].labelled
    write_volume(trained.experiment.paths.raw / f"labelsTr/{case}.nii.gz", blob_case(77)[1])


def cut(trained: Trained) -> None:
    file = trained.experiment.paths.checkpoint(0, "supervised")
    content = file.read_bytes()
    file.unlink()  # which other tests share
    file.write_bytes(content[: len(content) // 2])


def take_other_weights(trained: Trained) -> None:
    file = trained.experiment.paths.checkpoint(0, "supervised")
    file.unlink()
    shutil.copy(trained.experiment.paths.checkpoint(1, "supervised"), file)


def lose_stage_file(trained: Trained) -> None:
    trained.experiment.paths.trained_on(0, "supervised").unlink()


def lose_checkpoint(trained: Trained) -> None:
    trained.experiment.paths.checkpoint(0, "supervised").unlink()


def spoil_step(trained: Trained) -> None:
    trained.experiment.paths.step_file(0, "supervised").write_text("{")


def spoil_experiment(trained: Trained) -> None:
    trained.experiment.paths.experiment_file.write_text("{")


def plan_with_another_version(trained: Trained) -> None:
    versions = {**trained.experiment.versions, "torch": "1.0"}
    replace(trained.experiment, versions=versions).save()


@pytest.mark.parametrize(
    "change",
    [
        replace_label,
        cut,
        take_other_weights,
        lose_stage_file,
        lose_checkpoint,
        spoil_step,
        spoil_experiment,
        plan_with_another_version,
    ],
)
def test_what_is_damaged_or_made_from_something_else_is_not_taken(
    change: Callable[[Trained], None], trained: Trained, trainings: Trainings
) -> None:
    target = other()
    change(trained)
    done = run_round(target, 0, CPU)
    assert trainings.steps == 2
    assert taken_from(target.paths) is None
    if change is not replace_label:
        assert done.model.weights_sha256 == trained.rounds[0].model.weights_sha256
    assert verify(target).findings == []


def test_what_is_missing_of_the_evaluation_is_made(trained: Trained, trainings: Trainings) -> None:
    source = trained.experiment.paths
    shutil.rmtree(source.test_predictions(0))
    target = other()
    assert run_round(target, 0, CPU).dice == trained.rounds[0].dice
    assert trainings.steps == 0
    assert verify(target).findings == []


# At the same time -----------------------------------------------------------------------------------------------------


def test_a_command_that_was_killed_while_it_trained_is_replaced_by_another(blobs: Path, trainings: Trainings) -> None:
    first, second = other("first", one_shot_epochs=2), other("second", strategy="entropy", one_shot_epochs=2)

    def kill_in_the_second_step() -> None:
        train_step = nnUNetTrainer.train_step

        def step(self: nnUNetTrainer, batch: dict) -> dict:
            if self.current_epoch == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return train_step(self, batch)

        nnUNetTrainer.train_step = step

    assert is_killed(kill_in_the_second_step, lambda: run_round(first, 0, CPU))
    fold = first.paths.checkpoint(0, "supervised").parent
    assert (fold / "checkpoint_latest.pth").is_file()
    run_round(second, 0, CPU)
    steps = trainings.steps
    assert steps > 0
    run_round(first, 0, CPU)
    assert trainings.steps == steps
    assert taken_from(first.paths) is not None
    assert not (fold / "checkpoint_latest.pth").exists()
    assert verify(first).findings == []


def test_a_training_that_goes_on_without_its_command_is_waited_for(
    trained: Trained, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job of SLURM: it holds the lock of the training, and its command, which records the step, was ended."""
    source, target = trained.experiment.paths, other()
    checkpoint, hidden = source.checkpoint(0, "supervised"), trained.root / "hidden.pth"
    checkpoint.rename(hidden)
    for file in (source.step_file(0, "supervised"), source.round_file(0)):
        file.unlink()
    waited: list[Path] = []

    def waiting(lock: Path, work: str, *, patience: float = 0.0) -> Any:
        if lock == source.training_lock(0, "supervised") and patience:
            waited.append(lock)
            hidden.rename(checkpoint)  # the job ends
        return only_process(lock, work, patience=patience)

    monkeypatch.setattr(shared_start, "only_process", waiting)
    source.training_lock(0, "supervised").touch()
    assert run_round(target, 0, CPU).model.weights_sha256 == trained.rounds[0].model.weights_sha256
    assert len(waited) == 1
    assert trainings.steps == 0
    assert taken_from(target.paths) == {"experiment": "assft", "seconds": None}


def test_nothing_is_taken_into_a_fold_in_which_a_job_trains(trained: Trained) -> None:
    target = other()
    with only_process(target.paths.training_lock(0, "supervised"), "the work"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("nnunet_assft.active.training.stages.PATIENCE", 0.0)
        with pytest.raises(AssftError, match="is working on the training in"):
            run_round(target, 0, CPU)
    assert not target.paths.checkpoint(0, "supervised").exists()
    run_round(target, 0, CPU)
    assert taken_from(target.paths) is not None

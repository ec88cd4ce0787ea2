"""Files that were altered after they were written: made again by the same command, or named."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_assft.active.context import open_context
from nnunet_assft.active.scoring.prediction import open_scorer
from nnunet_assft.active.state import STEPS, Round
from nnunet_assft.cli.status import main as status_main
from nnunet_assft.errors import AssftError, DamagedFileError
from nnunet_assft.runtime.files import sha256_file
from nnunet_assft.runtime.sealed import read_sealed, write_sealed
from nnunet_assft.verification import verify
from tests.conftest import (
    CPU,
    TINY,
    Trained,
    blob_case,
    plan_experiment,
    run_round,
    start_round_again,
    write_volume,
)


def flip(file: Path) -> None:
    """Changes a bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 2
    file.unlink()  # a checkpoint is a link that all tests share
    file.write_bytes(bytes(content))


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[: len(content) // 2])


DAMAGES = pytest.mark.parametrize("damage", [flip, cut, Path.unlink], ids=["bit", "cut", "deleted"])


@DAMAGES
def test_what_a_finished_round_has_left_is_made_again(trained: Trained, damage: Callable[[Path], None]) -> None:
    """All at once: tables, predictions, pseudo-labels, steps, splits, and the round file itself."""
    experiment, rounds = trained.experiment, trained.rounds
    paths = experiment.paths
    exported = [
        paths.scores_file(2),
        paths.selection_file(2),
        paths.splits_file,
        paths.test_predictions(2) / f"{experiment.test[0]}.nii.gz",
        paths.test_predictions(2) / f"{experiment.test[1]}.json",
        paths.pseudo_label_folder(2) / f"pseudo_labels/{rounds[2].pseudo_labelled[0]}.nii.gz",
        paths.pseudo_label_folder(2) / "dataset.json",
        paths.pseudo_label_folder(2) / "provenance.json",
    ]
    before = {file: sha256_file(file) for file in exported}
    steps = [paths.step_file(2, name) for name in STEPS if name != "annotate"]
    for file in (*exported, *steps, paths.round_file(2)):
        damage(file)
    assert run_round(experiment, 2, CPU) == rounds[2]
    assert {file: sha256_file(file) for file in exported} == before
    assert Round.load(paths, 2) == rounds[2]
    assert verify(experiment).findings == []


@DAMAGES
def test_an_earlier_round_is_made_again_on_the_way(trained: Trained, damage: Callable[[Path], None]) -> None:
    paths = trained.experiment.paths
    paths.round_file(2).unlink()
    damage(paths.round_file(0))
    damage(paths.scores_file(1))
    assert run_round(trained.experiment, 2, CPU) == trained.rounds[2]
    assert Round.load(paths, 0) == trained.rounds[0]


def test_files_in_the_place_of_others_are_made_again(trained: Trained) -> None:
    """Whole files with a sound checksum, as a mistake while files are copied leaves them."""
    experiment, paths = trained.experiment, trained.experiment.paths
    files = [paths.round_file(2), *(paths.step_file(2, name) for name in ("query", "select", "semi"))]
    before = {file: sha256_file(file) for file in (paths.scores_file(2), paths.selection_file(2), paths.splits_file)}
    for file in files:
        shutil.copy(file.with_name(file.name.replace("02", "01")), file)
    provenance = paths.pseudo_label_folder(2) / "provenance.json"
    write_sealed(provenance, {**read_sealed(provenance), "cases": {}})
    assert len(verify(experiment).findings) >= len(files)
    assert run_round(experiment, 2, CPU) == trained.rounds[2]
    assert {file: sha256_file(file) for file in before} == before
    assert verify(experiment).findings == []


def test_finished_rounds_of_other_settings_are_refused_when_their_experiment_is_lost(trained: Trained) -> None:
    paths = trained.experiment.paths
    paths.experiment_file.unlink()
    for settings, found in (({"epochs": 3}, "plan"), ({"preset": "resenc_tiny"}, "plan"), ({"seed": 1}, "plan")):
        with pytest.raises(AssftError, match=rf"planned with other settings \(their {found} is another one\)"):
            plan_experiment(901, **{**TINY, **settings})
    assert not paths.experiment_file.exists()
    assert plan_experiment(901, **TINY) == trained.experiment
    assert run_round(trained.experiment, 2, CPU) == trained.rounds[2]


def test_everything_that_is_preprocessed_can_be_deleted(trained: Trained) -> None:
    start_round_again(trained.experiment, 2)
    shutil.rmtree(trained.experiment.paths.preprocessed)
    assert run_round(trained.experiment, 2, CPU) == trained.rounds[2]


@DAMAGES
def test_images_and_training_sets_are_made_again_before_they_are_used(
    trained: Trained, damage: Callable[[Path], None]
) -> None:
    experiment = trained.experiment
    start_round_again(experiment, 2)
    preprocessed = experiment.paths.preprocessed
    damaged = [
        *preprocessed.glob("assft_pool_*/case_0[0-3]*"),
        *preprocessed.glob("assft/*/round_02_supervised/case_*"),
    ]
    assert len(damaged) > 20
    for file in damaged:
        damage(file)
    damage(experiment.paths.initial_network)
    shutil.rmtree(experiment.paths.results / "records")  # scored again
    assert run_round(experiment, 2, CPU) == trained.rounds[2]


def test_a_damaged_model_is_named_and_trained_again_when_it_is_gone(trained: Trained) -> None:
    experiment, model = trained.experiment, trained.rounds[1].model
    file = experiment.paths.result(model.checkpoint)
    flip(file)
    context = open_context(experiment, CPU)
    with pytest.raises(DamagedFileError, match=r"checkpoint_final\.pth cannot be used .* run its round again"):
        open_scorer(context, model)
    file.unlink()
    assert run_round(experiment, 1, CPU) == trained.rounds[1]
    open_scorer(context, model)


def test_a_model_whose_folder_was_deleted_is_trained_again_on_the_same_labels_only(trained: Trained) -> None:
    experiment, first = trained.experiment, trained.rounds[0]
    folder = experiment.paths.checkpoint(0, "supervised").parent
    shutil.rmtree(folder)
    label = experiment.paths.raw / f"labelsTr/{first.labelled[0]}.nii.gz"
    sound = label.read_bytes()
    write_volume(label, blob_case(77)[1])
    with pytest.raises(AssftError, match=r"cannot be made again, because the label of case .* has changed since"):
        run_round(experiment, 0, CPU)
    label.write_bytes(sound)
    assert run_round(experiment, 0, CPU) == first
    assert (folder / "stage.json").is_file()


def test_a_round_is_not_made_again_from_another_label(trained: Trained) -> None:
    experiment = trained.experiment
    label = experiment.paths.raw / f"labelsTr/{experiment.permutation[0]}.nii.gz"
    write_volume(label, blob_case(77)[1])
    assert run_round(experiment, 2, CPU) == trained.rounds[2]  # nothing is damaged
    flip(experiment.paths.round_file(2))
    with pytest.raises(AssftError, match=rf"cannot be made again, because the label of case {label.name[:7]} has"):
        run_round(experiment, 2, CPU)


# What a person has changed --------------------------------------------------------------------------------------------


def test_an_image_that_was_replaced_is_noticed(trained: Trained) -> None:
    experiment = trained.experiment
    image = experiment.paths.raw / "imagesTr/case_03_0000.nii.gz"
    sound = image.read_bytes()
    write_volume(image, blob_case(77)[0])
    experiment.paths.round_file(2).unlink()
    with pytest.raises(AssftError, match=r"The image case_03 changed after experiment 'assft' .* was planned"):
        run_round(experiment, 2, CPU)
    image.write_bytes(sound)  # with another time
    assert run_round(experiment, 2, CPU) == trained.rounds[2]


def test_a_label_of_an_earlier_round_that_is_gone_is_named(trained: Trained) -> None:
    experiment, (first,) = trained.experiment, trained.rounds[0].labelled
    label = experiment.paths.raw / f"labelsTr/{first}.nii.gz"
    label.unlink()
    experiment.paths.round_file(2).unlink()
    with pytest.raises(AssftError, match=rf"The label of case {first} is missing: .*Put it there and run the same"):
        run_round(experiment, 2, CPU)


def test_labels_that_were_renumbered_are_noticed(trained: Trained) -> None:
    file = trained.experiment.paths.raw / "dataset.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "labels": {"background": 0, "ball": 2, "box": 1}}))
    trained.experiment.paths.round_file(2).unlink()
    with pytest.raises(AssftError, match=r"has other labels or channels .* than when experiment 'assft' was planned"):
        run_round(trained.experiment, 2, CPU)


# --verify -------------------------------------------------------------------------------------------------------------


def test_every_file_is_verified(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = trained.experiment
    paths = experiment.paths

    def status() -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            status_main(["-d", "901", "--verify"])
        return int(ended.value.code or 0), capsys.readouterr().out

    code, out = status()
    assert code == 0
    assert out.endswith(" items checked, 0 findings.\n")
    pool = next(paths.preprocessed.glob("assft_pool_*"))
    damaged = {
        "plans": paths.plans,
        "initial network": paths.initial_network,
        "dataset.json": paths.preprocessed / "dataset.json",
        "fingerprint of case_04": paths.fingerprint_cases / "case_04.json",
        "image of case_04": paths.raw / "imagesTr/case_04_0000.nii.gz",
        "preprocessed image of case_05": pool / "case_05.b2nd",
        "training set round_02_supervised, ": next(paths.training_set(2, "supervised").glob("*_seg.b2nd")),
        f"label of {experiment.permutation[0]}": paths.raw / f"labelsTr/{experiment.permutation[0]}.nii.gz",
        "reference label of ": next((paths.stages / "gt_segmentations").glob("*")),
        "round 1": paths.selection_file(1),
        "step round_02_semi": paths.step_file(2, "semi"),
        "record round_01_query/": next(paths.records("round_01_query").glob("*.npz")),
        "record round_02_pseudo_labels/": next(paths.records("round_02_pseudo_labels").glob("*.json")),
    }
    for file in damaged.values():
        flip(file)
    lost = {
        paths.stage_file(0, "supervised"): paths.trained_on(0, "supervised"),  # whose training set was removed
        paths.stage_file(2, "supervised"): paths.trained_on(2, "supervised"),
        paths.trained_on(1, "semi"): paths.stage_file(1, "semi"),
    }
    for file in lost:
        file.unlink()
    code, out = status()
    assert code == 1
    for file, copy in lost.items():
        assert re.search(rf"{re.escape(str(file))}.*Copy {re.escape(str(copy))} there\.", out)
    for what in (*damaged, "stage round_02_supervised"):
        assert any(line.startswith(what) for line in out.splitlines()), what
    untouched = ("round 0", "step round_01", "image of case_05", "preprocessed image of case_04")
    assert not any(line.startswith(untouched) for line in out.splitlines())
